"""QEMU as a process, and the host's ends of its sockets."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine import pmem
from zosia.machine.fence import Fence, around, command
from zosia.machine.qemu import Machine
from zosia.machine.task import utf8
from zosia.run.lease import Lease
from zosia.run.loop import Level, Loop

ANSWERS = 30  # seconds (times patience) that it has for each step


class EndedError(Exception):
    """The run was ended from outside meanwhile."""


class Emulator:
    """A started QEMU, with a lease on the disk of its machine."""

    def __init__(
        self,
        machine: Machine,
        folder: Path,
        ports: Collection[str],
        loop: Loop,
        *,
        wires: Mapping[str, socket.socket] | None = None,
        monitored: bool = False,
        incoming: bool = False,
        errors: IO[bytes] | None = None,
    ) -> None:
        """Start it.

        Args:
            machine: what it runs.
            folder: for the texts of the guest's task; nobody else may read it.
            ports: names of the guest's virtio-serial ports, each of which gets a socket.
            loop: the place to wait for QEMU.
            wires: further ports, with what they are connected to.
            monitored: QEMU has a monitor, and the machine can be saved.
            incoming: QEMU waits for a state, in place of booting.
            errors: a file for QEMU's messages; None leaves them on standard error.

        Raises:
            ZosiaError: QEMU is not installed or can't be started, or another program writes to the disk.
        """
        self._loop, self._patience = loop, patience()
        self._continued = 0.0  # the time of the last SIGCONT
        self.machine = pmem.attach(machine, folder, boots=not incoming)
        texts = self.machine.task.texts(supervised=True)
        self._texts = [folder / name for name in texts]
        for path, text in zip(self._texts, texts.values(), strict=True):
            path.write_bytes(utf8(text))
        pairs = {name: socket.socketpair() for name in ("console", "monitor", *ports)}
        theirs = {name: end.fileno() for name, (_, end) in pairs.items()}
        further = {name: end.fileno() for name, end in (wires or {}).items()}
        ends = {name: theirs[name] for name in ports} | further
        argv = self.machine.argv(
            ends,
            texts=folder,
            monitor=theirs["monitor"] if monitored else None,
            incoming=incoming,
        )
        self._lease = Lease(machine.disk)
        fence, console = self.machine.fence(ends, texts=folder), theirs.pop("console")
        try:
            self._process = _popen(argv, fence, console, [*theirs.values(), *further.values()], errors)
        except BaseException:
            self._lease.end()
            raise
        for ours, end in pairs.values():
            ours.setblocking(False)
            end.close()
        self.console, self.monitor = pairs["console"][0], pairs["monitor"][0]
        self.ports = {name: pairs[name][0] for name in ports}

    def forget_texts(self) -> None:
        """Remove the texts of the task: QEMU has read them."""
        for path in self._texts:
            path.unlink(missing_ok=True)

    def wait(self, end: socket.socket, *, write: bool = False, seconds: float = ANSWERS) -> None:
        """Wait until it sends or takes something; meanwhile signals, keys and its console are served.

        Raises:
            TimeoutError: it does not, in these seconds (times patience).
            EndedError: the run was ended.
        """
        began, file = time.monotonic(), end.fileno()
        while not self._loop.ending:
            left = max(began, self._continued) + seconds * self._patience - time.monotonic()
            ready = self._loop.serve(
                left, below=Level.CHANNEL, read=None if write else file, write=file if write else None
            )
            if ready and not self._loop.ending:
                return
            if left <= 0:
                raise TimeoutError("QEMU does not answer")
        raise EndedError

    def pause(self, seconds: float) -> None:
        """Leave it alone for a moment, as `wait` does."""
        self._loop.serve(seconds, below=Level.CHANNEL)

    def read_console(self) -> None:
        """Read the rest of the console's output, while the machine is stopped."""
        while (file := self.console.fileno()) >= 0 and self._loop.serve(0, below=Level.CHANNEL, read=file):
            pass

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process for a while."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
            self._continued = time.monotonic()

    def kill(self) -> None:
        """Pull the plug."""
        self._process.kill()

    def give_up(self) -> int:
        """Kill it; return its exit status, which is its own if it had ended before."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        self.kill()
        return self._process.wait()

    def close(self) -> tuple[int, bool]:
        """Wait for the end; return the exit status, and whether the disk was replaced meanwhile."""
        status = self._process.wait()
        self.monitor.close()
        return status, self._lease.end()


def _popen(
    argv: list[str], fence: Fence | None, console: int, inherited: Collection[int], errors: IO[bytes] | None
) -> Child:
    program = find(argv[0])
    words = command([program, *argv[1:]], fence)
    try:
        with around(program, fence) as hold:
            return Child(words, hold=hold, stdin=console, stdout=console, stderr=errors, pass_fds=inherited)
    except OSError as error:
        raise ZosiaError(
            f"QEMU could not be started: {error.strerror}", "Install it again, and type: scons diag"
        ) from error
    except subprocess.SubprocessError as error:  # of the new process, before it is QEMU
        raise ZosiaError(
            "QEMU could not be started: it can't be held to its files", "To run it without that: SANDBOX=0"
        ) from error
