"""A model over several machines: what goes over the wires, and what their delay costs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from zosia.chat.api import Api, Part
from zosia.machine.qemu import Bus, Machine
from zosia.machine.task import Mode, Task, Worker
from zosia.model import split
from zosia.run import supervisor
from zosia.run.workers.near import MACHINE
from zosia.serve.guest import Guest
from zosia.serve.record import Metrics
from zosia.settings import machines
from zosia.settings.settings import Settings, Together
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER, QUESTION

TOKENS = 24
DELAYS = 0.01, 0.03  # seconds, each way
CHUNK = 1 << 16  # bytes


@dataclass
class Tap:
    """A socket that leads to a worker of its own; it counts the bytes both ways, and delays them."""

    path: Path
    machine: Machine
    delay: float = 0.0
    there: int = 0
    back: int = 0

    def __post_init__(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far, theirs = socket.socketpair()
                env = {**os.environ, MACHINE: supervisor.to_json(self.machine), "PYTHONPATH": "site_scons"}
                argv = [sys.executable, "-m", "zosia.run.workers.far"]
                with theirs:
                    subprocess.Popen(
                        argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, env=env
                    )
                for source, target, there in ((near, far, True), (far, near, False)):
                    queue: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                    threading.Thread(target=self._read, args=(source, queue, there), daemon=True).start()
                    threading.Thread(target=self._write, args=(target, queue), daemon=True).start()

    def _read(self, source: socket.socket, queue: SimpleQueue[tuple[float, bytes]], there: bool) -> None:
        data = b"x"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            self.there += len(data) * there
            self.back += len(data) * (not there)
            queue.put((time.monotonic() + self.delay, data))

    def _write(self, target: socket.socket, queue: SimpleQueue[tuple[float, bytes]]) -> None:
        with suppress(OSError):
            while True:
                due, data = queue.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    def close(self) -> None:
        """Take no connections more."""
        self._server.close()


async def single(machine: Machine, taps: list[Tap]) -> dict[str, float]:
    """Return what one answer of a machine takes, and what went over the wires to its workers."""
    began = time.monotonic()
    guest = Guest(machine, Metrics(), ready=lambda seconds: None)
    await guest.start()
    ready, loaded, times = time.monotonic() - began, sum(tap.there for tap in taps), []
    counts: tuple[int, ...] = ()
    async for found in Api(guest).answer(
        [{"role": "user", "content": QUESTION}], {"max_tokens": TOKENS, "temperature": 0}
    ):
        if isinstance(found, Part) and found.text:
            times.append(time.monotonic())
            counts = counts or _counts(taps)
    there, back = (after - before for after, before in zip(_counts(taps), counts, strict=True))
    await guest.off()
    tokens = len(times) - 1
    result = {"ready, s": ready, "a token, ms": 1000 * (times[-1] - times[0]) / tokens}
    if taps:
        result |= {"sent until then, MB": loaded / 1e6, "there, kB a token": there / 1000 / tokens}
        result["back, kB a token"] = back / 1000 / tokens
    return result


def _counts(taps: list[Tap]) -> tuple[int, ...]:
    return sum(tap.there for tap in taps), sum(tap.back for tap in taps)


def answer(settings: Settings, machines_of: int, *, delay: float = 0.0, has_weights: bool = True) -> dict[str, float]:
    """Return what an answer takes over so many machines of this host, with a delay of so many seconds each way."""
    counts = split.even(settings.model.measures()[0].block_count, [1] * machines_of)
    plain = machines.serve_machine(replace(settings, workers=Together(), hot=False))
    with ExitStack() as stack:
        taps = []
        for place in range(1, machines_of):
            task = Task(mode=Mode.WORKER, has_weights=has_weights)
            alone = replace(plain, bus=Bus.VIRTIO_BLK, disk=plain.disk if has_weights else None, task=task)
            taps.append(Tap(FOLDER / f"tap{place}", alone, delay))
            stack.callback(taps[-1].close)
        workers = tuple(
            Worker(name=f"unix:{tap.path.absolute()}", layers=count, memory=plain.memory)
            for tap, count in zip(taps, counts[1:], strict=True)
        )
        words = (*split.args(counts), *plain.task.llama_args) if workers else plain.task.llama_args
        return asyncio.run(single(plain.given(workers=workers, silence=60, llama_args=words), taps))


def workers(settings: Settings, rounds: int) -> Section:
    """Compare one machine with several, and a wire with a slow one."""
    settings = replace(settings, cpus=1)
    way: Callable[..., Way] = partial(partial, answer, settings)
    ways = {
        "1 machine": way(1),
        "2 machines": way(2),
        "2 machines, weights sent": way(2, has_weights=False),
        **{f"2 machines, {1000 * delay:.0f} ms each way": way(2, delay=delay) for delay in DELAYS},
        "3 machines": way(3),
    }
    return Section(
        what=f"SmolLM2-135M over guests of one processor each, all on this host: an answer of {TOKENS} tokens.",
        ways=compare(ways, rounds),
    )
