"""Memory of a run, from a model's shape and the arguments of llama-cli or llama-server, which take the same.

The buffers that llama.cpp reserves are derived from its source (src/llama-graph.cpp, ggml-alloc.c), and checked by
tests/build/test_memory.py. The rest was measured in guests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from zosia.model.arguments import STEP, Arguments, read
from zosia.model.kv_cache import FLOAT, INTERVALS, Cache, head_sizes, kv_caches, state_bytes, state_size
from zosia.model.shape import Shape

MIB = 1 << 20
THREADS = 64  # a generous SMP=; each takes little
HUGE_PAGES = 448  # MiB left in the largest guest in which Linux makes no huge pages
PAGES = 64  # bytes of a struct page, which Linux keeps for each 4096 bytes of a disk that is memory
CELL = 128  # bytes of llama.cpp's bookkeeping for each cell of a cache (src/llama-kv-cells.h)


@dataclass(frozen=True)
class Memory:
    """Memory of a run, in bytes.

    Attributes:
        weights: the model's files; the model buffer of llama.cpp's log.
        cache: the context; KV and RS buffers, and context checkpoints.
        buffers: of an evaluation; compute and output buffers.
        program: llama-cli or llama-server itself.
        mapped: the guest maps the model's files from the host, without a copy.
        dax: the disk is memory of the guest, though its files may be copied.
        disk: the model's files on that disk, where workers have some of the weights; 0 for all of them.
    """

    weights: int
    cache: int
    buffers: int
    program: int
    mapped: bool = False
    dax: bool = False
    disk: int = 0

    @property
    def total(self) -> int:
        """Return the MiB that it takes of the guest, rounded up."""
        return math.ceil((self.cache + self.buffers + self.program) / MIB + (not self.mapped) * self.weights / MIB)

    @property
    def on_host(self) -> int:
        """Return the MiB that it takes of the host's page cache, which all guests share, rounded up."""
        return self.mapped * math.ceil(self.weights / MIB)

    @property
    def pages(self) -> int:
        """Return the MiB of struct pages in the guest's kernel, for a disk that is memory, rounded up."""
        return (self.mapped or self.dax) * pages(self.disk or self.weights)

    def __str__(self) -> str:
        digits = 1 if self.total + self.on_host >= 1024 else 2
        names = ("weights", "cache", "buffers", "llama.cpp")
        parts = [f"{name} {size / (1 << 30):.{digits}f}" for name, size in zip(names, astuple(self), strict=False)]
        return " + ".join([f"{parts[0]} GiB{' on the host' * self.mapped}", *parts[1:]])


def estimate(
    shape: Shape, weights: int, llama_args: Sequence[str], *, mapped: bool = False, dax: bool = False
) -> Memory:
    """Estimate the memory of a run.

    Args:
        weights: bytes of the model's files.
        llama_args: arguments of llama.cpp; those that don't affect memory are ignored.
        mapped, dax: as in Memory.
    """
    wanted = read(shape, llama_args)
    caches = kv_caches(shape, wanted)
    kept = state_bytes(shape)
    checkpoint = kept + sum(cache.window_bytes(wanted) for cache in caches)
    each = kept + wanted.checkpoints * checkpoint
    return Memory(
        weights=weights,
        cache=sum(cache.bytes(wanted) for cache in caches) + wanted.parallel * each,
        buffers=_graph(shape, wanted, caches) + wanted.parallel * FLOAT * shape.vocab_size,
        program=_program(shape, wanted)
        + _work(shape, wanted, caches)
        + CELL * sum(cache.cells * cache.streams for cache in caches),
        mapped=mapped,
        dax=dax,
    )


def pages(size: int) -> int:
    """Return the MiB of struct pages for a disk of `size` bytes that is memory, rounded up."""
    return size * PAGES // 4096 // MIB + 1


def guest_memory(total: int, *, heavy_kernel: bool = False, pages: int = 0) -> int:
    """Return the size of a guest (MEM=) in which `total` MiB are available when llama-cli starts, in MiB.

    `pages` is as in Memory.

    Measured with 2 and 8 processors at 128 MiB to 16 GiB: kernel and initramfs take 33 MiB and 2.7 % (struct pages,
    hashes). From 528 MiB on Linux makes huge pages and keeps more than 50 MiB free for them: 450 of 540 MiB are left.
    0.5 % is for page tables and the page cache's own tree while llama-cli runs. `heavy_kernel` covers two cases: a
    distribution's kernel, which takes up to 34 MiB and 0.6 % more, and from 2 GiB (x86_64) or 3 GiB on another 64 MiB
    or more for 32-bit devices; and x86_64, which from 3 GiB on reserves for huge pages twice, below and above 4 GiB.
    """
    needed, share = total * 1.005, 0.006 * heavy_kernel
    if total + pages < HUGE_PAGES - 8 * heavy_kernel:
        size = (needed + pages + (68 if heavy_kernel else 34)) / (1 - 0.027 - share)
    else:
        size = (needed + pages + (244 if heavy_kernel else 120)) / (1 - 0.0186 - share)
    return math.ceil(size / 16) * 16


def largest_context(
    shape: Shape, available: int, memory_of: Callable[[int], Memory], *, heavy_kernel: bool = False
) -> int:
    """Return the largest context that fits into a guest of `available` MiB, in tokens; 0 if none does.

    It is a multiple of 256, and at most the model's training context. `memory_of` returns what a context takes, and
    `heavy_kernel` is as in guest_memory.
    """
    low, high = 0, max(1, (shape.context_length or 1 << 20) // STEP)
    while low < high:
        middle = (low + high + 1) // 2
        memory = memory_of(middle * STEP)
        takes = guest_memory(memory.total, heavy_kernel=heavy_kernel, pages=memory.pages)
        low, high = (middle, high) if takes <= available else (low, middle - 1)
    return low * STEP


def _graph(shape: Shape, arguments: Arguments, caches: Sequence[Cache]) -> int:
    """Return the bytes of the compute buffer: all that is alive at once in a layer, for each token of an evaluation.

    Derived from measured buffers; the total is at most a tenth above them.
    """
    width, queries = shape.embedding_length, _queries(shape)
    scores = 0 if arguments.flash else _heads(shape) * max(cache.cells for cache in caches)
    attention = scores + 2 * queries + 3 * width
    numbers = max(3 * width + queries + _inner(shape), attention, _recurrent_inner(shape) + 3 * width)
    if arguments.quantized:
        numbers += queries
    if not arguments.flash:
        numbers += queries + 2 * sum(cache.widest for cache in caches)  # 64-bit indices of where each value is stored
    numbers += 3 * shape.block_count * shape.embedding_length_per_layer_input + 4 * shape.num_inputs * width
    masks = sum(cache.cells for cache in caches) * (2 if arguments.flash else FLOAT)
    rotation = FLOAT * 2 * 256 * 256 if arguments.quantized else 0
    work = arguments.tokens * (FLOAT * numbers + masks) + rotation + FLOAT * shape.vocab_size + MIB // 2
    # A server's other sequences: their states, and in place of a layer what is computed from the last.
    others = FLOAT * (arguments.parallel - 1)
    outputs = others * (shape.vocab_size + 3 * width) - arguments.tokens * FLOAT * numbers
    return work + max(0, outputs) + others * _copied(shape) * state_size(shape)


def _heads(shape: Shape) -> int:
    return max(shape.each("head_count"))


def _head(shape: Shape) -> int:
    """Return the size of a head, of keys or values, whichever is larger."""
    return max(*head_sizes(shape, False), *head_sizes(shape, True))


def _queries(shape: Shape) -> int:
    """Return the size of all heads' queries for a token."""
    return _heads(shape) * _head(shape)


def _inner(shape: Shape) -> int:
    """Return the count of numbers alive at once in the feed-forward part of a layer."""
    dense = 3 * max(shape.each("feed_forward_length"))
    if not shape.expert_count:
        return dense
    used, width = max(shape.each("expert_used_count")), shape.embedding_length
    expert = max(shape.each("expert_feed_forward_length")) or dense // 3
    shared = shape.expert_shared_feed_forward_length or expert * shape.expert_shared_count
    experts = max(3 * used * expert, (2 * used + 1) * width, width + 3 * shared) + 4 * shape.expert_count
    return max(experts, dense)  # of some models the first layers are dense


def _recurrent_inner(shape: Shape) -> int:
    """Return the count of numbers alive at once in a recurrent layer: rough, and above the measured one."""
    if not state_size(shape):
        return 0
    return 6 * (shape.inner_size or shape.embedding_length) + 4 * shape.group_count * shape.state_size


def _copied(shape: Shape) -> int:
    """Return how many copies of a state a layer makes: one as it becomes (ggml_ssm_scan), or one as it was too."""
    scanned = shape.inner_size and shape.architecture not in INTERVALS and not shape.full_attention_interval
    return 1 if scanned else 2


def _work(shape: Shape, arguments: Arguments, caches: Sequence[Cache]) -> int:
    """Return the work buffer of ggml's CPU backend, in bytes: a copy of a multiplication's right side.

    See ggml_graph_plan; llama.cpp's log does not have it.
    """
    used = max(shape.each("expert_used_count")) if shape.expert_count else 0
    expert = max(shape.each("expert_feed_forward_length")) * used
    right = max(shape.embedding_length, _queries(shape), *shape.each("feed_forward_length"), expert, shape.inner_size)
    if not arguments.flash:
        right = max(right, _heads(shape) * max(cache.cells for cache in caches))
    rows = shape.expert_count * used * 8
    attention = arguments.flash and any(cache.keys for cache in caches)
    flash = FLOAT * THREADS * 64 * (4 * _head(shape) + 2 * 64) if attention else 0  # GGML_FA_TILE_Q and _KV are 64
    return max(arguments.tokens * (2 * right + rows), flash)


def _program(shape: Shape, arguments: Arguments) -> int:
    """Return the bytes of the program itself and of its vocabulary at its largest, while it loads.

    Measured in guests as RssAnon, with 32000 to 262000 tokens and up to 446000 merges: 6.4 MiB, 154 bytes a token, 155
    a merge. Sampling sorts 12 bytes a token, twice; a chat's own text and template are small. Each further conversation
    of a server took 1.7 MiB with 49000 tokens: its sampler, its thread, and what was asked.
    """
    others = (arguments.parallel - 1) * (MIB + 40 * shape.vocab_size)
    return 16 * MIB + 180 * shape.vocab_size + 170 * shape.merges + others
