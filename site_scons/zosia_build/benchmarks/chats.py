"""Chats that go on: from the start of the machine to the next answer, resumed or evaluated again."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from zosia.chat.api import Api, Part, Reading
from zosia.chat.kept.states import place
from zosia.machine.qemu import Machine
from zosia.run.hot import Store
from zosia.serve.guest import Guest
from zosia.serve.record import Metrics
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER

TURNS = 10, 40
CONTEXT = 4096  # tokens
QUESTION = "And what else grows well in a shady garden?"
ANSWER = "Ferns grow well in the shade, and so do hostas."
Message = dict[str, str]


def chat(turns: int) -> list[Message]:
    """Return a chat of so many questions and answers, and one more question."""
    pair = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    return [*(pair * turns), pair[0]]


async def _answer(machine: Machine, messages: Sequence[Message], folder: Path, *, keep: bool) -> dict[str, float]:
    def kept(store: Store) -> Store:
        return place(store, folder, None)

    began, first, read = time.monotonic(), 0.0, 0
    guest = Guest(machine, Metrics(), ready=lambda seconds: None, kept=kept)
    await guest.start()
    ready = time.monotonic() - began
    async for found in Api(guest).answer(messages, {"temperature": 0, "max_tokens": 2}):
        if isinstance(found, Reading):
            read = found.total - found.cached
        elif isinstance(found, Part) and found.text and not first:
            first = time.monotonic() - began
    began = time.monotonic()
    await guest.off(keep=keep)
    saved = time.monotonic() - began
    sizes = [path.stat().st_size / 1e6 for path in folder.glob("*.state")]
    if keep:
        return {"saved, s": saved, "state, MB": sizes[0]}
    return {"ready, s": ready, "first letter, s": first, "evaluated, tokens": float(read)}


def answer(machine: Machine, turns: int, folder: Path, **saved: float) -> dict[str, float]:
    """Return the seconds to an answer after so many turns; without a state in the folder, all is evaluated."""
    return asyncio.run(_answer(machine, chat(turns), folder, keep=False)) | saved


def prepare(machine: Machine, turns: int, folder: Path) -> dict[str, float]:
    """Save a machine with so many turns in it, and return what that takes."""
    shutil.rmtree(folder, ignore_errors=True)
    return asyncio.run(_answer(machine, chat(turns), folder, keep=True))


def chats(settings: Settings, rounds: int) -> Section:
    """Compare chats that resume with those that are evaluated again."""
    machine = machines.chat(replace(settings, context=CONTEXT), ())[0]
    ways: dict[str, Way] = {}
    for turns in TURNS:
        kept = FOLDER / f"chat-{turns}"
        saved = prepare(machine, turns - 1, kept)  # as the person left it, before the last question
        ways[f"{turns} turns, resumed"] = partial(answer, machine, turns, kept, **saved)
        ways[f"{turns} turns, evaluated again"] = partial(answer, machine, turns, FOLDER / "chat-none")
    return Section(
        what="A chat that was left, from the start of its machine to the first letter of the next answer.",
        ways=compare(ways, rounds),
    )
