"""The host's terminal while a guest has it: every key goes to the guest; afterwards its settings are restored."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.run.loop import CHUNK, Level, Loop

RESET = b"\x1b[0m\x1b[?2004l"  # colours and bracketed paste, which a guest that was cut off leaves on
INTERRUPT, SUSPEND, QUIT = b"\x03", b"\x1a", b"\x1c"  # Ctrl+C, Z and \ alone, as keys come, and not within a paste
ENDS = {errno.EPIPE: signal.SIGPIPE, errno.EIO: signal.SIGHUP}  # scons run | head; a closed window


class Terminal:
    """Standard input as raw terminal; a context manager."""

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSANOW)  # a job in the background is stopped here, until a shell's fg
        self._raw = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def take(self) -> None:
        """Make it raw again, unless another job has it now."""
        group = os.getpgrp()
        with suppress(OSError):  # a terminal without jobs
            group = os.tcgetpgrp(0)
        if group == os.getpgrp():
            with suppress(termios.error):  # it has gone away
                tty.setraw(0, termios.TCSANOW)
                self._raw = True

    def _restore(self) -> None:
        if self._raw:
            self._raw = False
            with suppress(termios.error, OSError):  # it has gone away
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Restore the terminal for a while."""
        self._restore()
        try:
            yield
        finally:
            self.take()


class Keys:
    """Keys on their way from standard input to QEMU's console."""

    def __init__(self, loop: Loop, console: socket.socket, command: Callable[[bytes], bool], *, held: bool) -> None:
        """Read keys from now on.

        Args:
            command: takes keys that are for the host (b"" when the terminal has gone), or returns False.
            held: they wait here until `release`.
        """
        self._loop, self._console, self._command = loop, console, command
        self._waiting = b""
        self.held = held
        self._listen()

    def _listen(self) -> None:
        self._loop.register(0, self._typed, level=Level.CONSOLE)

    def _typed(self) -> None:
        try:
            keys = os.read(0, CHUNK)
        except OSError:  # the terminal has gone away
            keys = b""
        if not keys:
            self._loop.unregister(0)
        if not self._command(keys):
            self._waiting += keys
            if not self.held:
                self._send()

    def release(self) -> None:
        """Pass on what was held."""
        self.held = False
        if self._waiting:
            self._send()

    def _send(self) -> None:
        """Pass on what QEMU takes now, and read no more from the terminal while something is left."""
        try:
            self._waiting = self._waiting[self._console.send(self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            return
        console = self._console.fileno()
        if self._waiting:
            self._loop.unregister(0)
            self._loop.register(console, self._send, level=Level.CONSOLE, write=True)
        elif self._loop.registered(console, write=True):
            self._loop.unregister(console, write=True)
            self._listen()


class Output:
    """Standard output and standard error, written however slowly they are read, but not beyond the end of the run."""

    def __init__(self, loop: Loop, end: Callable[[int], None], *, progress: bool) -> None:
        """Call `end` with a signal's number when nobody reads any more; without `progress`, none is shown."""
        self._loop, self._end, self._progresses = loop, end, progress
        self._progress_shown = False

    def show(self, descriptor: int, data: bytes) -> None:
        """Write.

        Raises:
            ZosiaError: it can't be written.
        """
        if not os.isatty(descriptor):
            data = data.replace(b"\r", b"")
        while data:
            began = time.monotonic()
            ready = self._loop.serve(0 if self._loop.ending else None, below=Level.CONSOLE, write=descriptor)
            if self._loop.deadline:  # a reader that takes its time is no silent guest
                self._loop.deadline += time.monotonic() - began
            if self._loop.ending and not ready:
                return
            try:
                if ready:  # for so much
                    data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
            except BlockingIOError:  # somebody else made it so
                continue
            except OSError as error:
                if error.errno not in ENDS:
                    raise ZosiaError(
                        f"The answer can't be written: {error.strerror}", "Make room, or write it elsewhere"
                    ) from error
                self._end(ENDS[error.errno])
                return

    def note(self, text: str) -> None:
        """Show a line on standard error, nothing for ""."""
        if text:
            self.progress("")
            self.show(2, f"{style.painted(text, sys.stderr)}\n".encode())

    def progress(self, text: str) -> None:
        """Show on stderr, in place, what the console would show; "" takes it away."""
        if self._progresses and os.isatty(2) and (text or self._progress_shown):
            self.show(2, b"\r\x1b[K" + text.encode())
            self._progress_shown = bool(text)
