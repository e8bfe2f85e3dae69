"""Workers of a run: what each has, the layers that each gets, and the memory that its guest needs for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zosia.base.errors import ZosiaError, shown
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

MOST = 15  # llama.cpp's --tensor-split has room for as many devices
SPLITTING = {  # arguments of llama.cpp
    *("-ngl", "--gpu-layers", "--n-gpu-layers", "-ts", "--tensor-split", "-sm", "--split-mode", "-mg", "--main-gpu"),
    *("-dev", "--device", "-ot", "--override-tensor", "-nkvo", "--no-kv-offload"),
}
HOST = re.compile(r"[\w.@:%\[\]-]+", re.ASCII)


def names(text: str, launched: Path) -> tuple[str, ...]:
    """Return the names of workers that WORKERS= lists; a number stands for so many on this machine.

    Relative paths start from the folder `launched`.

    Raises:
        ZosiaError: one is no worker's.
    """
    if re.fullmatch("[0-9]{1,2}", text) and 0 < int(text) <= MOST:
        return tuple(f"{near.LOCAL}{number}" for number in range(1, int(text) + 1))
    found = tuple(text.split(","))
    for name in found:
        kind, _, where = name.partition(":")
        good = HOST.fullmatch(where) and where[0] != "-" if kind == "ssh" else kind == "unix" and where
        if not good:
            raise ZosiaError(
                f"WORKERS= has {name!r}, which is no worker",
                f"Set a number from 1 to {MOST}, or ssh:HOST or unix:SOCKET, with commas between them",
            )
    if len(set(found)) < len(found):
        raise ZosiaError(f"WORKERS={text} has a worker twice", "Name each once")
    if len(found) > MOST:
        raise ZosiaError(
            f"WORKERS= has {len(found)} workers, and llama.cpp takes up to {MOST}", f"Name {MOST} or fewer"
        )
    found = tuple(f"unix:{launched / name[5:]}" if name.startswith("unix:") else name for name in found)
    for name in found:
        if any(map(str.isspace, name)) or not name.isprintable():
            raise ZosiaError(f"The socket {shown(name[5:])} has a blank in its path", "Give it another place")
    return found


def _here(name: str) -> bool:
    """Return whether a worker runs on this host."""
    return name.startswith(near.LOCAL)


def spread(settings: Settings) -> tuple[Settings, tuple[int, ...]]:
    """Return the settings with a split of the model's layers, and the MiB that each worker offers.

    Raises:
        ZosiaError: a worker can't be reached, the split is none of this model, or LLAMA_ARGS= would split it otherwise.
    """
    for word in settings.llama_args:
        if word in SPLITTING:
            raise ZosiaError(f"LLAMA_ARGS= has {word}, which is not for a machine with WORKERS=", "Set SPLIT= instead")
    total, _ = host.memory()
    far = [name for name in settings.workers.names if not _here(name)]
    own = guest_share(total) // (len(settings.workers.names) - len(far) + 1)
    found = iter(near.offers(far))
    local = [_here(name) for name in settings.workers.names]
    sizes = [own if here else next(found).memory for here in local]
    offers = [guest_share(total) if here else size for here, size in zip(local, sizes, strict=True)]
    shape, _ = settings.model.measures()
    counts = settings.workers.split or split.even(shape.block_count, [settings.memory or own, *sizes])
    return replace(settings, workers=replace(settings.workers, split=counts)), tuple(offers)


def given(machine: Machine, settings: Settings, settled: Settled, offers: Sequence[int]) -> Machine:
    """Return the machine with its workers, each with the memory for its layers. It boots each time.

    Raises:
        ZosiaError: one offers too little, or those on this host don't fit beside it.
    """
    wanted, context = settled.wish, settled.plan.context
    _, *parts = wanted.parts(context=context)
    sizes = [
        guest_memory(part.total, heavy_kernel=settings.heavy_kernel or not _here(name))
        for name, part in zip(settings.workers.names, parts, strict=True)
    ]
    if any(size > offer for size, offer in zip(sizes, offers, strict=True)):
        raise _refusal(settings, wanted, sizes, offers)
    total, _ = host.memory()
    local = [size for name, size in zip(settings.workers.names, sizes, strict=True) if _here(name)]
    if local and (whole := machine.memory + wanted.takes(context=context).on_host + sum(local)) > guest_share(total):
        raise ZosiaError(
            f"{wanted.name} and its workers on this host take {whole} MiB, and guests can have {guest_share(total)} of "
            f"this machine's {total} MiB",
            "Set a smaller CTX=, or fewer WORKERS=; those of other hosts take nothing here",
        )
    made = record.read(settings.model.image)
    sha256 = made.sha256 if made else ""
    workers = tuple(
        Worker(name=name, layers=count, memory=size, sha256=sha256, machine=_local(name, machine, size))
        for name, count, size in zip(settings.workers.names, wanted.counts[1:], sizes, strict=True)
    )
    return replace(machine, hot=None).given(workers=workers, silence=round(SILENCE * patience()))


def _local(name: str, machine: Machine, memory: int) -> str:
    """Return the guest of a worker on this host as JSON, with the same hardware and disk; "" for another worker."""
    if not _here(name):
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
