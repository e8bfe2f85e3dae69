"""QEMU as a process, with our ends of its sockets."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine import pmem
from zosia.machine.qemu import Machine
from zosia.run.lease import Lease
from zosia.run.loop import Level, Loop

ANSWERS = 30  # seconds (times patience) that it has for each step
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class EndedError(Exception):
    """The run was ended from outside meanwhile."""


class Emulator:
    """A QEMU that was started for a machine, which has a lease on its disk."""

    def __init__(
        self,
        machine: Machine,
        folder: Path,
        ports: Collection[str],
        loop: Loop,
        *,
        monitored: bool = False,
        incoming: bool = False,
        errors: IO[bytes] | None = None,
    ) -> None:
        """Start it.

        Args:
            machine: what it runs.
            folder: for what the guest is told; nobody else may read it.
            ports: names of the guest's virtio-serial ports, each of which gets a socket.
            loop: in which is waited for it.
            monitored: QEMU has a monitor, and the machine can be saved.
            incoming: QEMU waits for a state, in place of booting.
            errors: a file for QEMU's messages; None leaves them on standard error.

        Raises:
            ZosiaError: QEMU is not installed or can't be started, or another program writes to the disk.
        """
        self._loop, self._patience = loop, patience()
        self._continued = 0.0  # the time at which it stood still no more
        self.machine = pmem.attach(machine, folder, boots=not incoming)
        texts = self.machine.task.texts(supervised=True)
        self._texts = [folder / name for name in texts]
        for path, text in zip(self._texts, texts.values(), strict=True):
            path.write_bytes(os.fsencode(text))
        pairs = {name: socket.socketpair() for name in ("console", "monitor", *ports)}
        theirs = {name: end.fileno() for name, (_, end) in pairs.items()}
        argv = self.machine.argv(
            {name: theirs[name] for name in ports},
            texts=folder,
            monitor=theirs["monitor"] if monitored else None,
            incoming=incoming,
        )
        self._lease = Lease(machine.disk)
        self._process = _popen(argv, theirs.pop("console"), theirs.values(), errors)
        for ours, end in pairs.values():
            ours.setblocking(False)
            end.close()
        self.console, self.monitor = pairs["console"][0], pairs["monitor"][0]
        self.ports = {name: pairs[name][0] for name in ports}

    def forget_texts(self) -> None:
        """Remove what the guest is told from its folder: QEMU has read it."""
        for path in self._texts:
            path.unlink(missing_ok=True)

    def wait(self, end: socket.socket, *, write: bool = False, seconds: float = ANSWERS) -> None:
        """Wait until it gives or takes something; signals and keys count meanwhile, and its console is read.

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
        """Serve all that the console of a machine that stands still has shown."""
        while (file := self.console.fileno()) >= 0 and self._loop.serve(0, below=Level.CHANNEL, read=file):
            pass

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have the process stand still for a while."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)
        self._continued = time.monotonic()

    def kill(self) -> None:
        """Pull the plug."""
        self._process.kill()

    def give_up(self) -> int:
        """End it; return the status that it has ended with before, if it has."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        self.kill()
        return self._process.wait()

    def close(self) -> tuple[int, bool]:
        """Wait for the end; return the exit status, and whether another disk has the name of the one that was used."""
        status = self._process.wait()
        self.monitor.close()
        return status, self._lease.end()


def _popen(
    argv: list[str], console: int, inherited: Collection[int], errors: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [find(argv[0]), *argv[1:]],
            stdin=console,
            stdout=console,
            stderr=errors,
            pass_fds=inherited,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (there is one thread)
            process_group=0,  # keys that send signals are the supervisor's to handle
        )
    except OSError as error:
        raise ZosiaError(
            f"QEMU could not be started: {error.strerror}", "Install it again, and type: scons diag"
        ) from error


def _end_with_parent() -> None:
    """Have this process killed with the supervisor: a guest that stands still, or is not there yet, does not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
