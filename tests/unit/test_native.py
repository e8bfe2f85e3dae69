"""Hosts that run one architecture on the processor itself: ARCH=native, and the line for who emulates another one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import zosia_build.settings
from zosia.base import packages, process
from zosia.base.errors import ZosiaError
from zosia.doctor import machine
from zosia.doctor.findings import look
from zosia.machine import host
from zosia.machine.boards import Accel
from zosia.run import probe
from zosia.settings import hardware, usage
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS
from zosia_build import doctor
from zosia_build.doctor import Todo

from .conftest import SetHost

Typed = Callable[..., Settings]
Qemu = Callable[[str], None]
WORKS = "echo 'SeaBIOS (version 1.16.2)'; exec sleep 1000"
EMULATED = "  NOTE  aarch64 is emulated here, about 20 times slower than x86_64 with"
FOREIGN = "KVM runs guests of the host's own architecture, x86_64, not aarch64"


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...`, typed in an empty folder, with a cache; dry=True is `scons -n`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()

    def read(*, dry: bool = False, **values: str) -> Settings:
        given = {**DEFAULTS, **values}
        return zosia_build.settings.read(given, [], root, given=values, launched=tmp_path, dry_run=dry).run

    return read


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    """Have a qemu-system-x86_64 that is a shell script; each start of it adds its words to `starts`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(probe, "TRIES", (60.0,))  # none of these is silent, however busy the host is

    def install(script: str) -> None:
        program = folder / "qemu-system-x86_64"
        program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/starts\n{script}\n')
        program.chmod(0o755)

    return install


@pytest.fixture
def no_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let /dev/kvm open and create no machine, once this is called."""

    def busy(device: int, request: int, argument: int) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    return lambda: monkeypatch.setattr(fcntl, "ioctl", busy)


def starts(tmp_path: Path) -> int:
    path = tmp_path / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def noted(typed: Typed, **given: str) -> str:
    return hardware.native_note(typed(**given), given)


@pytest.mark.parametrize(
    ("system", "name", "arch", "accel"),
    [
        ("linux", "x86_64", "x86_64", Accel.KVM),
        ("linux", "aarch64", "aarch64", Accel.KVM),
        ("darwin", "arm64", "aarch64", Accel.HVF),
        ("darwin", "x86_64", "x86_64", Accel.HVF),
        ("freebsd14", "amd64", "aarch64", Accel.TCG),
        ("linux", "riscv64", "aarch64", Accel.TCG),
    ],
)
def test_native(set_host: SetHost, typed: Typed, qemu: Qemu, system: str, name: str, arch: str, accel: Accel) -> None:
    qemu(WORKS)
    set_host(system, name)
    settings = typed(ARCH="native")
    assert (settings.arch, settings.accel) == (arch, accel)
    assert settings.base_build.parts[:2] == ("build", arch), "and never build/native"
    assert typed().arch == "aarch64", "the default stays"


def test_native_without_kvm(set_host: SetHost, typed: Typed, no_machine: Callable[[], None]) -> None:
    set_host("linux", "x86_64")
    no_machine()
    assert (typed(ARCH="native").arch, noted(typed)) == ("aarch64", "")
    busy = f"{host.KVM} can't create a virtual machine: Device or resource busy"
    assert noted(typed, ARCH="native") == f"  NOTE  ARCH=native is aarch64 here, and emulated: {busy}"
    host.KVM.unlink()
    assert (typed(ARCH="native").arch, noted(typed)) == ("aarch64", "")
    missing = f"{host.KVM} can't be opened: No such file or directory"
    assert noted(typed, ARCH="native") == f"  NOTE  ARCH=native is aarch64 here, and emulated: {missing}"
    set_host("linux", "aarch64")
    assert (typed(ARCH="native").arch, noted(typed)) == ("aarch64", "")


def test_a_host_whose_kvm_runs_nothing(set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path) -> None:
    """It opens, it creates a machine, and QEMU ends: inside other virtual machines, for example."""
    set_host("linux", "x86_64")
    qemu("echo 'qemu-system-x86_64: failed to set MSR 0x10a.' >&2; exit 1")
    assert typed(ARCH="native", dry=True).arch == "x86_64", "a dry run tries nothing"
    assert starts(tmp_path) == 0
    assert typed(ARCH="native").arch == typed(ARCH="native").arch == "aarch64"
    failure = "kvm was tried, and QEMU ended at once (failed to set MSR 0x10a)"
    assert noted(typed, ARCH="native") == f"  NOTE  ARCH=native is aarch64 here, and emulated: {failure}"
    assert noted(typed) == "", "no advice to do what does not work"
    assert typed(ARCH="native", dry=True).arch == "aarch64"
    assert starts(tmp_path) == 1, "it is remembered"


def test_without_a_cache_nothing_is_created(set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path) -> None:
    set_host("linux", "x86_64")
    qemu("exit 1")
    (tmp_path / "cache").rmdir()
    assert typed(ARCH="native").arch == "aarch64"
    assert starts(tmp_path) == 1
    assert not (tmp_path / "cache").exists()


def test_an_accelerator_that_is_named(set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path) -> None:
    set_host("linux", "x86_64")
    qemu("exit 1")
    assert typed(ARCH="native", ACCEL="kvm").arch == "x86_64", "a run tries it, and reports why it fails"
    assert starts(tmp_path) == 0
    host.KVM.unlink()
    with pytest.raises(ZosiaError, match=rf"^ACCEL=kvm can't be used: {host.KVM} can't be opened: No such file"):
        typed(ARCH="native", ACCEL="kvm")


def test_the_note(set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_host("linux", "x86_64")
    qemu(WORKS)
    assert noted(typed) == noted(typed, MEM="1G", PROMPT="x") == f"{EMULATED} KVM. Type: scons run ARCH=native"
    assert starts(tmp_path) == 1, "no process for each run"
    set_host("darwin", "x86_64")
    assert noted(typed) == f"{EMULATED} HVF. Type: scons run ARCH=native"
    set_host("linux", "x86_64")
    (tmp_path / "bin" / "qemu-system-x86_64").unlink()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    script = f"{EMULATED} KVM. Type: ./scripts/run-qemu-x86_64.sh"
    assert noted(typed) == script, "which installs what is missing"


def test_native_with_the_other_qemu_only(
    set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs at once, and says what would be faster; without any QEMU, that is what to install."""
    set_host("linux", "x86_64")
    qemu(WORKS)
    other = (tmp_path / "bin" / "qemu-system-x86_64").rename(tmp_path / "bin" / "qemu-system-aarch64")
    monkeypatch.setenv("PATH", str(other.parent))
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    monkeypatch.setattr(packages, "manager", lambda: "apt")
    settings = typed(ARCH="native")
    assert (settings.arch, settings.accel) == ("aarch64", Accel.TCG)
    why = "KVM: qemu-system-x86_64 was not found. Type: sudo apt-get install qemu-system-x86"
    assert noted(typed, ARCH="native") == f"{EMULATED} {why}"
    assert typed(ARCH="native", ACCEL="kvm").arch == "x86_64", "as requested"
    other.unlink()
    assert typed(ARCH="native").arch == "x86_64"


@pytest.mark.parametrize(
    "given",
    [
        {"ARCH": "aarch64"},
        {"ARCH": "x86_64"},
        {"ARCH": "native"},
        {"ACCEL": "tcg"},
        {"ACCEL": "auto"},
        {"ARCH": "native", "ACCEL": "tcg"},
        {"BOARD": "virt"},
        {"CPU": "max"},
    ],
)
def test_no_note_for_a_choice(set_host: SetHost, typed: Typed, qemu: Qemu, given: dict[str, str]) -> None:
    set_host("linux", "x86_64")
    qemu(WORKS)
    assert noted(typed, **given) == ""
    for part in ("KERNEL", "BUSYBOX"):
        assert hardware.native_note(typed(), {part: "a file for one architecture"}) == ""


@pytest.mark.parametrize(("system", "name"), [("linux", "aarch64"), ("darwin", "arm64"), ("linux", "riscv64")])
def test_no_note_where_there_is_nothing_faster(set_host: SetHost, typed: Typed, system: str, name: str) -> None:
    set_host(system, name)
    assert noted(typed) == ""


def test_doctor(set_host: SetHost, typed: Typed, qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "")
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")
    set_host("linux", "x86_64")
    start = f"the guest is emulated (tcg), which is slow: {FOREIGN}."

    def said(guest: str = "aarch64") -> str:
        (finding,) = look(lambda: machine.acceleration(typed(ARCH=guest), "auto"))
        return finding.text

    qemu(WORKS)
    assert said() == f"{start} Set ARCH=native"
    program = tmp_path / "bin" / "qemu-system-x86_64"
    with monkeypatch.context() as patch:
        patch.setattr(packages, "manager", lambda: "apt")
        patch.setattr(process, "EXTRA_PATH", ())
        patch.setenv("PATH", str(program.parent))
        program.rename(program.with_name("elsewhere"))
        assert said() == f"{start} Type: sudo apt-get install qemu-system-x86"
    qemu("exit 1")
    assert said() == f"{start} It can't be used for x86_64 either: kvm was tried, and QEMU ended at once"
    assert starts(tmp_path) == 2
    set_host("linux", "aarch64")
    assert said("x86_64").endswith("architecture, aarch64, not x86_64. Set ARCH=native"), "no PC's QEMU is asked"
    set_host("linux", "riscv64")
    assert said().endswith("architecture, riscv64, not aarch64")
    assert starts(tmp_path) == 2
    set_host("linux", "x86_64")
    host.KVM.unlink()
    assert said() == (
        f"{start} It can't be used for x86_64 either: {host.KVM} can't be opened: No such file or directory. "
        "Switch virtualization on in the firmware, or in the hypervisor around this machine"
    )


def test_doctor_and_its_dry_run_are_of_one_architecture(
    set_host: SetHost,
    typed: Typed,
    qemu: Qemu,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_host("linux", "x86_64")
    qemu("exit 1")
    (tmp_path / "cache").rmdir()  # so that nothing is remembered
    seen = []

    def todo(top: Path, given: dict[str, str], launched: Path) -> Todo:
        seen.append(given)
        raise ZosiaError("enough")

    monkeypatch.setattr(doctor, "todo", todo)
    for accel, arch in (("auto", "aarch64"), ("kvm", "x86_64")):
        given = {"ARCH": "native", "ACCEL": accel, "MEM": "1G"}
        assert doctor.main({**DEFAULTS, **given}, [], root, given=given, launched=root) == 1
        assert seen.pop() == {**given, "ARCH": arch}
        assert f"qemu-system-{arch}" in capsys.readouterr().out


def test_the_help_names_it() -> None:
    said = " ".join(usage.help_text(100).split())
    assert (
        "ARCH guest architecture; native is this machine's own where KVM or HVF runs it, and aarch64 elsewhere "
        "(aarch64, x86_64, native; default: aarch64)"
    ) in said
