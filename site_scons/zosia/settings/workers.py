"""Workers of a run: what each has, the layers that each gets, and the memory that its guest needs for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.disk import record
from zosia.machine import host
from zosia.machine.qemu import Bus, Machine
from zosia.machine.task import Mode, Task, Worker
from zosia.model import split
from zosia.model.memory import guest_memory
from zosia.model.plan import Wish, gib, guest_share
from zosia.run import supervisor
from zosia.run.session import SILENCE
from zosia.run.workers import near
from zosia.settings.settings import Settings
from zosia.settings.settle import Settled

HOST = re.compile(r"[\w.@:%\[\]-]+", re.ASCII)


def names(text: str, launched: Path) -> tuple[str, ...]:
    """Return the names of workers that WORKERS= lists; a number stands for so many on this machine.

    Relative paths start from the folder `launched`.

    Raises:
        ZosiaError: one is no worker's.
    """
    if re.fullmatch("[0-9]{1,2}", text) and 0 < int(text) <= 16:
        return tuple(f"{near.LOCAL}{number}" for number in range(1, int(text) + 1))
    found = tuple(text.split(","))
    for name in found:
        kind, _, where = name.partition(":")
        good = HOST.fullmatch(where) and where[0] != "-" if kind == "ssh" else kind == "unix" and where
        if not good or any(map(str.isspace, name)):
            raise ZosiaError(
                f"WORKERS= has {name!r}, which is no worker",
                "Set a number from 1 to 16, or ssh:HOST or unix:SOCKET, with commas between them",
            )
    if len(set(found)) < len(found):
        raise ZosiaError(f"WORKERS={text} has a worker twice", "Name each once")
    return tuple(f"unix:{launched / name[5:]}" if name.startswith("unix:") else name for name in found)


def spread(settings: Settings) -> tuple[Settings, tuple[int, ...]]:
    """Return the settings with a split of the model's layers, and the MiB that each worker offers.

    Raises:
        ZosiaError: a worker can't be reached, or the split is none of this model.
    """
    total, _ = host.memory()
    far = [name for name in settings.workers.names if not name.startswith(near.LOCAL)]
    own = guest_share(total) // (len(settings.workers.names) - len(far) + 1)
    found = iter(near.offers(far))
    offers = [own if name.startswith(near.LOCAL) else next(found).memory for name in settings.workers.names]
    shape, _ = settings.model.measures()
    counts = settings.workers.split or split.even(shape.block_count, [own, *offers])
    return replace(settings, workers=replace(settings.workers, split=counts)), tuple(offers)


def given(machine: Machine, settings: Settings, settled: Settled, offers: Sequence[int]) -> Machine:
    """Return the machine with its workers, each with the memory for its layers. It boots each time.

    Raises:
        ZosiaError: one offers too little.
    """
    wanted, context = settled.wish, settled.plan.context
    _, *parts = wanted.parts(context=context)
    sizes = [
        guest_memory(part.total, heavy_kernel=settings.heavy_kernel or not name.startswith(near.LOCAL))
        for name, part in zip(settings.workers.names, parts, strict=True)
    ]
    if any(size > offer for size, offer in zip(sizes, offers, strict=True)):
        raise _refusal(settings, wanted, sizes, offers)
    made = record.read(settings.model.image)
    sha256 = made.sha256 if made else ""
    workers = tuple(
        Worker(name=name, layers=count, memory=size, sha256=sha256, machine=_local(name, machine, size))
        for name, count, size in zip(settings.workers.names, wanted.counts[1:], sizes, strict=True)
    )
    return replace(machine, hot=None).given(workers=workers, silence=round(SILENCE * patience()))


def _local(name: str, machine: Machine, memory: int) -> str:
    """Return the guest of a worker on this host as JSON, with the same hardware and disk; "" for another worker."""
    if not name.startswith(near.LOCAL):
        return ""
    task = Task(mode=Mode.WORKER, has_weights=True)
    alone = replace(machine, bus=Bus.VIRTIO_BLK, hot=None, memory=memory, task=task)
    return supervisor.to_json(alone)


def _refusal(settings: Settings, wanted: Wish, sizes: Sequence[int], offers: Sequence[int]) -> ZosiaError:
    each = [
        f"{name} takes {gib(size)} GiB for {count} layers and has {gib(offer)}"
        for name, count, size, offer in zip(settings.workers.names, wanted.counts[1:], sizes, offers, strict=True)
        if size > offer
    ]
    return ZosiaError(
        f"{wanted.name} does not fit into its workers: {', '.join(each)}",
        "Set a smaller CTX=, or more WORKERS=, or other layers with SPLIT=",
    )
