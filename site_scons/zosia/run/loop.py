"""The one place where a run waits: for files, for signals, and for as long as a deadline allows.

A callback may wait as well, for QEMU or for a slow standard output. What has a lower level than that wait is served
meanwhile, and nothing else: so no callback is entered twice, and what it reads from is not read behind its back.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from types import FrameType
from typing import Any

CHUNK = 1 << 16  # bytes
BEAT = 5.0  # seconds


class Level(IntEnum):
    """Rank of a file: a wait `below` a level serves the files of lower levels."""

    SIGNAL = 0  # during each
    CONSOLE = 1  # while QEMU is waited for: its console, which it may be stuck on, and keys
    CHANNEL = 2  # in the main loop only
    ALL = 3


class Loop:
    """Files, and the callbacks that serve them."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self.deadline = 0.0  # of `run`, as time.monotonic() counts; 0 is never
        self.ending = False  # the end has come: callbacks should not wait any more
        self._callbacks: dict[tuple[int, bool], tuple[Level, Callable[[], None]]] = {}
        self._streams: dict[int, socket.socket] = {}
        self._wake: socket.socket | None = None
        self._caught: dict[int, Any] = {}  # the handlers before

    def catch(self, numbers: Sequence[int]) -> None:
        """Keep these signals from their defaults, until `release`; they wait for `signals`."""
        signal.set_wakeup_fd(self.inbox().detach(), warn_on_full_buffer=False)
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's &
                self._caught[number] = signal.signal(number, noted)

    def release(self) -> None:
        """Give signals back to who had them before `catch`; those that nobody has served come to them now."""
        for number, handler in self._caught.items():
            signal.signal(number, handler)
        waker, waiting = signal.set_wakeup_fd(-1), b""
        if waker >= 0:
            os.close(waker)
        if self._wake:
            with suppress(BlockingIOError):
                waiting = self._wake.recv(CHUNK)
            self._wake.close()
        for number in dict.fromkeys(waiting):
            if number != signal.SIGIO:  # of a file that is no longer used
                signal.raise_signal(number)

    def inbox(self) -> socket.socket:
        """Return a socket on which another thread may send numbers of signals, a byte each, as if they were caught."""
        self._wake, waker = socket.socketpair()
        self._wake.setblocking(False)
        waker.setblocking(False)
        return waker

    def signals(self, receive: Callable[[int], None]) -> None:
        """Call `receive` with the number of each signal that was caught."""
        if self._wake:
            self.register(self._wake.fileno(), lambda: self._woken(receive), level=Level.SIGNAL)

    def register(self, file: int, serve: Callable[[], None], *, level: Level, write: bool = False) -> None:
        """Call `serve` whenever the file can be read, or written."""
        self._callbacks[file, write] = level, serve

    def unregister(self, file: int, *, write: bool = False) -> None:
        """Forget the file, if it is known."""
        self._callbacks.pop((file, write), None)

    def registered(self, file: int, *, write: bool = False) -> bool:
        """Return whether the file is served."""
        return (file, write) in self._callbacks

    def stream(self, end: socket.socket, receive: Callable[[bytes], None], *, level: Level) -> None:
        """Receive what comes on a socket; it is closed after its end."""
        end.setblocking(False)
        self._streams[end.fileno()] = end
        self.register(end.fileno(), lambda: self._read(end, receive), level=level)

    def serve(
        self, seconds: float | None, *, below: Level = Level.ALL, read: int | None = None, write: int | None = None
    ) -> bool:
        """Wait for the files below a level and serve one; or wait for one more file, which the caller serves.

        Returns:
            Whether that file can be read (`read`) or written (`write`).
        """
        served = [key for key, (level, _) in self._callbacks.items() if level < below]
        readers = [file for file, writes in served if not writes] + ([] if read is None else [read])
        writers = [file for file, writes in served if writes] + ([] if write is None else [write])
        # Not epoll: it has no subsets, and takes no regular file. Not poll: macOS has it not for terminals.
        readable, writable, _ = select.select(readers, writers, [], None if seconds is None else max(0.0, seconds))
        # One at a time: while it is served, another one may be read, closed or taken out.
        ready = [key for key in served if key[0] in (writable if key[1] else readable)]
        if ready:
            first = min(ready, key=lambda key: self._callbacks[key][0] > Level.SIGNAL)
            entry = self._callbacks[first] = self._callbacks.pop(first)  # to the end: the others are before it then
            entry[1]()
        return read in readable or write in writable

    def run(self, late: Callable[[], None], beat: Callable[[], None] = lambda: None) -> None:
        """Serve until all streams have ended; `late` is called after the deadline, `beat` every few seconds."""
        while self._streams:
            self.serve(min(BEAT, self.deadline - time.monotonic()) if self.deadline else BEAT)
            beat()
            if self.deadline and time.monotonic() >= self.deadline:
                self.deadline = 0
                late()

    def clear(self) -> None:
        """Forget all files and close all streams; signals are still caught."""
        self._callbacks = {key: entry for key, entry in self._callbacks.items() if entry[0] is Level.SIGNAL}
        for end in self._streams.values():
            end.close()
        self._streams = {}
        self.deadline = 0

    def _read(self, end: socket.socket, receive: Callable[[bytes], None]) -> None:
        try:
            data = end.recv(CHUNK)
        except ConnectionResetError:
            data = b""
        if data:
            receive(data)
        else:
            self.unregister(end.fileno())
            self.unregister(end.fileno(), write=True)
            del self._streams[end.fileno()]
            end.close()

    def _woken(self, receive: Callable[[int], None]) -> None:
        assert self._wake
        for number in self._wake.recv(CHUNK):
            receive(number)


def noted(number: int, frame: FrameType | None) -> None:
    """Handle a signal: its number is in the wakeup file descriptor already."""
