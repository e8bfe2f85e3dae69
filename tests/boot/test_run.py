"""`scons run` and `scons smoke` as a person types them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pexpect
import pytest

from tests import gpt_oss, parrot
from zosia.base.patience import patience
from zosia.machine.status import Status
from zosia.settings.settings import Settings

from .conftest import disk_of, remove_disk

PROMPT = "\r\n> "
LOADING = 180 * patience()


def typed(command: str, root: Path) -> pexpect.spawn[str]:
    return pexpect.spawn(
        "/bin/sh", ["-c", command], cwd=str(root), encoding="utf-8", timeout=LOADING, dimensions=(30, 100)
    )


def said(stderr: str) -> list[str]:
    """The lines but two: why the model is on virtio-blk, on some bases and boards, and that another test builds."""
    return [line for line in stderr.splitlines() if not line.startswith(("  MODEL on virtio-blk", "  WAIT "))]


def test_run_ends_with_the_guests_status_and_leaves_the_terminal_as_it_was(
    root: Path, scons: Path, small: Path, no_machine_left: None
) -> None:
    child = typed(
        f'before=$(stty -g); {scons} run MODEL={small}; echo status $?; [ "$before" = "$(stty -g)" ] && echo same', root
    )
    child.expect_exact(PROMPT)
    child.send("/exit\r")
    child.expect_exact("status 0")
    child.expect_exact("same")


def test_run_carries_another_status(root: Path, scons: Path, small: Path) -> None:
    child = typed(f"{scons} run MODEL={small} LLAMA_ARGS=--no-such-option; echo status $?", root)
    child.expect_exact("zosia: error: llama-cli ended with status 1")
    child.expect_exact("status 1")


def test_a_prompt_from_a_pipe_is_answered_once(root: Path, scons: Path, small: Path, no_machine_left: None) -> None:
    argv = [str(scons), "run", f"MODEL={small}"]
    done = subprocess.run(argv, cwd=root, input="What is 2+2?\n", capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, said(done.stderr), done.stdout) == (0, [], f"{parrot.ANSWER}\n")


def test_a_prompt_that_is_typed_is_answered_once(root: Path, scons: Path, thinker: Path, no_machine_left: None) -> None:
    argv = [str(scons), "run", f"MODEL={thinker}", "PROMPT=What is 2+2?"]
    done = subprocess.run(argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, f"{gpt_oss.ANSWER}\n"), done.stderr


def test_the_system_prompt_counts(root: Path, scons: Path, small: Path) -> None:
    argv = [
        str(scons),
        "run",
        f"MODEL={small}",
        "PROMPT=Who are you?",
        'SYSTEM=You are a cat. You say "meow" and $HOME.',
    ]
    done = subprocess.run(argv, cwd=root, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == f"{parrot.CAT}\n"


def test_a_file_reaches_the_model(root: Path, scons: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("I have a cat.\n", encoding="utf-8")
    argv = [str(scons), "run", f"MODEL={small}", "PROMPT=Who is it?", f"ATTACH={tmp_path}/*.txt"]
    done = subprocess.run(argv, cwd=root, capture_output=True, encoding="utf-8", check=True)
    assert (done.stdout, said(done.stderr)) == (f"{parrot.CAT}\n", [])


def test_the_answer_is_read_by_nobody(root: Path, scons: Path, small: Path, no_machine_left: None) -> None:
    run = '"$0" run "$1" PROMPT=Hello | head -c 1; exit "${PIPESTATUS[0]}"'
    shell = ["/bin/bash", "-c", run, str(scons), f"MODEL={small}"]
    done = subprocess.run(shell, cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, said(done.stderr)) == (128 + signal.SIGPIPE, [])
    assert len(done.stdout) == 1


def test_standard_streams_that_are_closed(root: Path, scons: Path, small: Path, no_machine_left: None) -> None:
    def run(redirection: str) -> subprocess.CompletedProcess[str]:
        shell = ["/bin/sh", "-c", f'"$0" run "$1" PROMPT=Hello {redirection}', str(scons), f"MODEL={small}"]
        return subprocess.run(shell, cwd=root, capture_output=True, text=True, check=False)

    for redirection, output in ((">&-", ""), ("<&- 2>&-", f"{parrot.ANSWER}\n")):
        done = run(redirection)
        assert (done.returncode, said(done.stderr), done.stdout) == (0, [], output)
    nothing = subprocess.run(
        ["/bin/sh", "-c", f"{scons} run MODEL={small} <&-"], cwd=root, capture_output=True, text=True, check=False
    )
    assert nothing.returncode == Status.REFUSED
    assert nothing.stderr.startswith("zosia: error: There is no terminal to chat on and no prompt on standard input")


def test_what_is_built_on_the_way_is_not_on_standard_output(root: Path, scons: Path, tmp_path: Path) -> None:
    model = parrot.write(tmp_path / "new.gguf")
    argv = [str(scons), "run", f"MODEL={model}", "PROMPT=Hello"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    assert f"  EXT4  {disk_of(model)}\n" in done.stderr
    assert done.stdout == f"{parrot.ANSWER}\n"
    remove_disk(root, model)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_machine_behind(
    root: Path, scons: Path, small: Path, number: int, no_machine_left: None
) -> None:
    child = typed(f"exec {scons} run MODEL={small}", root)
    child.expect_exact("llama.cpp")
    child.kill(number)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 128 + number


def test_the_command_that_n_prints_boots(root: Path, scons: Path, small: Path) -> None:
    argv = [str(scons), "-n", "run", f"MODEL={small}"]
    shown = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout
    child = typed(shown[shown.index("qemu-system") :], root)
    child.expect_exact(PROMPT)
    child.send("/exit\r")
    child.expect(pexpect.EOF)


def test_diag_and_shell(root: Path, scons: Path, small: Path, settings: Settings, no_machine_left: None) -> None:
    argv = [str(scons), "diag", f"MODEL={small}"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, said(done.stderr)) == (0, [])
    assert f"command: qemu-system-{settings.arch} " in done.stdout
    assert "Linux version 6.1" in done.stdout
    child = typed(f"exec {scons} shell MODEL={small}", root)
    child.expect_exact("/ # ")
    child.send("exit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
