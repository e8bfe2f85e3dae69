"""The memory that a run takes, from a model's shape and llama-cli's arguments.

What llama.cpp reserves follows from its source (src/llama-graph.cpp, ggml-alloc.c); that it does is checked by
tests/build/test_memory.py. What it takes besides was measured in guests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from zosia.model.arguments import STEP, Arguments, read
from zosia.model.kv_cache import FLOAT, Cache, head_sizes, kv_caches, state_bytes, state_size
from zosia.model.shape import Shape

MIB = 1 << 20
THREADS = 64  # as many as SMP= may well give llama-cli; each takes little
HUGE_PAGES = 448  # MiB that are left in a guest in which Linux just doesn't make huge pages
PAGES = 64  # bytes that Linux keeps of each page, of 4096 bytes, of a disk that is memory (struct page)
CELL = 128  # bytes that llama.cpp has to know which token a cache's cell is of (src/llama-kv-cells.h)


@dataclass(frozen=True)
class Memory:
    """Bytes: the model's files; the cached context; what an evaluation takes; llama-cli itself.

    The first three are what llama.cpp's log calls model, KV and RS buffers, compute and output buffers, and its context
    checkpoints. `mapped` when the guest maps the model's files from the host, and has no copy.
    """

    weights: int
    cache: int
    buffers: int
    program: int
    mapped: bool = False

    @property
    def total(self) -> int:
        """MiB of the guest, rounded up."""
        return math.ceil((self.cache + self.buffers + self.program) / MIB + (not self.mapped) * self.weights / MIB)

    @property
    def on_host(self) -> int:
        """MiB of the host's page cache, which all guests share, rounded up."""
        return self.mapped * math.ceil(self.weights / MIB)

    @property
    def pages(self) -> int:
        """MiB that a guest's kernel keeps to know the pages of what is mapped, rounded up."""
        return self.mapped * pages(self.weights)

    def __str__(self) -> str:
        digits = 1 if self.total + self.on_host >= 1024 else 2
        names = ("weights", "cache", "buffers", "llama-cli")
        parts = [f"{name} {size / (1 << 30):.{digits}f}" for name, size in zip(names, astuple(self), strict=False)]
        return " + ".join([f"{parts[0]} GiB{' on the host' * self.mapped}", *parts[1:]])


def estimate(shape: Shape, weights: int, llama_args: Sequence[str], *, mapped: bool = False) -> Memory:
    """What a run takes; the last of each option counts, as it does for llama-cli.

    Args:
        weights: bytes of the model's files.
        llama_args: those of them that decide about memory, and any others.
        mapped: as in Memory.
    """
    wanted = read(shape, llama_args)
    caches = kv_caches(shape, wanted)
    kept = state_bytes(shape)
    checkpoint = kept + sum(cache.window_bytes(wanted) for cache in caches)
    return Memory(
        weights=weights,
        cache=kept + sum(cache.bytes(wanted) for cache in caches) + wanted.checkpoints * checkpoint,
        buffers=_graph(shape, wanted, caches) + FLOAT * shape.vocab_size,
        program=_program(shape) + _work(shape, wanted, caches) + CELL * sum(cache.cells for cache in caches),
        mapped=mapped,
    )


def pages(size: int) -> int:
    """MiB that the guest's kernel keeps for a disk of about `size` bytes that is memory, rounded up."""
    return size * PAGES // 4096 // MIB + 1


def guest_memory(total: int, *, heavy_kernel: bool = False, pages: int = 0) -> int:
    """MEM= in MiB for a guest of which /init must find `total` MiB available, before llama-cli starts.

    `pages` as Memory has it.

    Measured with 2 and 8 processors at 128 MiB to 16 GiB: kernel and initramfs keep 33 MiB and 2.7 % (struct pages,
    hashes); from 528 MiB on Linux makes huge pages and keeps more than 50 MiB free for them, with 540 MiB 450 are
    left. 0.5 % is for page tables and the page cache's own tree while llama-cli runs. A distribution's kernel keeps
    up to 34 MiB and 0.6 % more, and from 2 GiB (x86_64) or 3 GiB on 64 MiB and more for devices of 32 bits. One of
    x86_64 keeps the huge pages' reserve twice from 3 GiB on, below and above the 4th: all these are `heavy_kernel`.
    """
    needed, share = total * 1.005, 0.006 * heavy_kernel
    if total + pages < HUGE_PAGES - 8 * heavy_kernel:
        size = (needed + pages + (68 if heavy_kernel else 34)) / (1 - 0.027 - share)
    else:
        size = (needed + pages + (244 if heavy_kernel else 120)) / (1 - 0.0186 - share)
    return math.ceil(size / 16) * 16


def largest_context(
    shape: Shape,
    weights: int,
    llama_args: Sequence[str],
    available: int,
    *,
    heavy_kernel: bool = False,
    mapped: bool = False,
) -> int:
    """Tokens, a multiple of 256: the largest context of a run in a guest with `available` MiB of MEM=; 0 if none.

    No more than the model was trained for. `heavy_kernel` as for `guest`, `mapped` as in Memory.
    """
    low, high = 0, max(1, (shape.context_length or 1 << 20) // STEP)
    while low < high:
        middle = (low + high + 1) // 2
        memory = estimate(shape, weights, [*llama_args, "-c", str(middle * STEP)], mapped=mapped)
        takes = guest_memory(memory.total, heavy_kernel=heavy_kernel, pages=memory.pages)
        low, high = (middle, high) if takes <= available else (low, middle - 1)
    return low * STEP


def _graph(shape: Shape, arguments: Arguments, caches: Sequence[Cache]) -> int:
    """Bytes of the compute buffer: what is alive at once in a layer, for each token of an evaluation.

    Derived from measured buffers, of which it is at most a tenth of the whole above.
    """
    width, queries = shape.embedding_length, _queries(shape)
    scores = 0 if arguments.flash else _heads(shape) * max(cache.cells for cache in caches)
    attention = scores + 2 * queries + 3 * width
    numbers = max(3 * width + queries + _inner(shape), attention, _recurrent_inner(shape) + 3 * width)
    if arguments.quantized:
        numbers += queries
    if not arguments.flash:
        numbers += queries + 2 * sum(cache.widest for cache in caches)  # of 64 bits, where each value is put
    numbers += 3 * shape.block_count * shape.embedding_length_per_layer_input + 4 * shape.num_inputs * width
    masks = sum(cache.cells for cache in caches) * (2 if arguments.flash else FLOAT)
    rotation = FLOAT * 2 * 256 * 256 if arguments.quantized else 0
    return arguments.batch * (FLOAT * numbers + masks) + rotation + FLOAT * shape.vocab_size + MIB // 2


def _heads(shape: Shape) -> int:
    return max(shape.each("head_count"))


def _head(shape: Shape) -> int:
    """Numbers of one head, of keys or values, whichever are more."""
    return max(*head_sizes(shape, False), *head_sizes(shape, True))


def _queries(shape: Shape) -> int:
    """Numbers of all heads' queries for a token."""
    return _heads(shape) * _head(shape)


def _inner(shape: Shape) -> int:
    """Numbers alive at once within the feed-forward part of a layer."""
    dense = 3 * max(shape.each("feed_forward_length"))
    if not shape.expert_count:
        return dense
    used, width = max(shape.each("expert_used_count")), shape.embedding_length
    expert = max(shape.each("expert_feed_forward_length")) or dense // 3
    shared = shape.expert_shared_feed_forward_length or expert * shape.expert_shared_count
    experts = max(3 * used * expert, (2 * used + 1) * width, width + 3 * shared) + 4 * shape.expert_count
    return max(experts, dense)  # of some models the first layers are dense


def _recurrent_inner(shape: Shape) -> int:
    """Numbers alive at once in a recurrent layer: rough, and above what was measured."""
    if not state_size(shape):
        return 0
    return 6 * (shape.inner_size or shape.embedding_length) + 4 * shape.group_count * shape.state_size


def _work(shape: Shape, arguments: Arguments, caches: Sequence[Cache]) -> int:
    """Bytes that ggml's CPU takes beside its log: a multiplication's right side once more (ggml_graph_plan)."""
    used = max(shape.each("expert_used_count")) if shape.expert_count else 0
    expert = max(shape.each("expert_feed_forward_length")) * used
    right = max(shape.embedding_length, _queries(shape), *shape.each("feed_forward_length"), expert, shape.inner_size)
    if not arguments.flash:
        right = max(right, _heads(shape) * max(cache.cells for cache in caches))
    rows = shape.expert_count * used * 8
    attention = arguments.flash and any(cache.keys for cache in caches)
    flash = FLOAT * THREADS * 64 * (4 * _head(shape) + 2 * 64) if attention else 0  # GGML_FA_TILE_Q and _KV are 64
    return max(arguments.batch * (2 * right + rows), flash)


def _program(shape: Shape) -> int:
    """Bytes of llama-cli before any model, and of its vocabulary at its largest, while it is loaded.

    Measured in guests as RssAnon, with 32000 to 262000 tokens and up to 446000 merges: 6.4 MiB, 154 bytes a token, 155
    a merge. Sampling sorts 12 bytes a token, twice; a chat's own text and template are small.
    """
    return 16 * MIB + 180 * shape.vocab_size + 170 * shape.merges
