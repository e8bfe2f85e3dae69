"""The guest's end of the channel: initramfs/streams.c, compiled for this host, with socket pairs as ports."""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
import subprocess
import time
import tty
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.channel import (
    BREACHES,
    CLOSE,
    CREDIT,
    DATA,
    HARMLESS,
    HELLO,
    LONGEST,
    OPEN,
    PAYLOAD,
    PORTION,
    SHUT,
    WINDOW,
    Peer,
    Seen,
    credit,
    frame,
    hello,
    pattern,
)
from zosia.channel.channel import Channel, ChannelError, Stream

PROFILE = settings(deadline=None, database=None, derandomize=True)
PHASES = [Phase.generate]  # and no shrinking: each attempt at what never comes would wait for it
SIZES = st.sampled_from([1, 2, 100, PAYLOAD, PAYLOAD + 1, 100_000, WINDOW, 400_000])


class Relay:
    """The running program, its port, and the server's socket."""

    def __init__(self, program: Path, folder: Path, *, backlog: int = 128) -> None:
        self.path = folder / "server"
        self.path.unlink(missing_ok=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen(backlog)
        self.server.settimeout(LONGEST)
        self.host, port = socket.socketpair()
        argv: list[str | Path] = [program, "-", self.path]
        self.child = subprocess.Popen(argv, stdin=port.fileno(), stderr=subprocess.PIPE)
        port.close()
        self.peer = Peer(self.host)
        self.open: list[socket.socket] = []

    def greet(self) -> None:
        self.peer.send(hello())
        assert self.peer.wait() == [(HELLO, 0, hello()[8:])]

    def accept(self) -> socket.socket:
        connection, _ = self.server.accept()
        connection.settimeout(LONGEST)
        self.open.append(connection)
        return connection

    def stream(self, number: int) -> socket.socket:
        self.peer.send(frame(OPEN, number))
        return self.accept()

    def rests(self) -> None:
        """Wait until it sleeps whenever one looks. Processor time would say less on a busy machine."""
        child, end, asleep = psutil.Process(self.child.pid), time.monotonic() + LONGEST, 0
        while asleep < 30:
            asleep = asleep + 1 if child.status() == psutil.STATUS_SLEEPING else 0
            assert time.monotonic() < end, "it spins"
            time.sleep(0.01)

    def alive(self) -> None:
        """Check that it still does its work."""
        self.peer.send(hello(b"still there?    "))
        self.peer.wait_for((HELLO, 0, b"zos1still there?    "))

    def ended(self) -> str:
        """Wait for its end by its own will, and return its line."""
        said = self.child.communicate(timeout=LONGEST)[1].decode()
        assert (self.child.returncode, said.count("\n")) == (1, 1), said
        return str(said)

    def close(self) -> None:
        for each in (self.host, self.server, *self.open):
            each.close()
        if self.child.returncode is None:
            assert self.child.poll() is None, self.child.communicate()
            self.child.kill()
            _, said = self.child.communicate()
            assert said == b""


def exactly(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes, or those before the end."""
    data = bytearray()
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return bytes(data)


def drain(connection: socket.socket) -> None:
    """Read until the relay has ended the connection."""
    with suppress(ConnectionResetError):
        while connection.recv(1 << 20):
            pass


def pump(connections: list[socket.socket]) -> list[int]:
    """Be servers that say as much as is taken, until nothing more is, and return the sizes."""
    said = [0] * len(connections)
    for connection in connections:
        connection.setblocking(False)
    while writable := select.select([], connections, [], 0.3)[1]:
        for connection in writable:
            with suppress(BlockingIOError):
                said[connections.index(connection)] += connection.send(bytes(100_000))
    return said


Start = Callable[..., Relay]


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Relay] = []

    def run(*, backlog: int = 128) -> Relay:
        started.append(Relay(program, tmp_path, backlog=backlog))
        return started[-1]

    yield run
    for each in started:
        each.close()


@pytest.fixture
def greeted(start: Start) -> Relay:
    started = start()
    started.greet()
    return started


# The protocol


@dataclass
class Model:
    """One stream: the host's side of it, and the server's."""

    number: int
    server: socket.socket
    sent: bytearray = field(default_factory=bytearray)  # by the host
    taken: int = 0  # bytes of it, by the server
    room: int = WINDOW  # that the host may send
    said: bytearray = field(default_factory=bytearray)  # by the server
    got: int = 0  # bytes of it, by the host
    window: int = WINDOW  # that the host has granted in sum
    shut: bool = False
    shut_seen: bool = False  # by the server
    said_all: bool = False  # the server's SHUT
    said_seen: bool = False
    gone: bool = False


class RelayMachine(RuleBasedStateMachine):
    """Any order of what the host and the server may do; after each step, all that must follow has followed."""

    program: Path
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.relay = Relay(self.program, self.folder)
        self.relay.greet()
        self.models: list[Model] = []

    def pick(self, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.models[-6:]), label="stream")

    def take(self) -> None:
        """Take what has come, and check that it may come."""
        for kind, number, payload in self.relay.peer.there():
            model = self.models[number - 1]
            assert kind == CREDIT or not model.gone
            if kind == DATA:
                assert not model.said_seen
                assert model.said[model.got : model.got + len(payload)] == payload
                model.got += len(payload)
                assert model.got <= model.window
            elif kind == CREDIT:
                assert int.from_bytes(payload) >= PORTION
                model.room += int.from_bytes(payload)
                assert model.room <= len(model.sent) + WINDOW
            else:
                assert (kind, model.said_all, model.said_seen) == (SHUT, True, False)
                model.said_seen = True

    def settled(self, model: Model) -> bool:
        if model.gone:
            return True
        return (
            model.got == min(len(model.said), model.window)
            and model.said_seen == (model.said_all and len(model.said) < model.window)
            and (model.shut or len(model.sent) + WINDOW - model.room < PORTION + len(model.sent) - model.taken)
        )

    def settle(self) -> None:
        end = time.monotonic() + LONGEST
        self.take()
        while not all(map(self.settled, self.models)):
            assert time.monotonic() < end, [model.number for model in self.models if not self.settled(model)]
            select.select([self.relay.host], [], [], 1)
            self.take()

    @rule()
    def open(self) -> None:
        if len([model for model in self.models if not model.gone]) < 64:
            number = len(self.models) + 1
            self.models.append(Model(number, self.relay.stream(number)))
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def host_sends(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        if model.gone or model.shut:
            return
        text = pattern(min(size, model.room - len(model.sent)), len(model.sent))
        model.sent += text
        for start in range(0, len(text), PAYLOAD):
            self.relay.peer.send(frame(DATA, model.number, text[start : start + PAYLOAD]))

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def server_takes(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        rest = bytes(model.sent[model.taken : model.taken + size])
        if rest and not model.gone:
            assert exactly(model.server, len(rest)) == rest
            model.taken += len(rest)
        elif model.shut and not model.gone:
            assert model.server.recv(1) == b""
            model.shut_seen = True
        self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def server_says(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        if model.gone or model.said_all:
            return
        text = pattern(size, len(model.said))
        model.server.setblocking(False)
        with suppress(BlockingIOError):
            text = text[: model.server.send(text)]
            model.said += text
        model.server.settimeout(LONGEST)
        self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def host_grants(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        if not model.gone:
            model.window += size
        self.relay.peer.send(credit(model.number, size))
        self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def host_shuts(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if not (model.gone or model.shut):
            model.shut = True
            self.relay.peer.send(frame(SHUT, model.number))
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def server_shuts(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if not (model.gone or model.said_all):
            model.said_all = True
            model.server.shutdown(socket.SHUT_WR)
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def host_closes(self, data: st.DataObject) -> None:
        model = self.pick(data)
        self.relay.peer.send(frame(CLOSE, model.number))
        if not model.gone and not (model.shut and model.said_seen):  # else it was over, and only delivers
            drain(model.server)
            model.gone = True

    @rule()
    def begin_anew(self) -> None:
        self.take()
        self.relay.peer.send(hello(b"anew" * 4))
        self.relay.peer.wait_for((HELLO, 0, b"zos1" + b"anew" * 4))
        for model in self.models:
            drain(model.server)
        self.models = []

    def teardown(self) -> None:
        self.relay.alive()
        self.relay.close()


def test_any_order(program: Path, tmp_path: Path) -> None:
    RelayMachine.program, RelayMachine.folder = program, tmp_path
    run_state_machine_as_test(
        RelayMachine, settings=settings(PROFILE, max_examples=15, stateful_step_count=30, phases=PHASES)
    )


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach(greeted: Relay, name: str) -> None:
    connection = greeted.stream(1)
    with suppress(ConnectionError):
        greeted.peer.send(BREACHES[name])
    assert greeted.ended().startswith("zosia-streams: the host broke the channel's protocol: ")
    drain(connection)


@pytest.mark.parametrize("number", [0, 1, 4, 5])
def test_an_old_number(greeted: Relay, number: int) -> None:
    greeted.stream(1)
    greeted.stream(5)
    greeted.peer.send(frame(OPEN, number))
    assert "OPEN" in greeted.ended()


@pytest.mark.parametrize("first", [frame(OPEN, 1), frame(DATA, 1, b"x"), frame(CLOSE, 1), credit(1, 1)])
def test_no_hello(start: Start, first: bytes) -> None:
    started = start()
    started.peer.send(first)
    assert "no HELLO" in started.ended()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_breach(greeted: Relay, name: str) -> None:
    greeted.stream(1)
    greeted.peer.send(HARMLESS[name])
    other = greeted.stream(2)
    greeted.peer.send(frame(DATA, 2, b"fine"))
    assert exactly(other, 4) == b"fine"


@pytest.mark.parametrize("words", [(), ("-",), ("-", "x" * 108), ("/nowhere/port", "server"), ("-", "a", "b")])
def test_wrong_arguments(program: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"zosia-streams: ")


@pytest.mark.parametrize("more", [b"", b"x"])
def test_the_window_to_the_byte(start: Start, more: bytes) -> None:
    started = start(backlog=0)
    started.greet()
    started.stream(1)
    started.peer.send(frame(OPEN, 2), frame(OPEN, 3))  # the queue is full: the server takes nothing of stream 3
    started.peer.send(*[frame(DATA, 3, bytes(PAYLOAD))] * 8, *([frame(DATA, 3, more)] if more else []))
    if more:
        assert "more DATA than the window" in started.ended()
    else:
        started.accept()
        assert len(exactly(started.accept(), WINDOW)) == WINDOW


def test_frames_in_any_pieces(greeted: Relay) -> None:
    for byte in frame(OPEN, 1) + frame(DATA, 1, b"abc") + frame(SHUT, 1) + frame(OPEN, 2):
        greeted.peer.send(bytes([byte]))
    assert exactly(greeted.accept(), 4) == b"abc"
    greeted.accept()


def test_hello_drops_all(greeted: Relay) -> None:
    """As when a host begins with a relay that another host has used."""
    first, other = greeted.stream(1), greeted.stream(7)
    greeted.peer.send(frame(DATA, 7, b"half a"))
    assert exactly(other, 6) == b"half a"
    for _ in range(2):
        greeted.greet()
        assert first.recv(1) == other.recv(1) == b""
        first, other = greeted.stream(1), greeted.stream(2)
        other.sendall(b"new")
        assert greeted.peer.wait() == [(DATA, 2, b"new")]


def test_half_closed(greeted: Relay) -> None:
    connection = greeted.stream(1)
    greeted.peer.send(frame(DATA, 1, b"question"), frame(SHUT, 1))
    assert exactly(connection, 9) == b"question"
    connection.sendall(b"answer")
    assert greeted.peer.wait() == [(DATA, 1, b"answer")]
    connection.close()
    assert greeted.peer.wait() == [(SHUT, 1, b"")]
    connection = greeted.stream(2)
    connection.shutdown(socket.SHUT_WR)
    assert greeted.peer.wait() == [(SHUT, 2, b"")]
    greeted.peer.send(frame(DATA, 2, b"still heard"))
    assert exactly(connection, 11) == b"still heard"


# The server


def test_a_server_that_is_not_there(greeted: Relay) -> None:
    greeted.path.unlink()
    greeted.peer.send(*(frame(OPEN, number) + frame(DATA, number, b"x") for number in range(1, 201)))
    assert sorted(greeted.peer.wait(200)) == [(CLOSE, number, b"") for number in range(1, 201)]


def test_a_server_that_resets(greeted: Relay) -> None:
    connection = greeted.stream(1)
    greeted.peer.send(frame(DATA, 1, b"much"))
    connection.sendall(b"too much")
    select.select([connection], [], [], LONGEST)
    connection.close()  # with bytes unread
    assert greeted.peer.wait(2) == [(DATA, 1, b"too much"), (CLOSE, 1, b"")]
    greeted.stream(2)


def test_a_server_that_resets_while_it_is_written_to(greeted: Relay) -> None:
    """An end instead would look like a whole answer."""
    connection = greeted.stream(1)
    (said,) = pump([connection])
    greeted.peer.send(frame(DATA, 1, b"never read"))
    assert select.select([connection], [], [], LONGEST)[0]
    connection.close()
    greeted.peer.send(frame(DATA, 1, b"nor this"), credit(1, 1 << 20))
    seen = greeted.peer.wait_for((CLOSE, 1, b""))
    assert SHUT not in [kind for kind, _, _ in seen]
    assert sum(len(payload) for kind, _, payload in seen if kind == DATA) == said > WINDOW


def test_a_server_that_answers_and_reads_no_more(greeted: Relay) -> None:
    connection = greeted.stream(1)
    connection.shutdown(socket.SHUT_RD)
    greeted.peer.send(*[frame(DATA, 1, bytes(PAYLOAD))] * 8)
    assert greeted.peer.wait()[0][:2] == (CREDIT, 1), "the rest of the question is dropped"
    connection.sendall(b"no")
    connection.close()
    assert [one for one in greeted.peer.wait_for((SHUT, 1, b"")) if one[0] != CREDIT] == [
        (DATA, 1, b"no"),
        (SHUT, 1, b""),
    ]


def test_a_server_whose_queue_is_full(start: Start) -> None:
    started = start(backlog=0)
    started.greet()
    started.peer.send(*(frame(OPEN, number) + frame(DATA, number, bytes([number])) for number in range(1, 9)))
    started.rests()
    assert sorted(exactly(started.accept(), 1)[0] for _ in range(8)) == list(range(1, 9))


def test_64_streams(greeted: Relay) -> None:
    all_of_them = [greeted.stream(number) for number in range(1, 65)]
    greeted.peer.send(frame(OPEN, 65), frame(OPEN, 66), frame(DATA, 65, b"x"))
    assert greeted.peer.wait(2) == [(CLOSE, 65, b""), (CLOSE, 66, b"")]
    for number, connection in enumerate(all_of_them, start=1):
        greeted.peer.send(frame(DATA, number, bytes([number])))
        assert exactly(connection, 1) == bytes([number])
        connection.sendall(bytes([number]))
        assert greeted.peer.wait() == [(DATA, number, bytes([number]))]
    greeted.peer.send(frame(CLOSE, 9))
    assert exactly(all_of_them[8], 1) == b""
    greeted.peer.send(frame(OPEN, 67), frame(DATA, 67, b"x"))
    assert exactly(greeted.accept(), 1) == b"x"


def test_a_stream_that_is_over_gives_up_its_place(greeted: Relay) -> None:
    """Its server could leave the rest unread for ever, and the host knows of it no more."""
    all_of_them = [greeted.stream(number) for number in range(1, 65)]
    greeted.peer.send(*[frame(DATA, 3, bytes(PAYLOAD))] * 8, frame(SHUT, 3))
    all_of_them[2].shutdown(socket.SHUT_WR)
    greeted.peer.wait_for((SHUT, 3, b""))
    greeted.stream(65)
    greeted.peer.send(frame(OPEN, 66))
    greeted.peer.wait_for((CLOSE, 66, b""))


# Slow ones


def test_a_server_that_reads_nothing_holds_up_nobody(greeted: Relay) -> None:
    greeted.stream(1)
    greeted.peer.send(*[frame(DATA, 1, bytes(PAYLOAD))] * 8)
    other = greeted.stream(2)
    left = WINDOW
    for _ in range(60):
        seen = greeted.peer.wait(0 if left >= PAYLOAD else 1)
        left += sum(int.from_bytes(payload) for kind, number, payload in seen if (kind, number) == (CREDIT, 2))
        if left < PAYLOAD:
            continue  # that was the other's
        greeted.peer.send(frame(DATA, 2, bytes(PAYLOAD)))
        left -= PAYLOAD
        assert len(exactly(other, PAYLOAD)) == PAYLOAD


def test_a_host_that_does_not_read_what_servers_say(greeted: Relay) -> None:
    """All wait, without computing, and then all goes on."""
    said = pump([greeted.stream(number) for number in range(1, 9)])
    greeted.rests()

    def all_there(seen: list[Seen]) -> bool:
        sizes = [sum(len(payload) for _, number, payload in seen if number == n) for n in range(1, 9)]
        return sizes == [min(size, WINDOW) for size in said]

    assert {kind for kind, _, _ in greeted.peer.wait_until(all_there)} == {DATA}
    greeted.alive()


def test_streams_take_turns(greeted: Relay) -> None:
    first, *others_in_turn = [greeted.stream(number) for number in range(1, 11)]
    pump([first, others_in_turn.pop(0)])  # fills the output, and both windows
    greeted.rests()
    pump(others_in_turn)

    def others(seen: list[Seen]) -> list[int]:
        return [number for _, number, _ in seen if number > 2]

    seen = greeted.peer.wait_until(lambda seen: len(others(seen)) >= 16)
    assert set(others(seen)[:16]) == set(range(3, 11))


def test_a_server_that_has_gone_while_the_host_has_no_room(greeted: Relay) -> None:
    """Its hangup is no reason to compute: what it said is still to be sent."""
    connection = greeted.stream(1)
    (said,) = pump([connection])
    assert said > WINDOW
    connection.close()
    greeted.peer.wait_until(lambda seen: sum(len(payload) for _, _, payload in seen) == WINDOW)
    greeted.rests()
    greeted.peer.send(credit(1, WINDOW))
    seen = greeted.peer.wait_for((SHUT, 1, b""))
    assert sum(len(payload) for _, _, payload in seen) == said - WINDOW


@pytest.mark.parametrize(
    ("kind", "size", "question"), [(CLOSE, 8, lambda number: frame(OPEN, number)), (HELLO, 28, lambda _: hello())]
)
def test_a_host_that_does_not_read_answers(
    greeted: Relay, kind: int, size: int, question: Callable[[int], bytes]
) -> None:
    """The relay reads no more when its output is full; neither side has to say anything for it to go on."""
    greeted.path.unlink()
    number, pending = 0, b""
    greeted.host.setblocking(False)
    while True:
        if not pending:
            pending = b"".join(question(number + more) for more in range(1, 51))
            number += 50
        try:
            pending = pending[greeted.host.send(pending) :]
        except BlockingIOError:
            if not select.select([], [greeted.host], [], 0.3)[1]:
                break
    assert number * size > 300_000, "sockets and buffers are full"
    greeted.rests()
    assert psutil.Process(greeted.child.pid).memory_info().rss < 100 << 20
    answers = greeted.peer.wait(number - -(-len(pending) // size))
    assert {one[0] for one in answers} == {kind}
    greeted.peer.send(pending)
    greeted.alive()


def test_without_a_host_it_waits(greeted: Relay) -> None:
    connection = greeted.stream(1)
    greeted.host.close()
    connection.sendall(bytes(1000))
    greeted.rests()
    assert greeted.child.poll() is None


def test_a_device_as_the_port(program: Path, tmp_path: Path) -> None:
    """As the guest has it. The host goes and comes, which a terminal shows as a port does: by a hangup."""
    screen, device = os.openpty()
    tty.setraw(device)
    with subprocess.Popen([program, os.ttyname(device), tmp_path / "server"]) as child:
        os.write(screen, hello())
        data = b""
        while len(data) < 28:
            data += os.read(screen, 28)
        assert data == hello()
        os.close(device)
        os.close(screen)
        states = []
        for _ in range(40):
            time.sleep(0.01)
            states.append(psutil.Process(child.pid).status())
        child.kill()
    assert states.count(psutil.STATUS_SLEEPING) > 30, "it waits, and does not spin"


def test_anything_either_ends_it_with_a_line_or_does_no_harm(start: Start) -> None:
    chance = random.Random(7)
    parts = [hello(), *(frame(OPEN, number) for number in range(1, 6)), *HARMLESS.values(), frame(DATA, 2, bytes(500))]
    ended = 0
    for number in range(32):
        started = start()
        if number % 4:
            started.greet()
        data = bytearray(b"".join(chance.choices(parts, k=chance.randrange(1, 12))))
        if number % 4 == 1:
            data = bytearray(chance.randbytes(chance.randrange(1, 60)))
        elif number % 4 == 2:
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(ConnectionError):
            started.peer.send(bytes(data), bytes(4))
            started.peer.send(frame(CLOSE, 99) * 8192)  # completes a frame that was cut
            started.peer.send(bytes([77]))
        ended += bool(started.ended())
    assert ended == 32


# Both ends


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    writer.close()


async def ask(stream: Stream, data: bytes) -> bytes:
    """Send all, and return what comes back until its end."""

    async def send() -> None:
        await stream.write(data)
        stream.shut()

    sending = asyncio.create_task(send())
    answer = bytearray()
    while more := await stream.read():
        answer += more
    await sending
    return bytes(answer)


def together(relayed: Relay, work: Callable[[Channel], Coroutine[None, None, None]]) -> None:
    """Run the real host's end with an echo server behind the relay."""

    async def run() -> None:
        server = await asyncio.start_unix_server(echo, sock=relayed.server.dup())
        channel = await Channel.open(relayed.host.dup(), seconds=LONGEST)
        async with asyncio.timeout(2 * LONGEST):
            await work(channel)
        channel.close()
        server.close()

    asyncio.run(run(), debug=False)


def test_20_megabytes_each_way(start: Start) -> None:
    data = pattern(20 << 20)

    async def work(channel: Channel) -> None:
        assert await ask(channel.stream(), data) == data

    together(start(), work)


def test_many_streams_at_once(start: Start) -> None:
    async def work(channel: Channel) -> None:
        silent = channel.stream()
        await silent.write(pattern(WINDOW))  # its answer is not read
        for _ in range(3):
            streams = [channel.stream() for _ in range(63)]
            with pytest.raises(ChannelError, match="64"):
                channel.stream()
            asked = [pattern(size * 997, size) for size in range(63)]
            assert await asyncio.gather(*map(ask, streams, asked)) == asked
        silent.shut()
        answer = b""
        while more := await silent.read():
            answer += more
        assert answer == pattern(WINDOW)

    together(start(), work)


def test_streams_that_are_closed_in_between(start: Start) -> None:
    async def one(channel: Channel, number: int) -> None:
        for turn in range(8):
            stream = channel.stream()
            await stream.write(pattern(1 + number * 700, turn))
            if (number + turn) % 3:
                assert await stream.read(1) == pattern(1, turn)
            stream.close()

    async def work(channel: Channel) -> None:
        await asyncio.gather(*(one(channel, number) for number in range(30)))
        assert await ask(channel.stream(), b"fine") == b"fine"

    together(start(), work)


def test_a_relay_that_ends(start: Start) -> None:
    started = start()

    async def work(channel: Channel) -> None:
        stream = channel.stream()
        started.child.kill()
        with pytest.raises(ChannelError, match="has gone"):
            await ask(stream, bytes(1 << 20))
        assert "has gone" in await channel.closed()

    together(started, work)
    started.child.communicate()
