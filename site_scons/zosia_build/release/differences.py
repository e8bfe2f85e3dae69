"""Differences of two files that should be the same: where the first one is, inside whatever they contain."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from zosia_build import cpio

SHOWN = 8  # bytes of each file that are shown
NOTHING_READ = (OSError, EOFError, zlib.error, zipfile.BadZipFile, ELFError, ValueError, RuntimeError)


def of_paths(first: Path, second: Path) -> str:
    """Return where two files or folders differ first; "" if they are the same.

    An example: "bin/llama-cli: .text: byte 0x40: 61 62, then 61 63".
    """
    if first.is_dir() != second.is_dir():
        return f"it is a folder only in the {'first' if first.is_dir() else 'second'}"
    if not first.is_dir():
        return of_bytes(first.read_bytes(), second.read_bytes())
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (first, second)]
    for name in sorted(names[0] ^ names[1]):
        return f"{name} is only in the {'first' if name in names[0] else 'second'}"
    for name in sorted(names[0]):
        both = first / name, second / name
        if not all(path.is_dir() for path in both) and (found := of_paths(*both)):
            return f"{name}: {found}"
    return ""


def of_bytes(first: bytes, second: bytes) -> str:
    """Return where two files differ first, as `of_paths` does."""
    if first == second:
        return ""
    with_parts = _parts(first), _parts(second)
    for name in dict.fromkeys(name for parts in with_parts for name in parts):
        pair = [parts.get(name) for parts in with_parts]
        if pair[0] is None or pair[1] is None:
            return f"{name} is only in the {'second' if pair[0] is None else 'first'}"
        if found := of_bytes(pair[0], pair[1]):
            return f"{name}: {found}"
    # The parts are the same, or there are none: it is in what holds them.
    at = next((n for n, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), None)
    if at is None:
        return f"{len(first)} bytes, then {len(second)}"
    shown = [data[at : at + SHOWN].hex(" ") for data in (first, second)]
    return f"byte {at:#x}: {shown[0]}, then {shown[1]}"


def _parts(data: bytes) -> Mapping[str, bytes]:
    """Return what a file consists of, by name; nothing if it is of no kind that is known here."""
    try:
        if data.startswith(b"\x1f\x8b"):
            return {"unpacked": gzip.decompress(data)}
        if data.startswith(cpio.MAGIC):
            return dict(_entries(data))
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                return {info.filename: file.read(info) for info in file.infolist()}
        if data.startswith(b"\x7fELF"):
            sections = ELFFile(io.BytesIO(data)).iter_sections()
            return {section.name: section.data() for section in sections if section["sh_type"] != "SHT_NOBITS"}
    except NOTHING_READ:
        pass  # damaged: its bytes are compared
    return {}


def _entries(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Return the entries of a newc archive, which zosia_build/cpio.py describes, with those of archives that follow."""
    at = 0
    while archive.startswith(cpio.MAGIC, at):
        size, named = (int(archive[at + 6 + 8 * field : at + 14 + 8 * field], 16) for field in (6, 11))
        begin = at + 110 + named + -(110 + named) % 4
        yield archive[at + 110 : at + 109 + named].decode(), archive[begin : begin + size]
        at = begin + size + -size % 4
