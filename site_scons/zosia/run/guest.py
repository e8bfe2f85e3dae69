"""Drive a booted guest as a person at its console would: for `scons smoke` and the boot tests."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import pexpect

from zosia.base.children import bound
from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine import pmem
from zosia.machine.fence import command, enclose
from zosia.machine.qemu import Machine
from zosia.machine.report import Report, read
from zosia.run import supervisor

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x08|\r")
PROMPT = "\n> "


class Bootable(Protocol):
    """A machine to start QEMU for: a Machine, or something like it in tests."""

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Rows, columns and TERM of the console."""

    def argv(self, status: Path) -> list[str]:
        """QEMU's command line."""


class Guest:
    """A started machine and its console; a context manager that leaves no QEMU behind."""

    def __init__(self, machine: Bootable, log: Path, *, supervised: bool = False) -> None:
        """Start the machine; all that its console shows goes to `log` as well.

        `supervised`: under zosia's supervisor, as `scons run` does it, which resumes a machine that it has saved (then
        there is no `report`); otherwise QEMU alone, which boots.
        """
        self.supervised = supervised
        self._ended = ExitStack()
        self._folder = self._ended.enter_context(temporary_folder())
        self._status = self._folder / "status"
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = log.open("w", encoding="utf-8")
        if isinstance(machine, Machine) and not supervised:
            machine = pmem.attach(machine, self._folder)
        program, *arguments = self._supervisor(machine) if supervised else machine.argv(self._status)
        rows, columns, name = machine.terminal
        fence = machine.fence(self._status) if isinstance(machine, Machine) and not supervised else None
        if fence:
            self._status.touch()  # it may write this file, and make none
        program, *arguments = command([find(program), *arguments], fence)
        self._child: pexpect.spawn[str] = pexpect.spawn(
            program,
            arguments,
            encoding="utf-8",
            codec_errors="replace",
            dimensions=(rows, columns),
            echo=False,
            preexec_fn=bound(os.getpid(), partial(enclose, program, fence)),
            env={**os.environ, "TERM": name, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self._child.logfile_read = self._file
        self._text = ""

    def _supervisor(self, machine: Bootable) -> list[str]:
        assert isinstance(machine, Machine)
        file = self._folder / "machine.json"
        file.write_text(supervisor.to_json(machine), encoding="utf-8")
        return [sys.executable, "-m", "zosia.run.supervisor", str(file)]

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._child.close(force=True)
        except pexpect.ExceptionPexpect:  # it was killed, and a busy host takes more than 0.1 s to end it
            self._child.wait()
        self._file.close()
        self._ended.close()

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait until the console shows `text` and return what came before it, both without escape sequences.

        Raises:
            ZosiaError: it did not come in `seconds` (times `patience`), or the machine ended.
        """
        return self.arrivals(text, seconds)[0]

    def arrivals(self, text: str, seconds: float = 60) -> tuple[str, list[float]]:
        """As `expect`, and the times in seconds at which something came."""
        deadline = time.monotonic() + seconds * patience()
        times: list[float] = []
        while text not in self._text:
            self._receive(repr(text), seconds, deadline)
            times.append(time.monotonic())
        before, _, self._text = self._text.partition(text)
        return before, times

    def something(self, seconds: float = 60) -> None:
        """Wait until the console shows more than blanks beyond what was taken; errors as `expect`."""
        deadline = time.monotonic() + seconds * patience()
        while not self._text.strip():
            self._receive("anything", seconds, deadline)

    def _receive(self, what: str, seconds: float, deadline: float) -> None:
        try:
            part = self._child.read_nonblocking(4096, timeout=max(0.01, deadline - time.monotonic()))
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            ended = isinstance(error, pexpect.EOF)
            happened = "The machine ended" if ended else f"{seconds * patience():.0f} s went by"
            tail = "\n".join(f"    {line}" for line in self._text.splitlines()[-10:])
            raise ZosiaError(f"{happened} before the console showed {what}; whole log: {self._log}\n{tail}") from error
        self._text = ESCAPES.sub("", self._text + part)

    def send(self, line: str) -> None:
        """Type a line and Enter."""
        self._child.send(line + "\r")

    def control(self, letter: str) -> None:
        """Press a key together with Ctrl."""
        self._child.sendcontrol(letter)

    def wait_end(self, seconds: float = 30) -> int | None:
        """Wait for the power-off and return the status that the guest reported, None if it reported none.

        Raises:
            ZosiaError: the machine still runs after `seconds` (times `patience`), or QEMU itself failed.
        """
        try:
            self._child.expect(pexpect.EOF, timeout=seconds * patience())
        except pexpect.TIMEOUT as error:
            raise ZosiaError(
                f"The machine did not power off within {seconds * patience():.0f} s; log: {self._log}"
            ) from error
        self._text += ESCAPES.sub("", self._child.before or "")
        self._child.close()
        if self.supervised:
            return self._child.exitstatus
        if self._child.exitstatus != 0:
            raise ZosiaError(f"QEMU ended with status {self._child.exitstatus}; log: {self._log}")
        return self.report.exit

    @property
    def report(self) -> Report:
        """The guest's report on its status port so far."""
        lines = self._status.read_text(encoding="utf-8", errors="replace").splitlines() if self._status.exists() else []
        return read(lines)

    @property
    def remainder(self) -> str:
        """Text of the console that no `expect` has taken."""
        return self._text


def smoke_without_model(machine: Machine, log: Path) -> None:
    """Boot the stub, talk to it, power off.

    Raises:
        ZosiaError: any of it went wrong.
    """
    with Guest(machine, log) as guest:
        guest.expect("This is a stub")
        guest.expect(PROMPT)
        guest.send("Zażółć gęślą jaźń")
        guest.expect("stub heard: Zażółć gęślą jaźń")
        guest.expect(PROMPT)
        guest.send("/exit")
        _check_end(guest.wait_end())


def smoke_with_model(machine: Machine, log: Path) -> str:
    """Boot a model, ask it something, check that the answer streams, power off; returns the answer.

    Raises:
        ZosiaError: any of it went wrong.
    """
    brief = machine.given(llama_args=(*machine.task.llama_args, "-n", "16"))
    with Guest(brief, log) as guest:
        guest.expect(PROMPT, 180)
        guest.send("Count from 1 to 10.")
        guest.expect("Count from 1 to 10.\n")
        answer, times = guest.arrivals(PROMPT, 180)
        if not answer.strip() or len(times) < 5:
            raise ZosiaError(f"The answer did not stream: {answer!r} came in {len(times)} parts; log: {log}")
        guest.send("/exit")
        _check_end(guest.wait_end())
    return answer.strip()


def _check_end(status: int | None) -> None:
    if status != 0:
        raise ZosiaError(f"The guest ended with status {status}, not 0")
