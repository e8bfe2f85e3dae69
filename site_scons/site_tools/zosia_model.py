"""ModelImage: the ext4 disk of a model, with a small record that stands for it in SCons; ModelCommands: aliases."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.files import check_room, locked, replacing
from zosia.disk import ext4
from zosia.inputs.catalogue import Model
from zosia.settings.settings import Settings
from zosia.settings.settle import doubt
from zosia_scons import action, current, facts, library, state


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import model_files  # slow to import, and only needed here
    from zosia.model import shape  # slow to import, and only needed here

    settings: Settings = env["SETTINGS"]
    record, model, image = targets[0], settings.model.entry, targets[0].with_suffix("")
    if problem := doubt(settings):
        style.say("NOTE", problem)
    if model and _only_copy(record, model, settings.cache):
        style.say("KEEP", f"{image}: made by an older zosia, of a file that is no longer in the cache")
        return
    if model:
        check_room_for_both(model_files.pinned(model, settings.cache), settings.cache, image)
    with locked(image):
        parts = [model_files.model_file(model, settings.cache)] if model else settings.model.parts
        found = shape.read(parts)
        digest = ext4.build(
            parts=parts,
            info=settings.model.info,
            target=image,
            digest=model_files.pinned(model, settings.cache).gguf_sha256 if model else "",
            tool=settings.image_tool,
        )
        weights = sum(part.stat().st_size for part in parts)
        known = {"content": settings.model.content, "sha256": digest, "weights": weights, "shape": asdict(found)}
        with replacing(record) as temporary:
            temporary.write_text(json.dumps({**known, **state(image)}) + "\n", encoding="utf-8")


def _only_copy(record: Path, model: Model, cache: Path) -> bool:
    """Return whether a disk is the only copy of the requested model on this machine."""
    from zosia.inputs import model_files

    here = model_files.stored({model.name: model}, cache)
    digest = model_files.pinned(model, cache).gguf_sha256
    written = facts(record)
    return not here and bool(digest) and written.get("sha256") == digest and current(record)


def _shown(env: Any) -> str:
    return style.line("EXT4", env["SETTINGS"].model.image)


def check_room_for_both(model: Model, cache: Path, image: Path) -> None:
    """Refuse a download that would leave no room for the disk.

    Raises:
        ZosiaError: there is no room for both.
    """
    from zosia.inputs import copies, model_files

    here = model_files.stored({model.name: model}, cache)
    if any(found.state != "partial" for found in here):
        return
    cache.mkdir(parents=True, exist_ok=True)
    image.parent.mkdir(parents=True, exist_ok=True)
    if cache.stat().st_dev == image.parent.stat().st_dev and not copies.shares(cache, image.parent):
        size = model.gguf_size
        both = size - sum(found.size for found in here) + ext4.image_size([size])
        check_room(image.parent, both, f"{model.name}, as a file and as a disk,")


def model_image(env: Any, settings: Settings) -> Any:
    """env.ModelImage(settings): build/models/NAME.img.json, and the image beside it.

    The record is the target and the image a side effect, so that SCons never reads gigabytes to detect a change.
    """
    value = env.Value(f"{settings.model.content} {settings.model.info} {settings.image_tool}")
    record = env.Command(f"#{settings.model.image}.json", value, action(_build, "EXT4", _shown), SETTINGS=settings)
    env.Depends(record, library(env, "zosia.disk.ext4"))
    env.Clean(record, [f"#{settings.model.image}", f"#{settings.model.image}.lock"])
    if not current(Path(record[0].abspath)):
        env.AlwaysBuild(record)
    return env.NoCache(env.Precious(record))  # a failed build leaves the old disk in place


def _command(name: str) -> Any:
    def act(targets: list[Path], sources: list[Path], env: Any) -> None:
        from zosia.settings import model_commands  # slow to import, and only needed here

        style.show(getattr(model_commands, name)(env["SETTINGS"]), sys.stdout)

    return act


def model_aliases(env: Any, settings: Settings) -> None:
    """env.ModelCommands(settings): the aliases `models`, `import-model` and `remove-model`."""
    for name, function in (("models", "listing"), ("import-model", "import_model"), ("remove-model", "remove_model")):
        env.AlwaysBuild(env.Alias(name, [], action(_command(function), "MODEL", lambda env: ""), SETTINGS=settings))


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(model_image, "ModelImage")
    env.AddMethod(model_aliases, "ModelCommands")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
