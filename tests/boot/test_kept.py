"""A machine that is saved with a chat in it, and resumed."""

from __future__ import annotations

import asyncio
import calendar
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import hybrid, parrot
from zosia.base.patience import patience
from zosia.chat.api import Api, ApiError, Reading
from zosia.chat.kept.states import place
from zosia.disk import ext4
from zosia.machine import clock
from zosia.machine.qemu import Machine
from zosia.machine.task import Mode
from zosia.run import loop
from zosia.serve.guest import Guest
from zosia.serve.record import Metrics
from zosia.settings import machines
from zosia.settings.choice import Choice
from zosia.settings.settings import Settings

from .conftest import LONGEST

STORY = {"role": "user", "content": "Do you know a story?"}
NEXT = {"role": "user", "content": "So?"}
# A template that says what the guest's clock says, in place of an answer.
CLOCK = (
    "{% if messages[-1].content == 'time' %}"
    "{{ raise_exception('now ' + strftime_now('%Y-%m-%d %H:%M:%S')) }}{% endif %}"
)


@pytest.fixture(scope="module")
def chatting(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return replace(machines.chat(settings, ())[0], hot=tmp_path_factory.mktemp("states"))


@pytest.fixture
def thinker_chatting(settings: Settings, thinking: Callable[[str], Machine], tmp_path: Path) -> Machine:
    """The same with gpt-oss' architecture, half of whose layers see a sliding window only."""
    thinker = thinking("low")
    args = (*thinker.task.llama_args, "-np", "1")
    return replace(thinker, hot=tmp_path / "hot").given(mode=Mode.SERVE, room=0, llama_args=args)


@pytest.fixture
def hybrid_chatting(settings: Settings, tmp_path: Path) -> Machine:
    """The same with layers that have a state beside one that has a cache."""
    path = hybrid.write(tmp_path / "hybrid.gguf")
    ext4.build(parts=[path], info={"name": "hybrid", "args": ""}, target=tmp_path / "hybrid.img")
    machine = machines.chat(replace(settings, model=Choice(parts=(path,), cache=settings.cache)), ())[0]
    return replace(machine, disk=tmp_path / "hybrid.img", hot=tmp_path / "hot")


async def answered(guest: Guest, *messages: dict[str, str], tokens: int = 4) -> tuple[str, int]:
    """Return an answer, and the number of tokens before it that had been evaluated."""
    text, cached = "", -1
    async for part in Api(guest).answer(messages, {"temperature": 0, "max_tokens": tokens}):
        if isinstance(part, Reading):
            cached = part.cached
        else:
            text += part.thought + part.text
    return text, cached


async def chat(machine: Machine, folder: Path, *, turns: int, saved: Collection[int]) -> list[tuple[str, int]]:
    """Return answers and numbers of a chat, whose machine is saved after some of its turns, and resumed."""

    def guest() -> Guest:
        return Guest(machine, Metrics(), ready=lambda seconds: None, kept=lambda store: place(store, folder, None))

    running = guest()
    messages, found = [STORY], []
    for turn in range(1, turns + 1):
        found.append(await answered(running, *messages))
        messages += [{"role": "assistant", "content": found[-1][0]}, NEXT]
        if turn in saved:
            assert await running.off(keep=True) == ""
            assert len([*folder.glob("*.state")]) == 1, "the last one"
            running = guest()
    await running.off()
    return found


def both(machine: Machine, folder: Path, *, turns: int, saved: Collection[int]) -> list[tuple[str, int]]:
    """Return a chat that is the same as one that is never interrupted, to each answer and number of tokens."""
    kept = asyncio.run(chat(machine, folder / "chat", turns=turns, saved=saved))
    assert kept == asyncio.run(chat(machine, folder / "other", turns=turns, saved=()))
    assert not (folder / "other").exists()
    return kept


def test_a_chat_resumes_evaluated(chatting: Machine, tmp_path: Path) -> None:
    kept = both(chatting, tmp_path, turns=2, saved=(1,))
    assert kept[0][0].startswith(parrot.STORY)
    assert [cached for _, cached in kept] == sorted({cached for _, cached in kept})  # each turn more than before
    (state,) = (tmp_path / "chat").glob("*.state")
    assert state.stat().st_mode & 0o777 == 0o600


def test_a_sliding_window_is_not_evaluated_again(thinker_chatting: Machine, tmp_path: Path) -> None:
    kept = both(thinker_chatting, tmp_path, turns=3, saved=(2,))
    assert kept[-1][1] > 0


def test_forty_turns_of_a_hybrid_model_are_not_evaluated_again(hybrid_chatting: Machine, tmp_path: Path) -> None:
    """Each letter of it depends on all before, and all that was read and said is evaluated once."""
    kept = both(hybrid_chatting, tmp_path, turns=40, saved=(1, 2, 20, 39))
    answers, numbers = zip(*kept, strict=True)
    assert len(set(answers)) > 10
    assert len({after - before for before, after in pairwise(numbers[1:])}) == 1, "a turn more each time"


@pytest.fixture
def telling(chatting: Machine) -> Machine:
    """A machine that says what its clock shows."""
    return chatting.given(llama_args=(*chatting.task.llama_args, "--chat-template", f"{CLOCK}{parrot.TEMPLATE}"))


async def shown(guest: Guest) -> int:
    """Return the time that a guest's clock shows, in its zone, as seconds since 1970."""
    with pytest.raises(ApiError) as said:
        await answered(guest, {"role": "user", "content": "time"})
    found = re.search(r"now (\d+-\d\d-\d\d \d\d:\d\d:\d\d)", str(said.value))
    assert found, said.value
    return calendar.timegm(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Go to another time zone."""

    def go(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield go
    monkeypatch.undo()
    time.tzset()


def test_a_machine_resumes_in_the_hosts_time_zone(
    telling: Machine, tmp_path: Path, zone: Callable[[str], None]
) -> None:
    """Its server runs on, with the zone of its start in the environment."""

    async def difference() -> int:
        """Return the guest's offset from UTC in seconds, and save the machine."""
        guest = Guest(telling, Metrics(), ready=lambda seconds: None, kept=lambda store: place(store, tmp_path, None))
        seen = await shown(guest)
        offset = round((seen - time.time()) / 900) * 900
        assert abs(seen - offset - time.time()) < 60, "and the clock is right"
        assert await guest.off(keep=True) == ""
        return offset

    for name, offset in (("<+0545>-5:45", 20_700), ("<-0330>3:30", -12_600), ("UTC", 0)):
        zone(name)
        assert asyncio.run(difference()) == offset
    assert len([*tmp_path.glob("*.state")]) == 1, "each goes on from the one before"


def test_a_guests_clock_is_set_again_after_the_host_has_slept(
    telling: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = 0
    times = {"time": lambda: time.time() + slept, "monotonic": time.monotonic, "localtime": time.localtime}

    async def sleep() -> None:
        nonlocal slept
        guest = Guest(telling, Metrics(), ready=lambda seconds: None)
        before = await shown(guest)
        slept = 8 * 3600
        deadline = time.monotonic() + LONGEST * patience()
        while await shown(guest) - before < slept:
            assert time.monotonic() < deadline
        assert await answered(guest, STORY), "and it goes on"
        await guest.off()

    monkeypatch.setattr(clock, "time", SimpleNamespace(**times))
    monkeypatch.setattr(loop, "BEAT", 0.2)
    asyncio.run(sleep())
