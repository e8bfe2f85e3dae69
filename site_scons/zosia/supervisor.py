"""One running machine on this terminal: `python -m zosia.supervisor MACHINE`, where `scons run` ends.

SCons turns into this program, so that its exit status is exact and the terminal and signals are its own. MACHINE is
`Machine` as JSON. The exit status is llama-cli's own, or one of zosia.status, or 128 + n after signal n.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from . import host
from .errors import ZosiaError
from .machine import Accel, Machine
from .process import find
from .status import Status


def to_json(machine: Machine) -> str:
    """A machine as one argument."""
    return json.dumps(asdict(machine), default=lambda value: value.value if isinstance(value, Accel) else str(value))


def from_json(text: str) -> Machine:
    """The machine that `to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    fields["accel"] = Accel(fields["accel"])
    for name in ("kernel", "initramfs", "disk"):
        fields[name] = Path(fields[name]) if fields[name] else None
    for name in ("llama_args", "terminal"):
        fields[name] = tuple(fields[name])
    return Machine(**fields)


def guest_status(path: Path) -> int | None:
    """The exit status that the guest reported into a file, None if it did not come to that."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    ends = [line.split()[1] for line in lines if line.startswith("exit ") and line.split()[1:2]]
    return int(ends[-1]) if ends and ends[-1].isdecimal() else None


def ending(qemu: int, guest: int | None) -> tuple[int, str]:
    """Exit status and message ("" after a normal end) from QEMU's own status and what the guest reported."""
    if qemu < 0:
        why = "; perhaps the host has too little memory for it, see dmesg" if qemu == -signal.SIGKILL else ""
        return Status.NO_STATUS, f"QEMU was killed by signal {-qemu}{why}"
    if qemu != 0:
        return Status.QEMU_FAILED, f"QEMU ended with status {qemu}. Its own message is above"
    if guest is None:
        return (
            Status.NO_STATUS,
            "the guest ended without saying how. Run it with VERBOSE=1 to see its kernel's messages",
        )
    if guest > 128:
        return guest, f"llama-cli was ended by signal {guest - 128}"
    known = guest == Status.OK or (guest >= Status.NO_DISK and guest in list(Status))  # then /init has said why
    return guest, "" if known else f"llama-cli ended with status {guest}; its message is above"


@contextmanager
def terminal_kept() -> Iterator[None]:
    """Leave the terminal as it was: QEMU makes it raw, and can't undo that when it is killed."""
    saved = termios.tcgetattr(0) if os.isatty(0) else None
    try:
        yield
    finally:
        if saved is not None:
            with suppress(termios.error, OSError):  # the terminal has gone away
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
                os.set_blocking(0, True)


def _piped_prompt() -> str:
    """What standard input holds, byte for byte, as Python keeps arguments.

    Raises:
        ZosiaError: it is empty, or no argument of a program can hold it.
    """
    prompt = os.fsdecode(sys.stdin.buffer.read()) if sys.stdin else ""
    remedy = "Type: echo PROMPT | scons run"
    if not prompt.strip():
        raise ZosiaError("There is no terminal to chat on and no prompt on standard input", remedy)
    if "\0" in prompt:
        raise ZosiaError("The prompt on standard input holds a NUL byte, so it is no text", remedy)
    return prompt


def _started(argv: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(argv, stdin=0 if os.isatty(0) else subprocess.DEVNULL)
    except OSError as error:
        # Linux takes 128 KiB in one argument (execve(2)), and the guest gets all of its own in one.
        remedy = "Give it a shorter prompt" if error.errno == errno.E2BIG else ""
        raise ZosiaError(f"QEMU could not be started: {error.strerror}", remedy) from error


def run(machine: Machine) -> int:
    """Boot the machine on this terminal, wait for its end, and return the exit status for it.

    Raises:
        ZosiaError: QEMU is not installed, or there is neither a terminal nor a prompt on standard input.
    """
    if os.isatty(0):
        machine = replace(machine, terminal=host.terminal())
    else:
        machine = replace(machine, llama_args=(*machine.llama_args, "--single-turn", "-p", _piped_prompt()))
    with tempfile.TemporaryDirectory(prefix="zosia.") as folder, terminal_kept():
        status = Path(folder, "status")
        argv = machine.argv(status)
        received: list[int] = []
        started: list[subprocess.Popen[bytes]] = []

        def end(number: int, frame: FrameType | None) -> None:
            received.append(number)
            for child in started:
                child.terminate()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        with _started([find(argv[0]), *argv[1:]]) as qemu:
            started.append(qemu)
            if received:  # before it was in the list
                qemu.terminate()
            qemu.wait()
        if received:
            return 128 + received[0]
        code, message = ending(qemu.returncode, guest_status(status))
    if message:
        print(f"zosia: error: {message}", file=sys.stderr)
    return code


def main(argv: list[str]) -> int:
    """Run the machine that the one argument describes."""
    try:
        return run(from_json(argv[0]))
    except KeyboardInterrupt:  # while the prompt was still being piped in
        return 128 + signal.SIGINT
    except ZosiaError as error:
        print(f"zosia: error: {error}", file=sys.stderr)
        return Status.REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
