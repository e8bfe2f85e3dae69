"""Benchmark: the alias for `scons bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia_scons import action, become


def _hand_over(targets: list[Path], sources: list[Path], env: Any) -> None:
    """Become the benchmarks: they start the builds that they measure themselves, since there are several."""
    become("zosia_build.benchmarks", env["ROUNDS"])


def benchmark(env: Any, rounds: int) -> Any:
    """env.Benchmark(rounds): the alias `bench`."""
    return env.AlwaysBuild(env.Alias("bench", [], action(_hand_over, "BENCH"), ROUNDS=str(rounds)))


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(benchmark, "Benchmark")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
