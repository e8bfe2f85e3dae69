"""Plan of a run: a context and a guest size that fit into this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from zosia.base.errors import ZosiaError
from zosia.model import split
from zosia.model.memory import Memory, estimate, guest_memory, largest_context
from zosia.model.options import CACHE_TYPES
from zosia.model.shape import Shape

LEAST_MEMORY = 512  # MiB: with less Linux makes no huge pages
LEAST_HOST = 512  # MiB: a host that has less left will swap
LEAST_CONTEXT = 512  # tokens; less is too little for a chat, and only taken if CTX= sets it
CHECKPOINTS = 4
NO_REMEDY = "It needs a machine with more memory"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Request for a run.

    Attributes:
        weights: bytes of the model's files; 0 if unknown.
        context: in tokens; of a server, what all conversations may have together, and any of them alone.
        fixed: the context was set, so it must not be reduced.
        cache_type: one of CACHE_TYPES.
        llama_args: further arguments of llama-cli or llama-server.
        parallel: conversations of llama-server at a time; 0 for llama-cli, which has one.
        guests: such machines that run at a time, and share the weights that they map.
        memory: guest size (MEM=) in MiB; 0 for as much as it takes.
        heavy_kernel: as in guest_memory.
        mapped, dax: as in Memory.
        counts: layers of this machine and of each worker; empty without workers.
    """

    name: str
    shape: Shape
    weights: int
    context: int
    fixed: bool = False
    cache_type: str = CACHE_TYPES[0]
    llama_args: tuple[str, ...] = ()
    parallel: int = 0
    guests: int = 1
    memory: int = 0
    heavy_kernel: bool = False
    mapped: bool = False
    dax: bool = False
    counts: tuple[int, ...] = ()

    def args(self, *, context: int = 0, cache_type: str = "", parallel: int = 0) -> tuple[str, ...]:
        """Return the arguments for it, or for another context, cache type or number of conversations."""
        kind = cache_type or self.cache_type
        types = () if kind == CACHE_TYPES[0] else ("-ctk", kind, "-ctv", kind)
        # llama-cli would keep up to 32 copies of a window or a recurrent state, one a turn; few suffice to regenerate.
        checkpoints = ("-ctxcp", str(CHECKPOINTS))
        # Unified: a conversation that is alone has all of the context, and windows take less than in a cache for each.
        slots = ("-np", str(parallel or self.parallel), "--kv-unified") if self.parallel else ()
        workers = split.args(self.counts) if self.counts else ()
        return ("-c", str(context or self.context), *checkpoints, *slots, *types, *workers, *self.llama_args)

    def takes(self, **other: int | str) -> Memory:
        """Return the memory that it takes; `other` is as in `args`."""
        return self.parts(**other)[0]

    def parts(self, **other: int | str) -> list[Memory]:
        """Return the memory that this machine and each of its workers takes; `other` is as in `args`."""
        args = self.args(**other)  # type: ignore[arg-type]
        whole = estimate(self.shape, self.weights, args, mapped=self.mapped, dax=self.dax)
        return split.memories(whole, self.shape, self.counts) if self.counts else [whole]

    def guest(self, needed: Memory) -> int:
        """Return the size of a guest that has this memory for llama-cli, in MiB."""
        return guest_memory(needed.total, heavy_kernel=self.heavy_kernel, pages=needed.pages)

    def most(self, total: int) -> int:
        """Return the MiB that a guest may have of a machine's `total`: MEM=, or its share of what mapped weights leave.

        Mapped weights are in the host's page cache, which can be read again: MEM= may leave less for them.
        """
        return self.memory or max(0, guest_share(total) - self.takes().on_host) // self.guests


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan that fits: `context` in tokens; `need`, llama-cli's memory, and `memory`, the guest's, in MiB.

    `enough` is MEM= of a guest that just has `need` for llama-cli.
    """

    context: int
    need: int
    memory: int
    enough: int = 0


def guest_share(total: int) -> int:
    """Return the MiB that one guest may have of a machine's `total`: the rest is for the host's system and QEMU."""
    return max(0, total * 7 // 8 - 512)


def plan(wish: Wish, total: int, others: Iterable[Wish] = ()) -> Plan:
    """Return the context and the memory of a run; a context that was not set is reduced until it fits.

    Args:
        total: MiB that this machine has.
        others: alternatives, to suggest if this does not fit.

    Raises:
        ZosiaError: the run does not fit; the error has its memory, and what would fit.
    """
    if wish.guests > 1 and wish.memory * wish.guests > total >= wish.memory:
        whole = wish.guests * wish.memory
        raise ZosiaError(
            f"{wish.guests} guests of MEM={wish.memory}M take {whole} MiB, more than this machine has, {total} MiB",
            f"Set GUESTS={total // wish.memory}, or a smaller MEM=",
        )
    if wish.memory > total:
        raise ZosiaError(
            f"MEM={wish.memory}M is more than this machine has, {total} MiB",
            "Set a smaller MEM=, or leave it out",
        )
    if not wish.weights:
        return Plan(context=wish.context, need=0, memory=wish.memory or LEAST_MEMORY)
    most = wish.most(total)
    context = wish.context
    if not _fits(wish, most) and not wish.fixed:
        context = _largest(wish, most) or context
    needed = wish.takes(context=context)
    if wish.guest(needed) > most:
        raise _refusal(wish, total, others)
    memory = wish.memory or min(most, max(LEAST_MEMORY, wish.guest(needed)))
    return Plan(context=context, need=needed.total, memory=memory, enough=wish.guest(needed))


def _fits(wish: Wish, most: int, **other: int | str) -> bool:
    return wish.weights > 0 and wish.guest(wish.takes(**other)) <= most


def _largest(wish: Wish, most: int, cache_type: str = "") -> int:
    """Return the largest context that fits, in tokens; 0 if that is too small for a chat."""

    def takes(context: int) -> Memory:
        return wish.takes(context=context, cache_type=cache_type)

    largest = largest_context(wish.shape, most, takes, heavy_kernel=wish.heavy_kernel)
    return largest if largest >= LEAST_CONTEXT else 0


def _refusal(wish: Wish, total: int, others: Iterable[Wish]) -> ZosiaError:
    """Return the error of a run that does not fit, with alternatives."""
    needed, most = wish.takes(), wish.most(total)
    own = wish.guest(needed)
    whole = own * wish.guests + needed.on_host
    who = "a guest" if wish.guests == 1 else f"{wish.guests} guests"
    has = f"{who} can have {guest_share(total)} of this machine's {total} MiB"
    if wish.memory:
        has = f"MEM= gives the guest {wish.memory} MiB"
    remedies = []
    if wish.memory and whole <= guest_share(total):
        remedies.append(f"MEM={own}M")
    smaller = [replace(wish, guests=count) for count in range(wish.guests - 1, 0, -1)]
    remedies += [f"GUESTS={few.guests}" for few in smaller if _fits(few, few.most(total))][:1]
    if largest := _largest(wish, most):
        remedies.append(f"CTX={largest}")
    if fewer := next((count for count in range(wish.parallel - 1, 0, -1) if _fits(wish, most, parallel=count)), 0):
        remedies.append(f"PARALLEL={fewer}")
    for kind in CACHE_TYPES[CACHE_TYPES.index(wish.cache_type) + 1 :]:
        if _fits(wish, most, cache_type=kind) or (not wish.fixed and _largest(wish, most, cache_type=kind)):
            remedies.append(f"KV={kind}")
            break
    others = [replace(other, memory=wish.memory) for other in others]
    fitting = [
        other for other in others if _fits(other, other.most(total)) and other.context <= other.shape.context_length
    ]
    remedies += [f"MODEL={other.name}" for other in sorted(fitting, key=lambda other: -other.weights)[:2]]
    if not wish.memory and whole <= total - LEAST_HOST:
        remedies.append(f"MEM={own}M, which leaves the host little")
    guest = own - needed.total
    remedy = f"Set {' or '.join(remedies)}; scons models shows what fits" if remedies else NO_REMEDY
    size, context = (own if wish.memory else whole), wish.context
    if wish.guests > 1 and not wish.memory:
        each = f"{own} MiB each{f', and {needed.on_host} MiB of weights once' * bool(needed.on_host)}"
        return ZosiaError(
            f"{wish.guests} guests of {wish.name} take {size} MiB at CTX={context}: {each} ({needed}, and {guest} MiB "
            f"for the guest itself), and {has}",
            remedy,
        )
    return ZosiaError(
        f"{wish.name} takes {size} MiB at CTX={context} ({needed}, and {guest} MiB for the guest itself), and {has}",
        remedy,
    )


def gib(mib: int) -> str:
    """Format MiB as GiB: 13107 is 12.8."""
    return f"{mib / 1024:.1f}" if mib >= 1024 or not mib else f"{mib / 1024:.2f}"
