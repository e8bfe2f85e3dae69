"""ModelImage: the ext4 disk of a model, with a record beside it that stands for it in SCons."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.files import check_room, locked
from zosia.disk import ext4, record
from zosia.inputs.catalogue import Model
from zosia.settings.settings import Settings
from zosia.settings.settle import doubt
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import model_files  # slow to import, and a build that fetches nothing does without
    from zosia.model import shape  # slow to import, and a build that fetches nothing does without

    settings: Settings = env["SETTINGS"]
    model, image = settings.model.entry, targets[0].with_suffix("")
    if problem := doubt(settings):
        style.say("NOTE", problem)
    if model and _only_copy(image, model, settings.cache):
        style.say("KEEP", f"{image}: made by an older zosia, from a file that is no longer here")
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
        record.write(image, content=settings.model.content, sha256=digest, weights=weights, shape=found)


def _only_copy(image: Path, model: Model, cache: Path) -> bool:
    """Return True if a disk is the only copy of a model on this machine."""
    from zosia.inputs import model_files

    here = model_files.stored({model.name: model}, cache)
    digest = model_files.pinned(model, cache).gguf_sha256
    made = record.read_current(image)
    return not here and made is not None and bool(digest) and made.sha256 == digest


def _shown(env: Any) -> str:
    return style.line("EXT4", env["SETTINGS"].model.image)


def check_room_for_both(model: Model, cache: Path, image: Path) -> None:
    """Check that there is room for a model and its disk, before the download.

    Raises:
        ZosiaError: there is not.
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

    The record is the target and the image a side effect, so that SCons never reads gigabytes to see whether they
    changed.
    """
    value = env.Value(f"{settings.model.content} {settings.model.info} {settings.image_tool}")
    path = record.path_of(settings.model.image)
    target = env.Command(f"#{path}", value, action(_build, "EXT4", _shown), SETTINGS=settings)
    env.Depends(target, library(env, "zosia.disk.ext4"))
    env.Clean(target, [f"#{settings.model.image}", f"#{settings.model.image}.lock"])
    if not record.read_current(Path(target[0].abspath).with_suffix("")):
        env.AlwaysBuild(target)
    return env.NoCache(env.Precious(target))  # a build that fails leaves the disk what it was


def _command(name: str) -> Any:
    def act(targets: list[Path], sources: list[Path], env: Any) -> None:
        from zosia.settings import model_commands  # slow to import, and a build does without

        style.show(getattr(model_commands, name)(env["SETTINGS"]), sys.stdout)

    return act


def model_aliases(env: Any, settings: Settings) -> None:
    """env.ModelCommands(settings): the aliases `models`, `import-model` and `remove-model`."""
    for name, function in (("models", "listing"), ("import-model", "import_model"), ("remove-model", "remove_model")):
        env.AlwaysBuild(env.Alias(name, [], action(_command(function), "MODEL", lambda env: ""), SETTINGS=settings))


def generate(env: Any) -> None:
    """Add the methods."""
    env.AddMethod(model_image, "ModelImage")
    env.AddMethod(model_aliases, "ModelCommands")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
