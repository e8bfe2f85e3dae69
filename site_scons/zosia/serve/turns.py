"""Turns at the model: so many at once, so many waiting, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Full(Exception):
    """Refusal: as many wait as may."""


class Turns:
    """Turns of which `at_once` are given; `bound` more may wait for one."""

    def __init__(self, at_once: int, bound: int) -> None:
        self.at_once = at_once
        self.bound = bound
        self.running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Number of those who wait."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Who is cancelled meanwhile leaves the queue.

        Raises:
            Full: too many wait already.
        """
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self.running < self.at_once:
            self.running += 1
            return
        if len(self._queue) >= self.bound:
            raise Full
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                with suppress(ValueError):  # _leave may have met it
                    self._queue.remove(mine)
            else:  # the turn came, and the cancellation after it
                self._leave()
            raise

    def _leave(self) -> None:
        while self._queue:
            following = self._queue.popleft()
            if not following.done():
                following.set_result(None)  # which has the turn from now on: `running` stays
                return
        self.running -= 1
