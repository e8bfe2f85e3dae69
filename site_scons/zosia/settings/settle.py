"""Everything about a run that follows from its settings and this host, computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import Model
from zosia.inputs.references import Reference
from zosia.machine import host
from zosia.machine.qemu import Bus
from zosia.model import plan, split
from zosia.model.plan import Plan, Wish
from zosia.model.shape import Shape
from zosia.settings.hardware import Hardware, expected
from zosia.settings.settings import Settings, Together

CONTEXT = 8192  # tokens, for a model whose metadata and settings name none


@dataclass(frozen=True, kw_only=True)
class Settled(Hardware):
    """The hardware of a run, the memory and context requested for it, and those that it gets; `like` is of `alike`."""

    wish: Wish
    plan: Plan
    like: Model | None = None


def settle(settings: Settings, hardware: Hardware) -> Settled:
    """Return all that follows from the settings. Before a model is downloaded, less is known about its memory.

    Raises:
        ZosiaError: the model does not fit into this machine, or can't be read.
    """
    wanted = wish(settings, hardware.bus)
    total, _ = host.memory()
    alone = replace(settings, workers=Together())
    others = (
        wish(alone.of(model), hardware.bus) for model in settings.models.values() if model != settings.model.entry
    )
    given = plan.plan(wanted, total, others)
    like = alike(settings, wanted.shape)
    return Settled(accel=hardware.accel, board=hardware.board, bus=hardware.bus, wish=wanted, plan=given, like=like)


def alike(settings: Settings, found: Shape) -> Model | None:
    """Return the entry of the catalogue whose settings a model of this shape takes; None for a model of the catalogue.

    It is an entry of exactly this shape: the same model under another name or from another place, or a relative.
    Several entries must have the same settings.
    """
    if settings.model.entry and not isinstance(settings.model.entry, Reference):
        return None
    entries = [entry for entry in settings.models.values() if entry.shape == found]
    ways = {(entry.context, entry.llama_args, entry.reasoning) for entry in entries}
    return entries[0] if len(ways) == 1 else None


def likeness(name: str, entry: Model) -> str:
    """Return a line that names the entry whose settings a model takes."""
    return style.line("LIKE", f"{name} has the shape of {entry.name}, and takes its context, sampling and reasoning")


def wish(settings: Settings, on: Bus) -> Wish:
    """Return the context and memory that are requested for a model on this bus.

    Raises:
        ZosiaError: the model can't be read.
    """
    found, weights = settings.model.measures()
    entry = alike(settings, found) or settings.model.entry
    wanted = (entry.context if entry else 0) or min(CONTEXT, found.context_length or CONTEXT)
    return Wish(
        name=settings.model.title,
        shape=found,
        weights=weights,
        context=settings.context or wanted,
        fixed=bool(settings.context),
        cache_type=settings.cache_type,
        llama_args=settings.llama_args,
        memory=settings.memory,
        parallel=settings.parallel,
        guests=settings.guests,
        heavy_kernel=settings.heavy_kernel,
        mapped=settings.weights == "map" and on is Bus.DAX,
        dax=on is Bus.DAX,
        counts=_counts(settings, found),
    )


def _counts(settings: Settings, found: Shape) -> tuple[int, ...]:
    """Return the layers of this machine and of each worker: none here until it is known what the workers have."""
    machines = 1 + len(settings.workers.names)
    if machines == 1:
        return ()
    if settings.workers.split:
        return split.checked(found.block_count, settings.workers.split, machines)
    return split.even(found.block_count, [0, *[1] * (machines - 1)])


def doubt(settings: Settings) -> str:
    """Return why the model will not run on this machine; "" when it will."""
    try:
        settle(settings, expected(settings))
    except ZosiaError as error:
        return str(error)
    return ""


def notes(settled: Settled) -> list[str]:
    """Return lines about settings of another model, and of warnings: a smaller context, one beyond the model's
    training, or little free memory.
    """
    wanted, found = settled.wish, settled.plan
    lines = [likeness(wanted.name, settled.like)] if settled.like else []
    if found.context < wanted.context:
        where = f"MEM={wanted.memory}M" if wanted.memory else "this machine"
        where += f" with {wanted.guests} guests" if wanted.guests > 1 and not wanted.memory else ""
        lines.append(style.line("CTX", f"{found.context} tokens: {wanted.context} do not fit into {where}"))
    trained = wanted.shape.context_length
    if 0 < trained < found.context:
        text = f"{found.context} tokens: quality degrades beyond {wanted.name}'s training context of {trained} tokens"
        lines.append(style.line("CTX", text))
    _, free = host.memory()
    whole = wanted.guests * found.memory + wanted.takes().on_host
    if whole > free:
        who = "the guest" if wanted.guests == 1 else f"{wanted.guests} guests"
        takes = f"{who} may take {plan.gib(whole)} GiB, and {plan.gib(free)} are free now"
        lines.append(style.line("MEM", f"{takes}: close other programs if it gets slow"))
    return lines
