"""The host's end of the channel, against one that knows the protocol, or breaks it."""

from __future__ import annotations

import asyncio
import random
import socket
import tracemalloc
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
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
from zosia.channel import frames
from zosia.channel.channel import Channel, ChannelError, Stream

PROFILE = settings(deadline=None, database=None, derandomize=True)
SIZES = st.sampled_from([1, 2, 100, PAYLOAD, PAYLOAD + 1, 100_000, WINDOW, WINDOW + 1, 400_000])


class Host:
    """The host's end in a loop that runs only when it is told to, and its peer."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[str] = []
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(str(context)))
        self.ours, theirs = socket.socketpair()
        self.peer = Peer(theirs)
        self.opening = self.loop.create_task(Channel.open(self.ours, seconds=LONGEST))
        (greeting,) = self.settle()
        assert greeting[:2] == (HELLO, 0)
        assert (greeting[2][:4], len(greeting[2])) == (b"zos1", 20)
        self.greeting = frame(*greeting)

    def greet(self) -> Channel:
        assert self.send(self.greeting) == []
        return self.opening.result()

    def settle(self) -> list[Seen]:
        """Run until nothing happens any more, and return the frames that were sent."""
        seen: list[Seen] = []
        idle = 0
        while idle < 8:
            self.loop.run_until_complete(asyncio.sleep(0))
            new = list(self.peer.there())
            seen += new
            idle = 0 if new else idle + 1
        return seen

    def send(self, *parts: bytes) -> list[Seen]:
        """Be the guest; return the frames that were sent meanwhile."""
        seen, data = [], b"".join(parts)
        while data:
            self.peer.sock.setblocking(False)
            try:
                data = data[self.peer.sock.send(data) :]
            except BlockingIOError:
                seen += self.settle()
            except ConnectionError:  # it has ended
                break
        return seen + self.settle()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, LONGEST))

    def close(self) -> None:
        if self.opening.done() and not self.opening.exception():
            self.opening.result().close()
        self.opening.cancel()
        self.peer.sock.close()
        self.settle_closed()
        self.loop.close()
        assert self.faults == []

    def settle_closed(self) -> None:
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))
        assert asyncio.all_tasks(self.loop) == set(), "nothing is left"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@dataclass
class Model:
    """One stream, as it must be for those who see only its ends."""

    stream: Stream
    written: bytearray = field(default_factory=bytearray)  # by the host's user
    got: int = 0  # bytes of it, by the peer
    window: int = WINDOW
    sent: bytearray = field(default_factory=bytearray)  # by the peer
    read: int = 0  # bytes of it, by the host's user
    granted: int = WINDOW
    shut: bool = False  # by the host's user
    shut_seen: bool = False
    peer_shut: bool = False
    closed: bool = False  # by the host's user
    peer_closed: bool = False
    close_seen: bool = False
    writers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.shut_seen and self.peer_shut

    @property
    def live(self) -> bool:
        return not (self.closed or self.peer_closed)


class HostMachine(RuleBasedStateMachine):
    """Any order of what users and the guest may do; after each step, all frames that must follow have followed."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host()
        self.channel = self.host.greet()
        self.models: list[Model] = []

    def pick(self, data: st.DataObject) -> Model:
        return data.draw(st.sampled_from(self.models[-6:]), label="stream")

    def settle(self, *sent: bytes) -> None:
        for kind, number, payload in self.host.send(*sent):
            if kind == OPEN:
                assert number == len(self.models), "in order"
                continue
            model = self.models[number - 1]
            assert not (model.close_seen or model.over), "nothing follows"
            if kind == DATA:
                assert not model.shut_seen
                assert model.written[model.got : model.got + len(payload)] == payload
                model.got += len(payload)
                assert model.got <= model.window
            elif kind == CREDIT:
                amount = int.from_bytes(payload)
                assert amount >= PORTION
                model.granted += amount
            else:
                model.shut_seen |= kind == SHUT
                model.close_seen |= kind == CLOSE
                assert kind in (SHUT, CLOSE)
        for model in self.models:
            self.check(model)

    def check(self, model: Model) -> None:
        if model.live:
            assert model.got == min(len(model.written), model.window)
            assert model.shut_seen == (model.shut and model.got == len(model.written))
            assert [task.done() for task in model.writers].count(False) == (model.got < len(model.written))
            assert model.peer_shut or model.read + WINDOW - model.granted < PORTION
        assert model.granted <= model.read + WINDOW
        assert not model.close_seen or model.closed

    @rule()
    def open(self) -> None:
        if sum(model.live and not model.over for model in self.models) == 64:
            with pytest.raises(ChannelError, match="64 streams"):
                self.channel.stream()
        else:
            self.models.append(Model(self.channel.stream()))
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def write(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        if model.shut or not model.live:
            with pytest.raises(ChannelError):
                self.host.run(model.stream.write(b"x"))
        elif all(task.done() for task in model.writers):
            text = pattern(size, len(model.written))
            model.written += text
            model.writers.append(self.host.loop.create_task(model.stream.write(text)))
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def read(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        rest = bytes(model.sent[model.read : model.read + size])
        if model.closed or (model.peer_closed and not rest):
            with pytest.raises(ChannelError):
                self.host.run(model.stream.read(size))
        elif rest or model.peer_shut:
            assert self.host.run(model.stream.read(size)) == rest
            model.read += len(rest)
            self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def shut(self, data: st.DataObject) -> None:
        model = self.pick(data)
        model.stream.shut()
        model.shut = True
        self.settle()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        model = self.pick(data)
        needed = model.live and not model.over
        model.stream.close()
        model.closed = True
        self.settle()
        assert model.close_seen == (needed or model.close_seen)
        self.end_writers(model)

    def end_writers(self, model: Model) -> None:
        for task in model.writers:
            assert task.done()
            assert task.exception() is None or isinstance(task.exception(), ChannelError)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def peer_sends(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        text = pattern(min(size, model.granted - len(model.sent)), len(model.sent))
        pieces = [text[start : start + PAYLOAD] for start in range(0, len(text), PAYLOAD)]
        if not (model.peer_shut or model.peer_closed):
            if model.closed:  # they crossed
                pieces = pieces[:1]
            else:
                model.sent += text
            self.settle(*(frame(DATA, model.stream.number, piece) for piece in pieces))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def peer_shuts(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if not (model.peer_shut or model.peer_closed):
            model.peer_shut = True
            self.settle(frame(SHUT, model.stream.number))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def peer_closes(self, data: st.DataObject) -> None:
        model = self.pick(data)
        if not model.over:
            model.peer_closed = True
        self.settle(frame(CLOSE, model.stream.number))
        if model.peer_closed:
            self.end_writers(model)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=SIZES)
    def peer_grants(self, data: st.DataObject, size: int) -> None:
        model = self.pick(data)
        if model.live and not model.over:
            model.window += size
        self.settle(credit(model.stream.number, size))

    def teardown(self) -> None:
        for model in self.models:
            model.stream.close()
            self.host.settle()
            self.end_writers(model)
        self.host.close()


def test_any_order() -> None:
    run_state_machine_as_test(HostMachine, settings=settings(PROFILE, max_examples=12, stateful_step_count=30))


def test_nothing_counts_before_the_answer(host: Host) -> None:
    stale = [hello(b"another"), frame(OPEN, 1), frame(DATA, 1, b"x"), frame(SHUT, 1), frame(CLOSE, 1), credit(1, 5)]
    stale[0] = hello(b"x" * 16)
    assert host.send(*stale) == []
    assert not host.opening.done()
    channel = host.greet()
    stream = channel.stream()
    assert host.settle() == [(OPEN, 1, b"")]
    host.send(frame(DATA, 1, b"new"))
    assert host.run(stream.read()) == b"new"


def test_frames_in_any_pieces(host: Host) -> None:
    for byte in host.greeting:
        host.send(bytes([byte]))
    stream = host.opening.result().stream()
    host.settle()
    for byte in frame(DATA, 1, b"abc") + frame(SHUT, 1):
        host.send(bytes([byte]))
    assert host.run(stream.read()) == b"abc"
    assert host.run(stream.read()) == b""


def test_nobody_answers() -> None:
    async def wait() -> None:
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(TimeoutError):
            await Channel.open(ours, seconds=0.02)
        await asyncio.sleep(0)
        assert ours.fileno() == -1

    asyncio.run(wait())


@pytest.mark.parametrize("data", [b"", frame(9), hello()[:10]])
def test_the_other_end_goes_before_it_answers(host: Host, data: bytes) -> None:
    host.send(data)
    host.peer.sock.close()
    with pytest.raises(ChannelError):
        host.run(asyncio.wait_for(host.opening, LONGEST))


OWN = {
    "OPEN of a new stream": frame(OPEN, 3),
    "OPEN": frame(OPEN, 1),
    "HELLO": hello(),
    "DATA beyond the window": frame(DATA, 1, bytes(PAYLOAD)) * 8 + frame(DATA, 1, b"x"),
}


@pytest.mark.parametrize("name", [*BREACHES, *OWN])
def test_a_breach_ends_all(host: Host, name: str) -> None:
    channel = host.greet()
    first, other = channel.stream(), channel.stream()
    host.settle()
    reading = host.loop.create_task(other.read())
    writing = host.loop.create_task(other.write(bytes(WINDOW + 1)))
    host.send((BREACHES | OWN)[name])
    reason = host.run(channel.closed())
    assert reason.startswith("the guest broke the channel's protocol: ")
    for task in (reading, writing, host.loop.create_task(first.write(b"x"))):
        with pytest.raises(ChannelError, match="protocol"):
            host.run(asyncio.wait_for(task, LONGEST))
    with pytest.raises(ChannelError, match="protocol"):
        channel.stream()
    first.shut()
    first.close()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_breach(host: Host, name: str) -> None:
    channel = host.greet()
    channel.stream()
    other = channel.stream()
    host.send(HARMLESS[name], frame(DATA, 2, b"fine"))
    assert host.run(other.read()) == b"fine"


def test_the_other_end_resets(host: Host) -> None:
    channel = host.greet()
    stream = channel.stream()
    writing = host.loop.create_task(stream.write(bytes(1000)))
    host.loop.run_until_complete(asyncio.sleep(0.01))
    host.peer.sock.close()  # with bytes unread
    assert host.run(channel.closed()).startswith("the guest's end of the channel has gone: ")
    assert host.run(asyncio.wait_for(writing, LONGEST)) is None
    with pytest.raises(ChannelError, match="has gone"):
        host.run(stream.read())


def test_what_came_before_a_close_is_read(host: Host) -> None:
    stream = host.greet().stream()
    host.settle()
    host.send(frame(DATA, 1, b"413"), frame(CLOSE, 1))
    assert host.run(stream.read(2)) == b"41"
    assert host.run(stream.read()) == b"3"
    with pytest.raises(ChannelError, match="the guest closed the stream"):
        host.run(stream.read())


def test_a_reader_and_a_writer_that_wait_are_told_of_a_close(host: Host) -> None:
    channel = host.greet()
    stream = channel.stream()
    waiting = [host.loop.create_task(stream.read()), host.loop.create_task(stream.write(bytes(WINDOW + 1)))]
    host.settle()
    stream.close()
    for task in waiting:
        with pytest.raises(ChannelError, match="was closed"):
            host.run(asyncio.wait_for(task, LONGEST))
    assert host.settle() == [(CLOSE, 1, b"")]


def test_writers_of_one_stream_take_turns(host: Host) -> None:
    stream = host.greet().stream()
    for letter in (b"a", b"b"):
        host.loop.create_task(stream.write(letter * (PAYLOAD + 1)))
    host.loop.run_until_complete(asyncio.sleep(0))
    sent = b"".join(payload for kind, _, payload in host.settle() if kind == DATA)
    assert sent == b"a" * (PAYLOAD + 1) + b"b" * (PAYLOAD + 1)


def test_a_cancelled_writer_sends_no_more(host: Host) -> None:
    stream = host.greet().stream()
    writing = host.loop.create_task(stream.write(bytes(WINDOW + 10)))
    host.settle()
    writing.cancel()
    host.settle()
    assert host.send(credit(1, 1)) == []
    host.loop.create_task(stream.write(b"next"))
    assert b"".join(payload for _, _, payload in host.send(credit(1, 100))) == b"next"


def test_a_closed_stream_keeps_its_place_until_the_guest_can_know(host: Host) -> None:
    """Else a user that opens and closes could fill the memory while the guest does not read."""
    channel = host.greet()
    writing = [host.loop.create_task(channel.stream().write(bytes(WINDOW))) for _ in range(4)]
    for _ in range(40):
        host.loop.run_until_complete(asyncio.sleep(0))
    assert not all(task.done() for task in writing), "the socket is full"
    opened = 0
    with pytest.raises(ChannelError, match="64 streams are open"):
        while True:
            stream = channel.stream()
            opened += 1
            host.loop.run_until_complete(asyncio.sleep(0))
            if opened % 2:
                stream.close()
    assert opened < 200
    seen = host.settle()
    numbers = [number for kind, number, _ in seen if kind == OPEN]
    assert numbers == sorted(numbers)
    open_now = 0
    for kind, _, _ in seen:
        open_now += (kind == OPEN) - (kind == CLOSE)
        assert open_now <= 64


def test_opened_and_closed_at_once(host: Host) -> None:
    channel = host.greet()
    for _ in range(100):
        channel.stream().close()
    assert host.settle() == []


def test_what_came_before_the_own_close_is_dropped(host: Host) -> None:
    stream = host.greet().stream()
    host.settle()
    host.send(frame(DATA, 1, b"x"))
    for _ in range(2):
        stream.close()
        with pytest.raises(ChannelError, match="was closed"):
            host.run(stream.read())


def test_a_channel_that_is_closed_waits_for_nobody(host: Host) -> None:
    channel = host.greet()
    writing = [host.loop.create_task(channel.stream().write(bytes(WINDOW))) for _ in range(4)]
    for _ in range(40):
        host.loop.run_until_complete(asyncio.sleep(0))
    for _ in range(2):
        channel.close()
        host.loop.run_until_complete(asyncio.sleep(0))
    assert host.ours.fileno() == -1
    assert host.run(channel.closed()) == "the channel was closed"
    assert ChannelError in [type(task.exception()) for task in writing]


def test_single_bytes_take_no_more_memory(host: Host) -> None:
    channel = host.greet()
    channel.stream()
    host.settle()
    burst = frame(DATA, 1, b"xy") * 1000
    host.send(burst)
    tracemalloc.start()
    for _ in range(9):
        host.send(burst)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 100_000, "18 kB came"


def test_a_reader_that_sleeps_holds_up_nobody(host: Host) -> None:
    channel = host.greet()
    channel.stream()
    other = channel.stream()
    host.send(*[frame(DATA, 1, bytes(PAYLOAD))] * 8)
    for _ in range(20):
        seen = host.send(*[frame(DATA, 2, bytes(PAYLOAD))] * 2)
        assert len(host.run(other.read(2 * PAYLOAD))) == 2 * PAYLOAD
        seen += host.settle()
        assert (CREDIT, 2, PORTION.to_bytes(4)) in seen


# Frames


def mutated(data: st.DataObject, parts: list[bytes]) -> bytes:
    """Valid frames, some of which are cut, repeated or changed in a byte."""
    out = bytearray()
    for part in data.draw(st.lists(st.sampled_from(parts), max_size=12)):
        out += part
    for _ in range(data.draw(st.integers(0, 3))):
        if out:
            place = data.draw(st.integers(0, len(out) - 1))
            out[place] = data.draw(st.integers(0, 255))
    return bytes(out)


VALID = [hello(), frame(OPEN, 1), frame(DATA, 1, b"abc"), frame(DATA, 2, bytes(300)), frame(SHUT, 1), frame(CLOSE, 1)]


@settings(PROFILE, max_examples=120)
@given(data=st.data())
def test_pieces_decode_as_the_whole(data: st.DataObject) -> None:
    whole = mutated(data, [*VALID, credit(1, 7)])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    def decoded(parts: list[bytes]) -> tuple[list[frames.Frame], bool]:
        decoder, seen = frames.Decoder(), []
        try:
            for part in parts:
                for one in decoder.feed(part):
                    seen.append(one)
        except frames.Breach:
            return seen, True
        return seen, False

    seen, broken = decoded([whole])
    assert decoded(pieces) == (seen, broken)
    again = b"".join(one.pack() for one in seen)
    assert whole.startswith(again)
    assert broken or len(whole) - len(again) < 8 + PAYLOAD


def test_anything_either_goes_on_or_ends_with_a_reason() -> None:
    chance = random.Random(5)
    ended = 0
    for number in range(100):
        host = Host()
        channel = host.greet()
        channel.stream()
        other = channel.stream()
        host.settle()
        data = bytearray(b"".join(chance.choices([*HARMLESS.values(), frame(DATA, 1, b"abc")], k=3)))
        if number % 3 == 0:
            data = bytearray(chance.randbytes(chance.randrange(1, 60)))
        elif number % 3 == 1:
            data[chance.randrange(len(data))] = chance.randrange(256)
        host.send(bytes(data))
        closed = host.loop.create_task(channel.closed())
        host.settle()
        ended += closed.done()
        host.peer.sock.close()
        assert host.run(asyncio.wait_for(closed, LONGEST))
        with pytest.raises(ChannelError):
            while host.run(other.read()):
                pass
            raise ChannelError("it was shut")
        host.close()
    assert 10 < ended < 90
