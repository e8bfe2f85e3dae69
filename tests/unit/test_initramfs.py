"""Manifests: the real one, wrong lines, and an archive that depends on nothing else."""

from __future__ import annotations

import gzip
import os
import stat
from pathlib import Path

import pytest

from tests.unit.test_llama import elf
from zosia.base.errors import ZosiaError
from zosia.machine import status
from zosia_build import cpio, initramfs, llama

CONTENTS = {"busybox": b"\x7fELF", "empty": b""}
PARTS = {
    "busybox": elf(machine=llama.MACHINES["aarch64"]),
    "llama-version": b"0.0.0\n",
    **{f"llama-cli-{level.name}": b"program" for level in llama.LEVELS["aarch64"]},
}
MANIFEST = """
# a comment
dir /bin 0755
dir /tmp 1777   # another
file /bin/busybox busybox 0755
slink /bin/sh busybox
nod /dev/console 0600 c 5 1
"""


def test_entries() -> None:
    assert list(initramfs.read_manifest(MANIFEST, CONTENTS)) == [
        cpio.Entry(name="bin", mode=stat.S_IFDIR | 0o755),
        cpio.Entry(name="tmp", mode=stat.S_IFDIR | 0o1777),
        cpio.Entry(name="bin/busybox", mode=stat.S_IFREG | 0o755, data=b"\x7fELF"),
        cpio.Entry(name="bin/sh", mode=stat.S_IFLNK | 0o777, data=b"busybox"),
        cpio.Entry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1)),
    ]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("dir /x", "dir PATH MODE"),
        ("dir", "dir PATH MODE"),
        ("dir /x 0755 0 0", "dir PATH MODE"),
        ("dir /x 0789", "dir PATH MODE"),
        ("file /x nowhere 0644", "file PATH SOURCE MODE"),
        ("file /x busybox", "file PATH SOURCE MODE"),
        ("slink /x", "slink PATH TARGET"),
        ("nod /x 0600 b 5 1", "nod PATH MODE c MAJOR MINOR"),
        ("nod /x 0600 c 5", "nod PATH MODE c MAJOR MINOR"),
        ("pipe /x 0600", "dir PATH MODE or file"),
    ],
)
def test_a_wrong_line(line: str, wanted: str) -> None:
    with pytest.raises(ZosiaError, match=f"line 9: '{line}' should be: {wanted}"):
        list(initramfs.read_manifest(f"{MANIFEST}\n{line}\ndir /y 0755\n", CONTENTS))


@pytest.mark.parametrize("arch", llama.LEVELS)
def test_the_real_manifest(root: Path, arch: str) -> None:
    names = ("manifest", f"manifest-{arch}", "manifest-serve", "manifest-shell")
    text = "".join((root / "initramfs" / name).read_text() for name in names)
    sources = {words[2] for line in text.splitlines() if (words := line.split())[:1] == ["file"]}
    programs = {name for name in sources if name.startswith("llama-cli")}
    assert programs == {f"llama-cli-{level.name}" for level in llama.LEVELS[arch]}
    entries = {entry.name: entry for entry in initramfs.read_manifest(text, dict.fromkeys(sources, b"x"))}
    for name in ("init", "bin/zosia-streams", "bin/zosia-shell"):
        assert entries[name].mode == stat.S_IFREG | 0o755
    assert entries["dev/console"].device == (5, 1)
    for name, entry in entries.items():
        parent = os.path.dirname(name)  # noqa: PTH120
        assert not parent or stat.S_ISDIR(entries[parent].mode), "the kernel drops what has no folder"
        if stat.S_ISLNK(entry.mode):
            assert f"{parent}/{entry.data.decode()}" in entries


def test_same_bytes_whatever_the_target(tmp_path: Path) -> None:
    first, second = tmp_path / "a.cpio.gz", tmp_path / "folder" / "b.gz"
    initramfs.build(contents=PARTS, arch="aarch64", target=first)
    os.utime(first, (0, 0))
    initramfs.build(contents=PARTS, arch="aarch64", target=second)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4), "RFC 1952: the time"
    assert gzip.decompress(first.read_bytes()).startswith(b"070701")


def test_an_archive_behind_it(tmp_path: Path) -> None:
    alone, both = tmp_path / "alone.gz", tmp_path / "both.gz"
    initramfs.build(contents=PARTS, arch="aarch64", target=alone)
    behind = gzip.compress(b"070701 and so on")
    initramfs.build(contents=PARTS, arch="aarch64", target=both, appended=behind)
    assert both.read_bytes() == alone.read_bytes() + behind


def test_a_wrong_manifest_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "initramfs"
    folder.mkdir()
    (folder / "manifest").write_text(MANIFEST)
    (folder / "manifest-aarch64").write_text("dir /bin 0755\n")
    monkeypatch.setattr(initramfs, "FOLDER", folder)
    with pytest.raises(ZosiaError, match="twice"):
        initramfs.build(contents=PARTS, arch="aarch64", target=tmp_path / "a.gz")
    assert os.listdir(tmp_path) == ["initramfs"]


def test_a_busybox_of_another_architecture(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match=r"^The busybox for the guest is for machine 183, not 62\. Set BUSYBOX="):
        initramfs.build(contents=PARTS, arch="x86_64", target=tmp_path / "a.gz")
    assert os.listdir(tmp_path) == []


def test_what_is_given_comes_before_what_is_generated(tmp_path: Path) -> None:
    target = tmp_path / "a.gz"
    initramfs.build(contents={**PARTS, "levels": b"only one"}, arch="aarch64", kinds=["shell"], target=target)
    archive = gzip.decompress(target.read_bytes())
    assert b"only one" in archive
    assert b"bin/zosia-shell" in archive
    assert status.shell_table().encode() in archive
    assert (initramfs.FOLDER / "functions").read_bytes() in archive
