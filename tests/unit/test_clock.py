"""A guest's clock, after the host has slept."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from zosia.machine import clock
from zosia.machine.task import Mode
from zosia.run import loop
from zosia.run.loop import Level, Loop
from zosia.run.resume import Cold
from zosia.run.session import Session

from .fake_qemu import ASKED, Place


class Host:
    """A host's clocks, of which the one for the time runs on while it sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 0.0
        times = {"time": lambda: time.time() + self.slept, "monotonic": time.monotonic, "localtime": time.localtime}
        monkeypatch.setattr(clock, "time", SimpleNamespace(**times))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_a_jump_is_seen_once_in_either_direction(host: Host) -> None:
    mine = clock.Clock()
    assert not mine.jumped()
    for slept, jumped in ((0.5, False), (3600.0, True), (3600.5, False), (0.0, True)):
        host.slept = slept
        assert (mine.jumped(), mine.jumped()) == (jumped, False)


@pytest.mark.parametrize("slept", [3600.0, 0.0])
def test_a_guest_at_its_prompt_is_told_the_time_when_the_host_has_slept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host, slept: float
) -> None:
    does = """
status("loaded 1")
begun()
status("prompt")
ports["status"].settimeout(10)
while (words := line())[0] == "size":
    pass
note("woken", " ".join(words).encode())
status("prompt", "exit 0")
"""
    for name, value in place.environment(
        does if slept else 'status("loaded 1"); begun(); status("prompt", "exit 0")'
    ).items():
        monkeypatch.setenv(name, value)
    ready: list[socket.socket] = []

    def sleep(port: socket.socket) -> None:
        ready.append(port)
        host.slept = slept

    session = Session(
        replace(ASKED.given(mode=Mode.SERVE, prompt=None), disk=place.disk), None, tmp_path, Loop(), Cold(), ready=sleep
    )
    assert session.run().report.exit == 0
    assert len(ready) == 1, "and not for each prompt that it reports"
    if slept:
        word, seconds, entropy, zone = place.noted("woken").decode().split()
        assert (word, len(entropy), int(zone)) == ("wake", 64, time.localtime().tm_gmtoff)
        assert abs(float(seconds) - time.time() - slept) < 60


def test_a_loop_looks_up_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BEAT", 0.01)
    made, (ours, theirs) = Loop(), socket.socketpair()
    made.stream(ours, lambda data: None, level=Level.CHANNEL)
    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 3:
            theirs.close()

    made.run(lambda: None, beat)
    assert len(beats) > 3
