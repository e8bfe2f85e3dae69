"""ModelImage: the ext4 disk of a model, with a record that stands for it in SCons; ModelCommands: aliases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.disk import record
from zosia.settings.settings import Settings
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.settings import images  # slow to import, and a build that makes none does without

    images.make(env["SETTINGS"])


def _shown(env: Any) -> str:
    return style.line("EXT4", env["SETTINGS"].model.image)


def model_image(env: Any, settings: Settings) -> Any:
    """env.ModelImage(settings): build/models/NAME.img.json, and the image beside it.

    The record is the target and the image a side effect, so that SCons never reads gigabytes to detect a change.
    """
    value = env.Value(settings.model.made_of(settings.image_tool))
    path = record.path_of(settings.model.image)
    target = env.Command(f"#{path}", value, action(_build, "EXT4", _shown), SETTINGS=settings)
    env.Depends(target, library(env, "zosia.disk.ext4"))
    env.Clean(target, [f"#{settings.model.image}", f"#{settings.model.image}.lock", f"#{settings.model.image}.verity"])
    if not record.read_current(Path(target[0].abspath).with_suffix("")):
        env.AlwaysBuild(target)
    return env.NoCache(env.Precious(target))  # a build that fails leaves the disk what it was


def _command(name: str) -> Any:
    def act(targets: list[Path], sources: list[Path], env: Any) -> None:
        from zosia.command import model_commands  # slow to import, and only needed here

        style.show(getattr(model_commands, name)(env["SETTINGS"]), sys.stdout)

    return act


def model_aliases(env: Any, settings: Settings) -> None:
    """env.ModelCommands(settings): the aliases `models`, `import-model`, `remove-model` and `chats`."""
    functions = {"models": "listing", "import-model": "import_model", "remove-model": "remove_model", "chats": "chats"}
    for name, function in functions.items():
        env.AlwaysBuild(env.Alias(name, [], action(_command(function), "MODEL", lambda env: ""), SETTINGS=settings))


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(model_image, "ModelImage")
    env.AddMethod(model_aliases, "ModelCommands")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
