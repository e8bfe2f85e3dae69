"""Several clients at once, for a while: all are answered, and alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.serving import Server, native, served

CLIENTS, SECONDS, ANSWER = 8, 120.0, 16
QUESTIONS = ("Count from 1 to 20.", "What is 2+2?", "Name a colour.")


def crowd(server: Server) -> dict[str, float]:
    """Have clients ask the same questions for some time, each in another order; return what they saw."""
    until, seen = time.monotonic() + SECONDS, []
    texts: dict[str, set[str]] = {question: set() for question in QUESTIONS}
    failed: list[str] = []

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < until:
            question, began = QUESTIONS[turn % len(QUESTIONS)], time.monotonic()
            try:
                texts[question].add(server.answer(question, ANSWER))
                seen.append(time.monotonic() - began)
            except (OSError, ValueError) as error:
                failed.append(str(error))
            turn += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "answered": float(len(seen)),
        "not answered": float(len(failed)),
        "different answers to a question": float(max(map(len, texts.values()))),
        "tokens/s": len(seen) * ANSWER / (time.monotonic() - began),
        "an answer, s": statistics.median(seen),
    }


def clients(settings: Settings, rounds: int) -> Section:
    """Measure a crowd of clients, through the gate and at llama-server on this host."""
    machine = machines.serve_machine(settings)

    def one(start: Callable[[], AbstractContextManager[Server]]) -> dict[str, float]:
        with start() as server:
            server.healthy()
            return crowd(server)

    ways: dict[str, Way] = {
        "resumed": partial(one, partial(served, machine)),
        "llama-server on this host": partial(one, partial(native, machine)),
    }
    return Section(
        what=f"{CLIENTS} clients, twice as many as there are slots, ask {len(QUESTIONS)} questions again "
        f"and again for {SECONDS:.0f} s, at temperature 0, for {ANSWER} tokens.",
        ways=compare(ways, rounds),
    )
