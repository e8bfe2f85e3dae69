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

TURNS, MANY = (10, 40), (160,)
CONTEXT = 8192  # tokens
QUESTION = "And what else grows well in a shady garden?"
ANSWER = "Ferns grow well in the shade, and so do hostas."
Message = dict[str, str]


def chat(turns: int) -> list[Message]:
    """Return a chat of so many questions, and the answers to all but the last."""
    pair = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    return (pair * turns)[:-1]


async def _answer(machine: Machine, messages: Sequence[Message], folder: Path) -> tuple[dict[str, float], str]:
    """Return the seconds to an answer, and its text; the machine is saved in the folder, and resumes from there."""

    def kept(store: Store) -> Store:
        return place(store, folder, None)

    began, first, read, text = time.monotonic(), 0.0, 0, ""
    guest = Guest(machine, Metrics(), ready=lambda seconds: None, kept=kept)
    await guest.start()
    ready = time.monotonic() - began
    async for found in Api(guest).answer(messages, {"temperature": 0, "max_tokens": 2}):
        if isinstance(found, Reading):
            read = found.total - found.cached
        elif isinstance(found, Part) and found.text:
            first = first or time.monotonic() - began
            text += found.text
    began = time.monotonic()
    await guest.off(keep=True)
    values = {"to the prompt, s": ready, "to the first letter, s": first, "evaluated, tokens": float(read)}
    values |= {"saved in, s": time.monotonic() - began}
    return values | {"state, MB": sum(path.stat().st_size for path in folder.glob("*.state")) / 1e6}, text


class Kept:
    """A chat of so many turns, which is left and resumed."""

    def __init__(self, machine: Machine, turns: int) -> None:
        """Keep it in a folder of its own."""
        self._machine, self._turns, self._folder = machine, turns, FOLDER / f"chat-{turns}"
        self._messages: list[Message] = []

    def evaluated(self) -> dict[str, float]:
        """Return what the answer takes without a state, and keep the machine."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._messages = chat(self._turns)
        return self._asked()

    def resumed(self) -> dict[str, float]:
        """Return what the answer to one more question takes."""
        return self._asked()

    def _asked(self) -> dict[str, float]:
        values, text = asyncio.run(_answer(self._machine, self._messages, self._folder))
        self._messages += [{"role": "assistant", "content": text}, *chat(1)]
        return values


def chats(settings: Settings, rounds: int, *, turns: Sequence[int] = TURNS) -> Section:
    """Compare chats that resume with those that are evaluated again."""
    machine = machines.chat(replace(settings, context=CONTEXT, cpus=1), ())[0]
    Kept(machine, 1).evaluated()  # from now on, a machine without a chat resumes as well
    ways: dict[str, Way] = {}
    for count in turns:
        kept = Kept(machine, count)
        ways[f"{count} turns, evaluated again"] = kept.evaluated
        ways[f"{count} turns, resumed"] = kept.resumed
    return Section(
        what="A chat that was left is opened again, and asked one question more: from the start of its machine to the "
        f"prompt, and to the first letter of the answer. SmolLM2-135M on one processor, with a context of {CONTEXT} "
        "tokens; a turn has about 35.",
        ways=compare(ways, rounds),
    )


many = partial(chats, turns=MANY)  # takes half an hour for each round
