"""Which accelerator is taken on which host, and the one sentence when it can't be."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia.base.patience import FACTOR, patience
from zosia.machine import cgroups, host
from zosia.machine.boards import Accel

from .conftest import SetHost


@pytest.mark.parametrize(
    ("system", "machine", "guest", "accel"),
    [
        ("linux", "aarch64", "aarch64", Accel.KVM),
        ("linux", "x86_64", "x86_64", Accel.KVM),
        ("linux", "x86_64", "aarch64", Accel.TCG),
        ("darwin", "arm64", "aarch64", Accel.HVF),
        ("darwin", "x86_64", "aarch64", Accel.TCG),
        ("freebsd14", "arm64", "aarch64", Accel.TCG),
    ],
)
def test_auto_takes_the_fastest(set_host: SetHost, system: str, machine: str, guest: str, accel: Accel) -> None:
    set_host(system, machine)
    assert host.accelerator("auto", guest) is accel
    assert host.accelerator(accel.value, guest) is accel
    assert host.accelerator("tcg", guest) is Accel.TCG


@pytest.mark.parametrize(
    ("system", "machine", "asked", "reason"),
    [
        ("darwin", "arm64", "kvm", "KVM is a part of Linux"),
        ("linux", "x86_64", "kvm", "KVM runs guests of the host's own architecture, x86_64, not aarch64"),
        ("linux", "aarch64", "hvf", "HVF is a part of macOS"),
        ("darwin", "x86_64", "hvf", "HVF runs guests of the host's own architecture, x86_64, not aarch64"),
    ],
)
def test_refusals(set_host: SetHost, system: str, machine: str, asked: str, reason: str) -> None:
    set_host(system, machine)
    with pytest.raises(ZosiaError, match=rf"^ACCEL={asked} can't be used: {reason}\. Set ACCEL=tcg"):
        host.accelerator(asked, "aarch64")


def test_kvm_is_missing(set_host: SetHost) -> None:
    set_host("linux", "aarch64")
    host.KVM.unlink()
    assert host.kvm_refusal("aarch64") == f"{host.KVM} can't be opened: No such file or directory"
    assert host.accelerator("auto", "aarch64") is Accel.TCG


def test_kvm_is_forbidden(set_host: SetHost, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if path == host.KVM:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opening(path, *arguments, **named)

    set_host("linux", "aarch64")
    monkeypatch.setattr(os, "open", refuse)
    assert host.kvm_refusal("aarch64") == f"{host.KVM} can't be opened: Permission denied"


def test_kvm_is_busy(set_host: SetHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: int, request: int, argument: int) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    set_host("linux", "aarch64")
    monkeypatch.setattr(fcntl, "ioctl", busy)
    before = len(os.listdir("/dev/fd"))
    assert host.kvm_refusal("aarch64") == f"{host.KVM} can't create a virtual machine: Device or resource busy"
    assert len(os.listdir("/dev/fd")) == before, "the device is closed again"


def test_kvm_leaves_no_file_open(set_host: SetHost) -> None:
    set_host("linux", "aarch64")
    before = len(os.listdir("/dev/fd"))
    assert host.kvm_refusal("aarch64") == ""
    assert len(os.listdir("/dev/fd")) == before


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((132, 50)))
    assert host.terminal() == (50, 132, "xterm-kitty")
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((0, 0)))
    monkeypatch.delenv("TERM")
    assert host.terminal() == (24, 80, "dumb")


def test_no_terminal_is_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> os.terminal_size:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.setattr(os, "get_terminal_size", refuse)
    assert host.terminal() == (24, 80, "dumb")


@pytest.mark.parametrize(("text", "factor"), [("1", 1), ("0.5", 0.5), ("3", 3), ("0.02", 0.02), ("100", 100)])
def test_patience(monkeypatch: pytest.MonkeyPatch, text: str, factor: float) -> None:
    monkeypatch.setenv(FACTOR, text)
    assert patience() == factor


def test_patience_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FACTOR, raising=False)
    assert patience() == 1


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "0.0", "nan", "inf", "1e9", "1_0", "٣", " 1", "1\n", "9" * 400])
def test_no_patience(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(FACTOR, text)
    with pytest.raises(ZosiaError, match=r"^ZOSIA_TIMEOUT_FACTOR=[\s\S]* is not a number above 0\. Set for example"):
        patience()


@pytest.mark.parametrize(
    ("limit", "count"), [(None, 6), (0.01, 1), (0.5, 1), (1, 1), (2.9, 2), (5.99, 5), (6, 6), (64, 6)]
)
def test_processors(monkeypatch: pytest.MonkeyPatch, limit: float | None, count: int) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "3")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(cgroups, "quota", lambda: limit)
    assert host.affinity() == 6
    assert host.processors() == count


def test_processors_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_NPROCESSORS_ONLN": 10}.__getitem__)
    monkeypatch.setattr(cgroups, "quota", lambda: None)
    assert host.processors() == host.affinity() == 10


@pytest.mark.parametrize(
    ("version", "text", "total"),
    [
        (0, "max\n", None),
        (0, "1073741824\n", 1024),
        (1, "9223372036854771712\n", None),
        (1, "536870912\n", 512),
    ],
)
def test_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, text: str, total: int | None) -> None:
    limits = (tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes")
    monkeypatch.setattr(host, "MEMORY_LIMITS", limits)
    whole, _ = host.memory()
    assert whole == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    limits[version].write_text(text)
    found, free = host.memory()
    assert found == (total or whole)
    assert 0 < free <= found
