"""The memory arithmetic. What llama.cpp really takes, tests/build/test_memory.py compares."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import shapes
from zosia.model import arguments, memory
from zosia.model.kv_cache import kv_caches, recurrent_layers, state_bytes
from zosia.model.memory import MIB, Memory
from zosia.model.shape import Shape

PLAIN = Shape(
    architecture="llama",
    block_count=4,
    embedding_length=64,
    context_length=8192,
    vocab_size=1000,
    feed_forward_length=160,
    head_count=8,
    head_count_kv=2,
)
LAYER = 2 * 8 * 2  # bytes of a token's keys in a layer, and of its values


def largest(
    shape: Shape, weights: int, words: list[str], available: int, *, heavy_kernel: bool = False, mapped: bool = False
) -> int:
    def takes(context: int) -> Memory:
        return memory.estimate(shape, weights, [*words, "-c", str(context)], mapped=mapped)

    return memory.largest_context(shape, available, takes, heavy_kernel=heavy_kernel)


def cache(shape: Shape, words: str = "") -> int:
    return memory.estimate(shape, 0, ["-ctxcp", "0", *words.split()]).cache


@pytest.mark.parametrize(
    ("words", "context"),
    [
        ("", 8192),
        ("-c 2048", 2048),
        ("--ctx-size 2048", 2048),
        ("-c 2048 -n 5 --ctx-size 1024 --temp 0", 1024),
        ("--ctx-size 1024 -c 2048", 2048),
        ("-c 2000", 2048),
        ("-c 1", 256),
        ("-c 0", 8192),
        ("-c 2048 -c 0", 8192),
        ("-c", 8192),
        ("--temp 0 -c 4096 -c", 4096),
        *((f"-c {garbage}", 8192) for garbage in ("x", "-1", "1.5", "²", "0x10", "-c", "1e3", "٣", "9" * 400)),
    ],
)
def test_cache_grows_with_the_context(words: str, context: int) -> None:
    assert cache(PLAIN, words) == 4 * 2 * LAYER * context


def test_a_model_that_does_not_know_its_context() -> None:
    assert cache(replace(PLAIN, context_length=0)) == 4 * 2 * LAYER * 256
    assert cache(replace(PLAIN, context_length=0), "-c 512") == 4 * 2 * LAYER * 512


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        ("-ctk f16 -ctv f16", (16, 16)),
        ("-ctk q8_0", (8.5, 16)),
        ("-ctv q8_0", (16, 8.5)),
        ("--cache-type-k q8_0 --cache-type-v q4_0", (8.5, 4.5)),
        ("-ctk f32 -ctv q5_1", (32, 6)),
        ("-ctk q8_0 --cache-type-k bf16", (16, 16)),
        ("-ctk garbage", (4.5, 16)),
        ("-ctk", (16, 16)),
    ],
)
def test_types_of_the_cache(words: str, bits: tuple[float, float]) -> None:
    assert cache(PLAIN, words) == 4 * LAYER * 8192 * sum(bits) / 16


@pytest.mark.parametrize(
    ("fields", "keys", "values"),
    [
        ({"head_count_kv": None}, 4 * 64, 4 * 64),
        ({"head_count_kv": (2, 0, 8, 1)}, 11 * 8, 11 * 8),
        ({"key_length": 32}, 4 * 2 * 32, 4 * 2 * 8),
        ({"key_length": 192, "value_length": 128}, 4 * 2 * 192, 4 * 2 * 128),
        ({"head_count": (8, 8, 4, 8), "head_count_kv": (2, 2, 1, 2)}, 7 * 8, 7 * 8),
        ({"head_count": 0, "head_count_kv": None}, 0, 0),
        ({"key_length": 72, "value_length": 64, "key_length_mla": 24, "head_count_kv": 1}, 4 * 72, 0),
        ({"head_size": 8}, 0, 0),
        # What only these architectures do.
        ({"architecture": "gemma4", "shared_kv_layers": 1}, 3 * 16, 3 * 16),
        ({"shared_kv_layers": 1}, 4 * 16, 4 * 16),
        ({"architecture": "gemma3n", "block_count": 30, "shared_kv_layers": 10}, 20 * 16, 20 * 16),
    ],
)
def test_keys_and_values(fields: dict[str, int], keys: int, values: int) -> None:
    shape = replace(PLAIN, **fields)  # type: ignore[arg-type]
    found = kv_caches(shape, arguments.read(shape, []))
    assert (sum(one.keys for one in found), sum(one.values for one in found)) == (keys, values)


@pytest.mark.parametrize(
    ("fields", "words", "full", "local"),
    [
        ({"architecture": "gpt-oss"}, "", 2, 2),
        ({"architecture": "gemma3"}, "", 0, 4),
        ({"architecture": "gemma3", "block_count": 10}, "", 1, 9),
        ({"architecture": "gemma3", "sliding_window": 0}, "", 4, 0),
        ({"architecture": "gemma3", "sliding_window": None}, "", 4, 0),
        ({"architecture": "gemma3", "sliding_window_pattern": 2}, "", 2, 2),
        ({"architecture": "gemma3", "sliding_window_pattern": (1, 0, 0, 0)}, "", 3, 1),
        ({"architecture": "gemma4", "sliding_window_pattern": (1, 1, 1, 0)}, "", 1, 3),
        ({"architecture": "smallthinker", "block_count": 5}, "", 2, 3),
        ({"architecture": "gpt-oss"}, "--swa-full", 4, 0),
        ({"architecture": "plamo3", "block_count": 10}, "", 1, 9),
        # Others ignore a window.
        ({"architecture": "phi3"}, "", 4, 0),
        ({"architecture": "llama"}, "", 4, 0),
    ],
)
def test_sliding_windows(fields: dict[str, int], words: str, full: int, local: int) -> None:
    shape = replace(PLAIN, **{"sliding_window": 300, **fields})  # type: ignore[arg-type]
    assert cache(shape, words) == 2 * LAYER * (full * 8192 + local * 1024)  # 300 and a batch of 512, in steps of 256


def test_windows_of_small_contexts_and_batches() -> None:
    shape = replace(PLAIN, architecture="gpt-oss", sliding_window=300)
    for words, cells in (("-c 512", 512), ("-c 4096 -ub 128", 512), ("-c 4096 -b 64", 512), ("-c 4096 -ub 1024", 1536)):
        context = int(words.split()[1])
        assert cache(shape, words) == 2 * LAYER * 2 * (context + cells), words


@pytest.mark.parametrize(("architecture", "full", "local", "window"), [("gemma2", 2, 2, 4096), ("llama4", 1, 3, 8192)])
def test_windows_that_go_without_saying(architecture: str, full: int, local: int, window: int) -> None:
    shape = replace(PLAIN, architecture=architecture)
    assert cache(shape, "-c 32768") == 2 * LAYER * (full * 32768 + local * (window + 512))


def test_checkpoints_hold_the_windows() -> None:
    shape = replace(PLAIN, architecture="gpt-oss", sliding_window=300)
    plain = cache(shape)
    for words, count in (("", 32), ("-ctxcp 3", 3), ("--ctx-checkpoints 1", 1), ("--swa-checkpoints 0", 0)):
        assert memory.estimate(shape, 0, words.split()).cache == plain + count * 2 * 2 * LAYER * 300
    assert memory.estimate(PLAIN, 0, []).cache == cache(PLAIN), "nothing is to be rolled back"
    assert memory.estimate(shape, 0, ["--swa-full"]).cache == cache(shape, "--swa-full")


@pytest.mark.parametrize("names", [("-np", "-kvu"), ("--parallel", "--kv-unified")])
def test_a_unified_cache_is_shared(names: tuple[str, str]) -> None:
    number, unified = names
    assert cache(PLAIN, f"{number} 4 {unified}") == cache(PLAIN)
    # Its windows are those of all sequences, with a batch: 4 * 300 + 512, in steps of 256.
    shape = replace(PLAIN, architecture="gpt-oss", sliding_window=300)
    assert cache(shape, f"{number} 4 {unified}") == 2 * LAYER * 2 * (8192 + 1792)
    assert cache(shape, f"{number} 4 {unified} -c 512") == 2 * LAYER * 2 * (512 + 512)


@pytest.mark.parametrize(
    ("words", "cells", "windows", "context"),
    [
        ("-np 4", 8192, 4 * 1024, 2048),  # 300 and 512, four times
        ("-np 4 -no-kvu", 8192, 4 * 1024, 2048),
        ("-np 4 -kvu --no-kv-unified", 8192, 4 * 1024, 2048),
        ("-np 4 -no-kvu -kvu", 8192, 1792, 8192),
        ("-np 3", 3 * 2816, 3 * 1024, 2816),  # 8192 / 3, rounded up
        ("-np 64", 64 * 256, 64 * 256, 256),
        ("-np 2 -c 512", 2 * 256, 2 * 256, 256),
        ("-np 4 -np 1", 8192, 1024, 8192),
        ("-np 0", 8192, 1024, 8192),
        ("-kvu", 8192, 1024, 8192),
    ],
)
def test_caches_of_several_sequences(words: str, cells: int, windows: int, context: int) -> None:
    shape = replace(PLAIN, architecture="gpt-oss", sliding_window=300)
    assert cache(shape, words) == 2 * LAYER * 2 * (cells + windows)
    assert arguments.read(shape, words.split()).context == context
    assert arguments.room(replace(shape, longest_token=3), words.split()) == 3 * context


@pytest.mark.parametrize("words", ["-np 4", "-np 4 -kvu"])
def test_each_sequence_has_its_states_and_checkpoints(words: str) -> None:
    for shape in (shapes.MAMBA_2_13B, shapes.LFM_2_12B, shapes.QWEN_3_NEXT):
        attention = cache(shape) - state_bytes(shape)
        kept = memory.estimate(shape, 0, ["-ctxcp", "2", *words.split()]).cache
        assert kept == attention + 4 * 3 * state_bytes(shape)
    shape = replace(PLAIN, architecture="gpt-oss", sliding_window=300)
    kept = memory.estimate(shape, 0, ["-ctxcp", "2", *words.split()]).cache
    assert kept == cache(shape, words) + 4 * 2 * 2 * 2 * LAYER * 300


def test_buffers_of_several_sequences() -> None:
    large = replace(PLAIN, vocab_size=100_000)
    one, four = (memory.estimate(large, 0, ["-kvu", "-np", number]) for number in ("1", "4"))
    assert four.buffers - one.buffers == 3 * 4 * 100_000, "the output of each"
    assert 3 * (MIB + 24 * 100_000) < four.program - one.program < 3 * 6 * MIB
    small = [memory.estimate(large, 0, ["-kvu", "-b", "4", "-np", number]).buffers for number in ("1", "4")]
    assert small[1] - small[0] > 2 * 3 * 4 * 100_000 - 4 * 4 * 4096, "it is what the last step computes, too"
    # Attention sees the cache of its own sequence.
    own, shared = (memory.estimate(PLAIN, 0, f"-np 4 -fa off {word}".split()).buffers for word in ("-no-kvu", "-kvu"))
    assert 0.7 * 4 * 8 * 512 * 6144 < shared - own < 1.2 * 4 * 8 * 512 * 6144
    # A batch has as many tokens of each.
    three = arguments.read(PLAIN, ["-np", "3"])
    assert (three.batch, three.tokens) == (512, 513)
    for shape, copies in ((shapes.MAMBA_2_13B, 1), (shapes.QWEN_3_NEXT, 2), (replace(PLAIN, head_size=8), 2)):
        one, five = (memory.estimate(shape, 0, ["-np", number, "-kvu", "-b", "640", "-ub", "640"]) for number in "15")
        layers = len(recurrent_layers(shape))
        state = state_bytes(shape) // layers
        assert five.buffers - one.buffers == 4 * (copies * state + 4 * shape.vocab_size)


@pytest.mark.parametrize(
    ("shape", "size"),  # numbers of a layer's state, times layers
    [
        (shapes.MAMBA_2_13B, (3 * (4096 + 2 * 128) + 128 * 4096) * 48),
        (shapes.LFM_2_12B, 2 * 2048 * 10),
        (shapes.QWEN_3_NEXT, (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 9),
        (replace(shapes.QWEN_3_NEXT, full_attention_interval=6), (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 10),
        (replace(shapes.QWEN_3_NEXT, block_count=13), (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 10),
        (replace(PLAIN, architecture="rwkv7", head_size=64), 64 * (2 + 64) * 4),
        (replace(PLAIN, architecture="kimi-linear", head_dim=16, conv_kernel=4, head_count_kv=(0, 0, 0, 1)),
         (3 * 3 * 8 * 16 + 16 * 16 * 8) * 3),
        (replace(PLAIN, architecture="falcon-h1", conv_kernel=4, inner_size=32, state_size=8, group_count=1),
         (3 * (32 + 16) + 8 * 32) * 4),
        (PLAIN, 0),
    ],
)  # fmt: skip
def test_states(shape: Shape, size: int) -> None:
    assert state_bytes(shape) == 4 * size
    assert memory.estimate(shape, 0, ["-ctxcp", "2"]).cache >= 3 * 4 * size


def test_only_layers_with_attention_have_a_cache() -> None:
    assert cache(shapes.QWEN_3_NEXT, "-c 256") - state_bytes(shapes.QWEN_3_NEXT) == 3 * 2 * 2 * 256 * 2 * 256
    both = replace(PLAIN, architecture="falcon-h1", conv_kernel=4, inner_size=32, state_size=8)
    assert cache(both) == cache(PLAIN) + state_bytes(both)


@pytest.mark.parametrize("word", ["off", "0", "false", "disabled"])
def test_scores_without_flash_attention(word: str) -> None:
    with_it, without = (memory.estimate(PLAIN, 0, ["-fa", value]) for value in ("on", word))
    scores = 4 * 8 * 8192 * 512
    assert scores < without.buffers - with_it.buffers < 1.2 * scores
    assert scores / 2 <= without.program - with_it.program + 3 * MIB < scores, "they are converted to multiply them"


def test_flash_attention_takes_its_tiles_for_each_of_64_threads() -> None:
    shape = replace(PLAIN, key_length=256, value_length=128)
    with_it, without = (memory.estimate(shape, 0, ["-c", "256", "-b", "1", "-fa", value]) for value in ("on", "off"))
    queries, sums = 64 * 256, 64 * 128
    tiles = 4 * (queries + 2 * 64 * 64 + sums + 64 * 128 + 64 * 256)  # ggml_graph_plan
    assert 64 * tiles <= with_it.program - without.program + 2 * 8 * 256 <= 1.4 * 64 * tiles
    recurrent = replace(PLAIN, head_size=64)
    assert memory.estimate(recurrent, 0, []).program < memory.estimate(PLAIN, 0, []).program, "it has no attention"


@pytest.mark.parametrize(("words", "batch"), [("-c 2048", 512), ("-c 256 -fa off", 256)])
def test_the_feed_forward_part_is_converted_too(words: str, batch: int) -> None:
    wide = replace(shapes.LLAMA_32_1B, feed_forward_length=2 * 8192)
    plain, more = (memory.estimate(shape, 0, words.split()) for shape in (shapes.LLAMA_32_1B, wide))
    assert more.program - plain.program == batch * 2 * 8192


def test_a_quantized_cache_is_rotated() -> None:
    plain, rotated = (memory.estimate(PLAIN, 0, ["-ctk", kind]) for kind in ("f16", "q8_0"))
    assert rotated.buffers - plain.buffers == 4 * (512 * 64 + 2 * 256 * 256)


def test_values_of_uneven_layers_are_padded_without_flash_attention() -> None:
    uneven = replace(PLAIN, head_count_kv=(2, 4, 1, 1))
    assert cache(uneven, "-fa off") - cache(uneven) == LAYER // 2 * 8192 * (4 * 4 - 8)


def test_experts() -> None:
    few = replace(PLAIN, expert_count=64, expert_used_count=2, expert_feed_forward_length=320)
    many = replace(few, expert_used_count=(2, 2, 8, 2))
    plain, two, eight = (memory.estimate(shape, 0, []) for shape in (PLAIN, few, many))
    assert 512 * 4 * 3 * (2 * 320 - 160) < two.buffers - plain.buffers < 512 * 4 * (3 * (2 * 320 - 160) + 5 * 64)
    assert eight.buffers - two.buffers == 512 * 4 * 3 * 6 * 320
    two, eight = (memory.estimate(shape, 0, ["-b", "4096", "-ub", "4096"]) for shape in (few, many))
    assert eight.program - two.program == 4096 * 6 * (2 * 320 + 64 * 8)


def test_vocabulary() -> None:
    large = replace(PLAIN, vocab_size=101_000, merges=1000)
    plain, more = (memory.estimate(shape, 0, []) for shape in (PLAIN, large))
    assert more.buffers - plain.buffers == 100_000 * 8
    assert 100_000 * 154 + 1000 * 155 < more.program - plain.program < 100_000 * 200 + 1000 * 200
    merging = memory.estimate(replace(PLAIN, merges=100_000), 0, [])
    assert 100_000 * 155 < merging.program - plain.program < 100_000 * 200


def test_memory() -> None:
    memory = Memory(11 << 30, 200 << 20, 100 << 20, (100 << 20) + 1)
    assert memory.total == 11 * 1024 + 400 + 1
    assert str(memory) == "weights 11.0 GiB + cache 0.2 + buffers 0.1 + llama.cpp 0.1"
    assert (
        str(Memory(90 << 20, 1 << 20, 0, 50 << 20)) == "weights 0.09 GiB + cache 0.00 + buffers 0.00 + llama.cpp 0.05"
    )


# MEM= and what /init then found available, with 2 and with 8 processors.
MEASURED = {
    **{128: 95, 192: 161, 256: 225, 384: 349, 480: 442, 512: 468, 540: 450, 600: 506, 768: 658, 1024: 899, 1536: 1400},
    **{2048: 1897, 3072: 2908, 4096: 3917, 6144: 5924, 8192: 7940, 12288: 11955, 16384: 15971},
}

# The less of aarch64 and x86_64
WITH_DISTRO = {
    **{192: 120, 256: 182, 480: 398, 512: 430, 528: 443, 544: 459, 560: 444, 600: 468, 768: 620, 1024: 858},
    **{2048: 1860, 3072: 2757, 4096: 3757, 8192: 7761, 14000: 13436},
}


@pytest.mark.parametrize(("size", "available"), WITH_DISTRO.items())
def test_a_guest_of_a_distributions_kernel_has_what_is_needed(size: int, available: int) -> None:
    enough = max(total for total in range(available + 200) if memory.guest_memory(total, heavy_kernel=True) <= size)
    assert available * 0.8 - 20 < enough <= available - available // 256, "page tables want some of it"


@pytest.mark.parametrize(("size", "available"), MEASURED.items())
def test_a_guest_has_what_is_needed(size: int, available: int) -> None:
    enough = max(total for total in range(available + 200) if memory.guest_memory(total) <= size)
    assert available * 0.9 - 20 < enough <= available - available // 256, "page tables want some of it"


@pytest.mark.parametrize("heavy_kernel", [False, True])
def test_a_guests_memory_is_in_steps(heavy_kernel: bool) -> None:
    sizes = [memory.guest_memory(total, heavy_kernel=heavy_kernel) for total in range(20_000)]
    assert sizes == sorted(sizes)
    assert not any(size % 16 for size in sizes)


@pytest.mark.parametrize("words", ["", "-ctk q8_0 -ctv q8_0", "-fa off", "-ctxcp 0 -c 512"])
@pytest.mark.parametrize("available", [12_500, 12_800, 14_000, 15_000])
@pytest.mark.parametrize("heavy_kernel", [False, True])
def test_the_largest_context(available: int, words: str, heavy_kernel: bool) -> None:
    def needed(context: int) -> int:
        takes = memory.estimate(shapes.GPT_OSS_20B, 12109566560, [*words.split(), "-c", str(context)])
        return memory.guest_memory(takes.total, heavy_kernel=heavy_kernel)

    found = largest(shapes.GPT_OSS_20B, 12109566560, words.split(), available, heavy_kernel=heavy_kernel)
    assert found % 256 == 0
    assert not found or needed(found) <= available
    assert found == 131072 or needed(found + 256) > available


def test_contexts_at_the_ends() -> None:
    assert largest(shapes.GPT_OSS_20B, 12109566560, [], 4096) == 0
    assert largest(shapes.GPT_OSS_20B, 12109566560, [], 1 << 20) == 131072
    assert largest(replace(PLAIN, context_length=0), 0, [], 1 << 20) == 1 << 20
    assert largest(replace(PLAIN, context_length=10), 0, [], 512) == 256


def test_weights_that_are_mapped_take_pages_alone() -> None:
    copied = memory.estimate(PLAIN, 1 << 30, ["-c", "512"])
    mapped = memory.estimate(PLAIN, 1 << 30, ["-c", "512"], mapped=True)
    assert (copied.on_host, copied.pages, mapped.on_host, mapped.pages) == (0, 0, 1024, 17)
    assert copied.total == mapped.total + 1024
    assert str(copied).startswith("weights 1.0 GiB + cache ")
    assert str(mapped).startswith("weights 1.0 GiB on the host + cache ")
    assert memory.guest_memory(mapped.total, pages=17) < memory.guest_memory(copied.total)
    for total in (100, 440, 1000):
        assert memory.guest_memory(total, pages=100) >= memory.guest_memory(total) + 100
    assert largest(PLAIN, 1 << 30, [], 400, mapped=True) > 0 == largest(PLAIN, 1 << 30, [], 400)
