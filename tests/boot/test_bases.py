"""Every way to a kernel, on every architecture: each boots, answers, and leaves the others alone."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pexpect
import pytest

from tests import parrot
from zosia.machine.boards import MICROVM, Accel
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run.guest import smoke_without_model
from zosia.settings import machines, reading
from zosia.settings.variables import DEFAULTS
from zosia_build import hosts

from .conftest import BUILDROOT, Chat, Supervise

SCONS = (sys.executable, "-m", "SCons")
BASES = ("direct", "distro", *(["buildroot"] if BUILDROOT else []))
COMBINATIONS = [(f"ARCH={arch}", f"BASE={base}") for arch, base in product(("aarch64", "x86_64"), BASES)]


def scons(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    more = [f"{name}={value}" for name, value in BUILDROOT.items()] if "BASE=buildroot" in words else []
    done = subprocess.run([*SCONS, *words, *more], cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# The default combination has all other tests.
@pytest.mark.parametrize("typed", COMBINATIONS[1:], ids=" ".join)
def test_smoke_and_a_chat(root: Path, small: Path, typed: tuple[str, ...], no_machine_left: None) -> None:
    done = scons(root, "smoke", *typed)
    assert "  SMOKE the stub " in done.stdout
    booted = hosts.BOOT.findall(done.stdout)
    done = scons(root, "smoke", f"MODEL={small}", *typed)
    booted += hosts.BOOT.findall(done.stdout)
    arch, accels = typed[0].removeprefix("ARCH="), [accel.value for accel in Accel]
    assert [text.split()[0] for text, _ in booted] == [arch, arch]
    assert all(accel in accels for _, accel in booted)
    assert f"  SMOKE the model streamed an answer: {parrot.ANSWER}" in done.stdout


class Timed(Machine):
    """A machine whose kernel is told how fast the emulated clock of the processor goes, as KVM would tell it."""

    def _command_line(self) -> str:
        mhz = re.search(r"^cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        assert mhz
        return f"{super()._command_line()} tsc=reliable tsc_early_khz={float(mhz[1]) * 1000:.0f}"


def test_microvm(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but KVM itself: the board's devices, found through ACPI, and the way to power off."""
    monkeypatch.chdir(root)
    scons(root, "smoke", "ARCH=x86_64")
    typed = {"ARCH": "x86_64", "ACCEL": "tcg"}
    machine = machines.stub_machine(reading.read(DEFAULTS | typed, [], root, given=typed))
    facts = {field.name: getattr(machine, field.name) for field in fields(Machine)}
    smoke_without_model(Timed(**facts | {"board": MICROVM}), root / "build" / "test-logs" / "microvm.log")


def test_x86_64_goes_on_from_its_state(
    root: Path, small: Path, tmp_path: Path, supervise: Supervise, chat: Chat
) -> None:
    """Saved, and resumed as an answer and as a chat: Linux would not power off any more, so the host ends them."""
    typed = {"ARCH": "x86_64", "ACCEL": "tcg", "MODEL": str(small)}
    scons(root, ".", *(f"{name}={value}" for name, value in typed.items()))
    plain = machines.run_machine(reading.read(DEFAULTS | typed, [], root, given=typed))
    machine = replace(plain, hot=tmp_path / "hot").given(terminal=(30, 100, "xterm"))
    asked = machine.given(prompt="What is 2+2?")
    cold, saved, resumed = (supervise(one) for one in (replace(asked, hot=None), asked, asked))
    (state,) = (tmp_path / "hot").glob("*.state")
    written = state.stat().st_ino
    assert [done.returncode for done in (cold, saved, resumed)] == [0, 0, 0]
    assert cold.stdout == saved.stdout == resumed.stdout == f"{parrot.ANSWER}\n"
    assert resumed.stderr == ""
    for _ in range(2):  # of a chat there is another state, for its TERM
        child = chat(machine)
        child.expect_exact("\n> ")
        child.send("/exit\r")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
        assert "HOT" not in (child.before or "")
    assert state.stat().st_ino == written


def test_x86_64_knows_what_two_and_two_are(root: Path, supervise: Supervise) -> None:
    """The real model, at a level without AVX, which some hosts emulate ten times as slowly as others."""
    typed = {"ARCH": "x86_64", "ACCEL": "tcg", "CPU": "Nehalem", "SMP": "1"}
    typed |= {"SYSTEM": "Answer.", "LLAMA_ARGS": "--temp 0 -n 12"}  # a chat template may begin with more words
    scons(root, ".", *(f"{name}={value}" for name, value in typed.items()))
    machine = machines.run_machine(reading.read(DEFAULTS | typed, [], root, given=typed))
    done = supervise(replace(machine, hot=None).given(prompt="What is 2+2?"))
    cut = "zosia: error: the answer is cut off: -n allows 12 tokens. Set a larger -n in LLAMA_ARGS=, or leave it out\n"
    assert (done.returncode, done.stderr) == (Status.CUT_OFF, cut)
    assert "4" in done.stdout


def test_going_back_and_forth_builds_nothing(root: Path) -> None:
    for typed in COMBINATIONS:
        scons(root, ".", *typed)
    for typed in COMBINATIONS:
        assert scons(root, ".", *typed).stdout == "scons: `.' is up to date.\n"
