"""`scons run` and `scons smoke` as a person types them."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest

from tests import gpt_oss
from zosia.base.patience import patience
from zosia.machine.status import Status
from zosia.settings.settings import Settings

PROMPT = "\r\n> "
LOADING = 180 * patience()


def typed(command: str, root: Path) -> pexpect.spawn[str]:
    return pexpect.spawn(
        "/bin/sh", ["-c", command], cwd=str(root), encoding="utf-8", timeout=LOADING, dimensions=(30, 100)
    )


def said(stderr: str) -> list[str]:
    """The lines but the one that some bases and boards have: why the model is on virtio-blk."""
    return [line for line in stderr.splitlines() if not line.startswith("  MODEL on virtio-blk")]


def test_run_ends_with_the_guests_status_and_leaves_the_terminal_as_it_was(
    root: Path, scons: Path, no_machine_left: None
) -> None:
    child = typed(f'before=$(stty -g); {scons} run; echo status $?; [ "$before" = "$(stty -g)" ] && echo same', root)
    child.expect_exact(PROMPT)
    child.send("/exit\r")
    child.expect_exact("status 0")
    child.expect_exact("same")


def test_run_carries_another_status(root: Path, scons: Path) -> None:
    child = typed(f"{scons} run LLAMA_ARGS=--no-such-option; echo status $?", root)
    child.expect_exact("zosia: error: llama-cli ended with status 1")
    child.expect_exact("status 1")


def test_a_prompt_from_a_pipe_is_answered_once(root: Path, scons: Path, no_machine_left: None) -> None:
    argv = [str(scons), "run", "LLAMA_ARGS=--temp 0 -n 16"]
    done = subprocess.run(argv, cwd=root, input="What is 2+2?\n", capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert "4" in done.stdout
    assert "What is" not in done.stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f]|zosia|llama|Prompt:", done.stdout), "the answer and nothing else"
    assert done.stdout.endswith("\n")


def test_a_prompt_that_is_typed_is_answered_once(root: Path, scons: Path, thinker: Path, no_machine_left: None) -> None:
    argv = [str(scons), "run", f"MODEL={thinker}", "PROMPT=What is 2+2?"]
    done = subprocess.run(argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, f"{gpt_oss.ANSWER}\n"), done.stderr


def test_the_system_prompt_counts(root: Path, scons: Path) -> None:
    def ask(*words: str) -> str:
        argv = [str(scons), "run", "PROMPT=Who are you?", "LLAMA_ARGS=--temp 0 -n 4", *words]
        return subprocess.run(argv, cwd=root, capture_output=True, encoding="utf-8", check=True).stdout

    assert ask() != ask('SYSTEM=You are Zosia, a cat. You answer with "meow" and $HOME.')


def test_the_answer_is_read_by_nobody(root: Path, scons: Path, thinker: Path, no_machine_left: None) -> None:
    run = '"$0" run "$1" PROMPT=Hello | head -c 1; exit "${PIPESTATUS[0]}"'
    shell = ["/bin/bash", "-c", run, str(scons), f"MODEL={thinker}"]
    subprocess.run([scons, "model.img", f"MODEL={thinker}"], cwd=root, capture_output=True, check=True)
    done = subprocess.run(shell, cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, said(done.stderr)) == (128 + signal.SIGPIPE, [])
    assert len(done.stdout) == 1


def test_standard_streams_that_are_closed(root: Path, scons: Path, thinker: Path, no_machine_left: None) -> None:
    subprocess.run([scons, "model.img", f"MODEL={thinker}"], cwd=root, capture_output=True, check=True)

    def run(redirection: str) -> subprocess.CompletedProcess[str]:
        shell = ["/bin/sh", "-c", f'"$0" run "$1" PROMPT=Hello {redirection}', str(scons), f"MODEL={thinker}"]
        return subprocess.run(shell, cwd=root, capture_output=True, text=True, check=False)

    for redirection, output in ((">&-", ""), ("<&- 2>&-", "Hello")):
        done = run(redirection)
        assert (done.returncode, said(done.stderr)) == (0, [])
        assert bool(done.stdout) == bool(output)
    nothing = subprocess.run(
        ["/bin/sh", "-c", f"{scons} run <&-"], cwd=root, capture_output=True, text=True, check=False
    )
    assert nothing.returncode == Status.REFUSED
    assert nothing.stderr.startswith("zosia: error: There is no terminal to chat on and no prompt on standard input")


def test_what_is_built_on_the_way_is_not_on_standard_output(
    root: Path, scons: Path, thinker: Path, settings: Settings
) -> None:
    archive = settings.base_build / "initramfs.cpio.gz"
    (root / archive).unlink()
    argv = [str(scons), "run", f"MODEL={thinker}", "PROMPT=Hello"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    assert f"  CPIO  {archive}\n" in done.stderr
    assert done.stdout == f"{gpt_oss.ANSWER}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_machine_behind(root: Path, scons: Path, number: int, no_machine_left: None) -> None:
    child = typed(f"exec {scons} run", root)
    child.expect_exact("llama.cpp")
    child.kill(number)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 128 + number


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


def test_diag_and_shell(root: Path, scons: Path, settings: Settings, no_machine_left: None) -> None:
    done = subprocess.run([scons, "diag"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert f"command: qemu-system-{settings.arch} " in done.stdout
    assert "Linux version 6.1" in done.stdout
    child = typed(f"exec {scons} shell", root)
    child.expect_exact("/ # ")
    child.send("exit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
