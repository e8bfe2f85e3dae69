#!/usr/bin/env python3
"""Time from the start of QEMU to the stub's first words, for bases and another kernel, alternating in one run.

    .venv/bin/scons smoke                       # builds what is booted; likewise with BASE= and ARCH=
    .venv/bin/python scripts/bench-boot.py [--runs N] [--cpu MODEL] [--arch ARCH]... [--base BASE]... [OTHER_KERNEL]

With --prompt the default model is booted, to its prompt (`scons` builds it).

Prints a table with medians and ranges in seconds; for bases also the kernel's uptime when the guest said it is up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site_scons"))

import zosia_options  # noqa: E402
from zosia.console import PROMPT, Guest  # noqa: E402
from zosia.machine import Machine  # noqa: E402
from zosia.variables import DEFAULTS  # noqa: E402

MARK = "This is a stub"
LONGEST = 180  # seconds


def boot(machine: Machine, mark: str) -> tuple[float, float | None]:
    """Seconds from QEMU's start until the console shows `mark`, and the uptime at /init if the guest reported it."""
    start = time.monotonic()
    with Guest(machine, ROOT / "build" / "bench-boot.log") as guest:
        guest.expect(mark, LONGEST)
        took = time.monotonic() - start
        return took, guest.report.uptime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpu", default="")
    parser.add_argument("--prompt", action="store_true")
    parser.add_argument("--arch", action="append", default=[])
    parser.add_argument("--base", action="append", default=[])
    options = parser.parse_args()
    other = options.other and options.other.resolve()
    os.chdir(ROOT)
    machines = {}
    for arch, base in product(options.arch or ["aarch64"], options.base or ["direct"]):
        typed = {"CPU": options.cpu, "ARCH": arch, "BASE": base}
        settings = zosia_options.read(DEFAULTS | typed, [], ROOT)
        machines[f"{arch} {base}"] = settings.machine() if options.prompt else settings.stub_machine()
    if other:
        machines[other.name] = replace(next(iter(machines.values())), kernel=other)
    times: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for name, machine in machines.items():
            took, uptime = boot(machine, PROMPT if options.prompt else MARK)
            times.setdefault(name, []).append(took)
            if uptime is not None:
                times.setdefault(f"{name}, uptime at /init", []).append(uptime)
    for name, values in times.items():
        print(f"{name:40} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
