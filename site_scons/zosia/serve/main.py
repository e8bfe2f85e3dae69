"""The server: `python -m zosia.serve.main FILE`, where `scons serve` ends.

FILE has the machine and the service as JSON. The exit status is 0 after Ctrl+C, 128 + n after another signal n, or one
of zosia.machine.status when the machine can't be started, or crashes again and again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dacite

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run import supervisor
from zosia.run.lease import BROKEN
from zosia.serve.gate import Gate
from zosia.serve.guest import LABEL, Guest
from zosia.serve.pool import AGAIN, Pool
from zosia.serve.record import Figures, Metrics
from zosia.serve.service import Phase, Service

DRAIN = 10.0  # seconds that running requests have at the end
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def to_json(machine: Machine, service: Service) -> str:
    """Return a machine and what it serves as text."""
    return json.dumps({"machine": supervisor.to_json(machine), "service": asdict(service)}, default=str)


def from_json(text: str) -> tuple[Machine, Service]:
    """Return what `to_json` wrote."""
    fields = json.loads(text)
    service = dacite.from_dict(Service, fields["service"], dacite.Config(cast=[Path], strict=True))
    return supervisor.from_json(fields["machine"]), service


def run(machine: Machine, service: Service) -> int:
    """Serve until a signal or a failure, and return the exit status.

    Raises:
        ZosiaError: the address can't be had.
    """
    try:
        return asyncio.run(serve(machine, service))
    except KeyboardInterrupt:  # before the loop could take it
        return 0
    except ServeError as failure:
        status, error = failure.args
        print(style.error(error), file=sys.stderr)
        return int(status)


async def serve(machine: Machine, service: Service) -> int:
    """Serve as `run` does.

    Raises:
        ZosiaError: the address can't be had.
        ServeError: the machine can't be started, or crashes again and again.
    """
    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[int] = asyncio.Queue()
    for ending in ENDING:
        if signal.getsignal(ending) != signal.SIG_IGN:  # nohup, or a shell's &
            loop.add_signal_handler(ending, asked.put_nowait, ending)
    metrics = Metrics()
    guest = backend(machine, service, metrics)
    loop.add_signal_handler(BROKEN, guest.signal, BROKEN)
    gate = Gate(service, guest, metrics=metrics)
    await gate.start()
    for line in banner(service, gate.addresses):
        style.say(LABEL, line)
    tasks = [asyncio.ensure_future(first(guest)), asyncio.ensure_future(doze(service.idle, gate, guest))]
    waiting = asyncio.ensure_future(asked.get())
    either: list[asyncio.Future[Any]] = [waiting, guest.failed]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    if not waiting.done():
        waiting.cancel()
        await gate.drain(0)
        await guest.off()
        status, error = guest.failed.result()
        if error:
            raise ServeError(status, error)
        return status
    number = waiting.result()
    if gate.active:
        style.say(LABEL, f"ending: running requests have {DRAIN:.0f} s to finish; Ctrl+C cuts them")
    drained, again = asyncio.ensure_future(gate.drain(DRAIN)), asyncio.ensure_future(asked.get())
    either = [drained, again]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        drained.cancel()
        await gate.drain(0)
    again.cancel()
    await guest.off()
    return 0 if number == signal.SIGINT else 128 + number


def backend(machine: Machine, service: Service, metrics: Metrics) -> Guest | Pool:
    """Return what answers: a guest, or as many as are wanted, all of the same machine."""
    if service.guests == 1:
        return Guest(machine, metrics)

    def make(figures: Figures, say: Callable[[str], None], ready: Callable[[float], None]) -> Guest:
        return Guest(machine, figures, say=say, ready=ready, then=AGAIN)

    metrics.guests = [Figures() for _ in range(service.guests)]
    return Pool(make, metrics.guests, slots=service.parallel)


def banner(service: Service, addresses: Sequence[str]) -> list[str]:
    """Return what is served, and where, as lines."""
    first_address, *others = addresses
    page = [f"{first_address} is the web page"] if service.page else []
    guests = f"{service.guests} guests answer {service.parallel} requests each at a time"
    return [
        f"{first_address}/v1 is OpenAI's API to {service.model}",
        *page,
        *others,
        *[guests] * (service.guests > 1),
    ]


class ServeError(Exception):
    """The machine's own failure: its exit status, and the error to show."""


async def first(guest: Guest | Pool) -> None:
    """Start the machine, for the first request to find it ready; a failure is the guest's to report."""
    await asyncio.gather(guest.start(), return_exceptions=True)


async def doze(idle: float, gate: Gate, guest: Guest | Pool) -> None:
    """Turn the machine off after `idle` seconds without a request; those in which it starts don't count."""
    while idle:
        left = idle - (time.monotonic() - max(gate.last, gate.metrics.last_ready))
        if gate.active or left > 0:
            await asyncio.sleep(max(left, idle / 10, 0.05))
            continue
        if guest.phase is Phase.READY:
            await guest.off()
            style.say(LABEL, f"off after {idle:g} s without a request; the next one resumes it")
        await asyncio.sleep(idle / 2)


def main(argv: list[str]) -> int:
    """Serve what is described in the one file named."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which `scons serve` blocks on its way here
        return run(*from_json(Path(argv[0]).read_text(encoding="utf-8")))
    except KeyboardInterrupt:  # before it could be taken
        return 0
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        return Status.REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
