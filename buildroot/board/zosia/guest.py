#!/usr/bin/env python3
"""Answers to Buildroot from the repository, with Python's own library and nothing else.

guest.py options ARCH                 what llama/CMakeLists.txt is to be told, an option a line
guest.py rootfs ARCH IMAGES TARGET    IMAGES/rootfs.cpio.gz of the programs in TARGET, as scons makes initramfs.cpio.gz
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(TOP / "site_scons"))

from zosia.base.errors import ZosiaError  # noqa: E402
from zosia_build import initramfs, llama  # noqa: E402


def version() -> str:
    """llama.cpp's, as sources.toml has it."""
    return str(tomllib.loads((TOP / "sources.toml").read_text(encoding="utf-8"))["llama-cpp"]["version"])


def rootfs(arch: str, images: Path, target: Path) -> None:
    """Write the archive.

    Raises:
        ZosiaError: a program is not a static one for `arch`.
        OSError: a file can't be read or written.
    """
    names = [f"llama-cli-{level.name}" for level in llama.LEVELS[arch]]
    programs = {"busybox": target / "bin" / "busybox", **{name: target / "usr" / "bin" / name for name in names}}
    programs["streams"] = target / "usr" / "bin" / "zosia-streams"
    contents = {name: path.read_bytes() for name, path in programs.items()}
    for name, program in contents.items():
        if fault := llama.elf_fault(program, machine=llama.MACHINES[arch]):
            raise ZosiaError(f"{programs[name]} {fault}")
    contents["llama-version"] = f"{version()}\n".encode()
    initramfs.build(arch=arch, contents=contents, kinds=["serve"], target=images / "rootfs.cpio.gz")


def main(command: str, arch: str, *folders: str) -> None:
    """Do what the command line says."""
    if command == "options":
        print(*llama.project_options(version=version(), arch=arch), sep="\n")
    else:
        rootfs(arch, *map(Path, folders))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ZosiaError, OSError) as error:
        sys.exit(f"zosia: error: {error}")
