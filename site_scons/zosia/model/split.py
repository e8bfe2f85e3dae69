"""Split of a model over several machines: which layers go where, and the memory that each machine needs for them.

llama.cpp gives the first layers to the machine that has the model, and the others, with the output, to its devices in
turn, which are the workers here (-ngl and --tensor-split; src/llama-model.cpp, load_tensors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from zosia.base.errors import ZosiaError
from zosia.model.memory import Memory
from zosia.model.shape import Shape

HALF = 2  # bytes of a number, of the widest output layers
PROGRAM = 16 << 20  # bytes of an RPC server, which has no vocabulary
PIPELINE = (
    4  # copies of its inputs that llama.cpp has where all layers are those of several workers (GGML_SCHED_MAX_COPIES)
)
ALIKE = 0.7  # of the fastest one's speed: no more is measured in 20 ms on a busy machine
FIRST_PORT = 50052  # of the workers in the guest's loopback interface: initramfs/init


def even(layers: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return how many layers each machine has, in proportion to the memory that it offers; a worker has at least one.

    Args:
        layers: those of the model.
        sizes: memory of this machine and of each worker, in any unit.

    Raises:
        ZosiaError: there are more workers than layers.
    """
    least = [0, *(1 for _ in sizes[1:])]
    if sum(least) > layers:
        raise ZosiaError(
            f"The model has {layers} layers, and there are {sum(least)} workers for them", "Set fewer WORKERS="
        )
    spare, total = layers - sum(least), max(1, sum(sizes))
    exact = [spare * size / total for size in sizes]
    counts = [one + math.floor(share) for one, share in zip(least, exact, strict=True)]
    rests = sorted(range(len(sizes)), key=lambda place: math.floor(exact[place]) - exact[place])
    for place in rests[: layers - sum(counts)]:
        counts[place] += 1
    return tuple(counts)


def by_speed(sizes: Sequence[int], speeds: Sequence[int], most: Sequence[int], layers: int) -> tuple[int, ...]:
    """Return how many layers each machine has, where their speeds are known; a worker has at least one.

    A token passes one machine after the other, so it takes the least time if the fastest ones have as many layers as
    they can. Among about equally fast ones, layers are in proportion to memory.

    Args:
        sizes, layers: as in `even`.
        speeds: of this machine and of each worker, in any unit.
        most: layers that each has the memory for.

    Raises:
        ZosiaError: as `even`; also where they don't fit, so that a refusal can say how much each lacks.
    """
    counts = [0, *(1 for _ in sizes[1:])]
    if sum(most) < layers or sum(counts) > layers or any(one > room for one, room in zip(counts, most, strict=True)):
        return even(layers, sizes)
    left = set(range(len(sizes)))
    while sum(counts) < layers:
        fastest = max(speeds[place] for place in left)
        group = sorted(place for place in left if speeds[place] >= ALIKE * fastest)
        left -= set(group)
        while sum(counts) < layers and (open_to := [place for place in group if counts[place] < most[place]]):
            place = min(open_to, key=lambda place: counts[place] / max(1, sizes[place]))
            counts[place] += 1
    return tuple(counts)


def capacity(whole: Memory, shape: Shape, machines: int, place: int, fits: Callable[[Memory], bool]) -> int:
    """Return the most layers that fit into one of so many machines, the one at `place`."""
    found = 0
    for count in range(1, shape.block_count + 1):
        counts = [count if each == place else 0 for each in range(machines)]
        if not fits(memories(whole, shape, counts)[place]):
            break
        found = count
    return found


def checked(layers: int, counts: Sequence[int], machines: int) -> tuple[int, ...]:
    """Return the layers that SPLIT= gives each machine.

    Raises:
        ZosiaError: these are not the model's layers, or not for so many machines.
    """
    found = "SPLIT=" + ",".join(map(str, counts))
    if len(counts) != machines:
        raise ZosiaError(
            f"{found} is for {len(counts)} machines, and this one and its workers are {machines}",
            "Give the layers of each machine, or leave SPLIT= out",
        )
    if not all(counts[1:]):
        raise ZosiaError(f"{found} has a worker without layers", "Give each worker some, or leave it out of WORKERS=")
    if sum(counts) != layers:
        raise ZosiaError(
            f"{found} has {sum(counts)} layers, and the model {layers}",
            f"Give numbers whose sum is {layers}, or leave SPLIT= out",
        )
    return tuple(counts)


def memories(whole: Memory, shape: Shape, counts: Sequence[int]) -> list[Memory]:
    """Return the memory that each machine needs, from that of a run on one.

    The first has the embeddings as well, and the last the output, each counted as in half precision. All have buffers
    for an evaluation. A worker has its weights in its own memory, and while it loads one more tensor, as a message,
    which the first machine has as well. A tensor has at most half of a layer.
    """
    buffers = whole.buffers * (PIPELINE if not counts[0] and len(counts) > 2 else 1)
    layers, edge = shape.block_count, min(whole.weights, shape.vocab_size * shape.embedding_length * HALF)
    found = []
    for place, count in enumerate(counts):
        first, last = place == 0, place == len(counts) - 1
        weights = math.ceil(whole.weights * count / layers) + edge * (first + last)
        part = replace(
            whole,
            weights=min(weights, whole.weights),
            cache=math.ceil(whole.cache * count / layers),
            buffers=buffers,
        )
        half = whole.weights // layers // 2
        if first:
            program = whole.program + max(half, edge)
            found.append(replace(part, disk=whole.weights, program=program))
        else:
            program = PROGRAM + max(half, edge * last)
            found.append(replace(part, program=program, mapped=False, dax=False))
    return found


def args(counts: Sequence[int]) -> tuple[str, ...]:
    """Return the arguments of llama.cpp for so many layers on this machine and on each worker."""
    ports = ",".join(f"127.0.0.1:{FIRST_PORT + place}" for place in range(len(counts) - 1))
    *others, last = counts[1:]
    shares = [*others, last + 1]  # the output is one more
    return "--rpc", ports, "-ngl", str(sum(shares)), "-ts", ",".join(map(str, shares)), "-sm", "layer"
