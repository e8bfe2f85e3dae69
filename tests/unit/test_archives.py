"""Archives that are whole, and archives that are not."""

from __future__ import annotations

import io
import os
import random
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from zosia.base.errors import ZosiaError
from zosia.inputs.archives import extract_file, extract_tree

PROGRAM = random.Random(3).randbytes(50_000)


def tar(entries: Mapping[str, bytes] | Mapping[str, bytes | str], compression: str) -> bytes:
    """A tar archive; text is the target of a symbolic link, a name that ends with a slash a folder."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in entries.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode = 0o755 if name.endswith(("/", "run")) else 0o444
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            elif name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            entry.size = len(content) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return raw.getvalue()


def deb(data: bytes, name: str = "data.tar.xz") -> bytes:
    """A Debian package: an ar archive; its headers are lines of 60 characters, and its files begin at even places."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", name: data}
    parts = [
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        for name, content in members.items()
    ]
    return b"!<arch>\n" + b"".join(parts)


def wheel(entries: Mapping[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return raw.getvalue()


FILES = {
    "p.whl": wheel({"p/other": b"other", "bin/program": PROGRAM}),
    "p.deb": deb(tar({"./bin/": b"", "./bin/other": b"other", "./bin/program": PROGRAM}, "xz")),
    "p.gz.deb": deb(tar({"bin/program": PROGRAM}, "gz"), "data.tar.gz"),
}
SOURCES: dict[str, bytes | str] = {
    "s-1/vendor/cpp/": b"",
    "s-1/vendor/cpp/run": b"#!/bin/sh\n",
    "s-1/vendor/cpp/a folder/f": PROGRAM,
    "s-1/vendor/cpp/link": "a folder/f",
    "s-1/vendor/cppx/f": b"not this",
    "s-1/other": b"nor this",
}
INNER: dict[str, bytes | str] = {
    name.removeprefix("s-1/vendor/"): content for name, content in SOURCES.items() if "/cpp/" in name
}
TREES = {
    "s.tar.gz": (tar(SOURCES, "gz"), "s-1/vendor/cpp"),
    "s.deb": (deb(tar({"./usr/src/cpp.tar.xz": tar(INNER, "xz")}, "xz")), "usr/src/cpp.tar.xz"),
}


@pytest.mark.parametrize("name", FILES)
def test_extract_file(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(FILES[name])
    extract_file(archive, "bin/program", tmp_path / "out" / "program")
    assert (tmp_path / "out" / "program").read_bytes() == PROGRAM
    assert os.listdir(tmp_path / "out") == ["program"]


@pytest.mark.parametrize("name", TREES)
def test_extract_tree(tmp_path: Path, name: str) -> None:
    archive, out = tmp_path / name, tmp_path / "out"
    content, member = TREES[name]
    archive.write_bytes(content)
    extract_tree(archive, member, out / "tree")
    assert os.listdir(out) == ["tree"]
    assert sorted(os.listdir(out / "tree")) == ["a folder", "link", "run"]
    assert (out / "tree" / "a folder" / "f").read_bytes() == PROGRAM
    assert (out / "tree" / "link").readlink() == Path("a folder/f")
    assert (out / "tree" / "run").stat().st_mode & 0o100
    assert not (out / "tree" / "a folder" / "f").stat().st_mode & 0o100


@pytest.mark.parametrize("name", [*FILES, *TREES])
def test_without_the_member(tmp_path: Path, name: str) -> None:
    archive, out = tmp_path / name, tmp_path / "out"
    archive.write_bytes(FILES[name] if name in FILES else TREES[name][0])
    with pytest.raises(ZosiaError, match=rf"{archive} does not contain .*no/such"):
        (extract_file if name in FILES else extract_tree)(archive, "no/such", out / "result")
    assert not out.exists() or not os.listdir(out)


@pytest.mark.parametrize("kept", [0, 5, 70, 200, 20_000, -1000, -3])
@pytest.mark.parametrize("name", [*FILES, *TREES])
def test_cut_off(tmp_path: Path, name: str, kept: int) -> None:
    archive, out = tmp_path / name, tmp_path / "out"
    whole, member = (FILES[name], "bin/program") if name in FILES else TREES[name]
    archive.write_bytes(whole[:kept])
    try:
        (extract_file if name in FILES else extract_tree)(archive, member, out / "result")
    except ZosiaError as error:
        assert str(archive) in error.message
        assert "\n" not in error.message
        assert not out.exists() or not os.listdir(out)
    else:  # only padding or a checksum was lost
        assert kept == -3
        found = out / "result" if name in FILES else out / "result" / "a folder" / "f"
        assert found.read_bytes() == PROGRAM


@pytest.mark.parametrize("name", ["p.whl", "p.deb", "s.deb"])  # tarfile does not check what gzip guards
def test_changed_in_the_middle(tmp_path: Path, name: str) -> None:
    archive, out = tmp_path / name, tmp_path / "out"
    whole, member = (FILES[name], "bin/program") if name in FILES else TREES[name]
    half = len(whole) // 2
    archive.write_bytes(whole[:half] + bytes([whole[half] ^ 0xFF]) + whole[half + 1 :])
    with pytest.raises(ZosiaError, match=f"{archive} is damaged"):
        (extract_file if name in FILES else extract_tree)(archive, member, out / "result")
    assert not out.exists() or not os.listdir(out)
