"""Guests that a test starts and ends, in a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.gate import Llama, Pipe
from zosia.base.errors import ZosiaError
from zosia.serve.pool import AGAIN, Pool
from zosia.serve.record import Figures
from zosia.serve.service import Asking, BackendError, Phase

FAILED = 70  # status of a guest that is given up


@dataclass(eq=False)
class Guest(Llama):
    """A guest of zosia.serve.guest without a machine; it is ready as soon as it starts, if it is `quick`."""

    figures: Figures = field(default_factory=Figures)
    say: Callable[[str], None] = print
    told: Callable[[float], None] = print
    quick: bool = True
    phase: Phase = Phase.OFF
    deaf: bool = False  # it has died, and nobody noticed
    begun: int = 0  # how often it was started
    tried: int = 0  # how often a stream was asked for
    signals: list[int] = field(default_factory=list)
    pipes: list[Pipe] = field(default_factory=list)
    run: asyncio.Future[None] | None = None
    failed: asyncio.Future[tuple[int, ZosiaError | None]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def stream(self, asking: Asking | None = None) -> Pipe:
        self.tried += 1
        await self.start()
        if self.deaf:
            raise BackendError("the channel has ended")
        pipe = await super().stream(asking)
        self.pipes.append(pipe)
        return pipe

    async def start(self) -> None:
        if self.run is None:
            self.run = asyncio.get_running_loop().create_future()
            self.run.add_done_callback(lambda run: run.exception())
            self.phase = Phase.LOADING
            self.begun += 1
            if self.quick:
                self.up()
        await asyncio.shield(self.run)

    def up(self) -> None:
        """Be ready."""
        assert self.run
        self.phase, self.deaf = Phase.READY, False
        self.run.set_result(None)
        self.figures.starts += 1
        self.told(0.5)

    def cut(self) -> None:
        """Lose the machine, which the pool is not told of."""
        self.deaf = True
        for task in self.tasks:
            task.cancel()
        for pipe in self.pipes:
            pipe.close()

    def die(self, *, last: bool = False) -> None:
        """Crash; if it is the last time, it won't be started again."""
        self.cut()
        self._end("it could not be started")
        self.figures.crashes += 1
        if last:
            self.failed.set_result((FAILED, ZosiaError("it crashed", "Type: zosia doctor")))
        else:
            self.say(f"the machine ended: it crashed. {AGAIN}")

    async def off(self) -> str:
        self._end("it was turned off")
        return ""

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def _end(self, reason: str) -> None:
        run, self.run, self.phase = self.run, None, Phase.OFF
        if run and not run.done():
            run.set_exception(BackendError(reason))


@dataclass(eq=False)
class Guests:
    """A pool of such guests, and what it said."""

    count: int = 2
    slots: int = 2
    quick: bool = True
    answer: bytes = b""
    guests: list[Guest] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.figures = [Figures() for _ in range(self.count)]
        self.pool = Pool(self.make, self.figures, slots=self.slots, say=self.said.append)

    def make(self, figures: Figures, say: Callable[[str], None], ready: Callable[[float], None]) -> Guest:
        guest = Guest(figures=figures, say=say, told=ready, quick=self.quick, answer=self.answer)
        self.guests.append(guest)
        return guest

    @property
    def running(self) -> list[int]:
        """Number of requests that each guest has."""
        return [figures.running for figures in self.figures]

    @property
    def begun(self) -> list[int]:
        """Number of times that each was started."""
        return [guest.begun for guest in self.guests]


async def settle() -> None:
    """Let all go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)
