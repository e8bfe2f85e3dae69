"""The archive as the kernel reads it: by a reader made from its buffer-format.rst, not from the writer."""

from __future__ import annotations

import io
import stat
from typing import NamedTuple

import pytest

from zosia.base.errors import ZosiaError
from zosia_build import cpio
from zosia_build.cpio import Entry


class Header(NamedTuple):
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    filesize: int
    maj: int
    min: int
    rmaj: int
    rmin: int
    namesize: int
    chksum: int


class Read(NamedTuple):
    header: Header
    name: str
    data: bytes


def read(archive: bytes) -> list[Read]:
    """Every entry up to the trailer, after which there may be nothing."""
    at, entries = 0, []
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[i : i + 8], 16) for i in range(at + 6, at + 110, 8)]
        size, namesize = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + namesize]
        assert name.endswith(b"\0")
        data = at + 110 + namesize + -(110 + namesize) % 4
        entries.append(Read(Header(*fields), name[:-1].decode(), archive[data : data + size]))
        at = data + size + -size % 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return entries[:-1]


def write(*entries: Entry) -> bytes:
    file = io.BytesIO()
    cpio.write(entries, file)
    return file.getvalue()


TREE = (
    Entry(name="init", mode=stat.S_IFREG | 0o755, data=b"#!/bin/sh\n"),
    Entry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1)),
    Entry(name="dev", mode=stat.S_IFDIR | 0o755),
    Entry(name="bin/sh", mode=stat.S_IFLNK | 0o777, data=b"busybox"),
    Entry(name="bin", mode=stat.S_IFDIR | 0o755),
    Entry(name="zażółć", mode=stat.S_IFREG | 0o644, data="gęślą".encode()),
)


def test_everything_is_read_back() -> None:
    entries = read(write(*TREE))
    assert sorted(entry.name for entry in entries) == sorted(entry.name for entry in TREE)
    found = {entry.name: entry for entry in entries}
    for entry in TREE:
        got = found[entry.name]
        header = got.header
        assert (header.mode, got.data, (header.rmaj, header.rmin)) == (entry.mode, entry.data, entry.device)
        assert header.nlink == (2 if stat.S_ISDIR(entry.mode) else 1)


def test_nothing_but_the_entries_shows() -> None:
    entries = read(write(*TREE))
    headers = [entry.header for entry in entries]
    assert {(h.uid, h.gid, h.mtime, h.maj, h.min, h.chksum) for h in headers} == {(0,) * 6}
    assert len({h.ino for h in headers}) == len(TREE), "equal inodes would be hard links"
    assert [entry.name for entry in entries] == ["bin", "bin/sh", "dev", "dev/console", "init", "zażółć"]
    assert write(*TREE) == write(*reversed(TREE))


@pytest.mark.parametrize("size", range(9))
@pytest.mark.parametrize("length", range(1, 5))
def test_padding(size: int, length: int) -> None:
    entries = [Entry(name=c * length, mode=stat.S_IFREG, data=c.encode() * size) for c in "ab"]
    assert [(entry.name, entry.data) for entry in read(write(*entries))] == [(e.name, e.data) for e in entries]


def test_empty() -> None:
    assert read(write()) == []


def test_a_name_that_comes_twice() -> None:
    with pytest.raises(ZosiaError, match="has /bin twice"):
        write(*TREE, Entry(name="bin", mode=stat.S_IFREG))


class Huge(bytes):
    """Bytes that are said to be more than there are."""

    size = 0

    def __len__(self) -> int:
        return self.size


def test_larger_than_the_format_allows() -> None:
    data = Huge()
    data.size = 1 << 32
    with pytest.raises(ZosiaError, match=r"/models/x.gguf is too large for .*4 GiB.*Put it on the model disk"):
        write(Entry(name="models/x.gguf", mode=stat.S_IFREG, data=data))
    data.size -= 1
    assert b"FFFFFFFF" in write(Entry(name="models/x.gguf", mode=stat.S_IFREG, data=data))
