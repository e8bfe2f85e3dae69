"""Programs of a guest that run on this host as well: they are static, and in its root filesystem."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.places import repair

HEADER, NAME_SIZE, FILE_SIZE = 110, 94, 54  # bytes, and where two of its numbers begin (newc: gen_init_cpio.c)
END = "TRAILER!!!"
CPUINFO = Path("/proc/cpuinfo")
ENGINE, RELAY, LEVELS = "bin/llama-cli-", "bin/zosia-streams", "etc/zosia-levels"


def unpack(initramfs: Path, folder: Path) -> tuple[Path, Path]:
    """Write llama.cpp's RPC server and the relay into a folder, and return them.

    Raises:
        ZosiaError: the archive has none for this processor, or is damaged.
    """
    found = {name: data for name, data in _files(initramfs) if name.startswith((ENGINE, RELAY, LEVELS))}
    level = best(found.get(LEVELS, b"").decode(), features())
    name = ENGINE + level
    if not level or name not in found or RELAY not in found:
        raise ZosiaError(f"{initramfs} has no RPC server for this processor", "Leave host out of WORKERS=")
    programs = folder / f"rpc-server-{level}", folder / Path(RELAY).name
    for program, data in zip(programs, (found[name], found[RELAY]), strict=True):
        program.write_bytes(data)
        program.chmod(0o500)
    return programs


def features() -> set[str]:
    """Return the words that this processor's features have in Linux."""
    lines = (line.partition(":") for line in CPUINFO.read_text(encoding="ascii", errors="replace").splitlines())
    return next((set(words.split()) for name, _, words in lines if name.strip() in ("Features", "flags")), set())


def best(levels: str, has: set[str]) -> str:
    """Return the first level whose words are all there, "" if none is: as initramfs/functions."""
    lines = (line.split() for line in levels.splitlines())
    return next((name for name, *words in lines if has.issuperset(words)), "")


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        data = gzip.decompress(archive.read_bytes())
        at = 0
        while True:
            start, size = (at + HEADER, int(data[at + FILE_SIZE : at + FILE_SIZE + 8], 16))
            length = int(data[at + NAME_SIZE : at + NAME_SIZE + 8], 16)
            name = data[start : start + length - 1].decode()
            begin = start + length + 3 & ~3
            if name == END:
                return
            yield name, data[begin : begin + size]
            at = begin + size + 3 & ~3
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ZosiaError(
            f"{archive} can't be read: {error}", repair("Build it again. Type: scons rpc-server")
        ) from error
