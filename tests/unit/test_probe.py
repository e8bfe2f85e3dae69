"""An accelerator that opens and runs no guest is found out, once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_qemu import MACHINE
from zosia.base import process
from zosia.machine import fence, pmem
from zosia.machine.boards import BOARDS, Q35, VIRT, Accel
from zosia.machine.qemu import SANDBOX, Machine
from zosia.run import diagnosis, probe
from zosia.run.loop import Loop

from .conftest import SetHost

Qemu = Callable[[str], None]
HVF_C = "../target/arm/hvf/hvf.c:149: assertion failed: (ret == HV_SUCCESS)"  # of one that aborts
KVM = replace(MACHINE, accel=Accel.KVM, kernel=Path("kernel"))


# Seconds for a QEMU that answers or ends, however busy this machine is, and for one that does neither
LONG, SHORT = (20.0, 20.0), (1.0, 1.0)


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    """Be on a host whose QEMU is a shell script; each start of it adds a line to `starts`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "TRIES", LONG)
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


def test_it_answers_the_second_time(qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TRIES", (SHORT[0], LONG[0]))
    qemu(f"[ $(wc -l <{tmp_path}/starts) = 1 ] || echo Linux version; exec sleep 1000")
    assert probe.failure(KVM, tmp_path / "cache") == ""
    assert starts(tmp_path) == 2


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("echo SeaBIOS; exec sleep 1000", "a guest was silent for 1 s"),
        ("echo 'qemu-system-aarch64: Could not access KVM.' >&2; exit 1", "QEMU ended at once (Could not access KVM)"),
        ("exit 1", "QEMU ended at once"),
        ("kill -ABRT $$", "QEMU ended at once"),
        (
            f"printf '**\\nBail out! ERROR:{HVF_C}\\n' >&2; kill -ABRT $$",
            f"QEMU ended at once (Bail out! ERROR:{HVF_C})",
        ),
        ("printf '[0.0] \\033[31mpanic\\007\\n'; exit 1", "QEMU ended at once ([0.0] [31mpanic)"),
        ("trap '' TERM HUP INT; exec sleep 1000", "a guest was silent for 1 s"),
        ("exec >&- 2>&-; exec sleep 1000", "QEMU ended at once"),
    ],
)
def test_it_does_not_answer(
    qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, failure: str
) -> None:
    monkeypatch.setattr(probe, "TRIES", SHORT if "silent" in failure else LONG)
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


def test_a_guest_that_prints_without_end(qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Loop):
        """A loop for which the next line always comes in time."""

        def serve(self, seconds: float | None, *, read: int | None = None, **levels: Any) -> bool:
            assert seconds
            assert seconds > 0, "the time is over"
            return super().serve(60, read=read)

    monkeypatch.setattr(probe, "Loop", Busy)
    monkeypatch.setattr(probe, "TRIES", SHORT)
    qemu("exec yes '[0.0] irq 27: nobody cared'")
    assert probe.failure(KVM, tmp_path / "cache") == "a guest was silent for 1 s"
    assert starts(tmp_path) == 2


def test_interrupt_controllers_are_remembered_apart(qemu: Qemu, tmp_path: Path) -> None:
    qemu("case $* in *hvf,kernel-irqchip=off*) echo Linux version; esac; exec sleep 1000")
    hvf = replace(KVM, accel=Accel.HVF)
    for _ in range(2):
        assert probe.failure(hvf, tmp_path / "cache", tries=SHORT) == "a guest was silent for 1 s"
        assert probe.failure(replace(hvf, board=replace(VIRT, own_gic=True)), tmp_path / "cache") == ""
    assert starts(tmp_path) == 3


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


def test_a_temporary_folder_that_maps_no_files(pc: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pc('echo "/dev/pmem0 /models ext4 ro,dax=always 0 0"; exec sleep 1000')
    monkeypatch.setattr(pmem, "map_refusal", lambda disk: f"{disk.name} is refused")
    found = probe.dax_failure(DAX_KVM, tmp_path / "cache")
    assert found == "disk is refused; set TMPDIR= to a folder on another one"
    assert not (tmp_path / "starts").exists()
    monkeypatch.setattr(pmem, "map_refusal", lambda disk: "")
    assert probe.dax_failure(DAX_KVM, tmp_path / "cache") == found, "it is remembered"
    monkeypatch.setattr(probe, "_device", lambda folder: 0)
    assert probe.dax_failure(DAX_KVM, tmp_path / "cache") == "", "what is remembered is of one filesystem"
    assert starts(tmp_path) == 1


def test_firmware_that_answers(pc: Qemu, tmp_path: Path) -> None:
    pc(f'echo "$*" >>{tmp_path}/argv; echo "SeaBIOS (version 1.16.2)"; exec sleep 1000')
    assert probe.firmware_failure(Accel.KVM, tmp_path / "cache", dry_run=True) == ""
    assert not (tmp_path / "starts").exists()
    assert probe.firmware_failure(Accel.KVM, tmp_path / "cache") == ""
    assert probe.firmware_failure(Accel.KVM, tmp_path / "cache") == ""
    assert starts(tmp_path) == 1, "it is remembered"
    assert "-accel kvm" in (tmp_path / "argv").read_text()


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("exec sleep 1000", "a guest was silent for 1 s"),
        ("echo 'qemu-system-x86_64: failed to set MSR 0x10a.' >&2; exit 1", f"{probe.ENDED} (failed to set MSR 0x10a)"),
    ],
)
def test_firmware_that_does_not_answer(
    pc: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, failure: str
) -> None:
    monkeypatch.setattr(probe, "TRIES", SHORT if "silent" in failure else LONG)
    pc(script)
    assert probe.firmware_failure(Accel.KVM, tmp_path / "cache") == failure
    assert probe.firmware_failure(Accel.KVM, tmp_path / "cache", dry_run=True) == failure
    assert starts(tmp_path) == 2, "it was tried twice, and then remembered"
    assert probe.firmware_failure(Accel.HVF, tmp_path / "cache", dry_run=True) == "", "another accelerator"


def test_real_firmware_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With QEMU itself, and an accelerator that each host has."""
    monkeypatch.setattr(probe, "TRIES", probe.TCG_TRIES)
    assert not process.missing([probe.PC])
    assert probe.firmware_failure(Accel.TCG, tmp_path) == ""


def test_firmware_without_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "missing", lambda programs: programs)
    assert probe.firmware_failure(Accel.KVM, tmp_path) == "", "the build names what is missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hangs", "tries", "failure"),
    [
        ("*dumpdtb*", (20.0,), "QEMU ended at once (/dev/vda /models ext4)"),
        ("*", (0.5, 1.0), "a guest was silent for 1 s"),
    ],
)
def test_a_qemu_that_hangs_before_there_is_a_guest(
    qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str, tries: tuple[float, ...], failure: str
) -> None:
    """It is to write a device tree first. Without one, the guest starts with a disk that is not memory."""
    monkeypatch.setattr(pmem, "TREE", 0.2)
    monkeypatch.setattr(probe, "DAX_TRIES", tries)
    Path("initramfs").touch()
    qemu(f"case $* in {hangs}) exec sleep 1000 ;; esac; echo /dev/vda /models ext4")
    machine = replace(KVM, memory=512, initramfs=Path("initramfs"))
    assert probe.dax_failure(machine, tmp_path / "cache") == failure


REFUSED = "failed to install seccomp syscall filter in the kernel"
REFUSES = f"""case $* in *-sandbox*) echo "$0: -sandbox {SANDBOX}: {REFUSED}" | sed 's|^.*/||' >&2; exit 1 ;; esac"""
STARTS = "echo QEMU 7.2 monitor; printf '(qemu) '; exec sleep 1000"


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this process's own status, outside any container."""
    path = tmp_path / "status"
    path.write_text("Name:\tpython\nSeccomp:\t0\n")
    monkeypatch.setattr(probe, "STATUS", path)
    return path


def test_a_sandbox_that_works(qemu: Qemu, tmp_path: Path, status: Path) -> None:
    qemu(STARTS)
    cache = tmp_path / "cache"
    assert probe.sandbox_failure("aarch64", cache, dry_run=True) == ""
    assert not (tmp_path / "starts").exists()
    assert probe.sandbox_failure("aarch64", cache) == probe.sandbox_failure("aarch64", cache) == ""
    assert starts(tmp_path) == 1, "it is remembered"
    status.write_text("Name:\tpython3\nSeccomp:\t2\n")
    assert probe.sandbox_failure("aarch64", cache) == ""
    assert starts(tmp_path) == 2, "a container with the same cache may refuse it"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (REFUSES, REFUSED),
        (
            'case $* in *-sandbox*) echo "qemu-system-aarch64: no seccomp in this build." >&2; exit 1 ;; esac',
            "no seccomp in this build",
        ),
        ("case $* in *-sandbox*) kill -SYS $$ ;; esac", "QEMU ended at once"),
    ],
)
def test_a_sandbox_that_is_refused(qemu: Qemu, tmp_path: Path, status: Path, script: str, reason: str) -> None:
    qemu(f"{script}\n{STARTS}")
    cache = tmp_path / "cache"
    assert probe.sandbox_failure("aarch64", cache) == reason
    assert starts(tmp_path) == 2, "it starts without one"
    assert probe.sandbox_failure("aarch64", cache, dry_run=True) == reason
    assert starts(tmp_path) == 2
    qemu(STARTS)
    os.utime(tmp_path / "bin" / "qemu-system-aarch64", ns=(0, 0))
    assert probe.sandbox_failure("aarch64", cache) == ""


def test_a_refused_sandbox_is_tried_again(qemu: Qemu, tmp_path: Path, status: Path) -> None:
    allowed = tmp_path / "allowed"
    qemu(f"[ -e {allowed} ] || {{ {REFUSES}\n}}\n{STARTS}")
    assert probe.sandbox_failure("aarch64", tmp_path / "cache") == REFUSED
    allowed.touch()
    assert probe.sandbox_failure("aarch64", tmp_path / "cache") == "", "a host that was mended is as safe as any"


@pytest.mark.parametrize(
    "script", ["echo libfoo.so: not found >&2; exit 1", "case $* in *-sandbox*) exec sleep 1000 ;; esac"]
)
def test_another_fault_takes_no_sandbox_away(
    qemu: Qemu, tmp_path: Path, status: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(probe, "SANDBOX_TRY", 1.0 if "sleep" in script else 20.0)
    qemu(f"{script}\n{STARTS}")
    assert probe.sandbox_failure("aarch64", tmp_path / "cache") == ""
    assert not (tmp_path / "cache").exists(), "nothing is known, and nothing remembered"


def test_what_was_found_with_a_sandbox_does_not_count_without(qemu: Qemu, tmp_path: Path) -> None:
    qemu(f"{REFUSES}\necho Linux version 6.1; exec sleep 1000")
    confined = replace(KVM, sandbox=True)
    assert probe.failure(confined, tmp_path / "cache") == f"QEMU ended at once ({REFUSED})"
    assert probe.failure(replace(confined, sandbox=False), tmp_path / "cache") == ""


def test_a_script_in_place_of_qemu_can_not_be_held(qemu: Qemu, tmp_path: Path, status: Path) -> None:
    qemu(STARTS)
    cache = tmp_path / "cache"
    assert probe.fence_failure(KVM, cache, dry_run=True) == ""
    assert not (tmp_path / "starts").exists()
    if fence.abi():
        assert probe.fence_failure(KVM, cache) == "Permission denied"
        assert probe.fence_failure(KVM, cache, dry_run=True) == "Permission denied"
        assert starts(tmp_path) == 1, "it starts without a fence"
    else:
        assert probe.fence_failure(KVM, cache) == ""


def test_what_was_found_of_one_fence_does_not_count_for_another(
    qemu: Qemu, tmp_path: Path, status: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "around", lambda program, around: nullcontext())
    qemu(STARTS)
    alone = replace(KVM, sandbox=False)
    for count, (machine, version) in enumerate([(KVM, 0), (alone, 0), (alone, 5)], 1):
        monkeypatch.setattr(fence, "abi", lambda version=version: version)
        assert probe.fence_failure(machine, tmp_path / "cache") == ""
        assert probe.fence_failure(machine, tmp_path / "cache") == ""
        assert starts(tmp_path) == count


def test_another_fault_takes_no_fence_away(qemu: Qemu, tmp_path: Path, status: Path) -> None:
    qemu("echo libfoo.so: not found >&2; exit 1")
    assert probe.fence_failure(KVM, tmp_path / "cache") == ""
    assert not (tmp_path / "cache").exists(), "nothing is known, and nothing remembered"


def test_a_qemu_in_its_fence(tmp_path: Path, status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fence is tried as it is: this one's program is not in it, and can't be started."""
    program = shutil.which("qemu-system-aarch64")
    if not program:
        pytest.skip("qemu-system-aarch64 is not installed")
    machine = replace(KVM, arch="aarch64", board=VIRT, accel=Accel.TCG)
    assert probe.fence_failure(machine, tmp_path / "cache") == ""
    (memory,) = (tmp_path / "cache" / "probes").iterdir()
    assert json.loads(memory.read_text())["failure"] == ""
    if fence.abi():
        memory.unlink()
        monkeypatch.setattr(fence, "_interpreter", lambda program: [])
        assert probe.fence_failure(machine, tmp_path / "cache") == "Permission denied"


@pytest.mark.parametrize(
    ("arch", "found", "said"),
    [
        ("x86_64", {}, "opens"),
        ("x86_64", {"q35": "a guest was silent for 4 s"}, "opens, and was tried: a guest was silent for 4 s"),
        ("aarch64", {}, "not for aarch64"),
        (
            "aarch64",
            {"firmware": "QEMU ended at once"},
            "not for aarch64; for x86_64 it was tried, and QEMU ended at once",
        ),
    ],
)
def test_a_diagnosis_says_what_was_tried(
    arch: str, found: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, set_host: SetHost
) -> None:
    """An emulated machine has an accelerator that opens, and that an earlier run found out to be of no use."""
    set_host("linux", "x86_64")

    def known(trial: Machine, cache: Path, *, dry_run: bool) -> str:
        assert dry_run, "a diagnosis tries nothing"
        assert trial.accel is Accel.KVM
        return found.get(trial.board.name, "")

    monkeypatch.setattr(probe, "failure", known)
    monkeypatch.setattr(probe, "firmware_failure", lambda accel, cache, dry_run: found.get("firmware", ""))
    emulated = replace(MACHINE, arch=arch, board=BOARDS[arch][-1], accel=Accel.TCG)

    def refusal(guest: str) -> str:
        return "" if guest == "x86_64" else f"not for {guest}"

    assert diagnosis._accelerator(emulated, Accel.KVM, refusal) == said
    assert diagnosis._accelerator(replace(emulated, accel=Accel.KVM), Accel.KVM, lambda guest: "") == "works"
