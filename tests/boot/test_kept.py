"""A machine that is saved with a chat in it, and resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.chat.api import Api, Reading
from zosia.chat.kept.states import place
from zosia.machine.qemu import Machine
from zosia.machine.task import Mode
from zosia.serve.guest import Guest
from zosia.serve.record import Metrics
from zosia.settings import machines
from zosia.settings.settings import Settings

STORY = {"role": "user", "content": "Do you know a story?"}
NEXT = {"role": "user", "content": "And now?"}
TURNS = 4


@pytest.fixture(scope="module")
def chatting(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return replace(machines.chat(settings, ())[0], hot=tmp_path_factory.mktemp("states"))


@pytest.fixture
def thinker_chatting(settings: Settings, thinking: Callable[[str], Machine], tmp_path: Path) -> Machine:
    """The same with gpt-oss' architecture, half of whose layers see a sliding window only."""
    thinker = thinking("low")
    args = (*thinker.task.llama_args, "-np", "1")
    return replace(thinker, hot=tmp_path / "hot").given(mode=Mode.SERVE, room=0, llama_args=args)


async def answered(guest: Guest, *messages: dict[str, str], tokens: int = 12) -> tuple[str, int]:
    """Return an answer, and the number of tokens before it that had been evaluated."""
    text, cached = "", -1
    async for part in Api(guest).answer(messages, {"temperature": 0, "max_tokens": tokens}):
        if isinstance(part, Reading):
            cached = part.cached
        else:
            text += part.thought + part.text
    return text, cached


async def chat(machine: Machine, folder: Path, *, kept: bool) -> list[tuple[str, int]]:
    """Return answers and numbers of a chat, whose machine is saved and resumed between its turns if it is kept."""

    def guest() -> Guest:
        return Guest(machine, Metrics(), ready=lambda seconds: None, kept=lambda store: place(store, folder, None))

    running = guest()
    messages, found = [STORY], []
    for _ in range(TURNS):
        found.append(await answered(running, *messages))
        messages += [{"role": "assistant", "content": found[-1][0]}, NEXT]
        if kept:
            assert await running.off(keep=True) == ""
            running = guest()
    await running.off()
    return found


def test_a_chat_resumes_evaluated(chatting: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    kept = asyncio.run(chat(chatting, folder, kept=True))
    assert kept[0][0].startswith(parrot.STORY)
    assert [cached for _, cached in kept] == sorted({cached for _, cached in kept})  # each turn more than before
    (state,) = folder.glob("*.state")  # the last one
    assert state.stat().st_mode & 0o777 == 0o600
    assert kept == asyncio.run(chat(chatting, tmp_path / "other", kept=False))
    assert not (tmp_path / "other").exists()


def test_a_sliding_window_is_not_evaluated_again(thinker_chatting: Machine, tmp_path: Path) -> None:
    kept = asyncio.run(chat(thinker_chatting, tmp_path / "chat", kept=True))
    assert kept[-1][1] > 0
    assert kept == asyncio.run(chat(thinker_chatting, tmp_path / "other", kept=False))
