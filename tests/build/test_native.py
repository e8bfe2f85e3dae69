"""The line for who emulates an architecture needlessly: `scons run` prints it in a terminal, before it builds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

NOTE = "  NOTE  aarch64 is emulated here, about 20 times slower than x86_64 with KVM. Type: scons run ARCH=native"
# SCons on a PC whose KVM works, and which has QEMU.
PC = """
import sys
sys.path.insert(0, "site_scons")
from zosia.machine import host
from zosia.run import probe
from zosia.settings import hardware
host.arch = lambda: "x86_64"
host.kvm_refusal = lambda arch: "" if arch == "x86_64" else "not for this one"
host.hvf_refusal = lambda arch: "not on a PC"
probe.firmware_failure = lambda accel, cache, dry_run: ""
hardware.missing = lambda programs: []
from SCons.Script import main
main()
"""


@pytest.fixture
def stopped(tree: Path) -> Path:
    """A tree in which scons ends before it builds, with one line: there is a file where its folder belongs."""
    (tree / "build").touch()
    return tree


def in_terminal(tree: Path, *words: str) -> str:
    child = pexpect.spawn(
        sys.executable, ["-c", PC, *words], cwd=str(tree), encoding="utf-8", timeout=60, dimensions=(24, 200)
    )
    shown = str(child.read())
    child.close()
    return re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "")


def test_a_chat_begins_with_it(stopped: Path) -> None:
    shown = in_terminal(stopped, "run").splitlines()
    assert shown.count(NOTE) == 1
    assert shown[-1].startswith("zosia: error: ")


@pytest.mark.parametrize("words", [("run", "ARCH=aarch64"), ("run", "ACCEL=tcg"), ("kernel",), ("-n", "run")])
def test_nothing_else_does(stopped: Path, words: tuple[str, ...]) -> None:
    shown = in_terminal(stopped, *words)
    assert shown
    assert "NOTE" not in shown


def test_who_keeps_the_answer_reads_none(stopped: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PC, "run", "PROMPT=x"], cwd=stopped, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("zosia: error: ")
    assert "NOTE" not in done.stderr


def test_native_is_a_folder_of_the_build(tree: Path) -> None:
    shown = in_terminal(tree, "-n", "kernel", "initramfs", "ARCH=native")
    assert "  CPIO  build/x86_64/initramfs.cpio.gz" in shown.splitlines()
    assert "aarch64" not in shown
    assert "build/native" not in shown
