"""An accelerator that opens and runs no guest is found out, once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_qemu import MACHINE
from zosia.machine.boards import Q35, Accel
from zosia.run import probe

Qemu = Callable[[str], None]
KVM = replace(MACHINE, accel=Accel.KVM, kernel=Path("kernel"))


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    """Be on a host whose QEMU is a shell script; each start of it adds a line to `starts`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "TRIES", (0.5, 1.0))
    monkeypatch.chdir(tmp_path)
    Path("kernel").touch()

    def install(script: str) -> None:
        program = folder / "qemu-system-aarch64"
        program.write_text(f"#!/bin/sh\necho x >>{tmp_path}/starts\n{script}\n")
        program.chmod(0o755)

    return install


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


def test_it_answers(qemu: Qemu, tmp_path: Path) -> None:
    qemu("echo '[0.0] Linux version 6.1'; exec sleep 1000")
    assert probe.failure(KVM, tmp_path / "cache", dry_run=True) == ""
    assert not (tmp_path / "starts").exists()
    assert probe.failure(KVM, tmp_path / "cache") == ""
    assert probe.failure(KVM, tmp_path / "cache") == ""
    assert starts(tmp_path) == 1, "it is remembered"


def test_it_answers_the_second_time(qemu: Qemu, tmp_path: Path) -> None:
    qemu(f"[ $(wc -l <{tmp_path}/starts) = 1 ] || echo Linux version; exec sleep 1000")
    assert probe.failure(KVM, tmp_path / "cache") == ""
    assert starts(tmp_path) == 2


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("echo SeaBIOS; exec sleep 1000", "a guest said nothing for 1 s"),
        ("echo 'qemu-system-aarch64: Could not access KVM.' >&2; exit 1", "QEMU ended at once (Could not access KVM)"),
        ("exit 1", "QEMU ended at once"),
    ],
)
def test_it_does_not_answer(qemu: Qemu, tmp_path: Path, script: str, failure: str) -> None:
    qemu(script)
    assert probe.failure(KVM, tmp_path / "cache") == failure
    assert probe.failure(KVM, tmp_path / "cache") == failure
    assert probe.failure(KVM, tmp_path / "cache", dry_run=True) == failure
    assert starts(tmp_path) == 2, "it was tried twice, and then remembered"
    Path("kernel").write_text("another")
    assert probe.failure(KVM, tmp_path / "cache") == failure
    assert starts(tmp_path) == 4, "another kernel may fare better"


def test_what_was_remembered_of_another_host_does_not_count(qemu: Qemu, tmp_path: Path) -> None:
    qemu("exit 1")
    assert probe.failure(KVM, tmp_path / "cache")
    qemu("echo Linux version 6.1")
    assert probe.failure(KVM, tmp_path / "cache") == "", "another QEMU"
    (memory,) = (tmp_path / "cache" / "probes").iterdir()
    known = json.loads(memory.read_text())
    known["host"][1] = "another boot"
    memory.write_text(json.dumps({**known, "failure": "of yesterday"}))
    assert probe.failure(KVM, tmp_path / "cache") == "", "another boot of the host"
    memory.write_text("[")
    assert probe.failure(KVM, tmp_path / "cache") == "", "damaged"


DAX_KVM = replace(KVM, board=Q35, arch="x86_64")


@pytest.fixture
def pc(qemu: Qemu, tmp_path: Path) -> Qemu:
    """The same for a PC's QEMU, which needs no device tree."""

    def install(script: str) -> None:
        qemu(script)
        (tmp_path / "bin" / "qemu-system-aarch64").rename(tmp_path / "bin" / "qemu-system-x86_64")

    return install


def test_a_disk_that_a_guest_maps(pc: Qemu, tmp_path: Path) -> None:
    pc(f'echo "$*" >>{tmp_path}/argv; echo "/dev/pmem0 /models ext4 ro,dax=always 0 0"; exec sleep 1000')
    assert probe.dax_failure(DAX_KVM, tmp_path / "cache") == ""
    assert probe.dax_failure(DAX_KVM, tmp_path / "cache") == ""
    assert starts(tmp_path) == 1, "it is remembered"
    argv = (tmp_path / "argv").read_text()
    assert "virtio-pmem-pci" in argv
    assert "opt/zosia/mode,string=probe" in argv
    assert "m.img" not in argv, "the model's own disk has nothing to do with it"


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("echo zosia: error: no model disk is attached. Make one", "the guest's kernel could not mount it"),
        ("echo qemu-system-x86_64: no such device >&2", "QEMU ended at once (no such device)"),
    ],
)
def test_a_disk_that_a_guest_can_not_map(pc: Qemu, tmp_path: Path, script: str, failure: str) -> None:
    pc(script)
    assert probe.dax_failure(DAX_KVM, tmp_path / "cache") == failure
    assert probe.failure(DAX_KVM, tmp_path / "cache", dry_run=True) == "", "which says nothing of the accelerator"
