"""The gate in front of several guests: a request that one of them lost, and how they are told apart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gate import CALM, EVENTS, SECONDS, Asked, chunk, response
from tests.guests import Guests, settle
from zosia.serve import main
from zosia.serve.gate import Gate
from zosia.serve.guest import Guest
from zosia.serve.http import bodies
from zosia.serve.pool import Pool
from zosia.serve.record import Figures, Metrics
from zosia.serve.service import Limits, Service

ANSWER = response(b'{"done":1}')
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Client:
    """A gate with guests, and requests to it in the same loop."""

    def __init__(self, gate: Gate, guests: Guests) -> None:
        self.gate, self.made = gate, guests
        self.seen = asyncio.Event()  # the first bytes of an answer have come

    async def ask(self, path: str = "/v1/chat/completions", body: Any = CHAT) -> bytes:
        """Return all that comes for a request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.gate.addresses[0].rpartition(":")[2]))
        text = json.dumps(body).encode() if body else b""
        method = b"POST" if body else b"GET"
        head = b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (method, path.encode(), len(text)) + text)
        try:
            start = await reader.read(1)
            self.seen.set()
            return start + await reader.read()
        except ConnectionError as error:
            return f"{type(error).__name__}".encode()
        finally:
            writer.close()

    async def asked(self, number: int) -> Asked:
        """Return the next request that a guest gets."""
        guest = self.made.guests[number - 1]
        while guest.asked.empty():
            await asyncio.sleep(0.002)
        return guest.asked.get()


@asynccontextmanager
async def clients(tmp_path: Path, **wishes: Any) -> AsyncIterator[Client]:
    """A gate in front of two guests that are ready."""
    made = Guests(**wishes)
    await made.pool.start()
    service = Service(model="m", port=0, parallel=made.slots, guests=made.count, log=tmp_path / "log")
    metrics = Metrics(guests=made.figures)
    gate = Gate(service, made.pool, Limits(**{**CALM}), metrics=metrics)  # type: ignore[arg-type]
    await gate.start()
    async with asyncio.timeout(SECONDS):
        yield Client(gate, made)
    await gate.drain(0)


def test_what_has_not_begun_goes_to_another_guest(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path) as client:
            asking = asyncio.ensure_future(client.ask())
            await client.asked(1)
            client.made.guests[0].die()
            (await client.asked(2)).say(ANSWER, end=True)
            assert (await asking).endswith(b'\r\n\r\n{"done":1}')
            text = client.gate.metrics.text()
            assert "zosia_requests_moved_total 1\n" in text
            for line in (
                'zosia_guest_requests_total{guest="1"} 1',
                'zosia_guest_requests_total{guest="2"} 1',
                'zosia_guest_crashes_total{guest="1"} 1',
                'zosia_guest_starts_total{guest="1"} 2',
                'zosia_guest_ready{guest="2"} 1',
                'zosia_guest_running{guest="2"} 0',
                'zosia_requests_total{path="/v1/chat/completions",status="200"} 1',
                "zosia_machine_starts_total 3",
                "zosia_machine_crashes_total 1",
            ):
                assert f"{line}\n" in text, text

    asyncio.run(go())
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(" s guest 2")


def test_it_is_moved_once(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path, count=3) as client:
            asking = asyncio.ensure_future(client.ask())
            for number in (1, 2):
                await client.asked(number)
                client.made.guests[number - 1].die()
            assert (await asking).startswith(b"HTTP/1.1 502 ")
            assert client.made.guests[2].asked.empty(), "it may be what ends them"

    asyncio.run(go())


def test_what_has_begun_is_not_moved(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path) as client:
            asking = asyncio.ensure_future(client.ask(body={**CHAT, "stream": True}))
            (await client.asked(1)).say(EVENTS + chunk(b"data: 1\n\n"))
            await client.seen.wait()
            await settle()
            client.made.guests[0].die()
            answer = await asking
            assert answer.count(b"data: 1") == 1 and b'"code":502' in answer.replace(b" ", b""), answer
            assert client.made.guests[1].asked.empty()
            assert client.made.running == [0, 0]

    asyncio.run(go())


def test_the_only_guest_is_not_asked_twice(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path, count=1) as client:
            asking = asyncio.ensure_future(client.ask())
            await client.asked(1)
            client.made.guests[0].die()
            assert (await asking).startswith(b"HTTP/1.1 502 ")

    asyncio.run(go())


def test_as_many_are_answered_as_all_guests_have_slots(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path, count=3) as client:
            asking = [asyncio.ensure_future(client.ask()) for _ in range(7)]
            seen = [await client.asked(number) for number in (1, 2, 3) * 2]
            await settle()
            assert client.made.running == [2, 2, 2] and client.gate.active == 7
            for each in seen:
                each.say(ANSWER, end=True)
            while not (waiting := [guest for guest in client.made.guests if not guest.asked.empty()]):
                await asyncio.sleep(0.002)
            waiting[0].asked.get().say(ANSWER, end=True)
            assert all(b'"done":1' in answer for answer in await asyncio.gather(*asking))
            assert client.made.running == [0, 0, 0]

    asyncio.run(go())


def test_a_conversation_stays_with_its_guest(tmp_path: Path) -> None:
    async def go() -> None:
        async with clients(tmp_path, answer=ANSWER) as client:
            for turn in range(3):
                for name in ("a", "b"):
                    others = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}] * turn
                    await client.ask(body={"messages": [{"role": "user", "content": name}, *others]})
                await client.ask("/tokenize", {"content": "a"})
            seen = [
                {json.loads(asked.body).get("messages", [{"content": ""}])[0]["content"] for asked in guest.asked.queue}
                for guest in client.made.guests
            ]
            assert sorted(names - {""} for names in map(frozenset, seen)) == [{"a"}, {"b"}], seen

    asyncio.run(go())


@pytest.mark.parametrize(
    ("first", "later", "same"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "b"}]}, False),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "stream": True},
            {
                "model": "m",
                "messages": [
                    {"content": "s", "role": "system"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"},
                ],
            },
            True,
        ),
        ({"messages": [{"role": "system", "content": "s"}]}, {"messages": [{"role": "system", "content": "t"}]}, False),
        ({"system": "s", **CHAT}, {"system": "t", **CHAT}, False),
        ({"tools": [1], **CHAT}, CHAT, False),
        ({"prompt": "x" * 256}, {"prompt": "x" * 300}, True),
        ({"prompt": "x"}, {"prompt": "y"}, False),
        ({"prompt": list(range(300))}, {"prompt": list(range(256))}, True),
        ({"input": "x", "instructions": "i"}, {"input": "x", "instructions": "j"}, False),
        ({"input_prefix": "def f"}, {"input_prefix": "def g"}, False),
    ],
)
def test_how_requests_begin(first: object, later: object, same: bool) -> None:
    keys = [bodies.session(json.dumps(value).encode()) for value in (first, later)]
    assert all(keys) and (keys[0] == keys[1]) is same


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"{}", b'{"messages":[]}', b'{"messages":3}', b"[" * 100_000])
def test_what_begins_with_nothing(body: bytes) -> None:
    assert bodies.session(body) == ""


def test_beginnings_of_any_form() -> None:
    values: list[Any] = [[None], [[]], ["a", {"role": "user"}], [{"role": ["user"]}], {"a": 1}, "\ud800", [{}]]
    for value in values:
        bodies.session(json.dumps({"messages": value}).encode())


def test_one_guest_is_as_before() -> None:
    async def go() -> None:
        machine: Any = None
        metrics = Metrics()
        assert isinstance(main.backend(machine, Service(model="m"), metrics), Guest)
        assert metrics.guests == [] and "guest" not in metrics.text()
        several = main.backend(machine, Service(model="m", guests=3), metrics)
        assert isinstance(several, Pool) and metrics.guests == [Figures()] * 3

    asyncio.run(go())
    one, three = (main.banner(Service(model="m", guests=count), ["http://a", "unix:b"]) for count in (1, 3))
    assert three == [*one, "3 guests answer 4 requests each at a time"] and len(one) == 2
