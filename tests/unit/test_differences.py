"""Differences: where two files that should be the same differ first."""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from zosia_build import cpio
from zosia_build.release import differences


def archive(**files: bytes) -> bytes:
    """A newc archive."""
    made = io.BytesIO()
    cpio.write([cpio.Entry(name=name, mode=stat.S_IFREG | 0o644, data=data) for name, data in files.items()], made)
    return made.getvalue()


def zipped(name: str, data: bytes, level: int = 6) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as file:
        file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, level)
    return made.getvalue()


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        (b"same", b"same", ""),
        (b"abcdefghijklm", b"abXdefghijklm", "byte 0x2: 63 64 65 66 67 68 69 6a, then 58 64 65 66 67 68 69 6a"),
        (b"abc", b"abcd", "3 bytes, then 4"),
        (archive(a=b"1", b=b"2"), archive(a=b"1", b=b"3"), "b: byte 0x0: 32, then 33"),
        (archive(a=b"1", b=b"2"), archive(a=b"1"), "b is only in the first"),
        (archive(a=b"1"), archive(a=b"1", b=b"2"), "b is only in the second"),
        (
            gzip.compress(archive(init=b"one")) + gzip.compress(archive(more=b"x")),
            gzip.compress(archive(init=b"one")) + gzip.compress(archive(more=b"y")),
            "unpacked: more: byte 0x0: 78, then 79",
        ),
        (zipped("a.py", b"pass\n"), zipped("a.py", b"Pass\n"), "a.py: byte 0x0: 70 61 73 73 0a, then 50 61 73 73 0a"),
        # Alike inside, but packed in another way: then it is in what holds it.
        (gzip.compress(b"x" * 99, mtime=1), gzip.compress(b"x" * 99, mtime=2), "byte 0x4: 01"),
        (b"\x1f\x8bdamaged", b"\x1f\x8bdemaged", "byte 0x3: 61"),
        (b"\x7fELFno", b"\x7fELFyes", "byte 0x4: 6e 6f, then 79 65 73"),
    ],
)
def test_the_first_difference(first: bytes, second: bytes, where: str) -> None:
    found = differences.of_bytes(first, second)
    assert found.startswith(where) and bool(found) == bool(where), found


def test_a_section_of_a_program() -> None:
    """An interpreter of the host with another byte among its names."""
    program = Path("/proc/self/exe").read_bytes()
    with Path("/proc/self/exe").open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynstr")
        assert section
        at = section["sh_offset"] + 16
    other = program[:at] + bytes([program[at] ^ 1]) + program[at + 1 :]
    assert differences.of_bytes(program, other).startswith(".dynstr: byte 0x10: ")


def test_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/a").write_bytes(b"a")
    assert differences.of_paths(first, second) == ""
    (second / "deep/a").write_bytes(b"b")
    assert differences.of_paths(first, second) == "deep/a: byte 0x0: 61, then 62"
    (second / "deep/b").touch()
    assert differences.of_paths(first, second) == "deep/b is only in the second"
    (second / "deep/b").unlink()
    (first / "deep/c").mkdir()
    (second / "deep/c").write_bytes(b"c")
    (second / "deep/a").write_bytes(b"a")
    assert differences.of_paths(first, second) == "deep/c: it is a folder only in the first"
    assert differences.of_paths(second, first) == "deep/c: it is a folder only in the second"
