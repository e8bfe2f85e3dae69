"""Nobody changes a file that a guest has without notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.run import emulator
from zosia.run.lease import BROKEN, Lease
from zosia.run.loop import Loop

from .fake_qemu import MACHINE, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="leases are a part of Linux")


@pytest.fixture
def broken() -> Iterator[list[int]]:
    """The signals that came."""
    came: list[int] = []
    before = signal.signal(BROKEN, lambda number, frame: came.append(number))
    yield came
    signal.signal(BROKEN, before)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 100)
    return path


@pytest.mark.parametrize("change", ["r+b", "wb", "ab"])
def test_a_writer_waits_and_is_noticed(disk: Path, broken: list[int], change: str) -> None:
    lease = Lease(disk)
    program = f"open({str(disk)!r}, {change!r}).write(b'y')"
    with subprocess.Popen([sys.executable, "-c", program]) as writer:
        wait_until(lambda: bool(broken))
        assert disk.read_bytes() == b"x" * 100
        assert not lease.end()
        assert writer.wait(10 * patience()) == 0
    assert b"y" in disk.read_bytes()


def test_readers_are_none_of_its_business(disk: Path, broken: list[int]) -> None:
    first, second = Lease(disk), Lease(disk)
    assert subprocess.run([sys.executable, "-c", f"open({str(disk)!r}).read()"], check=False).returncode == 0
    assert (first.end(), second.end(), broken) == (False, False, [])


def test_a_file_that_is_being_written(disk: Path) -> None:
    with disk.open("r+b"), pytest.raises(ZosiaError, match="open for writing"):
        Lease(disk)


def test_another_file_of_that_name(disk: Path, broken: list[int]) -> None:
    lease = Lease(disk)
    (disk.parent / "new").write_bytes(b"new")
    (disk.parent / "new").rename(disk)
    assert lease.end()
    lease = Lease(disk)
    disk.unlink()
    assert lease.end()
    assert broken == []


def test_no_file(tmp_path: Path) -> None:
    assert not Lease(None).end()
    assert not Lease(tmp_path / "none").end()
    assert not os.listdir(tmp_path)


def test_a_disk_that_this_user_can_not_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # root may read anything
    with pytest.raises(ZosiaError) as failure:
        Lease(disk)
    assert str(failure.value) == f"{disk}: Permission denied. Type: chmod -R u+rwX {disk}"


def is_open(path: Path) -> bool:
    """Return whether this process has the file open."""
    files = Path("/proc/self/fd")
    return any(os.path.realpath(files / name) == str(path.resolve()) for name in os.listdir(files))


def test_a_qemu_that_does_not_start_leaves_no_lease(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = []

    def fail(*_: object) -> None:
        leased.append(is_open(disk))
        raise ZosiaError("QEMU could not be started", "Install it")

    monkeypatch.setattr(emulator, "_popen", fail)
    with pytest.raises(ZosiaError, match="could not be started"):
        emulator.Emulator(replace(MACHINE, disk=disk), tmp_path, ["zosia.status"], Loop())
    assert leased == [True]
    assert not is_open(disk)


def test_a_lease_that_is_refused_leaves_no_file_open(disk: Path) -> None:
    with disk.open("r+b"), pytest.raises(ZosiaError, match="open for writing"):
        Lease(disk)
    assert not is_open(disk)
