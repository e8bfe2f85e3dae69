"""Cache of a context in llama.cpp: keys and values of each token (src/llama-kv-cache*.cpp), and states of fixed size
(src/llama-memory-recurrent.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zosia.model.arguments import STEP, Arguments
from zosia.model.shape import Shape

FLOAT = 4  # bytes

# Architectures with sliding windows: every n-th layer sees all tokens, where the metadata has no pattern
# (load_swa_pattern in src/models/*.cpp). Others ignore sliding_window.
PATTERNS = {
    **dict.fromkeys(("afmoe", "cohere2", "cohere2moe", "exaone-moe", "exaone4", "laguna", "llama4", "mellum"), 4),
    **dict.fromkeys(("muse-glimmer", "olmo2", "smallthinker"), 4),
    **dict.fromkeys(("gemma2", "gpt-oss"), 2),
    **dict.fromkeys(("gemma3", "gemma-embedding"), 6),
    "gemma3n": 5,
    "plamo3": 8,
}
FULL_FIRST = ("cohere2moe", "laguna", "smallthinker")
ONLY_LISTED = ("gemma4", "granite-swa", "lfm2", "lfm2moe", "maple", "mimo2", "spark2-5", "step35")
WINDOWS = {"gemma2": 4096, "llama4": 8192}  # where the metadata has none
GEMMA3N_CACHED = 20  # layers, regardless of the metadata; later layers share their cache
BOTH = ("falcon-h1",)  # every layer has both a state and a cache
INTERVALS = dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), 4)  # where the metadata has none


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Cache of some layers.

    Attributes:
        cells: tokens that it holds, in each stream.
        keys: of a token, in all its layers together.
        values: likewise.
        widest: most values of a token in one layer.
        window: tokens that its layers see; 0 for all.
        streams: as in Arguments.
    """

    cells: int
    keys: int
    values: int
    widest: int
    window: int = 0
    streams: int = 1

    def bytes(self, arguments: Arguments) -> int:
        """Return the size in bytes: the KV buffer of llama.cpp's log."""
        return self.streams * math.ceil(self.cells * (self.keys * arguments.keys + self.values * arguments.values) / 8)

    def window_bytes(self, arguments: Arguments) -> int:
        """Return the bytes that a checkpoint saves: of a sequence's windows, which can't be rolled back."""
        window = 0 if arguments.whole_windows else min(self.window, self.cells)
        return window * self.bytes(arguments) // (self.cells * self.streams)


def kv_caches(shape: Shape, arguments: Arguments) -> list[Cache]:
    """Return a cache for the layers that see all tokens, and one for those with a window (llama_kv_cache_iswa)."""
    local = _local(shape)
    window = _window(shape) if any(local) else 0
    layers = list(_cached(shape, local))
    widest = max((values for _, _, values in layers), default=0)
    kinds = {False: (arguments.context, 0)}
    if window:
        windows = window * (arguments.parallel // arguments.streams)  # of all that share the cache
        size = math.ceil(min(arguments.context, windows + arguments.batch) / STEP) * STEP
        kinds[True] = (arguments.context if arguments.whole_windows else size, window)
    caches = []
    for kind, (cells, seen) in kinds.items():
        mine = [(keys, values) for layer, keys, values in layers if bool(window and local[layer]) == kind]
        values = sum(
            values if arguments.flash else widest for _, values in mine
        )  # transposed, all layers have the same width
        keys = sum(keys for keys, _ in mine)
        found = Cache(cells=cells, keys=keys, values=values, widest=widest, window=seen, streams=arguments.streams)
        caches.append(found)
    return caches


def _cached(shape: Shape, local: Sequence[bool]) -> Iterator[tuple[int, int, int]]:
    """Yield each layer with a cache: its number, keys and values."""
    heads = shape.each("head_count" if shape.head_count_kv is None else "head_count_kv")
    cached = shape.block_count
    if shape.architecture == "gemma3n":
        cached = min(cached, GEMMA3N_CACHED)
    elif shape.architecture == "gemma4":
        cached -= shape.shared_kv_layers
    recurrent = recurrent_layers(shape) if shape.architecture not in BOTH else ()
    for layer in range(cached):
        key, value = head_sizes(shape, local[layer])
        if heads[layer] and layer not in recurrent:
            yield layer, heads[layer] * key, 0 if shape.key_length_mla else heads[layer] * value


def head_sizes(shape: Shape, local: bool) -> tuple[int, int]:
    """Return the keys and the values of a head."""
    width = shape.embedding_length // (max(shape.each("head_count")) or 1)
    key, value = shape.key_length or width, shape.value_length or width
    return (shape.key_length_swa or key, shape.value_length_swa or value) if local else (key, value)


def _window(shape: Shape) -> int:
    return WINDOWS.get(shape.architecture, 0) if shape.sliding_window is None else shape.sliding_window


def _local(shape: Shape) -> list[bool]:
    """Return for each layer True if it has a window."""
    pattern, layers = shape.sliding_window_pattern, range(shape.block_count)
    known = shape.architecture in PATTERNS or shape.architecture in ONLY_LISTED
    if not known or not _window(shape):
        return [False] * shape.block_count
    if isinstance(pattern, tuple):
        return [bool(pattern[layer]) for layer in layers]
    every = PATTERNS.get(shape.architecture, 0) if pattern is None else pattern
    if not every:
        return [shape.architecture not in ONLY_LISTED] * shape.block_count
    full = 0 if shape.architecture in FULL_FIRST else every - 1
    return [layer % every != full for layer in layers]


def recurrent_layers(shape: Shape) -> frozenset[int]:
    """Return the layers that have a state of fixed size."""
    layers = range(shape.block_count)
    if not state_size(shape):
        return frozenset()
    interval = shape.full_attention_interval or INTERVALS.get(shape.architecture, 0)
    if interval:
        return frozenset(layer for layer in layers if (layer + 1) % interval)
    heads = shape.each("head_count_kv")
    if any(heads) and shape.architecture not in BOTH and not shape.head_size:
        return frozenset(layer for layer in layers if not heads[layer])
    return frozenset(layers)


def state_size(shape: Shape) -> int:
    """Return the count of numbers in a layer's state (llama_hparams::n_embd_r and n_embd_s)."""
    if shape.head_size:
        return shape.embedding_length * (2 + shape.head_size)
    if shape.l_cache:
        return shape.embedding_length * (shape.l_cache - 1)
    before = max(0, shape.conv_kernel - 1)
    if shape.head_dim:
        heads = max(shape.each("head_count"))
        return heads * shape.head_dim * (3 * before + shape.head_dim)
    return before * (shape.inner_size + 2 * shape.group_count * shape.state_size) + shape.state_size * shape.inner_size


def state_bytes(shape: Shape) -> int:
    """Return the size of a sequence's states in bytes: the RS buffer of llama.cpp's log has them of all sequences."""
    return FLOAT * state_size(shape) * len(recurrent_layers(shape))
