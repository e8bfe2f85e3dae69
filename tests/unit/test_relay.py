"""One terminal on several consoles: initramfs/relay.c, compiled for this host, with pseudo-terminals as consoles."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.machine import host
from zosia_build import relay

LONGEST = 20  # seconds


@dataclass
class Console:
    """A pseudo-terminal: `screen` is the side where a person would be, `device` the path of the other."""

    screen: int
    device: str

    def read(self, count: int) -> bytes:
        """Wait for so many bytes."""
        data, end = b"", time.monotonic() + LONGEST
        while len(data) < count and select.select([self.screen], [], [], max(0, end - time.monotonic()))[0]:
            data += os.read(self.screen, 4096)
        return data


@dataclass
class Relayed:
    terminal: int
    rows: int
    columns: int
    process: psutil.Process


def running(program: Path) -> list[psutil.Process]:
    processes = psutil.process_iter(["cmdline"])
    return [p for p in processes if (p.info["cmdline"] or [])[:1] == [str(program)]]


def stop(process: psutil.Process) -> None:
    """End it; it is nobody's child any more, and takes a moment to go."""
    process.kill()
    end = time.monotonic() + LONGEST
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("relay") / "relay"
    relay.build(root / "initramfs" / "relay.c", target, arch=host.arch(), cache=cache_root())
    return target


@pytest.fixture
def console(request: pytest.FixtureRequest) -> Callable[..., Console]:
    """Make a console of a size in rows and columns, 0 for one that does not know."""

    def make(rows: int = 0, columns: int = 0) -> Console:
        screen, device = os.openpty()
        for end in (screen, device):
            request.addfinalizer(partial(os.close, end))
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        return Console(screen, os.ttyname(device))

    return make


@pytest.fixture
def start(program: Path, request: pytest.FixtureRequest) -> Callable[..., Relayed]:
    """Start the program on consoles and open its terminal."""

    def run(*devices: str) -> Relayed:
        done = subprocess.run([program, *devices], capture_output=True, text=True, check=True, timeout=LONGEST)
        assert done.stderr == ""
        name, rows, columns = done.stdout.split()
        (process,) = running(program)
        request.addfinalizer(lambda: stop(process))
        terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
        request.addfinalizer(lambda: os.close(terminal))
        return Relayed(terminal, int(rows), int(columns), process)

    return run


Make = Callable[..., Console]
Start = Callable[..., Relayed]


def test_what_is_written_shows_on_all(console: Make, start: Start) -> None:
    one, other = console(), console()
    relayed = start(one.device, other.device)
    os.write(relayed.terminal, "zażółć\n".encode())
    for each in (one, other):
        assert each.read(12).decode() == "zażółć\r\n"


def test_what_is_typed_on_any_is_read(console: Make, start: Start) -> None:
    one, other = console(), console()
    relayed = start(one.device, other.device)
    for each in (one, other):
        os.write(each.screen, b"hello\r")  # as the key sends it
        assert os.read(relayed.terminal, 100) == b"hello\n"
        shown = [screen.read(7) for screen in (one, other)]
        assert shown == [b"hello\r\n"] * 2, "the terminal's echo, once, on both"


@pytest.mark.parametrize(
    ("sizes", "common"),
    [
        ([(0, 0)], (24, 80)),
        ([], (24, 80)),
        ([(0, 0), (48, 128)], (48, 128)),
        ([(48, 100), (30, 128)], (30, 100)),
        ([(0, 132), (30, 0)], (24, 80)),
    ],
)
def test_the_size(console: Make, start: Start, sizes: list[tuple[int, int]], common: tuple[int, int]) -> None:
    relayed = start(*(console(*size).device for size in sizes))
    assert (relayed.rows, relayed.columns) == common
    assert tuple(os.get_terminal_size(relayed.terminal)) == common[::-1]


def test_a_console_that_takes_nothing_holds_up_no_other(console: Make, start: Start) -> None:
    silent, one = console(), console()
    relayed = start(silent.device, one.device)
    line = b"x" * 99 + b"\n"
    for _ in range(100):
        for _ in range(20):
            os.write(relayed.terminal, line)
        assert len(one.read(20 * 101)) == 20 * 101
    assert relayed.process.memory_info().rss < 8 << 20


def test_a_console_that_goes_away_and_one_that_is_none(console: Make, start: Start, tmp_path: Path) -> None:
    one = console()
    gone, device = os.openpty()
    relayed = start(os.ttyname(device), str(tmp_path / "none"), "/dev/null", one.device)
    os.close(gone)
    os.close(device)
    os.write(relayed.terminal, b"one\n")
    assert one.read(5) == b"one\r\n"
    busy = relayed.process.cpu_times().user
    os.write(one.screen, b"two\r")
    assert os.read(relayed.terminal, 10) == b"two\n"
    time.sleep(0.5)
    assert relayed.process.cpu_times().user - busy < 0.3, "it waits, and does not spin"


def test_nothing_typed_is_lost_while_nobody_reads(console: Make, start: Start) -> None:
    one = console()
    relayed = start(one.device)
    mode = termios.tcgetattr(relayed.terminal)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(relayed.terminal, termios.TCSANOW, mode)
    typed = bytes(range(32, 127)) * 100
    sent = 0
    got = b""
    while len(got) < len(typed):
        if sent < len(typed) and select.select([], [one.screen], [], 0.2)[1]:
            sent += os.write(one.screen, typed[sent : sent + 512])
        else:
            got += os.read(relayed.terminal, 4096)
    assert got == typed


def test_it_waits_when_its_terminal_has_no_user(console: Make, start: Start) -> None:
    relayed = start(console().device)
    name = os.ttyname(relayed.terminal)
    os.close(os.dup(relayed.terminal))
    other = os.open(name, os.O_RDWR | os.O_NOCTTY)
    os.close(other)
    busy = sum(relayed.process.cpu_times()[:2])
    time.sleep(0.5)
    assert sum(relayed.process.cpu_times()[:2]) - busy < 0.3


def test_a_source_that_does_not_compile(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(ZosiaError, match="nothing"):
        relay.build(tmp_path / "bad.c", tmp_path / "bad", arch=host.arch(), cache=cache_root())
    assert not (tmp_path / "bad").exists()
