"""Initramfs: the guest's root filesystem as a cpio archive; Relay: a small program in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zosia.base.version import VERSION
from zosia_build import llama
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build import initramfs  # slow to import, and only needed here

    contents = {name: path.read_bytes() for name, path in zip(env["CONTENT_NAMES"], sources, strict=True)}
    modules = contents.pop("modules", b"")
    kinds, level = env["KINDS"], env["LEVEL"]
    initramfs.build(arch=env["ARCH"], contents=contents, target=targets[0], kinds=kinds, level=level, appended=modules)


def initramfs_archive(
    env: Any, target: str, contents: dict[str, Any], kinds: Sequence[str] = (), *, level: int = 0
) -> Any:
    """env.Initramfs(target, {name: file}): an archive of built programs and of the files in initramfs/.

    The file named "modules" is an archive itself, which is appended. `kinds` are additional manifests; `level` is the
    level of compression.
    """
    files = [env.File(file) if isinstance(file, str) else file for file in contents.values()]
    archive = env.Command(
        target, files, action(_build, "CPIO"), CONTENT_NAMES=list(contents), KINDS=list(kinds), LEVEL=level
    )
    decided = env.Value(repr((VERSION, list(contents), list(kinds), level)))
    env.Depends(archive, [*library(env, "zosia_build.initramfs"), *env.Glob("#initramfs/*"), decided])
    return env.Precious(archive)


def _relay(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build import relay  # only needed here

    relay.build(sources[0], targets[0], arch=env["ARCH"], cache=env["CACHE"])


def relay_program(env: Any, target: str, source: str) -> Any:
    """env.Relay(target, source): a program of one C file, for the guest."""
    program = env.Command(target, source, action(_relay, "ZIG"))
    env.Depends(program, [*library(env, "zosia_build.relay"), env.Value(llama.zig_version())])
    return env.Precious(program)


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(initramfs_archive, "Initramfs")
    env.AddMethod(relay_program, "Relay")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
