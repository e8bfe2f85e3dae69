"""Pool of guests: each request goes to the one that answers it soonest, and none waits for one that has died."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Protocol

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.serve.guest import LABEL
from zosia.serve.record import Figures
from zosia.serve.service import Asking, BackendError, Phase, Stream

AGAIN = "It is started again"
SESSIONS = 1024  # that are remembered; the one that was not asked for the longest time goes
MUCH = 2  # more requests than another guest has: the session's own one would be slower than a prompt read anew
Say = Callable[[str], None]
Ready = Callable[[float], None]
Failure = tuple[int, ZosiaError | None]


def _show(text: str) -> None:
    style.say(LABEL, text)


class Member(Protocol):
    """Guest of a pool: zosia.serve.guest.Guest."""

    phase: Phase
    failed: asyncio.Future[Failure]

    async def stream(self, asking: Asking | None = None) -> Stream:
        """As Backend.stream."""

    async def start(self) -> Any:
        """Start or resume it unless it runs, and wait until it is ready; errors as `stream`."""

    async def off(self) -> str:
        """Turn it off."""

    def signal(self, number: int) -> None:
        """Tell it of a signal."""


class Place:
    """Guest of a pool, with what it has to do."""

    def __init__(self, number: int, figures: Figures) -> None:
        self.number, self.figures = number, figures
        self.guest: Member
        self.answering = 0  # requests that take a slot
        self.sessions = 0  # that were here last
        self.starting = 0  # tasks that start it

    @property
    def lost(self) -> bool:
        """True if it won't be started again."""
        return self.guest.failed.done()


class Counted:
    """Stream that counts as work of its guest until it is closed."""

    def __init__(self, stream: Stream, done: Callable[[], None]) -> None:
        self._stream, self._done = stream, done
        self._open = True

    async def read(self, size: int = 65536) -> bytes:
        """As Stream.read."""
        return await self._stream.read(size)

    async def write(self, data: bytes) -> None:
        """As Stream.write."""
        await self._stream.write(data)

    def close(self) -> None:
        """End both directions at once. It can be repeated."""
        self._stream.close()
        if self._open:
            self._open = False
            self._done()


class Pool:
    """Several guests, as one backend of the gate."""

    def __init__(
        self,
        make: Callable[[Figures, Say, Ready], Member],
        figures: Sequence[Figures],
        *,
        slots: int,
        say: Say = _show,
    ) -> None:
        """Start nothing yet. `make` makes a guest, as many as there are figures; each has so many slots."""
        self.failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self._slots, self._say = slots, say
        self._waiting = 0  # for a slot
        self._changed = asyncio.Event()
        self._sessions: OrderedDict[str, Place] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = [Place(number, each) for number, each in enumerate(figures, 1)]
        for place in self._places:
            place.guest = make(place.figures, partial(self._died, place), partial(self._ready, place))
            place.guest.failed.add_done_callback(partial(self._gave_up, place))

    @property
    def phase(self) -> Phase:
        """Phase of the guest that answers first."""
        phases = [place.guest.phase for place in self._places]
        return next((phase for phase in (Phase.READY, Phase.LOADING) if phase in phases), Phase.OFF)

    async def stream(self, asking: Asking | None = None) -> Stream:
        """Return a stream to the guest that suits a request best, when that has a slot for it.

        Guests that are off are started if all others have enough to do.

        Raises:
            BackendError: no guest can be started any more.
        """
        asking = asking or Asking()
        ended: set[Place] = set()  # which the pool was not told of yet
        while True:
            if place := self._choice(asking, ended):
                self._take(place, asking)
                try:
                    return Counted(await place.guest.stream(asking), partial(self._leave, place, asking.slot))
                except BackendError:  # it has just died, or has no room for another stream
                    # No change for others that wait: they would try it as well, and wake this one, and so on.
                    self._count(place, asking.slot, -1)
                    ended.add(place)
                except BaseException:
                    self._leave(place, asking.slot)
                    raise
                continue
            self._waiting += asking.slot
            try:
                self._grow(asking)
                await self._changed.wait()
            finally:
                self._waiting -= asking.slot
            ended.clear()

    async def start(self) -> None:
        """Start all guests: the first, and as soon as that is ready the others, which resume what it was saved to."""
        first, *others = self._places
        await self._start(first)
        if first.guest.phase is Phase.READY:
            await asyncio.gather(*(self._start(place) for place in others))

    async def off(self) -> str:
        """Turn all guests off; the next request resumes one of them."""
        self._sessions.clear()
        for place in self._places:
            place.sessions, place.figures.ready = 0, False
        reasons = await asyncio.gather(*(place.guest.off() for place in self._places))
        self._change()
        return next(filter(None, reasons), "")

    def signal(self, number: int) -> None:
        """Tell all guests of a signal that this process got."""
        for place in self._places:
            place.guest.signal(number)

    def _choice(self, asking: Asking, ended: Collection[Place]) -> Place | None:
        """Return the guest for a request, or None if it has to wait."""
        ready = [place for place in self._places if place.guest.phase is Phase.READY and place not in ended]
        free = [place for place in ready if not asking.slot or place.answering < self._slots]
        free = [place for place in free if place.number != asking.tried] or free
        if not free:
            return None
        best = min(free, key=lambda place: (place.figures.running, place.sessions, place.number))
        home = self._sessions.get(asking.session)
        return home if home in free and home.figures.running - best.figures.running < MUCH else best

    def _take(self, place: Place, asking: Asking) -> None:
        """Count a request, and remember its session."""
        asking.guest = place.number
        place.figures.requests += 1
        self._count(place, asking.slot, 1)
        if asking.session:
            self._forget(asking.session)
            self._sessions[asking.session] = place
            place.sessions += 1
            if len(self._sessions) > SESSIONS:
                self._forget(next(iter(self._sessions)))

    def _leave(self, place: Place, slot: bool) -> None:
        self._count(place, slot, -1)
        self._change()

    def _count(self, place: Place, slot: bool, by: int) -> None:
        place.figures.running += by
        place.answering += by * slot

    def _forget(self, session: str) -> None:
        if place := self._sessions.pop(session, None):
            place.sessions -= 1

    def _grow(self, asking: Asking) -> None:
        """Start a guest if more requests wait than those that are being started will answer.

        Raises:
            BackendError: there is none left.
        """
        if self.failed.done():
            raise BackendError(f"The machine could not be started: {self.failed.result()[1]}")
        left = [place for place in self._places if not place.lost]
        coming = [place for place in left if place.starting or place.guest.phase is Phase.LOADING]
        off = [place for place in left if place not in coming and place.guest.phase is Phase.OFF]
        ready = [place for place in left if place not in coming and place not in off]
        wanted = self._waiting > len(coming) * self._slots if asking.slot else not coming and not ready
        if off and wanted:
            self._start(next((place for place in off if place.number != asking.tried), off[0]))

    def _start(self, place: Place) -> asyncio.Task[None]:
        place.starting += 1
        task = asyncio.ensure_future(self._started(place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _started(self, place: Place) -> None:
        try:
            if not place.lost:
                await place.guest.start()
        except BackendError:
            pass  # _died or _gave_up has it
        finally:
            place.starting -= 1
            self._change()

    def _change(self) -> None:
        """Let all look again that wait, in their order."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _ready(self, place: Place, seconds: float) -> None:
        place.figures.ready = True
        self._say(f"guest {place.number}: ready after {seconds:.2f} s")
        self._change()

    def _ended(self, place: Place) -> None:
        """Note that a guest has nothing of what it had read."""
        place.figures.ready = False
        for session in [session for session, home in self._sessions.items() if home is place]:
            self._forget(session)
        self._change()

    def _died(self, place: Place, text: str) -> None:
        """Start a guest again that has crashed."""
        self._ended(place)
        self._say(f"guest {place.number}: {text}")
        self._start(place)

    def _gave_up(self, place: Place, failure: asyncio.Future[Failure]) -> None:
        """Go on without a guest; the last one's failure is the pool's, and so is that of one before any was ready."""
        self._ended(place)
        status, error = failure.result()
        left = [other.number for other in self._places if not other.lost]
        if left and any(other.figures.starts for other in self._places):
            others = ", ".join(map(str, left))
            self._say(f"guest {place.number}: given up: {error or f'status {status}'}. Still there: {others}")
        elif not self.failed.done():
            self.failed.set_result((status, error))
            self._change()
