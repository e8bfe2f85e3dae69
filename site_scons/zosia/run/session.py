"""QEMU with its console, its status and its answers in our hands, from its start to its end."""

from __future__ import annotations

import errno
import os
import select
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine import host, pmem
from zosia.machine.qemu import Machine
from zosia.machine.report import Outcome, Report
from zosia.run.lease import BROKEN, Lease
from zosia.run.terminal import RESET, Terminal

SILENCE = 60  # seconds (times patience) without a sign of life
CHUNK = 1 << 16  # bytes
TAIL = 8192  # bytes of the console that are kept
ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
SIGNALS = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, BROKEN)
INTERRUPT, SUSPEND, QUIT = b"\x03", b"\x1a", b"\x1c"  # Ctrl+C, Z and \ alone, as keys come, and not within a paste


class Session:
    """One run of a machine. With a terminal its console is shown there; without, only the answer, on stdout."""

    def __init__(self, machine: Machine, terminal: Terminal | None, folder: Path) -> None:
        """Nothing is started yet; `folder` is for what the guest is told, and nobody else may read it."""
        self._machine, self._terminal, self._folder = machine, terminal, folder
        self._patience = patience()
        self._report = Report()
        self._outcome = Outcome(self._report)
        self._selector = selectors.DefaultSelector()
        self._ends: list[socket.socket] = []  # those of QEMU's sockets that are still open
        self._keys = b""  # typed, and not yet taken by QEMU
        self._line = b""  # the beginning of a status line
        self._deadline = 0.0  # by then there must be a sign of life; 0 is never
        self._ended = False
        self._boots = True  # it does not go on from a state
        self._held = False  # what is typed waits: the guest is about to be saved, or not there yet
        self._errors: IO[bytes] | None = None  # what QEMU says, if not on standard error
        self._before: Callable[[], None] | None = None  # in QEMU's process, before it is QEMU
        self._progress_shown = False

    def run(self) -> Outcome:
        """Boot and wait for the end.

        Raises:
            ZosiaError: QEMU is not installed or can't be started, or the answer can't be written.
        """
        self._start()
        try:
            while self._ends:
                self._once()
        except BaseException:
            self._qemu.kill()
            raise
        finally:
            self._outcome.qemu = self._qemu.wait()
        self._outcome.replaced = self._lease.end()
        self._progress("")
        if self._terminal and self._report.exit is None and host.terminal()[2] != "dumb":
            self._show(1, RESET + b"\r\n")
        return self._outcome

    def _texts(self) -> Mapping[str, str]:
        return self._machine.texts()

    def _argv(self, status: int, answer: int, monitor: int) -> list[str]:
        """QEMU's command line, with its ends of sockets."""
        return self._machine.argv(status, answer=None if self._terminal else answer, texts=self._folder)

    def _start(self) -> None:
        self._wake, waker = socket.socketpair()
        self._wake.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.detach(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's &
                signal.signal(number, _noted)
        self._machine = pmem.attach(self._machine, self._folder, boots=self._boots)
        for name, text in self._texts().items():
            (self._folder / name).write_bytes(os.fsencode(text))
        (self._console, console), (self._status, status), (answer, answers), (self._control, control) = (
            socket.socketpair() for _ in range(4)
        )
        inherited = (status.fileno(), answers.fileno(), control.fileno())
        argv = self._argv(*inherited)
        for end in (self._console, self._status, self._control):
            end.setblocking(False)
        self._lease = Lease(self._machine.disk)
        try:
            self._qemu = subprocess.Popen(
                [find(argv[0]), *argv[1:]],
                stdin=console.fileno(),
                stdout=console.fileno(),
                stderr=self._errors,
                pass_fds=inherited,
                preexec_fn=self._before,  # noqa: PLW1509 (there is one thread)
                process_group=0,  # keys that send signals are ours to handle
            )
        except OSError as error:
            raise ZosiaError(
                f"QEMU could not be started: {error.strerror}", "Install it again, and type: scons diag"
            ) from error
        for theirs in (console, status, answers, control):
            theirs.close()
        self._ends = [self._console, self._status, answer]
        for end, receive in zip(self._ends, (self._from_console, self._from_status, self._from_answer), strict=True):
            self._selector.register(end, selectors.EVENT_READ, receive)
        self._selector.register(self._wake, selectors.EVENT_READ, self._signalled)
        if self._terminal:
            self._selector.register(0, selectors.EVENT_READ, self._typed)
        self._alive()

    def _once(self) -> None:
        """Wait for the next event, or for the deadline."""
        wait = max(0.0, self._deadline - time.monotonic()) if self._deadline else None
        for key, events in self._selector.select(wait):
            if key.fd not in self._selector.get_map():  # it has ended while another one was served
                continue
            if events & selectors.EVENT_WRITE:
                self._send_keys()
            if events & selectors.EVENT_READ:
                receive: Callable[[object], None] = key.data
                receive(key.fileobj)
        if self._deadline and time.monotonic() >= self._deadline:
            self._outcome.silent = SILENCE * self._patience
            self._end()

    def _alive(self) -> None:
        """There was a sign of life: wait for the next one. At its prompt a chat may be quiet until it ends."""
        quiet = self._terminal is not None and self._report.prompted and self._report.exit is None
        self._deadline = 0 if quiet else time.monotonic() + SILENCE * self._patience

    def _end(self, number: int = 0) -> None:
        """Pull the plug: nothing that the guest has could be lost. `number` is the signal that asked for it."""
        self._outcome.signal = self._outcome.signal or number
        self._deadline = 0
        self._ended = True
        self._qemu.kill()

    def _signalled(self, wake: socket.socket) -> None:
        numbers = b""
        with suppress(BlockingIOError):  # `_show` was first
            numbers = wake.recv(CHUNK)
        for number in numbers:
            if number == signal.SIGTSTP:
                self._suspend()
            elif number in ENDING:
                self._end(number)
            elif number == BROKEN:
                self._outcome.disturbed = True
                self._end()
            else:
                if self._terminal:
                    self._terminal.take()  # a shell's fg
                self._tell_size()

    def _suspend(self) -> None:
        """Stop the machine and this program, until a shell's fg."""
        self._qemu.send_signal(signal.SIGSTOP)
        with self._terminal.given_back() if self._terminal else nullcontext():
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.killpg(0, signal.SIGTSTP)  # the whole job, as the key does it; without a shell nothing happens
            signal.signal(signal.SIGTSTP, _noted)
        self._qemu.send_signal(signal.SIGCONT)
        self._alive()

    def _tell_size(self) -> None:
        rows, columns, _ = host.terminal()
        if self._terminal:
            with suppress(OSError):  # the guest has gone
                self._status.send(f"size {rows} {columns}\n".encode())

    def _typed(self, _: object) -> None:
        try:
            keys = os.read(0, CHUNK)
        except OSError:  # the terminal has gone away
            keys = b""
        if keys == SUSPEND:
            self._suspend()
        elif keys == INTERRUPT and not self._listens():
            self._outcome.left = True
            self._end()
        elif keys == QUIT:
            self._end(signal.SIGQUIT)
        elif keys:
            self._keys += keys
            if not self._held:
                self._send_keys()
        else:
            self._selector.unregister(0)
            self._end(signal.SIGHUP)

    def _listens(self) -> bool:
        """Whether somebody in the guest takes keys."""
        return not self._held and (self._report.loading is not None or self._report.prompted)

    def _send_keys(self) -> None:
        """Pass on what QEMU takes now, and read no more from the terminal while something is left."""
        try:
            self._keys = self._keys[self._console.send(self._keys) :]
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._keys else 0)
        self._selector.modify(self._console, wanted, self._from_console)
        waiting = 0 not in self._selector.get_map()
        if self._keys and not waiting:
            self._selector.unregister(0)
        elif waiting and not self._keys:
            self._selector.register(0, selectors.EVENT_READ, self._typed)

    def _from_console(self, console: socket.socket) -> None:
        data = self._received(console)
        self._outcome.console = (self._outcome.console + data)[-TAIL:]
        if self._terminal or self._machine.verbose:
            self._show(1 if self._terminal else 2, data)

    def _from_answer(self, answer: socket.socket) -> None:
        data = self._received(answer)
        self._progress("")
        self._show(1, data)

    def _from_status(self, status: socket.socket) -> None:
        *lines, self._line = (self._line + self._received(status)).split(b"\n")
        for line in lines:
            self._report.take(line.decode(errors="replace"))
            self._alive()
            if line.startswith(b"init"):
                self._forget_texts()
                self._tell_size()  # it may have changed since QEMU was started
            self._told(line)
            if self._report.loading and not self._report.prompted:
                read, size = self._report.loading
                self._progress(f"loading {size_text(size)}: {min(100, 100 * read // size)} %" if size else "loading")
            else:
                self._progress("")

    def _told(self, line: bytes) -> None:
        """Act on what the guest says."""

    def _forget_texts(self) -> None:
        for name in self._texts():  # QEMU has them
            (self._folder / name).unlink(missing_ok=True)

    def _received(self, end: socket.socket) -> bytes:
        try:
            data = end.recv(CHUNK)
        except BlockingIOError:  # it was read while another one was served
            return b""
        except ConnectionResetError:
            data = b""
        if not data:
            self._selector.unregister(end)
            self._ends.remove(end)
            end.close()
        return data

    def _show(self, descriptor: int, data: bytes) -> None:
        """Write, however slowly it is read, but not when the end has come meanwhile."""
        if not os.isatty(descriptor):
            data = data.replace(b"\r", b"")
        while data:
            woken, ready, _ = select.select([self._wake], [descriptor], [], 0 if self._ended else None)
            if woken:
                self._signalled(self._wake)
            if self._ended and not ready:
                return None
            try:
                if ready:  # for so much
                    data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
            except BlockingIOError:  # somebody else made it so
                continue
            except OSError as error:
                ends = {errno.EPIPE: signal.SIGPIPE, errno.EIO: signal.SIGHUP}  # scons run | head; a closed window
                if error.errno not in ends:
                    raise ZosiaError(
                        f"The answer can't be written: {error.strerror}", "Make room, or write it elsewhere"
                    ) from error
                return self._end(ends[error.errno])
        return None

    def _progress(self, text: str) -> None:
        """Show on stderr, in place, what the console would show; "" takes it away."""
        if os.isatty(2) and not self._terminal and (text or self._progress_shown):
            self._show(2, b"\r\x1b[K" + text.encode())
            self._progress_shown = bool(text)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wakeup file descriptor has it."""
