"""`scons run` and `scons smoke` as a person types them."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pexpect
import psutil
import pytest

from zosia.console import patience

PROMPT = "\r\n> "
LOADING = 180 * patience()


def typed(command: str, root: Path) -> pexpect.spawn[str]:
    return pexpect.spawn(
        "/bin/sh", ["-c", command], cwd=str(root), encoding="utf-8", timeout=LOADING, dimensions=(30, 100)
    )


def machines() -> set[int]:
    """Process ids of the machines that run."""
    return {process.pid for process in psutil.process_iter(["name"]) if process.info["name"].startswith("qemu-system")}


def test_run_ends_with_the_guests_status_and_leaves_the_terminal_as_it_was(root: Path, scons: Path) -> None:
    before = machines()
    child = typed(f'before=$(stty -g); {scons} run; echo status $?; [ "$before" = "$(stty -g)" ] && echo same', root)
    child.expect_exact(PROMPT)
    child.send("/exit\r")
    child.expect_exact("status 0")
    child.expect_exact("same")
    assert machines() <= before


def test_run_carries_another_status(root: Path, scons: Path) -> None:
    child = typed(f"{scons} run LLAMA_ARGS=--no-such-option; echo status $?", root)
    child.expect_exact("zosia: error: llama-cli ended with status 1")
    child.expect_exact("status 1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_machine_behind(root: Path, scons: Path, number: int) -> None:
    before = machines()
    child = typed(f"exec {scons} run", root)
    child.expect_exact("llama.cpp")
    child.kill(number)
    child.expect(pexpect.EOF)
    child.close()
    time.sleep(0.2)
    assert child.exitstatus == 128 + number
    assert machines() <= before


def test_the_command_that_n_prints_boots(root: Path, scons: Path) -> None:
    shown = subprocess.run([scons, "-n", "run"], cwd=root, capture_output=True, text=True, check=True).stdout
    child = typed(shown[shown.index("qemu-system") :], root)
    child.expect_exact(PROMPT)
    child.send("/exit\r")
    child.expect(pexpect.EOF)


def test_smoke_without_and_with_a_model(root: Path, scons: Path) -> None:
    for words in (["smoke"], ["smoke", "MODEL=smollm2-135m"]):
        done = subprocess.run([scons, *words], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "  SMOKE " in done.stdout
