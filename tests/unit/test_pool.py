"""The pool of guests: which request goes where, and what becomes of it when a guest dies."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.guests import FAILED, Guest, Guests, settle
from zosia.serve import pool
from zosia.serve.service import Asking, BackendError, Phase, Stream

Test = Callable[[], Coroutine[Any, Any, None]]


def in_a_loop(test: Test) -> Callable[[], None]:
    """Run a test in a loop of its own, in which no task may fail unseen."""

    @functools.wraps(test)
    def run() -> None:
        faults: list[str] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context)))
            async with asyncio.timeout(20):
                await test()

        asyncio.run(watched())
        assert faults == []

    del run.__wrapped__  # pytest would take its signature
    return run


async def up(**wishes: Any) -> Guests:
    """Return guests that are all ready."""
    made = Guests(**wishes)
    await made.pool.start()
    return made


def ask(made: Guests, **asking: Any) -> asyncio.Task[Stream]:
    return asyncio.ensure_future(made.pool.stream(Asking(**asking)))


# ---- Where a request goes


@in_a_loop
async def test_the_least_busy_guest_has_it() -> None:
    made = await up(count=3)
    streams = [await made.pool.stream() for _ in range(4)]
    assert made.running == [2, 1, 1]
    streams[1].close()
    streams[1].close()  # which does not count twice
    assert made.running == [2, 0, 1]
    asking = Asking()
    await made.pool.stream(asking)
    assert (made.running, asking.guest) == ([2, 1, 1], 2)


@in_a_loop
async def test_what_has_no_slot_waits_in_its_turn() -> None:
    made = await up()
    streams = [await made.pool.stream() for _ in range(4)]
    first, second = ask(made), ask(made)
    await settle()
    assert not first.done() and not second.done() and made.running == [2, 2]
    quick = await made.pool.stream(Asking(slot=False))
    assert made.running == [3, 2], "what takes no slot waits for none"
    quick.close()
    await settle()
    assert not first.done(), "it had none to give back"
    streams[3].close()
    await settle()
    assert first.done() and not second.done() and made.running == [2, 2]
    second.cancel()
    await settle()
    streams[0].close()
    await settle()
    assert made.running == [1, 2], "a client that hung up waits no more"
    assert made.begun == [1, 1]


@in_a_loop
async def test_a_session_stays_where_its_prefix_is() -> None:
    made = await up(count=3, slots=4)
    homes = {}
    for name in "abc":
        asking = Asking(session=name)
        (await made.pool.stream(asking)).close()
        homes[name] = asking.guest
    assert sorted(homes.values()) == [1, 2, 3], "new ones go where few are"
    for name in "cabbac":
        asking = Asking(session=name)
        (await made.pool.stream(asking)).close()
        assert asking.guest == homes[name]


@in_a_loop
async def test_a_session_moves_from_a_guest_that_is_much_busier() -> None:
    made = await up(slots=4)
    guests = []
    for _ in range(4):
        asking = Asking(session="s")
        await made.pool.stream(asking)
        guests.append(asking.guest)
    assert guests == [1, 1, 2, 2], "the first guest had two more than the second"
    (await made.pool.stream(Asking(session="s"))).close()
    assert made.figures[1].requests == 3, "and from then on its home is the second"


@in_a_loop
async def test_a_session_moves_from_a_guest_without_a_slot() -> None:
    made = await up(slots=1)
    await made.pool.stream(Asking(session="s"))
    moved = Asking(session="s")
    await made.pool.stream(moved)
    assert moved.guest == 2


@in_a_loop
async def test_few_sessions_are_remembered() -> None:
    made = await up(slots=4)
    for number in range(pool.SESSIONS + 50):
        (await made.pool.stream(Asking(session=str(number)))).close()
    assert len(made.pool._sessions) == pool.SESSIONS
    assert sum(place.sessions for place in made.pool._places) == pool.SESSIONS


# ---- Starts


@in_a_loop
async def test_the_first_is_ready_before_the_others_start() -> None:
    made = Guests(count=3, quick=False)
    starting = asyncio.ensure_future(made.pool.start())
    await settle()
    assert (made.begun, made.pool.phase) == ([1, 0, 0], Phase.LOADING)
    made.guests[0].up()
    await settle()
    assert (made.begun, made.pool.phase) == ([1, 1, 1], Phase.READY)
    made.guests[2].up()
    made.guests[1].up()
    await starting
    assert made.said == [f"guest {number}: ready after 0.50 s" for number in (1, 3, 2)]


@in_a_loop
async def test_a_request_resumes_one_guest_and_more_the_others() -> None:
    made = await up(count=3)
    await made.pool.off()
    assert made.pool.phase is Phase.OFF
    for guest in made.guests:
        guest.quick = False
    asked = [ask(made)]
    await settle()
    assert made.begun == [2, 1, 1]
    asked += [ask(made), ask(made, slot=False)]
    await settle()
    assert made.begun == [2, 1, 1], "one guest has slots for two"
    asked.append(ask(made))
    await settle()
    assert made.begun == [2, 2, 1]
    made.guests[1].up()
    await settle()
    assert [task.done() for task in asked] == [True, True, True, False]
    await settle()
    assert made.begun == [2, 2, 1], "the first is still on its way"
    made.guests[0].up()
    await settle()
    assert asked[3].done()


@in_a_loop
async def test_a_quick_request_resumes_one_guest() -> None:
    made = Guests(quick=False)
    ask(made, slot=False), ask(made, slot=False)
    await settle()
    assert made.begun == [1, 0]
    made.guests[0].up()
    await settle()
    assert made.running == [2, 0]


@in_a_loop
async def test_off_is_off_for_all_and_forgets_sessions() -> None:
    made = await up()
    (await made.pool.stream(Asking(session="s"))).close()
    made.pool.signal(10)
    assert [guest.signals for guest in made.guests] == [[10], [10]]
    await made.pool.off()
    assert [guest.phase for guest in made.guests] == [Phase.OFF] * 2
    assert not made.pool._sessions and not any(figures.ready for figures in made.figures)
    await settle()
    assert made.begun == [1, 1], "none is started again"


# ---- Deaths


@in_a_loop
async def test_a_dead_guest_is_started_again_while_the_others_serve() -> None:
    made = await up()
    for name in "ab":
        (await made.pool.stream(Asking(session=name))).close()
    made.guests[0].quick = False
    made.guests[0].die()
    assert made.said[-1] == "guest 1: the machine ended: it crashed. It is started again"
    asking = Asking(session="a")
    await made.pool.stream(asking)
    assert asking.guest == 2 and made.begun == [2, 1]
    assert [figures.ready for figures in made.figures] == [False, True]
    made.guests[0].up()
    assert [figures.ready for figures in made.figures] == [True, True]
    await made.pool.stream()
    assert made.figures[0].running == 1


@in_a_loop
async def test_a_death_that_was_not_noticed_yet() -> None:
    made = await up()
    made.guests[0].cut()
    streams = [await made.pool.stream(), await made.pool.stream()]
    assert made.running == [0, 2]
    waiting = [ask(made) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    streams[0].close()
    await settle()
    assert [task.done() for task in waiting] == [True, False, False] and made.running == [0, 2]
    assert made.guests[0].tried < 10, "those that wait don't wake each other"
    made.guests[0].die()
    await settle()
    assert all(task.done() for task in waiting) and made.running == [2, 2]


@in_a_loop
async def test_a_request_that_a_guest_lost_goes_to_another() -> None:
    made = await up()
    asking = Asking(session="s")
    (await made.pool.stream(asking)).close()
    asking.tried = asking.guest
    (await made.pool.stream(asking)).close()
    assert asking.guest == 2
    await made.pool.off()
    asking.tried = 1
    await made.pool.stream(asking)
    assert made.begun == [1, 2], "another is resumed, if all are off"


@in_a_loop
async def test_without_another_it_waits_for_the_same() -> None:
    made = await up()
    made.guests[1].die(last=True)
    await settle()
    asking = Asking(tried=1)
    await made.pool.stream(asking)
    assert asking.guest == 1


@in_a_loop
async def test_one_that_is_given_up_is_not_the_end() -> None:
    made = await up()
    for _ in range(2):
        await made.pool.stream()
    made.guests[0].die(last=True)
    await settle()
    assert made.said[-1] == "guest 1: given up: it crashed. Type: zosia doctor. Still there: 2"
    assert not made.pool.failed.done()
    await made.pool.stream()
    assert made.figures[1].running == 2 and made.begun == [1, 1]
    waiting = ask(made)
    await settle()
    made.guests[1].die(last=True)
    with pytest.raises(BackendError, match="could not be started: it crashed"):
        await waiting
    assert made.pool.failed.result()[0] == FAILED
    with pytest.raises(BackendError):
        await made.pool.stream()


@in_a_loop
async def test_the_rest_are_resumed_in_place_of_one_given_up() -> None:
    made = await up()
    await made.pool.off()
    streams = [await made.pool.stream() for _ in range(2)]
    assert made.begun == [2, 1]
    for guest in made.guests:
        guest.quick = False
    waiting = ask(made)
    await settle()
    assert made.begun == [2, 2]
    made.guests[0].die(last=True)
    made.guests[1].die()  # on its way
    await settle()
    assert made.begun == [2, 3]
    made.guests[1].up()
    await waiting
    for stream in streams:
        stream.close()
    assert made.running == [0, 1]


@in_a_loop
async def test_what_can_not_start_at_first_is_the_end() -> None:
    made = Guests(count=3, quick=False)
    starting = asyncio.ensure_future(made.pool.start())
    await settle()
    made.guests[0].die(last=True)
    await starting
    await settle()
    assert made.pool.failed.result()[0] == FAILED
    assert made.begun == [1, 0, 0] and made.said == [], "the failure is said by who waits for it"


# ---- Any order


class Machine(RuleBasedStateMachine):
    """A pool, its guests, and the requests that were not given up."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.faults: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(str(context)))
        self.waiting: list[tuple[asyncio.Task[Stream], Asking]] = []
        self.open: list[tuple[Stream, Asking]] = []

        async def make() -> Guests:
            return Guests(count=3, slots=2, quick=False)

        self.made = self.loop.run_until_complete(make())

    def settle(self) -> None:
        self.loop.run_until_complete(settle())
        for task, asking in [*self.waiting]:
            if task.done():
                self.waiting.remove((task, asking))
                if not task.cancelled() and not task.exception():
                    self.open.append((task.result(), asking))

    def pick(self, number: int, *phases: Phase) -> Guest | None:
        guest = self.made.guests[number]
        return guest if guest.phase in phases and not guest.failed.done() else None

    @rule(session=st.sampled_from(["", "a", "b", "c"]), slot=st.booleans(), tried=st.integers(0, 3))
    def ask(self, session: str, slot: bool, tried: int) -> None:
        asking = Asking(session=session, slot=slot, tried=tried)
        self.waiting.append((self.loop.create_task(self.made.pool.stream(asking)), asking))
        self.settle()

    @precondition(lambda self: self.open)
    @rule(number=st.integers(0, 20))
    def close(self, number: int) -> None:
        stream, _ = self.open.pop(number % len(self.open))
        self.loop.call_soon(stream.close)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 20))
    def hang_up(self, number: int) -> None:
        self.waiting[number % len(self.waiting)][0].cancel()
        self.settle()

    @rule(number=st.integers(0, 2))
    def up(self, number: int) -> None:
        if guest := self.pick(number, Phase.LOADING):
            self.loop.call_soon(guest.up)
            self.settle()

    @rule(number=st.integers(0, 2), last=st.booleans(), noticed=st.booleans())
    def die(self, number: int, last: bool, noticed: bool) -> None:
        if guest := self.pick(number, Phase.LOADING, Phase.READY):
            if guest.phase is Phase.READY and not noticed:
                self.loop.call_soon(guest.cut)
                self.settle()
            self.loop.call_soon(functools.partial(guest.die, last=last))
            self.settle()

    @precondition(lambda self: not self.waiting and not self.open)
    @rule()
    def off(self) -> None:
        self.loop.run_until_complete(self.made.pool.off())
        self.settle()
        assert all(guest.phase is Phase.OFF for guest in self.made.guests)

    @invariant()
    def all_is_counted(self) -> None:
        places = self.made.pool._places
        for place in places:
            mine = [asking for _, asking in self.open if asking.guest == place.number]
            assert place.figures.running == len(mine)
            assert place.answering == len([asking for asking in mine if asking.slot]) <= 2
            assert place.sessions == list(self.made.pool._sessions.values()).count(place)
            assert place.figures.ready == (place.guest.phase is Phase.READY)
            assert not place.lost or place.guest.phase is Phase.OFF
        assert self.faults == []

    @invariant()
    def nobody_waits_without_need(self) -> None:
        if not self.waiting:
            return
        assert not self.made.pool.failed.done()
        guests = [place for place in self.made.pool._places if not place.lost]
        ready = [place for place in guests if place.guest.phase is Phase.READY]
        loading = [place for place in guests if place.guest.phase is Phase.LOADING]
        slots = [asking for _, asking in self.waiting if asking.slot]
        assert not ready or (len(slots) == len(self.waiting) and all(place.answering == 2 for place in ready))
        assert loading or len(ready) == len(guests)
        off = len(guests) - len(ready) - len(loading)
        assert not off or len(slots) <= 2 * len(loading), "another guest would answer"

    def teardown(self) -> None:
        for task, _ in self.waiting:
            task.cancel()
        for stream, _ in self.open:
            self.loop.call_soon(stream.close)
        self.settle()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.settle()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def test_any_order() -> None:
    profile = settings(deadline=None, database=None, derandomize=True, max_examples=60, stateful_step_count=40)
    run_state_machine_as_test(Machine, settings=profile)
