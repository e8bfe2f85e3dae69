"""The machine behind the gate: it runs in a thread, and is started, resumed and turned off as requests need it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import explained, temporary_folder
from zosia.channel.channel import Channel, ChannelError, Stream
from zosia.machine.qemu import Machine
from zosia.machine.report import ending
from zosia.machine.status import Status
from zosia.run import resume
from zosia.run.hot import Store
from zosia.run.loop import Loop
from zosia.run.session import KEEP
from zosia.serve.record import Counts
from zosia.serve.service import Asking, BackendError, Phase

LABEL = "SERVE"
HELLO = 30.0  # seconds that a machine which is ready has for the first word on its channel
LAST = 5.0  # seconds until QEMU has ended, once its end of the channel has gone
CRASHES, WITHIN = 3, 60.0  # so many in so many seconds are the end
FINAL = (Status.DISTURBED, Status.REFUSED)  # another start would be no better


def _show(text: str) -> None:
    style.say(LABEL, text)


def _ready(seconds: float) -> None:
    _show(f"ready after {seconds:.2f} s")


class Run:
    """One run of the machine, in a thread of its own, from its start to its end."""

    def __init__(self, machine: Machine, kept: Callable[[Store], Store | None] | None, *, progress: bool) -> None:
        """Start it; `kept` and `progress` are those of resume.run."""
        self._machine, self._kept, self._progress = machine, kept, progress
        self.unkept = ""  # the reason why it was not
        self._asyncio = asyncio.get_running_loop()
        self._loop = Loop()
        self._inbox = self._loop.inbox()
        self.asked = False  # to end
        self.ready: asyncio.Future[socket.socket] = self._asyncio.create_future()
        self.ended: asyncio.Future[tuple[int, ZosiaError | None]] = self._asyncio.create_future()
        # Linux ends QEMU with the thread that started it, and so this one waits for its end.
        threading.Thread(target=self._run, daemon=True).start()

    def signal(self, number: int) -> None:
        """Tell it of a signal that this process got."""
        with suppress(OSError):  # it has ended
            self._inbox.send(bytes([number]))

    async def end(self, *, keep: bool = False) -> None:
        """Pull the plug, or save the machine before, and wait for the end."""
        self.asked = True
        self.signal(KEEP if keep else signal.SIGTERM)
        await asyncio.shield(self.ended)

    def _run(self) -> None:
        result: tuple[int, ZosiaError | None]
        try:
            with temporary_folder() as folder:
                outcome = resume.run(
                    self._machine,
                    None,
                    folder,
                    self._loop,
                    self._is_ready,
                    kept=self._kept,
                    progress=self._progress,
                )
            self.unkept = outcome.unkept
            result = ending(outcome)
        except ZosiaError as error:
            result = Status.REFUSED, error
        except OSError as error:
            result = Status.REFUSED, explained(error)
        self._tell(self.ended, result)

    def _is_ready(self, port: socket.socket) -> None:
        self._tell(self.ready, port.dup())

    def _tell(self, future: asyncio.Future[Any], result: object) -> None:
        with suppress(RuntimeError):  # nobody waits any more
            self._asyncio.call_soon_threadsafe(future.set_result, result)


class Guest:
    """The machine, as the gate's backend."""

    def __init__(
        self,
        machine: Machine,
        counts: Counts,
        *,
        say: Callable[[str], None] = _show,
        ready: Callable[[float], None] = _ready,
        then: str = "The next request resumes it",
        kept: Callable[[Store], Store | None] | None = None,
        progress: bool = True,
    ) -> None:
        """Start nothing yet; starts and crashes are counted, and shown by `ready` and `say`.

        `then` is what comes after a crash, in words for the user; `kept` and `progress` are those of Run.
        """
        self._machine, self._counts, self._kept, self._progress = machine, counts, kept, progress
        self._say, self._ready, self._then = say, ready, then
        self._run: Run | None = None
        self._channel: asyncio.Task[Channel] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._recent: deque[float] = deque(maxlen=CRASHES)  # times of crashes
        self.phase = Phase.OFF
        self.failed: asyncio.Future[tuple[int, ZosiaError | None]] = asyncio.get_running_loop().create_future()

    async def stream(self, asking: Asking | None = None) -> Stream:
        """Return a stream to llama-server; the machine is started first if it is off.

        Raises:
            BackendError: it can't be started, or has no room for another stream.
        """
        channel = await self.start()
        try:
            return channel.stream()
        except ChannelError as error:
            raise BackendError(str(error)) from error

    async def start(self) -> Channel:
        """Start or resume the machine unless it runs, and wait until it is ready; errors as `stream`."""
        if self._channel is None:
            self._channel = asyncio.ensure_future(self._start())
        return await asyncio.shield(self._channel)

    async def off(self, *, keep: bool = False) -> str:
        """Turn the machine off; the next request resumes it.

        With `keep`, it is saved with all that was said, if it is ready; the result is the reason if it was not saved.
        """
        run, channel, reason = self._run, self._channel, ""
        if keep and channel and self.phase is Phase.READY:
            try:
                await (await channel).rest(seconds=HELLO)  # half a frame must not be in the state
            except (ChannelError, TimeoutError) as error:
                reason = str(error) or "it does not answer on its channel"
        else:
            keep = False
        self._run, self._channel, self.phase = None, None, Phase.OFF
        if run:
            await run.end(keep=keep and not reason)
            reason = reason or run.unkept
        return reason

    def signal(self, number: int) -> None:
        """Tell the machine's run of a signal that this process got."""
        if self._run:
            self._run.signal(number)

    async def _start(self) -> Channel:
        self.phase, began = Phase.LOADING, time.monotonic()
        run = self._run = Run(self._machine, self._kept, progress=self._progress)
        channel: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        watch = asyncio.ensure_future(self._watch(run, channel))
        self._tasks.add(watch)
        watch.add_done_callback(self._tasks.discard)
        made = await channel
        if self._run is run:  # it was not turned off meanwhile
            self.phase = Phase.READY
            self._counts.starts += 1
            self._counts.ready_at = time.monotonic()
            self._ready(time.monotonic() - began)
        return made

    async def _watch(self, run: Run, wanted: asyncio.Future[Channel]) -> None:
        """Open a run's channel, and wait for the end of both."""
        reason = ""
        either: list[asyncio.Future[Any]] = [run.ready, run.ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if run.ready.done():
            try:
                channel = await Channel.open(run.ready.result(), seconds=HELLO)
                wanted.set_result(channel)
                reason = await channel.closed()
            except (ChannelError, TimeoutError) as failure:
                reason = str(failure) or "it does not answer on its channel"
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(run.ended), LAST)
        asked = run.asked
        await run.end()  # unless it has ended
        status, error = run.ended.result()
        reason = str(error or reason)
        if not wanted.done():
            wanted.set_exception(BackendError(f"The machine could not be started: {reason}"))
        if not asked:
            self._crashed(run, status, error or ZosiaError(reason))

    def _crashed(self, run: Run, status: int, error: ZosiaError) -> None:
        if self._run is run:
            self._run, self._channel, self.phase = None, None, Phase.OFF
        self._counts.crashes += 1
        self._recent.append(time.monotonic())
        often = len(self._recent) == CRASHES and self._recent[-1] - self._recent[0] < WITHIN
        if not self._counts.starts or status in FINAL or often:
            if not self.failed.done():
                self.failed.set_result((status or Status.GUEST_FAILED, error))
        else:
            self._say(f"the machine ended: {error}. {self._then}")
