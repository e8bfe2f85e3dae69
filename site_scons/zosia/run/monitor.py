"""QEMU's monitor (QMP) on a socket, and the state of a machine that goes out or comes in over it.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html. A state goes through a socket in our hands: QEMU may start
no program here (-sandbox spawn=deny), and writes to files by itself from 8.2 on only.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Any

from zosia.run.emulator import Emulator

CHUNK = 1 << 20  # bytes
BUFFER = 4 << 20  # bytes that a socket holds, where the system lets it
SMALL = 1 << 16  # bytes; any system lets a socket hold these
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)  # not from this file, or to this socket
UNLIMITED = 1 << 40  # bytes per second
LONGEST = 2_000_000  # ms of a pause, the most that QEMU takes: the machine does not run while it is saved
GOING = ("setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling")


class MonitorError(Exception):
    """QEMU refuses, or is gone; the reason in its own words."""


class GoneError(MonitorError):
    """QEMU has ended, or accepts nothing more: the state may be good."""

    def __init__(self) -> None:
        super().__init__("QEMU has ended")


class Monitor:
    """Our end of the socket of a QEMU that was just started."""

    def __init__(self, qemu: Emulator) -> None:
        """Greet it; errors as `command`."""
        self._qemu = qemu
        self._read = b""
        self._reply()  # its greeting
        self.command("qmp_capabilities")
        # Memory that is a file of the host's (the model's disk, mapped) is not part of a state.
        self.command("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def command(self, name: str, *, descriptor: int | None = None, **arguments: Any) -> Any:
        """Execute a command, with a file descriptor where one is wanted, and return its result.

        Raises:
            MonitorError: it refuses, or has ended.
        """
        words = json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        try:
            socket.send_fds(self._qemu.monitor, [words], [] if descriptor is None else [descriptor])
        except OSError as error:
            raise GoneError from error
        reply = self._reply()
        if "error" in reply:
            raise MonitorError(str(reply["error"].get("desc", name)))
        return reply.get("return")

    def _reply(self) -> dict[str, Any]:
        while True:
            line, newline, rest = self._read.partition(b"\n")
            if not newline:
                self._read += self._received(self._qemu.monitor)
                continue
            self._read = rest
            message: dict[str, Any] = json.loads(line)
            if "event" not in message:
                return message

    def _received(self, end: socket.socket) -> bytes:
        self._qemu.wait(end)
        try:
            data = end.recv(CHUNK)
        except OSError:
            data = b""
        if not data:
            raise GoneError
        return data

    def save(self, write: Callable[[memoryview], None]) -> None:
        """Stop the machine and hand its state to `write`, in parts; it can go on then (`cont`).

        Raises:
            MonitorError: it can't be saved, and continues as well.
        """
        self.command("stop")
        self.command("migrate-set-parameters", **{"max-bandwidth": UNLIMITED, "downtime-limit": LONGEST})
        part = memoryview(bytearray(CHUNK))
        with closing(self._stream("migrate")) as stream:
            try:
                while size := self._into(stream, part):
                    write(part[:size])
            except Exception:
                with suppress(Exception):  # what came first counts
                    self.command("migrate_cancel")
                    self._status()
                raise
        self._finish()

    def load(self, file: int, size: int, checked: Callable[[], object]) -> None:
        """Take in the first `size` bytes of a file as the state of a machine that was started for it.

        Its last part, with the devices, is sent when `checked` has returned. What comes before is memory, which takes
        as long to send as to check.

        Raises:
            MonitorError: it is none of this machine.
        """
        with closing(self._stream("migrate-incoming")) as stream:
            memory = max(0, size - CHUNK)
            self._send(stream, file, 0, memory)
            checked()
            self._send(stream, file, memory, size)
        self._finish()

    def feed(self, parts: Iterable[bytes]) -> None:
        """Take in a state in parts, as `load` does a file."""
        with closing(self._stream("migrate-incoming")) as stream:
            for part in parts:
                left = memoryview(part)
                while left:
                    self._qemu.wait(stream, write=True)
                    try:
                        left = left[stream.send(left) :]
                    except OSError as error:
                        raise GoneError from error
        self._finish()

    def _send(self, stream: socket.socket, file: int, start: int, end: int) -> None:
        try:
            while start < end:
                self._qemu.wait(stream, write=True)
                start += send(stream, file, start, min(CHUNK, end - start))
        except OSError as error:
            raise GoneError from error

    def _stream(self, command: str) -> socket.socket:
        """Return our end of a socket; QEMU uses the other one for a state."""
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                enlarge(end)
            ours.setblocking(False)
            self.command("getfd", descriptor=theirs.fileno(), fdname="state")
            self.command(command, uri="fd:state")
        return ours

    def _into(self, stream: socket.socket, part: memoryview) -> int:
        self._qemu.wait(stream)
        return stream.recv_into(part)

    def _status(self) -> str:
        """Return the final status of a migration."""
        while (status := str(self.command("query-migrate").get("status"))) in GOING:
            self._qemu.pause(0.002)
        return status

    def _finish(self) -> None:
        if (status := self._status()) != "completed":
            raise MonitorError(f"QEMU reports: {status}")


def enlarge(end: socket.socket) -> None:
    """Have a socket hold BUFFER bytes, or as many as the system allows: macOS refuses what Linux would cut down."""
    size = BUFFER
    while size >= SMALL:
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            return
        except OSError:  # ENOBUFS: above kern.ipc.maxsockbuf
            size //= 2


def send(stream: socket.socket, file: int, start: int, count: int) -> int:
    """Send a part of a file, of which the socket may take less; return the number of bytes sent.

    The kernel does it without a copy here, which takes a quarter of the time, unless it can't with such a socket.
    """
    try:
        return os.sendfile(stream.fileno(), file, start, count)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno not in NO_SENDFILE:
            raise
    try:
        return stream.send(os.pread(file, min(count, SMALL), start))
    except BlockingIOError:
        return 0
