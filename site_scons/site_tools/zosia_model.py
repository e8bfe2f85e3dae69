"""ModelImage: the ext4 disk of a model, with a small record beside it that stands for it in SCons."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zosia import ext4
from zosia.catalogue import Model
from zosia.files import check_room, locked, replacing
from zosia.machine import word
from zosia_scons import action, library
from zosia_settings import Settings


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia import models, shape  # slow to import, and a build that fetches nothing does without

    settings: Settings = env["SETTINGS"]
    record, model, image = targets[0], settings.model, targets[0].with_suffix("")
    if doubt := settings.doubt():
        print(f"  NOTE  {doubt}", file=sys.stderr)
    if model and _only_copy(record, model, settings.cache):
        print(f"  KEEP  {image}: an older zosia made it, of a file that is not here any more", file=sys.stderr)
        return
    if model:
        check_room_for_both(models.pinned(model, settings.cache), settings.cache, image)
    with locked(image):
        parts = [models.model_file(model, settings.cache)] if model else settings.model_parts
        found = shape.read(parts)
        digest = ext4.build(
            parts=parts,
            info=_info(model, parts),
            target=image,
            digest=models.pinned(model, settings.cache).gguf_sha256 if model else "",
            tool=settings.image_tool,
        )
        weights = sum(part.stat().st_size for part in parts)
        facts = {"content": settings.content, "sha256": digest, "weights": weights, "shape": asdict(found)}
        with replacing(record) as temporary:
            temporary.write_text(json.dumps({**facts, **_state(image)}) + "\n", encoding="utf-8")


def _only_copy(record: Path, model: Model, cache: Path) -> bool:
    """Whether a disk holds what is wanted, and nothing else on this machine does."""
    from zosia import models

    here = models.stored({model.name: model}, cache)
    digest = models.pinned(model, cache).gguf_sha256
    written = _read(record)
    return not here and bool(digest) and written.get("sha256") == digest and _current(record)


def _shown(env: Any) -> str:
    return f"  EXT4  {env['SETTINGS'].image}"


def check_room_for_both(model: Model, cache: Path, image: Path) -> None:
    """Refuse before a download after which there would be no room for the disk.

    Raises:
        ZosiaError: there would be none.
    """
    from zosia import copies, models

    here = models.stored({model.name: model}, cache)
    if any(found.state != "partial" for found in here):
        return
    cache.mkdir(parents=True, exist_ok=True)
    image.parent.mkdir(parents=True, exist_ok=True)
    if cache.stat().st_dev == image.parent.stat().st_dev and not copies.shares(cache, image.parent):
        size = model.gguf_size
        both = size - sum(found.size for found in here) + ext4.image_size([size])
        check_room(image.parent, both, f"{model.name}, as a file and as a disk,")


def _info(model: Any, parts: Sequence[Path]) -> Mapping[str, str]:
    """What the disk says of itself beside the model: /init shows it, and gives `args` to llama-cli."""
    if model is None:
        return {"name": parts[0].name}
    args = " ".join(map(word, model.llama_args))
    return {"name": model.name, "title": model.title, "licence": model.licence, "args": args}


def _state(image: Path) -> dict[str, int]:
    """Size in bytes and time in ns: what shows that a file is not the one that was made."""
    stat = image.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _read(record: Path) -> dict[str, Any]:
    """What a record says; nothing if it can't be read."""
    try:
        written = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def _current(record: Path) -> bool:
    """Whether the image is the one that its record was written for."""
    try:
        return bool(_state(record.with_suffix("")).items() <= _read(record).items())
    except (OSError, TypeError):  # there is none, or the record is no record
        return False


def model_image(env: Any, settings: Settings) -> Any:
    """env.ModelImage(settings): build/models/NAME.img.json, and the image beside it.

    The record is the target and the image a side effect, so that SCons never reads gigabytes to see whether they
    changed.
    """
    info = _info(settings.model, settings.model_parts)
    value = env.Value(f"{settings.content} {info} {settings.image_tool}")
    record = env.Command(f"#{settings.image}.json", value, action(_build, "EXT4", _shown), SETTINGS=settings)
    env.Depends(record, library(env, "copies", "ext4"))
    env.Clean(record, [f"#{settings.image}", f"#{settings.image}.lock"])
    if not _current(Path(record[0].abspath)):
        env.AlwaysBuild(record)
    return env.NoCache(env.Precious(record))  # a build that fails leaves the disk what it was


def _command(name: str) -> Any:
    def act(targets: list[Path], sources: list[Path], env: Any) -> None:
        import zosia_models  # slow to import, and a build does without

        print(getattr(zosia_models, name)(env["SETTINGS"]))

    return act


def model_commands(env: Any, settings: Settings) -> None:
    """env.ModelCommands(settings): the aliases `models`, `import-model` and `remove-model`."""
    for name, function in (("models", "listing"), ("import-model", "import_model"), ("remove-model", "remove_model")):
        env.AlwaysBuild(env.Alias(name, [], action(_command(function), "MODEL", lambda env: ""), SETTINGS=settings))


def generate(env: Any) -> None:
    """Add the methods."""
    env.AddMethod(model_image, "ModelImage")
    env.AddMethod(model_commands, "ModelCommands")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
