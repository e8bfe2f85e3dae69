"""A session that saves its machine when the model is loaded, or goes on from where another one saved it."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.machine.boards import Accel, Maps
from zosia.machine.qemu import Machine
from zosia.machine.report import Outcome
from zosia.model import sampling
from zosia.run import hot
from zosia.run.hot import DamagedError, HotError, Store
from zosia.run.monitor import GoneError, Monitor, MonitorError
from zosia.run.session import Session
from zosia.run.terminal import Terminal

LABEL = "HOT"
FRAMES = re.compile(rb"\r[^\r\n\x1b]*\x1b\[K")  # how far it has loaded, drawn again and again, and at last taken away
ENTROPY = 32  # bytes
EMULATED = 200_000_000  # bytes of a model, with which that takes an emulated processor some ten seconds
ANSWERS = 30  # seconds (times patience) that QEMU has for each step
AWAKE = 5  # seconds that a resumed guest has for its first word
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ANY = "linux"  # a TERM for the console of a guest of which only the answer is shown: that of most chats


class EndedError(Exception):
    """The run was ended from outside meanwhile."""


def run(machine: Machine, terminal: Terminal | None, folder: Path, states: Path) -> Outcome:
    """Run the machine, from its saved state where there is one that fits, else from its start; errors as Session's."""
    cold = machine
    machine, fields = saved(machine if terminal else replace(machine, terminal=(*machine.terminal[:2], ANY)))
    try:
        store = hot.store(machine, states)
    except OSError:  # QEMU will say what it can't read
        store = None
    if store is None or store.refused:
        return Session(cold, terminal, folder).run()
    if state := store.open():
        with state:
            try:
                return Resumed(machine, terminal, folder, store, fields, state=state).run()
            except HotError as error:
                _say(terminal, f"the saved machine is not used: {error}. This one boots")
    return (Session(cold, terminal, folder) if store.refused else Saved(machine, terminal, folder, store, fields)).run()


def saved(machine: Machine) -> tuple[Machine, str]:
    """The machine as it is saved, and fields for its requests: how is sampled."""
    args, fields = sampling.split(machine.llama_args)
    return replace(machine, llama_args=args), fields


def quick(machine: Machine) -> bool:
    """Whether what all chats begin with is evaluated soon enough for a person who waits for the first prompt."""
    try:
        return machine.accel is not Accel.TCG or machine.disk is None or machine.disk.stat().st_size < EMULATED
    except OSError:  # it has gone
        return False


def _say(terminal: Terminal | None, text: str) -> None:
    with terminal.given_back() if terminal else nullcontext():
        style.say(LABEL, text)


def _end_with_parent() -> None:
    """Have this process killed with the supervisor: a guest that stands still, or is not there yet, does not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Waiting(Session):
    """A guest that waits for the host when the model is loaded."""

    def __init__(self, machine: Machine, terminal: Terminal | None, folder: Path, store: Store, fields: str) -> None:
        super().__init__(machine, terminal, folder)
        self._store = store
        self._fields = fields.encode()
        self._held = True
        self._before = _end_with_parent

    def _texts(self) -> Mapping[str, str]:
        return self._machine.texts(hot=True)

    def _argv(self, status: int, answer: int, monitor: int) -> list[str]:
        return self._machine.argv(status, answer=answer, texts=self._folder, monitor=monitor)

    def _monitor(self) -> Monitor:
        return Monitor(self._control, self._wait)

    def _wait(self, end: socket.socket, write: bool, seconds: float = ANSWERS) -> None:
        """Until QEMU takes or gives something; signals count meanwhile, and its console is read."""
        deadline = time.monotonic() + seconds * self._patience
        ready: list[socket.socket] = []
        while not ready:
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError("QEMU does not answer")
            others: list[socket.socket | int] = [self._wake, *(one for one in self._ends if one is self._console)]
            others += [0] if 0 in self._selector.get_map() else []
            woken, ready, _ = select.select([*others, *([] if write else [end])], [end] if write else [], [], left)
            if self._console in woken:
                self._from_console(self._console)
            if 0 in woken:
                self._typed(0)
            if self._wake in woken:
                self._signalled(self._wake)
            if self._wake in woken or 0 in woken:  # it may have been suspended
                deadline = time.monotonic() + seconds * self._patience
            if self._ended:
                raise EndedError
            ready = ready or [one for one in woken if one is end]

    def _begin(self) -> None:
        """Tell the guest what it needs to go on, which it does."""
        rows, columns, _ = self._machine.terminal
        question = os.fsencode(self._machine.question) if self._terminal is None else b""
        sizes = f"{len(self._fields)} {len(question)}"
        told = f"begin {time.time():.9f} {os.urandom(ENTROPY).hex()} {rows} {columns} {sizes}\n".encode()
        told += self._fields + question
        while told:
            self._wait(self._status, True)
            told = told[self._status.send(told) :]
        self._held = False
        if self._terminal:
            self._tell_size()  # it may have changed
            if self._keys:
                self._send_keys()
        self._alive()


class Saved(_Waiting):
    """Boots, and is saved on its way, if that is worth it."""

    def __init__(self, machine: Machine, terminal: Terminal | None, folder: Path, store: Store, fields: str) -> None:
        """As Session; the state goes to `store`, and `fields` say how is sampled (sampling.py)."""
        super().__init__(machine, terminal, folder, store, fields)
        self._shown = b""
        self._quick = quick(machine)

    def _received(self, end: socket.socket) -> bytes:
        data = super()._received(end)
        if end is self._console and self._held:
            self._shown = FRAMES.sub(b"", self._shown + data)
        return data

    def _console_so_far(self) -> bytes:
        """What the console of the machine, which stands still, has shown."""
        while self._console in self._ends and select.select([self._console], [], [], 0)[0]:
            self._from_console(self._console)
        return self._shown

    def _told(self, line: bytes) -> None:
        word, _, used = line.partition(b" ")
        if word not in (b"loaded", b"warmed"):
            return
        worth = used.isdigit() and self._store.worth(int(used) << 10)
        with suppress(EndedError):
            if worth and word == b"loaded" and self._quick:
                with suppress(OSError):  # the guest has gone
                    self._status.send(b"warm\n")
                return
            if worth:
                self._save()
            with suppress(OSError):
                self._begin()

    def _save(self) -> None:
        monitor, problem = None, ""
        try:
            monitor = self._monitor()
            self._store.check(self._machine)
            self._store.write(monitor.save, self._console_so_far)
        except (MonitorError, ZosiaError, HotError, OSError) as error:
            problem = str(error)
            if isinstance(error, MonitorError) and not isinstance(error, GoneError):
                self._store.refuse(problem)
        if problem:
            with suppress(OSError):  # standard error is closed
                _say(self._terminal, f"this machine is not saved for the next start: {problem}")
        if monitor:
            with suppress(MonitorError, OSError):  # it has ended, or is stuck
                monitor.command("cont")


class Resumed(_Waiting):
    """Goes on from a state."""

    def __init__(
        self, machine: Machine, terminal: Terminal | None, folder: Path, store: Store, fields: str, *, state: IO[bytes]
    ) -> None:
        """As Saved; `state` is an open file of `store`."""
        super().__init__(machine, terminal, folder, store, fields)
        self._state, self._boots = state, False
        self._qmp: Monitor | None = None
        self._said = (folder / "errors").open("w+b")
        self._errors = self._said

    def _argv(self, status: int, answer: int, monitor: int) -> list[str]:
        return self._machine.argv(status, answer=answer, texts=self._folder, monitor=monitor, incoming=True)

    def run(self) -> Outcome:
        """As Session's.

        Raises:
            HotError: the state is no use now; nothing was answered, and at most the banner was shown.
        """
        with self._said:
            outcome = super().run()
            self._said.seek(0)
            self._show(2, self._said.read())
        return outcome

    def _told(self, line: bytes) -> None:
        # Linux asks a virtio-pmem once more before it powers off, and waits: a resumed one never answers, for QEMU
        # saves nothing of it. So it is the host that ends such a machine, when the guest has said all.
        virtio_pmem = self._machine.pmem and self._machine.board.maps is Maps.VIRTIO_PMEM
        if line.startswith(b"exit ") and virtio_pmem and self._qmp:
            with suppress(MonitorError, EndedError, OSError):
                self._qmp.command("quit")

    def _start(self) -> None:
        super()._start()
        monitor = None
        try:
            size, console = hot.check(self._state, self._store.key)  # QEMU starts meanwhile
            self._qmp = monitor = self._monitor()
            self._forget_texts()
            self._store.check(self._machine)  # QEMU has opened its files
            monitor.load(self._state.fileno(), size)
            monitor.command("cont")
            self._outcome.console = console
            if self._terminal:
                self._show(1, console)
            self._begin()
            self._hear()
        except EndedError:
            return
        except (HotError, MonitorError, OSError) as error:
            self._signalled(self._wake)
            if self._ended:
                return
            status, reason = self._give_up(), str(error)
            if isinstance(error, DamagedError):
                self._store.discard()
            elif isinstance(error, MonitorError) and monitor and (status > 0 or not isinstance(error, GoneError)):
                self._store.discard()  # it was whole, and QEMU does not take it: the next one would be no better
                self._store.refuse(reason)
            raise HotError(f"{reason}{self._last_words()}") from error

    def _hear(self) -> None:
        """Wait for a word of the guest, which has slept a moment: with some machines the timers stand still."""
        try:
            self._wait(self._status, False, AWAKE)
        except TimeoutError as error:
            raise MonitorError("the guest does not wake up") from error

    def _last_words(self) -> str:
        self._said.seek(0)
        *_, last = ["", *self._said.read().decode(errors="replace").strip().splitlines()]
        return f" ({last})" if last else ""

    def _give_up(self) -> int:
        """End QEMU; the status that it has ended with before, if it has."""
        with suppress(subprocess.TimeoutExpired):
            self._qemu.wait(0.2)
        self._qemu.kill()
        status = self._qemu.wait()
        self._lease.end()
        self._selector.close()
        for end in (*self._ends, self._control):
            end.close()
        return status
