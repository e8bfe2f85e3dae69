"""Settings of `scons serve`: what is served, and the machine behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.machine import host
from zosia.machine.qemu import ANSWER_PORT, STATUS_PORT, STREAMS_PORT
from zosia.machine.status import Status
from zosia.machine.task import Mode
from zosia.run import hot
from zosia.serve import main
from zosia.serve.guest import Guest
from zosia.serve.record import Figures, Metrics
from zosia.serve.service import Phase
from zosia.settings import hardware, machines, reading, settle, values
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS

Typed = Callable[..., Settings]


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Return the settings of a dry `scons serve NAME=value`."""
    monkeypatch.chdir(tmp_path)
    return lambda **given: reading.read(DEFAULTS | given, [], root, given=given, launched=tmp_path, dry_run=True)


def test_what_is_served_by_default(typed: Typed) -> None:
    service = machines.service(typed())
    assert (service.model, service.host, service.port) == ("smollm2-135m", "127.0.0.1", 8080)
    assert (service.key, service.parallel, service.idle, service.log) == ("", 4, 0.0, None)
    assert service.guests == 1
    assert service.page == Path("build/ui")
    assert service.socket and (service.socket.name, service.socket.parent.name) == ("8080.sock", "zosia")
    service.check()


def test_what_is_typed_is_served(typed: Typed, tmp_path: Path) -> None:
    service = machines.service(
        typed(PORT="0", HOST="::1", KEY="k", IDLE="10m", PARALLEL="2", UI="0", LOG="a.log", VERBOSE="1")
    )
    assert (service.port, service.host, service.key, service.idle) == (0, "::1", "k", 600)
    assert (service.parallel, service.page, service.log) == (2, None, tmp_path / "a.log")
    assert service.socket is None, "its name would be that of no port"


def test_a_key_that_is_made(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {machines.service(typed(KEY="auto")).key for _ in range(2)}
    assert len(keys) == 2 and min(map(len, keys)) > 20
    assert {line.split()[1] for line in capsys.readouterr().err.splitlines()} == keys


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("0.5s", 0.5)])
def test_durations(text: str, seconds: float) -> None:
    assert values.duration("IDLE", text) == seconds


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("PORT", "x", "is not a whole number from 0 to 65535.*PORT=8080"),
        ("PORT", "65536", "is not a whole number from 0 to 65535"),
        ("PARALLEL", "0", "is not a whole number from 1 to 64.*PARALLEL=4"),
        ("GUESTS", "0", "is not a whole number from 1 to 16.*GUESTS=1"),
        ("IDLE", "soon", "is no time above 0.*IDLE=10m"),
        ("IDLE", "0", "is no time above 0"),
        ("IDLE", "-1", "is no time above 0"),
        ("IDLE", "1d", "is no time above 0"),
        ("KEY", "", "is empty"),
        ("UI", "yes", "is not a value"),
    ],
)
def test_what_is_no_value(typed: Typed, name: str, text: str, message: str) -> None:
    with pytest.raises(ZosiaError, match=f"{name}=.*{message}"):
        typed(**{name: text})


def test_the_machine_that_serves(typed: Typed) -> None:
    machine, chat = (make(typed(PARALLEL="3")) for make in (machines.serve_machine, machines.run_machine))
    words = machine.task.llama_args
    place = words.index("-np")
    assert words[place : place + 3] == ("-np", "3", "--kv-unified")
    assert "-np" not in chat.task.llama_args, "llama-cli knows no conversations beside its own"
    assert machine.task.mode is Mode.SERVE
    assert machine.ports == (STATUS_PORT, STREAMS_PORT)
    assert chat.ports == (STATUS_PORT, ANSWER_PORT)
    assert machine.task.texts(supervised=True)["mode"] == "serve"
    assert machine.task.texts(supervised=True)["begin"] == "1"
    assert machine.task.need >= chat.task.need


def test_several_guests_are_of_one_machine(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = (typed(MEM="300M", SMP="1", GUESTS=count) for count in "13")
    assert machines.serve_machine(three) == machines.serve_machine(one), "so that they resume one state"
    assert machines.service(three).guests == 3
    monkeypatch.setattr(host, "memory", lambda: (800, 500))
    machines.serve_machine(one)
    with pytest.raises(ZosiaError, match=r"3 guests of MEM=300M take 900 MiB.*Set GUESTS=2"):
        machines.serve_machine(three)
    machines.run_machine(three)  # which is one, whatever the variable says


def test_what_is_said_of_the_memory_of_several(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (4000, 500))
    settings = machines.serving(typed(MEM="300M", GUESTS="3"))
    (line,) = settle.notes(settle.settle(settings, hardware.expected(settings)))
    assert "3 guests may take" in line
    monkeypatch.setattr(host, "memory", lambda: (1450, 500))
    settings = machines.serving(typed(GUESTS="3"))
    text = settle.notes(settle.settle(settings, hardware.expected(settings)))[0]
    assert "do not fit into this machine with 3 guests" in text


def test_a_server_has_its_sampling_from_the_start(typed: Typed) -> None:
    """A chat that resumes gets it anew; a server's clients may leave it out."""
    settings = typed(LLAMA_ARGS="--temp 0.7")
    assert hot.split(machines.run_machine(settings))[1] == '"temperature":0.7,'
    args, later = hot.split(machines.serve_machine(settings))
    assert args[-2:] == ("--temp", "0.7") and not later


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PROMPT": "hi"}, "PROMPT= is not for `scons serve`"),
        ({"SYSTEM": "hi"}, "SYSTEM= is not for `scons serve`"),
        ({"LLAMA_ARGS": "--host 0.0.0.0"}, "has --host, which is not for `scons serve`. Set HOST="),
        ({"LLAMA_ARGS": "-np 2"}, "Set PARALLEL="),
        ({"HOST": "0.0.0.0"}, "HOST=0.0.0.0 lets other computers in, which needs a key. Set KEY="),
        ({"HOST": "here"}, "HOST=here is no IP address"),
        ({"KEY": "a b"}, "KEY= has a space"),
        ({"LLAMA_ARGS": "--tools all"}, "has --tools, which is not for `scons serve`"),
    ],
)
def test_what_is_not_for_a_server(typed: Typed, given: dict[str, str], message: str) -> None:
    with pytest.raises(ZosiaError, match=message):
        machines.serve_machine(typed(**given))
    machines.run_machine(typed(**given))


def test_what_the_server_gets_is_what_was_meant(typed: Typed) -> None:
    settings = typed(GUESTS="2", IDLE="5", LOG="é.log", KEY="k")
    machine, service = machines.serve_machine(settings), machines.service(settings)
    assert main.from_json(main.to_json(machine, service)) == (machine, service)


class Sleeper:
    """A gate that nobody asks, and the machine behind it, which takes its time to start."""

    def __init__(self, *, requests: int = 0) -> None:
        self.metrics = Metrics(guests=[Figures(), Figures()])
        self.active, self.last = requests, time.monotonic()
        self.phase = Phase.LOADING
        self.ready_at = self.slept = 0.0  # `slept`: seconds that it was ready, or unasked, before it was turned off

    def ready(self, guest: int = 1) -> None:
        self.phase, self.ready_at = Phase.READY, time.monotonic()
        self.metrics.guests[guest].ready_at = self.ready_at

    def done(self) -> None:
        self.active, self.last = 0, time.monotonic()

    async def off(self) -> None:
        self.phase = Phase.OFF
        self.slept = time.monotonic() - max(self.last, self.ready_at)


@pytest.mark.parametrize("asked", [False, True])
def test_an_idle_machine_is_off_and_one_that_starts_is_not_idle(asked: bool) -> None:
    idle = 0.3

    async def doze() -> float:
        both: Any = Sleeper(requests=int(asked))
        task = asyncio.ensure_future(main.doze(idle, both, both))
        await asyncio.sleep(1.6 * idle)  # to start takes longer than it may idle
        both.ready()
        await asyncio.sleep(1.6 * idle * asked)  # its answer takes long as well
        assert not asked or both.phase is Phase.READY
        if asked:
            both.done()
        async with asyncio.timeout(20 * patience()):
            while both.phase is not Phase.OFF:
                await asyncio.sleep(0.01)
        task.cancel()
        return float(both.slept)

    assert idle <= asyncio.run(doze()), "all of it since it was ready, or since its last answer"


def test_it_is_noted_when_a_machine_was_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    machine: Any = None  # nothing is started
    figures = Figures()

    async def opened(port: object, *, seconds: float) -> object:
        return SimpleNamespace(closed=asyncio.get_running_loop().create_future)

    async def start() -> None:
        ready = asyncio.get_running_loop().create_future()
        ready.set_result(None)
        run = SimpleNamespace(ready=ready, ended=asyncio.get_running_loop().create_future())
        monkeypatch.setattr("zosia.serve.guest.Run", lambda *_, **__: run)
        await Guest(machine, figures, ready=lambda seconds: None).start()

    monkeypatch.setattr("zosia.serve.guest.Channel.open", opened)
    before = time.monotonic()
    asyncio.run(start())
    assert before <= figures.ready_at <= time.monotonic()
    assert Metrics(guests=[Figures(ready_at=1), figures]).last_ready == figures.ready_at


@pytest.mark.parametrize(("seconds", "end"), [((0, 30, 59), True), ((0, 30, 61), False), ((0, 30, 61, 89), True)])
def test_three_crashes_within_a_minute_are_the_end(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], end: bool
) -> None:
    said: list[str] = []

    async def crash() -> bool:
        machine: Any = None  # nothing is started
        guest = Guest(machine, Figures(starts=1), say=said.append)
        for second in seconds:
            monkeypatch.setattr("zosia.serve.guest.time.monotonic", lambda: second)  # noqa: B023
            guest._crashed(machine, Status.QEMU_KILLED, ZosiaError("it was killed", "Type: zosia doctor"))
        if guest.failed.done():
            assert guest.failed.result()[0] == Status.QEMU_KILLED
        return guest.failed.done()

    assert asyncio.run(crash()) is end
    assert len(said) == len(seconds) - end, "all but the last one are said, and what follows"
