"""Speeds of machines that were measured by earlier runs with workers, and are remembered.

Each machine multiplies a matrix for some 20 ms before it loads (llama/worker.cpp) and says how many million
multiplications it does in a second. The split of layers is needed before any of them starts: so the next run has it.
The highest one counts, and none for good: some weeks after the last change, all are measured again.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root, locked, replacing
from zosia.machine import host
from zosia.machine.qemu import Machine
from zosia.run.workers.wire import MOST  # what no offer can say would end each later run

FILE = "speeds.json"
KEPT = 30 * 86400  # seconds, so that one that was measured wrongly is not kept for good


def key(arch: str, accel: str, cpu: str, cpus: int) -> str:
    """Return the name of a kind of machine on this host."""
    return " ".join((socket.gethostname(), arch, accel, cpu or "max", str(cpus)))


def here() -> str:
    """Return the name of this host itself, as a worker outside of a guest."""
    return key(host.arch(), "host", "", host.affinity())


def of(machine: Machine) -> str:
    """Return the name of a machine's kind."""
    return key(machine.arch, machine.accel.value, machine.cpu, machine.cpus)


def recall(name: str) -> int:
    """Return the speed of a kind of machine, 0 if it was never measured."""
    found = _all().get(name, 0)
    return found if type(found) is int and 0 < found < MOST else 0


def note(name: str, speed: int) -> None:
    """Remember a speed, if it is the highest: other programs make a machine slower, and nothing makes it faster. Where
    that is not possible, the next run does without.
    """
    if not recall(name) < speed < MOST:
        return
    with suppress(OSError, ZosiaError), locked(cache_root() / FILE), replacing(cache_root() / FILE) as temporary:
        temporary.write_text(json.dumps({**_all(), name: max(speed, recall(name))}, indent=1), encoding="utf-8")


def _all() -> dict[str, object]:
    path = cache_root() / FILE
    with suppress(OSError, ValueError):
        if time.time() - path.stat().st_mtime < KEPT and isinstance(found := json.loads(path.read_bytes()), dict):
            return found
    return {}
