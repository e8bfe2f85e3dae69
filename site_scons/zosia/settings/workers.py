"""Workers of a run: what each has, the layers that each gets, and the memory that its guest needs for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError, shown
from zosia.base.patience import patience
from zosia.base.places import repair
from zosia.base.version import VERSION
from zosia.disk import record
from zosia.machine import host
from zosia.machine.boards import Accel
from zosia.machine.qemu import Bus, Machine
from zosia.machine.task import Mode, Task, Worker
from zosia.model import split
from zosia.model.memory import Memory, guest_memory
from zosia.model.plan import Wish, gib, guest_share
from zosia.run import supervisor
from zosia.run.session import SILENCE
from zosia.run.workers import native, near, speeds
from zosia.run.workers.wire import Offer
from zosia.settings.hardware import INITRAMFS, Hardware, expected
from zosia.settings.settings import Settings, Together
from zosia.settings.settle import Settled, settle, wish

MOST = 15  # llama.cpp's --tensor-split has room for as many devices
SPLITTING = {  # arguments of llama.cpp
    *("-ngl", "--gpu-layers", "--n-gpu-layers", "-ts", "--tensor-split", "-sm", "--split-mode", "-mg", "--main-gpu"),
    *("-dev", "--device", "-ot", "--override-tensor", "-nkvo", "--no-kv-offload"),
}
UNIT = "SPEED is in multiplications, of matrices; ? was not measured yet, which a run does."
HEADER = ("MACHINE", "LAYERS", "TAKES", "HAS", "SPEED")
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
        if kind == "ssh":
            good = bool(HOST.fullmatch(where)) and where[0] != "-"
        else:
            good = name == near.HOST or (kind == "unix" and bool(where))
        if not good:
            raise ZosiaError(
                f"WORKERS= has {name!r}, which is no worker",
                f"Set a number from 1 to {MOST}, or ssh:HOST, unix:SOCKET or host, with commas between them",
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
    """Return whether a worker computes on this host."""
    return name.startswith(near.LOCAL) or name == near.HOST


@dataclass(frozen=True, kw_only=True)
class Share:
    """Part of a machine in a run: its `layers`, the first of which is number `first`; MiB that it `takes` and `has`."""

    name: str
    layers: int
    first: int
    takes: int
    has: int
    speed: int

    @property
    def row(self) -> tuple[str, ...]:
        """Return its row in a table."""
        last = self.first + self.layers - 1
        layers = "none" if not self.layers else f"{self.first}" if last == self.first else f"{self.first} to {last}"
        speed = f"{self.speed} million/s" if self.speed else "?"
        return self.name, layers, f"{gib(self.takes)} GiB", f"{gib(self.has)} GiB", speed


def spread(settings: Settings, hardware: Hardware) -> tuple[Settings, tuple[Offer, ...]]:
    """Return the settings with a split of the model's layers, and what each worker offers.

    Raises:
        ZosiaError: a worker can't be reached, the split is none of this model, or LLAMA_ARGS= would split it otherwise.
    """
    for word in settings.llama_args:
        if word in SPLITTING:
            raise ZosiaError(f"LLAMA_ARGS= has {word}, which is not for a machine with WORKERS=", "Set SPLIT= instead")
    together, (total, _) = settings.workers, host.memory()
    if together.server and near.HOST not in together.names:
        raise ZosiaError("RPC_SERVER= is for WORKERS=host", "Add host to WORKERS=, or leave RPC_SERVER= out")
    if near.HOST in together.names and (refused := native.refusal(together.server)):
        raise refused
    far = [name for name in together.names if not _here(name)]
    own = guest_share(total) // (len(together.names) - len(far) + 1)
    found = iter(near.offers(far))
    kind = _own_kind(settings, hardware.accel)  # those on this host have what works, and not what was asked for
    offers = [_offer(kind, name, own) if _here(name) else next(found) for name in together.names]
    counts = together.split or _split(
        settings, hardware, [settings.memory or own, *(each.memory for each in offers)], offers
    )
    offers = [
        replace(offer, memory=guest_share(total)) if _here(name) else offer
        for name, offer in zip(together.names, offers, strict=True)
    ]
    return replace(settings, workers=replace(together, split=counts)), tuple(offers)


def _offer(kind: str, name: str, memory: int) -> Offer:
    speed = speeds.recall(speeds.here() if name == near.HOST else kind)
    return Offer(version=VERSION, memory=memory, speed=speed)


def _own_kind(settings: Settings, accel: Accel) -> str:
    return speeds.key(settings.arch, accel.value, settings.cpu, settings.cpus)


def _split(settings: Settings, hardware: Hardware, sizes: Sequence[int], offers: Sequence[Offer]) -> tuple[int, ...]:
    """Return the layers of this machine and of each worker, by memory, and by speed where all were measured."""
    shape, _ = settings.model.measures()
    known = [speeds.recall(_own_kind(settings, hardware.accel)), *(offer.speed for offer in offers)]
    if not all(known):
        return split.even(shape.block_count, sizes)
    whole = wish(replace(settings, workers=Together()), hardware.bus).takes()
    most = []
    for place, size in enumerate(sizes):
        name = settings.workers.names[place - 1] if place else ""

        def fits(part: Memory, name: str = name, size: int = size) -> bool:
            return _size(settings, name, part) + part.on_host <= size

        most.append(split.capacity(whole, shape, len(sizes), place, fits))
    return split.by_speed(sizes, known, most, shape.block_count)


def _size(settings: Settings, name: str, part: Memory) -> int:
    """Return the MiB of a guest for a part; of the program that is no guest, what it has itself."""
    if name == near.HOST:
        return part.total
    heavy = settings.heavy_kernel or bool(name and not _here(name))
    return guest_memory(part.total, heavy_kernel=heavy, pages=part.pages)


def shares(settings: Settings, wanted: Wish, context: int, offers: Sequence[Offer], own: int = 0) -> list[Share]:
    """Return the shares of this machine, which has the speed `own`, and of its workers."""
    total, _ = host.memory()
    names = ("this one", *settings.workers.names)
    memory = settings.memory or guest_share(total)
    offered = (Offer(version=VERSION, memory=max(1, memory), speed=own), *offers)
    found: list[Share] = []
    first = 1
    for name, part, count, offer in zip(names, wanted.parts(context=context), wanted.counts, offered, strict=True):
        takes = _size(settings, "" if not found else name, part) + part.on_host
        found.append(Share(name=name, layers=count, first=first, takes=takes, has=offer.memory, speed=offer.speed))
        first += count
    return found


def given(machine: Machine, settings: Settings, settled: Settled, offers: Sequence[Offer]) -> Machine:
    """Return the machine with its workers, each with the memory for its layers. It boots each time.

    Raises:
        ZosiaError: one offers too little, or those on this host don't fit beside it.
    """
    wanted, context = settled.wish, settled.plan.context
    mine, *others = shares(settings, wanted, context, offers)
    check(settings, wanted, [mine, *others])
    made = record.read(settings.model.image)
    sha256 = made.sha256 if made else ""
    workers = tuple(
        Worker(
            name=share.name,
            layers=share.layers,
            memory=share.takes,
            sha256=sha256,
            machine=_started(settings, share.name, machine, share.takes),
        )
        for share in others
    )
    return replace(machine, hot=None).given(workers=workers, silence=round(SILENCE * patience()))


def check(settings: Settings, wanted: Wish, found: Sequence[Share]) -> None:
    """Refuse workers that don't fit, with what each takes, and with the sum.

    Raises:
        ZosiaError: one offers too little, or those on this host don't fit beside this machine.
    """
    mine, *others = found
    each = [
        f"{share.name} takes {gib(share.takes)} GiB for {share.layers} layers and has {gib(share.has)}"
        for share in others
        if share.takes > share.has
    ]
    if each:
        takes = sum(share.takes for share in found)
        total, _ = host.memory()
        has = sum(share.has for share in others if not _here(share.name)) + guest_share(total)
        raise ZosiaError(
            f"{wanted.name} does not fit into its workers: {', '.join(each)}; all together take {gib(takes)} GiB, and "
            f"these machines have {gib(has)}",
            "Set a smaller CTX=, or more WORKERS=, or other layers with SPLIT=",
        )
    total, _ = host.memory()
    local = [share.takes for share in others if _here(share.name)]
    if local and (whole := mine.takes + sum(local)) > guest_share(total):
        raise ZosiaError(
            f"{wanted.name} and its workers on this host take {whole} MiB, and guests can have {guest_share(total)} of "
            f"this machine's {total} MiB",
            "Set a smaller CTX=, or fewer WORKERS=; those of other hosts take nothing here",
        )


def table(settings: Settings) -> str:
    """Return which layers go where, what each machine takes and has, and whether that fits; errors as `spread`."""
    hardware = expected(settings)
    settings, offers = spread(settings, hardware)
    wanted, refused = wish(settings, hardware.bus), ""
    context = wanted.context
    try:
        context = settle(settings, hardware).plan.context
    except ZosiaError as error:
        refused = str(error)
    found = shares(settings, wanted, context, offers, speeds.recall(_own_kind(settings, hardware.accel)))
    try:
        check(settings, wanted, found)
    except ZosiaError as error:
        refused = refused or str(error)
    summary = f"{wanted.name} with a context of {context} tokens: {sum(share.layers for share in found)} layers"
    verdict = style.error(refused) if refused else "It fits."
    return "\n".join([*style.columns([HEADER, *(share.row for share in found)]), "", f"{summary}. {UNIT}", verdict])


def _started(settings: Settings, name: str, machine: Machine, memory: int) -> str:
    """Return what this host starts for a worker of its own, as JSON; "" for another worker.

    Raises:
        ZosiaError: the program for it is not built.
    """
    if name == near.HOST:
        initramfs = replace(settings, arch=host.arch()).base_build / INITRAMFS
        if not initramfs.is_file():
            raise ZosiaError(
                f"WORKERS=host needs the programs in {initramfs}", repair("Build them. Type: scons rpc-server")
            )
        server = str(settings.workers.server or "")
        return native.Native(memory=memory, initramfs=str(initramfs.absolute()), server=server).to_json()
    if not _here(name):
        return ""
    task = Task(mode=Mode.WORKER, has_weights=True)
    alone = replace(machine, bus=Bus.VIRTIO_BLK, hot=None, memory=memory, task=task)
    return supervisor.to_json(alone)
