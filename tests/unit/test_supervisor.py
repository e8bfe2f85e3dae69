"""The supervisor as a program, over a stand-in for QEMU that does what a test says."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zosia import supervisor
from zosia.machine import Accel, Machine
from zosia.status import Status

MACHINE = Machine(
    arch="aarch64",
    accel=Accel.TCG,
    cpu="",
    cpus=2,
    memory=512,
    kernel=Path("a kernel, with commas"),
    initramfs=Path("initramfs"),
    disk=Path("zażółć.img"),
    llama_args=("-p", 'it\'s\n"so"', "\udcff", ""),
    terminal=(50, 132, "xterm"),
    verbose=True,
    sandbox=False,
)
FAKE_QEMU = """#!/bin/sh
for word; do
  case $word in file,id=status,path=*) status=${word#*path=} ;; esac
done
printf '%s\\0' "$@" >"$RECORD/argv"
echo $$ >"$RECORD/pid.new"
mv "$RECORD/pid.new" "$RECORD/pid"
eval "$FAKE_DOES"
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, root: Path) -> Start:
    """Start the supervisor with a QEMU that runs the shell commands `does`."""
    for name in ("bin", "record", "tmp"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "qemu-system-aarch64"
    program.write_text(FAKE_QEMU)
    program.chmod(0o755)

    def run(does: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        settings = {"PYTHONPATH": root / "site_scons", "RECORD": tmp_path / "record", "TMPDIR": tmp_path / "tmp"}
        env = {**os.environ, **{name: str(path) for name, path in settings.items()}, "FAKE_DOES": does}
        env["PYTHONIOENCODING"] = "utf-8:strict"  # as in most locales, whatever the one here
        env["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        argv = [sys.executable, "-m", "zosia.supervisor", supervisor.to_json(MACHINE)]
        return subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)

    return run


def end(child: subprocess.Popen[bytes], prompt: bytes | None = b"hello") -> tuple[int, str]:
    _, errors = child.communicate(prompt, timeout=20)
    return child.returncode, errors.decode(errors="replace")


def recorded(tmp_path: Path) -> list[str]:
    return os.fsdecode((tmp_path / "record" / "argv").read_bytes()).split("\0")[:-1]


def wait_for_qemu(tmp_path: Path) -> int:
    deadline = time.monotonic() + 20
    while not (tmp_path / "record" / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int((tmp_path / "record" / "pid").read_text())


@pytest.mark.parametrize("machine", [MACHINE, replace(MACHINE, disk=None, accel=Accel.KVM, llama_args=())])
def test_json_and_back(machine: Machine) -> None:
    text = supervisor.to_json(machine)
    assert supervisor.from_json(text) == machine
    assert text.isascii(), "it is an argument"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"exit 0\n", 0),
        (b"init 0.5 0.4\nexit 3\n", 3),
        (b"exit 3\nexit 64\n", 64),
        (b"exit 137", 137),
        (b"", None),
        (b"exit\n", None),
        (b"exit \n", None),
        (b"exit x\n", None),
        (b"exit -1\n", None),
        ("exit ²\n".encode(), None),
        (b"\xff\x00exit 0\n", None),
        (b"init 0.5\n", None),
        (None, None),
    ],
)
def test_guest_status(tmp_path: Path, text: bytes | None, status: int | None) -> None:
    if text is not None:
        (tmp_path / "status").write_bytes(text)
    assert supervisor.guest_status(tmp_path / "status") == status


@pytest.mark.parametrize(
    ("qemu", "guest", "status", "message"),
    [
        (0, 0, 0, ""),
        (0, 1, 1, "llama-cli ended with status 1"),
        (0, 139, 139, "llama-cli was ended by signal 11"),
        (0, Status.NO_DISK, Status.NO_DISK, ""),
        (0, None, Status.NO_STATUS, "without saying how"),
        (1, None, Status.QEMU_FAILED, "QEMU ended with status 1"),
        (1, 0, Status.QEMU_FAILED, "QEMU ended with status 1"),
        (-9, None, Status.NO_STATUS, "QEMU was killed by signal 9; perhaps the host has too little memory"),
        (-15, None, Status.NO_STATUS, "QEMU was killed by signal 15"),
    ],
)
def test_ending(qemu: int, guest: int | None, status: int, message: str) -> None:
    code, text = supervisor.ending(qemu, guest)
    assert code == status
    assert text.startswith(message) if not message else message in text


@pytest.mark.parametrize(
    ("does", "status", "message"),
    [
        ('echo "exit 0" >"$status"', 0, ""),
        ('echo "exit 3" >"$status"', 3, "zosia: error: llama-cli ended with status 3; its message is above\n"),
        ('echo "exit 65" >"$status"', Status.BAD_DISK, ""),
        ("true", Status.NO_STATUS, "zosia: error: the guest ended without saying how"),
        ('echo "exit 0" >"$status"; exit 1', Status.QEMU_FAILED, "zosia: error: QEMU ended with status 1"),
        ("kill -9 $$", Status.NO_STATUS, "zosia: error: QEMU was killed by signal 9"),
    ],
)
def test_exit_status(tmp_path: Path, start: Start, does: str, status: int, message: str) -> None:
    code, errors = end(start(does))
    assert code == status
    assert errors.startswith(message) if message else not errors
    assert os.listdir(tmp_path / "tmp") == [], "the temporary folder is gone"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_qemu(tmp_path: Path, start: Start, number: signal.Signals) -> None:
    child = start("exec sleep 60")
    assert child.stdin
    child.stdin.write(b"hello")
    child.stdin.close()
    child.stdin = None
    qemu = wait_for_qemu(tmp_path)
    child.send_signal(number)
    assert end(child, None) == (128 + number, "")
    with pytest.raises(ProcessLookupError):
        os.kill(qemu, 0)
    assert os.listdir(tmp_path / "tmp") == []


def test_interrupted_while_the_prompt_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "_piped_prompt", interrupted)
    monkeypatch.setattr(os, "isatty", lambda number: False)
    assert supervisor.main([supervisor.to_json(MACHINE)]) == 130


@pytest.mark.parametrize("prompt", ["hello", 'it\'s\n"two" lines, $HOME\n', "Zażółć gęślą jaźń", "\udcff"])
def test_standard_input_is_the_prompt(tmp_path: Path, start: Start, prompt: str) -> None:
    end(start("true"), os.fsencode(prompt))
    (args,) = [word.partition("string=")[2] for word in recorded(tmp_path) if word.startswith("name=opt/zosia/args,")]
    assert shlex.split(args.replace(",,", ",")) == [*MACHINE.llama_args, "--single-turn", "-p", prompt]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (b"", "There is no terminal to chat on and no prompt"),
        (b" \n", "There is no terminal to chat on and no prompt"),
        (b"nul\0", "NUL byte"),
        (b"x" * 200_000, "QEMU could not be started: Argument list too long. Give it a shorter prompt"),
    ],
    ids=["empty", "blank", "binary", "long"],
)
def test_a_prompt_that_is_none(tmp_path: Path, start: Start, prompt: bytes, message: str) -> None:
    code, errors = end(start("true"), prompt)
    assert code == Status.REFUSED
    assert errors.startswith("zosia: error: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "record" / "argv").exists()


def test_without_qemu(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "qemu-system-aarch64").rename(tmp_path / "bin" / "other")
    monkeypatch.setenv("PATH", "/nowhere")
    code, errors = end(start("true"))
    assert code == Status.REFUSED
    assert errors.startswith("zosia: error: qemu-system-aarch64 is needed and was not found on PATH. Type: ")


def test_the_terminal_is_the_guests_and_left_as_it_was(tmp_path: Path, start: Start) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    child = start("stty raw -echo; exec sleep 60", stdin=theirs)
    wait_for_qemu(tmp_path)
    deadline = time.monotonic() + 20
    while termios.tcgetattr(theirs) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert termios.tcgetattr(theirs) != before
    child.terminate()
    assert end(child, None)[0] == 143
    assert termios.tcgetattr(theirs) == before
    assert "--single-turn" not in " ".join(recorded(tmp_path))
    os.close(ours)
    os.close(theirs)
