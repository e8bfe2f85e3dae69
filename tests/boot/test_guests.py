"""Several guests behind one gate: clients at once, while one guest is killed, and guests that are off."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any

import openai

from tests import parrot
from zosia.base.patience import patience

from .server import QUESTION, Server, Start, folder, served, server, start

__all__ = ["folder", "served", "server", "start"]

CLIENTS, EACH = 4, 3
Heard = list[tuple[bool, str, bool]]  # of a request: streamed, its text, and it is whole


def figure(server: Server, name: str) -> int:
    """Return a figure of the server."""
    (value,) = re.findall(rf"^zosia_{re.escape(name)} (\d+)$", server.ask("/metrics").body.decode(), re.M)
    return int(value)


async def client(url: str, number: int, heard: Heard) -> None:
    """Ask some questions; the first client has the answers streamed."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        for _ in range(EACH):
            asked: Any = [{"role": "user", "content": f"{number}"}, *QUESTION]
            if number:
                answer = await made.chat.completions.create(model="any", messages=asked, temperature=0)
                heard.append((False, answer.choices[0].message.content or "", True))
                continue
            text, whole = "", False
            try:
                parts = await made.chat.completions.create(model="any", messages=asked, temperature=0, stream=True)
                async for part in parts:
                    text += part.choices[0].delta.content or "" if part.choices else ""
                    whole = whole or bool(part.choices and part.choices[0].finish_reason)
            except openai.APIError:
                assert text or not whole
            heard.append((True, text, whole))


async def killing(own: Server) -> None:
    """Kill the machine of a guest that has two requests, of which at most one has begun to be answered."""
    first, _ = own.machines()
    while await asyncio.to_thread(figure, own, 'guest_running{guest="1"}') < 2:
        await asyncio.sleep(0.05)
    first.kill()


def test_one_of_two_is_killed(start: Start, server: Server) -> None:
    own = start(guests=2, parallel=2)
    own.says("2 guests answer 2 requests each at a time")
    own.says("guest 1: ready after")
    own.says("guest 2: ready after")
    assert len(own.machines()) == 2
    heard: Heard = []

    async def all_at_once() -> None:
        await asyncio.gather(killing(own), *(client(own.url, number, heard) for number in range(CLIENTS)))

    asyncio.run(all_at_once())
    assert len(heard) == CLIENTS * EACH, "nothing is lost, and nothing answered twice"
    for streamed, text, whole in heard:
        assert text == parrot.ANSWER if whole else streamed and parrot.ANSWER.startswith(text)
    assert sum(not whole for _, _, whole in heard) <= 1
    assert 1 <= figure(own, "requests_moved_total") <= 2
    own.says(r"guest \d: the machine ended: QEMU was killed by signal 9.* It is started again")
    own.says(r"(?s)It is started again.*guest \d: ready after")
    assert len(own.machines()) == 2
    assert figure(own, "machine_starts_total") == 3 and figure(own, "machine_crashes_total") == 1
    lines = re.findall(r"POST /v1/chat/completions (\d+) .* guest (\d)$", own.said, re.M)
    statuses = Counter(int(status) for status, _ in lines)
    assert statuses[200] == sum(whole for _, _, whole in heard) and set(statuses) <= {200, 502}
    assert {number for _, number in lines} == {"1", "2"}
    assert own.end() == 0


def test_guests_that_are_off_are_resumed_one_by_one(start: Start, server: Server) -> None:
    own = start(guests=2, parallel=1, idle=1.0)
    own.says("off after 1 s without a request")
    starts = figure(own, "machine_starts_total")
    assert not own.machines() and own.ask("/health").json == {"status": "ok", "machine": "off"}
    answer = own.ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})
    assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER
    assert len(own.machines()) == 1
    heard: Heard = []

    async def two() -> None:
        await asyncio.gather(*(client(own.url, number, heard) for number in range(2)))

    asyncio.run(two())
    assert all(whole and text == parrot.ANSWER for _, text, whole in heard)
    assert figure(own, "machine_starts_total") == starts + 2, "the second one was resumed when the first was busy"
    limit = time.monotonic() + 30 * patience()
    while own.machines() and time.monotonic() < limit:
        time.sleep(0.1)
    assert not own.machines(), "all are off again"
