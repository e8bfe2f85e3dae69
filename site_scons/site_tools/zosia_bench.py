"""Benchmark: what `scons bench` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia_scons import action, become


def _hand_over(targets: list[Path], sources: list[Path], env: Any) -> None:
    """What is measured is built by what measures it, for it is more than one build."""
    become("zosia_build.benchmarks", env["ROUNDS"])


def benchmark(env: Any, rounds: int) -> Any:
    """env.Benchmark(rounds): the alias `bench`."""
    return env.AlwaysBuild(env.Alias("bench", [], action(_hand_over, "BENCH"), ROUNDS=str(rounds)))


def generate(env: Any) -> None:
    """Add the method."""
    env.AddMethod(benchmark, "Benchmark")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
