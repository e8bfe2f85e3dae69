"""One loop for all that a run waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zosia.run.loop import Level, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.clear()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def test_streams_are_received_to_their_end(loop: Loop, pairs: Pairs) -> None:
    came: list[bytes] = []
    for (ours, theirs), data in zip(pairs, (b"a", b"b" * 1_000), strict=True):
        loop.stream(ours, came.append, level=Level.CHANNEL)
        theirs.sendall(data)
        theirs.close()
    loop.run(lambda: None)
    assert sorted(came) == [b"a", b"b" * 1_000]
    assert [ours.fileno() for ours, _ in pairs] == [-1, -1]


def test_a_callback_that_waits_is_not_entered_again(loop: Loop, pairs: Pairs) -> None:
    (ours, theirs), (other, peer) = pairs
    order: list[str] = []

    def channel(data: bytes) -> None:
        order.append(f"channel {data.decode()}")
        peer.sendall(b"x")
        theirs.sendall(b"2")
        while "console" not in order:
            loop.serve(1, below=Level.CHANNEL)
        theirs.shutdown(socket.SHUT_WR)
        order.append("waited")

    def console(data: bytes) -> None:
        order.append("console")
        peer.close()

    loop.stream(ours, channel, level=Level.CHANNEL)
    loop.stream(other, console, level=Level.CONSOLE)
    theirs.sendall(b"1")
    loop.serve(1)
    assert order == ["channel 1", "console", "waited"]


def test_one_that_is_loud_leaves_room_for_others(loop: Loop, pairs: Pairs) -> None:
    (ours, theirs), (other, peer) = pairs
    came: list[bytes] = []
    loop.stream(ours, lambda data: theirs.sendall(b"again"), level=Level.CONSOLE)
    loop.stream(other, came.append, level=Level.CHANNEL)
    theirs.sendall(b"loud")
    peer.sendall(b"quiet")
    for _ in range(4):
        loop.serve(1)
    assert came == [b"quiet"]


@pytest.mark.parametrize("write", [False, True])
def test_a_file_that_the_caller_serves(loop: Loop, pairs: Pairs, write: bool) -> None:
    ours, theirs = pairs[0]
    if write:
        ours.setblocking(False)
        while loop.serve(0, write=ours.fileno()):
            ours.send(b"x" * 65536)
        theirs.recv(1 << 22)
        assert loop.serve(1, write=ours.fileno())
    else:
        assert not loop.serve(0.01, read=ours.fileno())
        theirs.sendall(b"x")
        assert loop.serve(1, read=ours.fileno())


def test_a_regular_file_is_always_ready(loop: Loop, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert loop.serve(0, write=file.fileno())


def test_a_deadline(loop: Loop, pairs: Pairs) -> None:
    ours, theirs = pairs[0]
    loop.stream(ours, lambda data: None, level=Level.CHANNEL)
    loop.deadline = time.monotonic() + 0.05
    loop.run(theirs.close)
    assert not loop.deadline


def test_signals_wait_for_who_gets_them(root: Path) -> None:
    program = """
import os, signal, sys
from zosia.run.loop import Level, Loop
loop, came = Loop(), []
loop.catch([signal.SIGTERM, signal.SIGHUP])
os.kill(os.getpid(), signal.SIGTERM)
loop.signals(came.append)
loop.clear()
os.kill(os.getpid(), signal.SIGHUP)
loop.serve(1, below=Level.CONSOLE)
sys.exit(came != [signal.SIGTERM])
"""
    argv = ["nohup", sys.executable, "-c", program]  # which leaves SIGHUP ignored
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, signal.getsignal(signal.SIGTERM)) == (0, signal.SIG_DFL), done.stderr


def test_signals_are_given_back(loop: Loop) -> None:
    """With those that nobody has served; and also where none was caught yet."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGIO)}
    signal.signal(signal.SIGUSR2, lambda number, frame: came.append(number))
    try:
        loop.release()
        loop.catch([signal.SIGUSR2, signal.SIGIO])
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGIO)  # it would end this process
        assert came == []
        loop.release()
        assert came == [signal.SIGUSR2]
        assert signal.getsignal(signal.SIGIO) == before[signal.SIGIO]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert came == [signal.SIGUSR2] * 2
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
