"""Several clients at a time, with one guest and with more; and one guest with the host as its worker."""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial

import psutil

from zosia.base.errors import ZosiaError
from zosia.settings import machines
from zosia.settings.settings import Settings, Together
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.serving import Server, native, served
from zosia_build.benchmarks.ways import FOLDER
from zosia_build.benchmarks.workers import answer, single

CLIENTS, REQUESTS, TOKENS = 6, 18, 8
GUESTS = (1, 2, 3)
MANY, SECONDS, LENGTH = 8, 120.0, 16
QUESTIONS = ("Count from 1 to 20.", "What is 2+2?", "Name a colour.")


def _ask(server: Server, number: int) -> float:
    """Ask for a short answer, and return the seconds that it takes."""
    began = time.monotonic()
    server.answer(f"Name a colour, number {number}.", TOKENS, cache_prompt=False)
    return time.monotonic() - began


def _processor(server: Server) -> float:
    """Return the processor seconds of a server and its guests until now."""
    whole, top = 0.0, psutil.Process(server.process.pid)
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            whole += times.user + times.system
    return whole


def _requests(settings: Settings, guests: int) -> Mapping[str, float]:
    """Return what requests of several clients take with so many guests, all of which are ready."""
    settings = replace(settings, cpus=1, hot=False, service=replace(settings.service, guests=guests))
    with served(machines.serve_machine(settings), guests=guests) as server:
        server.healthy()
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(partial(_ask, server), range(2 * guests)))  # each guest has answered
            used, began = _processor(server), time.monotonic()
            seen = sorted(clients.map(partial(_ask, server), range(REQUESTS)))
            took, used = time.monotonic() - began, _processor(server) - used
    return {
        "requests/s": REQUESTS / took,
        "p50, s": statistics.median(seen),
        "p99, s": statistics.quantiles(seen, n=100, method="inclusive")[-1],
        "processor time a request, s": used / REQUESTS,
    }


def crowd(settings: Settings, rounds: int) -> Section:
    """Compare one guest with several, which share the processors of this host."""
    ways: dict[str, Way] = {
        f"{guests} guest{'s' * (guests > 1)}": partial(_requests, settings, guests) for guests in GUESTS
    }
    return Section(
        what=f"SmolLM2-135M: {REQUESTS} requests of {CLIENTS} clients for {TOKENS} tokens each, over guests of one "
        "processor each, all on this host.",
        ways=compare(ways, rounds),
    )


def outside(settings: Settings, rounds: int) -> Section:
    """Compare a guest alone, one whose layers the host computes, and llama-server on the host."""
    layers = settings.model.measures()[0].block_count
    helped = replace(settings, workers=Together(names=("host",), split=(0, layers)), hot=False)

    def fast(values: Mapping[str, float]) -> Mapping[str, float]:
        return {"ready, s": values["ready, s"], "tokens/s": 1000 / values["a token, ms"]}

    def alone() -> Mapping[str, float]:
        return fast(answer(settings, 1))

    def with_host() -> Mapping[str, float]:
        return fast(asyncio.run(single(machines.serve_machine(helped), [])))

    def on_host() -> Mapping[str, float]:
        with native(machines.serve_machine(replace(settings, workers=Together()))) as server:
            return {"ready, s": server.healthy(), "tokens/s": server.ask()["tokens/s"]}

    ways: dict[str, Way] = {
        "a guest alone": alone,
        "with the host as a worker": with_host,
        "llama-server on this host": on_host,
    }
    return Section(
        what="SmolLM2-135M, all layers on the host or in the guest, which is emulated: one answer at temperature 0.",
        ways=compare(ways, rounds),
    )


def _together(server: Server) -> dict[str, float]:
    """Have clients ask the same questions for some time, each in another order; return what they saw.

    Raises:
        ZosiaError: nothing was answered.
    """
    until, seen = time.monotonic() + SECONDS, []
    texts: dict[str, set[str]] = {question: set() for question in QUESTIONS}
    failed: list[str] = []

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < until:
            question, began = QUESTIONS[turn % len(QUESTIONS)], time.monotonic()
            try:
                texts[question].add(server.answer(question, LENGTH))
                seen.append(time.monotonic() - began)
            except (OSError, ValueError, http.client.HTTPException) as error:
                failed.append(str(error))
            turn += 1

    began = time.monotonic()
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(client, range(MANY)))
    if not seen:
        raise ZosiaError(f"None of {len(failed)} requests was answered: {failed[0]}", f"See {FOLDER / 'serve.log'}")
    return {
        "answered": float(len(seen)),
        "not answered": float(len(failed)),
        "different answers to a question": float(max(map(len, texts.values()))),
        "tokens/s": len(seen) * LENGTH / (time.monotonic() - began),
        "an answer, s": statistics.median(seen),
    }


def clients(settings: Settings, rounds: int) -> Section:
    """Measure a crowd of clients, through the gate and at llama-server on this host."""
    machine = machines.serve_machine(settings)

    def one(start: Callable[[], AbstractContextManager[Server]]) -> dict[str, float]:
        with start() as server:
            server.healthy()
            return _together(server)

    ways: dict[str, Way] = {
        "resumed": partial(one, partial(served, machine)),
        "llama-server on this host": partial(one, partial(native, machine)),
    }
    return Section(
        what=f"{MANY} clients, twice as many as there are slots, ask {len(QUESTIONS)} questions again "
        f"and again for {SECONDS:.0f} s, at temperature 0, for {LENGTH} tokens.",
        ways=compare(ways, rounds),
    )
