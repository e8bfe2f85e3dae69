"""Near end of the wires to workers: find out what they offer, start them, and hand their wires to QEMU."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from functools import partial

from zosia.base import style
from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia.base.patience import patience
from zosia.base.places import CLONE, INSTALLED
from zosia.base.process import find
from zosia.base.version import VERSION
from zosia.machine.qemu import WORKER_PORT, Machine
from zosia.machine.report import Outcome, Report
from zosia.machine.status import Status
from zosia.machine.task import Worker
from zosia.run.loop import Level, Loop
from zosia.run.session import ENDING, Session
from zosia.run.terminal import Terminal
from zosia.run.workers import speeds, wire
from zosia.run.workers.wire import Offer, Order, Ready, SilenceError

LABEL = "WORK"
MACHINE = "ZOSIA_WORKER"  # in the environment of a worker on this host: its machine
LOCAL = "local"  # and a number: a worker on this machine
HOST = "host"  # the worker that is this host itself
OUTSIDE = (
    f"{HOST} computes outside of a guest, as a program of this user that is held to its own files: what that gives up, \
docs/security.md says"
)
CONNECTS = 5  # seconds (times patience) until a socket takes the connection
KEPT = 2000  # bytes of a program's messages
ANSWERS = 30  # seconds (times patience) that a worker has for its offer: ssh may have to ask others
BOOTS = 90  # seconds (times patience) until it is ready, more than its own host gives it
ENDS = 5.0  # seconds that it has for its own end
WORDS = 2.0  # seconds (times patience) that a program has for its last words, when its worker has gone
REMOTE = ("zosia", "worker", "--stdio")
# A lost line is noticed, nobody is asked for a password, and nothing else is carried over the connection: no agent, no
# X11, no ports, no tunnel.
SSH = (
    *("-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=10"),
    *("-o", "ClearAllForwardings=yes", "-o", "Tunnel=no", "-o", "PermitLocalCommand=no"),
)


class StoppedError(Exception):
    """The run was ended by a signal, the first argument, before all workers were there."""


Wait = Callable[[socket.socket, float], bool]  # until there is something to read, for so many seconds


def waits(end: socket.socket, seconds: float) -> bool:
    """Wait, and let signals do what they do."""
    return bool(select.select([end], [], [], max(0.0, seconds))[0])


def waits_in(loop: Loop) -> Wait:
    """Return a function that waits in a loop which catches signals: it raises StoppedError."""
    signals: list[int] = []
    loop.signals(signals.append)

    def wait(end: socket.socket, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            ready = loop.serve(until - time.monotonic(), below=Level.CONSOLE, read=end.fileno())
            if ending := [number for number in signals if number in ENDING]:
                raise StoppedError(ending[0])
            if ready or time.monotonic() >= until:
                return ready

    return wait


class Link:
    """Wire to one worker, and the program that carries it, if it is not a socket."""

    def __init__(self, name: str, machine: str = "", wait: Wait = waits) -> None:
        """Reach the worker, or start it with this machine if it is one of this host.

        Raises:
            ZosiaError: the program for it is missing, or nothing listens at the socket.
        """
        self.name, self._wait = name, wait
        kind, _, where = name.partition(":")
        self._said = b""  # the end of the program's messages
        self._child: Child | None = None
        if kind == "unix":
            self.end = socket.socket(socket.AF_UNIX)
            self.end.settimeout(CONNECTS * patience())
            try:
                self.end.connect(where)
            except OSError as error:
                raise self.error(f"can't be reached: {error.strerror or error}", self._advice()) from error
            self.end.setblocking(True)
            return
        self.end, theirs = socket.socketpair()
        with theirs:
            if kind == "ssh":
                argv, own = [find("ssh"), *SSH, "--", where, *REMOTE], {}
            else:
                program = "native" if kind == HOST else "far"
                argv, own = [sys.executable, "-m", f"zosia.run.workers.{program}"], {MACHINE: machine}
                own |= {} if INSTALLED else {"PYTHONPATH": str(CLONE / "site_scons")}
            self._child = Child(argv, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=os.environ | own)
            self._reader = threading.Thread(target=self._read, args=(self._child,), daemon=True)
            self._reader.start()

    def _read(self, child: Child) -> None:
        assert child.stderr
        with child.stderr as errors, suppress(OSError, ValueError):
            while data := os.read(errors.fileno(), KEPT):
                self._said = (self._said + data)[-KEPT:]

    def hear(self, kind: type[wire.Said], seconds: float) -> wire.Said:
        """Return what the worker says next.

        Raises:
            ZosiaError: it says nothing, or nothing of the kind.
        """
        try:
            wait = partial(self._wait, self.end)
            return wire.read(kind, wire.hear(self.end.recv, wait, seconds * patience()))
        except SilenceError as error:
            raise self.error(f"can't be reached: {self.last_words() or error}", self._advice()) from error
        except ZosiaError as error:
            raise self.error(f"does not answer as zosia does: {error}", self._advice()) from error

    def offer(self) -> Offer:
        """Return what the worker has; errors as `hear`, and another version of zosia is one."""
        found = self.hear(Offer, ANSWERS)
        if found.version != VERSION:
            raise self.error(
                f"has zosia {wire.plain(found.version)}, and this is {VERSION}",
                "Install the same version on both machines",
            )
        return found

    def say(self, said: Order) -> None:
        """Tell the worker."""
        with suppress(OSError):  # it has gone, and what it says next shows it
            self.end.sendall(wire.line(vars(said)))

    def last_words(self) -> str:
        """Return the last line of the program's messages, once it has ended."""
        if self._child is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(WORDS * patience())
            self._reader.join(WORDS * patience())
        lines = self._said.decode(errors="replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("  ")]  # and no news, such as "ready"
        return wire.plain(re.sub(r"^\w+: error: ", "", said[-1])).rstrip(".") if said else ""

    def error(self, what: str, remedy: str) -> ZosiaError:
        """Return an error that names the worker."""
        return ZosiaError(f"The worker {self.name} {what}", remedy)

    def _advice(self) -> str:
        kind, _, where = self.name.partition(":")
        if kind == "ssh":
            return f"Try it by hand: ssh {shlex.quote(where)} {' '.join(REMOTE[:1])} --version"
        if kind == "unix":
            return f"It works for one machine at a time, and is started by: zosia worker --socket {shlex.quote(where)}"
        return "Start it again"

    def close(self) -> None:
        """Hang up, and wait for the program's end."""
        self.end.close()
        if self._child:
            try:
                self._child.wait(ENDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def offers(workers: Sequence[str]) -> list[Offer]:
    """Return what each worker has, of those that are not started by this machine; errors as Link's."""
    with ExitStack() as stack:
        links = [stack.enter_context(closing(Link(name))) for name in workers]
        return [link.offer() for link in links]


class Links(AbstractContextManager["Links"]):
    """Wires to all workers of a run."""

    def __init__(self, links: Sequence[Link]) -> None:
        """Take over the links, which end with this."""
        self._links = links
        self.wires = {f"{WORKER_PORT}{place}": link.end for place, link in enumerate(links)}

    def lost(self, outcome: Outcome) -> str:
        """Return what the worker that ended a run has said itself, "" if it said nothing, or none did."""
        report = outcome.report
        for link in self._links:
            if report.exit == Status.NO_WORKER and f" {link.name} " in report.error and (words := link.last_words()):
                return f"{link.name}: {words}"
        return ""

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            link.close()


def start(workers: Sequence[Worker], wait: Wait = waits) -> Links:
    """Start the workers, and return the wires to them.

    Raises:
        ZosiaError: one can't be reached, can't be started, or has too little memory.
        StoppedError: as `wait`.
    """
    with ExitStack() as stack:
        links = []
        for worker in workers:
            links.append(stack.enter_context(closing(Link(worker.name, worker.machine, wait))))
        for link, worker in zip(links, workers, strict=True):
            offer = link.offer()
            if worker.memory > offer.memory:
                raise link.error(
                    f"is to have {worker.memory} MiB, and has {offer.memory} MiB for a guest",
                    "Give it fewer layers with SPLIT=, or set a smaller CTX=",
                )
            link.say(Order(memory=worker.memory, sha256=worker.sha256))
        for link, worker in zip(links, workers, strict=True):
            ready = link.hear(Ready, BOOTS)
            if ready.error:
                raise link.error(f"can't be started: {wire.plain(ready.error)}", "Start it again")
            weights = "has the model" if ready.weights else "gets its weights from here"
            style.say(LABEL, f"{worker.name}: {worker.layers} layers, {size_text(worker.memory << 20)}; {weights}")
            if worker.name == HOST:
                style.say("NOTE", OUTSIDE)
        stack.pop_all()
        return Links(links)


def run(
    machine: Machine,
    terminal: Terminal | None,
    loop: Loop,
    session: Callable[[Mapping[str, socket.socket]], Session],
) -> Outcome:
    """Start the workers, run the session of the machine that needs them, and show what a worker said that was lost.

    Raises:
        ZosiaError: as Session.run.
    """

    def shown() -> AbstractContextManager[None]:
        return terminal.given_back() if terminal else nullcontext()

    try:
        with shown():
            links = start(machine.task.workers, waits_in(loop))
    except StoppedError as stopped:
        (number,) = stopped.args
        return Outcome(Report(), left=number == signal.SIGINT, signal=number)
    except ZosiaError as error:  # of a status of its own: the worker may be there for the next run
        if terminal:
            with shown():
                print(style.error(error), file=sys.stderr)
        return Outcome(Report(exit=Status.NO_WORKER, error=str(error)))
    with links:
        outcome = session(links.wires).run()
        if outcome.report.speed:
            speeds.note(speeds.of(machine), outcome.report.speed)
        if said := links.lost(outcome):
            with shown():
                style.say(LABEL, said)
        return outcome
