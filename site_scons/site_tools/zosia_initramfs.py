"""Initramfs: the guest's root filesystem as a cpio archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.version import VERSION
from zosia.machine import status
from zosia_build import initramfs, llama
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    names = env["CONTENT_NAMES"]
    manifests, files = sources[: -len(names)], sources[-len(names) :]
    contents = {name: path.read_bytes() for name, path in zip(names, files, strict=True)}
    fault = llama.elf_fault(contents["busybox"], machine=llama.MACHINES[env["ARCH"]])
    if fault:
        raise ZosiaError(f"The busybox for the guest {fault}", f"BUSYBOX= wants a static busybox for {env['ARCH']}")
    contents["status"] = status.shell_table().encode()
    contents["version"] = f"{VERSION}\n".encode()
    contents["levels"] = llama.levels_table(env["ARCH"]).encode()
    manifest = "".join(file.read_text(encoding="utf-8") for file in manifests)
    modules = contents.pop("modules", b"")
    initramfs.build(manifest=manifest, contents=contents, target=targets[0], level=env["LEVEL"], appended=modules)


def initramfs_archive(env: Any, target: str, manifests: list[str], contents: dict[str, Any], level: int = 0) -> Any:
    """env.Initramfs(target, manifests, {name: file}): the archive; `contents` are the files that manifests name.

    The file "modules" is none of them: a further archive, which is put behind. `level` is that of compression.
    """
    files = [env.File(file) if isinstance(file, str) else file for file in contents.values()]
    archive = env.Command(
        target, [*manifests, *files], action(_build, "CPIO"), CONTENT_NAMES=list(contents), LEVEL=level
    )
    decided = env.Value(repr((VERSION, list(contents), level)))
    env.Depends(archive, [*library(env, "zosia_build.initramfs", "zosia_build.llama", "zosia.machine.status"), decided])
    return archive


def generate(env: Any) -> None:
    """Add the method."""
    env.AddMethod(initramfs_archive, "Initramfs")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
