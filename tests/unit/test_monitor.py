"""The socket that a machine's state goes through, on systems that refuse what Linux takes."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from zosia.run import monitor
from zosia.run.hot import DamagedError
from zosia.run.monitor import Monitor

SIZE = 3 << 20  # bytes
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def state(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "state"
    path.write_bytes(os.urandom(SIZE))
    file = os.open(path, os.O_RDONLY)
    yield file
    os.close(file)


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Limited(socket.socket):
    """A socket on a system where none may hold more than a limit."""

    limit = 0

    def setsockopt(self, *arguments: object) -> None:
        level, name, value = arguments
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert isinstance(value, int)
        if value > self.limit:
            raise refuse(errno.ENOBUFS)
        self.given = value


@pytest.mark.parametrize(
    ("limit", "given"),
    [(8 << 20, 4 << 20), (4 << 20, 4 << 20), ((4 << 20) - 1, 2 << 20), (300_000, 1 << 18), (1 << 16, 1 << 16)],
)
def test_a_socket_holds_as_much_as_it_may(limit: int, given: int) -> None:
    with Limited() as end:
        end.limit = limit
        monitor.enlarge(end)
        assert end.given == given


def test_a_socket_that_holds_little_stays_as_it_is() -> None:
    with Limited() as end:
        end.limit = 8192
        monitor.enlarge(end)
        assert not hasattr(end, "given")


def sent(pair: Pair, state: int) -> bytes:
    """Send all of the state, through whatever the socket takes at a time."""
    ours, theirs = pair
    got, idle = b"", 0
    while len(got) < SIZE:
        count = monitor.send(ours, state, len(got), min(monitor.CHUNK, SIZE - len(got)))
        idle = 0 if count else idle + 1
        assert idle < 2, "an empty socket takes something"
        while count:
            part = theirs.recv(count)
            got, count = got + part, count - len(part)
    return got


@pytest.mark.parametrize("number", [0, errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP])
def test_a_state_is_sent_with_and_without_sendfile(
    pair: Pair, state: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    if number:

        def sendfile(*arguments: int) -> int:
            raise refuse(number)

        monkeypatch.setattr(os, "sendfile", sendfile)
    assert sent(pair, state) == os.pread(state, SIZE, 0)


@pytest.mark.parametrize("number", [0, errno.ENOTSOCK])
def test_a_full_socket_takes_nothing(pair: Pair, state: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def sendfile(*arguments: int) -> int:
        raise refuse(number)

    if number:
        monkeypatch.setattr(os, "sendfile", sendfile)
    while monitor.send(pair[0], state, 0, SIZE):
        pass
    assert monitor.send(pair[0], state, 0, SIZE) == 0


class Taking(Monitor):
    """A monitor of a QEMU that takes all of a state."""

    def __init__(self, pair: Pair) -> None:
        self._qemu = self  # type: ignore[assignment]
        self._ends, self.got = pair, b""

    def wait(self, end: socket.socket, *, write: bool) -> None:
        with suppress(BlockingIOError):
            self.got += self._ends[1].recv(2 * SIZE, socket.MSG_DONTWAIT)

    def _stream(self, command: str) -> socket.socket:
        return self._ends[0].dup()

    def _finish(self) -> None:
        self.wait(self._ends[0], write=True)


def test_the_end_of_a_state_waits_until_it_is_checked(pair: Pair, state: int) -> None:
    qemu, seen = Taking(pair), []

    def checked() -> None:
        qemu.wait(pair[0], write=True)
        seen.append(len(qemu.got))

    qemu.load(state, SIZE, checked)
    assert seen == [SIZE - monitor.CHUNK]
    assert qemu.got == os.pread(state, SIZE, 0)


def test_a_damaged_state_does_not_arrive(pair: Pair, state: int) -> None:
    def damaged() -> None:
        raise DamagedError

    qemu = Taking(pair)
    with pytest.raises(DamagedError):
        qemu.load(state, SIZE, damaged)
    qemu.wait(pair[0], write=True)
    assert len(qemu.got) == SIZE - monitor.CHUNK


@pytest.mark.parametrize("refused", [False, True])
def test_a_qemu_that_has_ended_is_an_error(
    pair: Pair, state: int, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def sendfile(*arguments: int) -> int:
        raise refuse(errno.EINVAL)

    if refused:
        monkeypatch.setattr(os, "sendfile", sendfile)
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        monitor.send(pair[0], state, 0, SIZE)
