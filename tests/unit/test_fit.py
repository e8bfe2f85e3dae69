"""What a model needs, by models of no use but with metadata as real ones have it."""

from __future__ import annotations

import random
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.gguf_file import write as model
from zosia import catalogue, fit, inputs
from zosia.errors import ZosiaError
from zosia.files import cache_root
from zosia.fit import MIB, Needs

NEEDS = Needs(weights=1000 * MIB, keys=1 << 10, values=1 << 11, buffers=10 * MIB, context=8192)
FIXED = 1000 + 10 + 48  # MiB of weights, buffers and llama-cli itself
EACH = (1 << 10) * 3 + 1024  # bytes of a token: keys, values, and its column of the mask


@pytest.fixture(autouse=True)
def no_endless_loop() -> Iterator[None]:
    def fail(number: int, frame: FrameType | None) -> None:
        pytest.fail("it would go on and on")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(path: Path) -> str:
    with pytest.raises(ZosiaError) as caught:
        fit.read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable(), "it is one line, for a terminal"
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "keys", "values"),
    [
        ({}, 2 * 4 * 2 * 8, 2 * 4 * 2 * 8),
        ({"attention.head_count_kv": None}, 2 * 4 * 8 * 8, 2 * 4 * 8 * 8),
        ({"attention.head_count_kv": [2, 0, 8, 1]}, 2 * 11 * 8, 2 * 11 * 8),
        ({"attention.key_length": 32}, 2 * 4 * 2 * 32, 2 * 4 * 2 * 8),
        ({"attention.key_length": 192, "attention.value_length": 128}, 2 * 4 * 2 * 192, 2 * 4 * 2 * 128),
        ({"attention.head_count": [8, 8, 4, 8], "attention.head_count_kv": [2, 2, 1, 2]}, 2 * 7 * 8, 2 * 7 * 8),
        # Mamba and RWKV as llama.cpp converts them: nothing is cached for a token.
        ({"attention.head_count": 0, "attention.head_count_kv": None}, 0, 0),
        ({"attention.head_count": None, "attention.head_count_kv": None}, 0, 0),
    ],
)
def test_cached_bytes_of_a_token(tmp_path: Path, changes: dict[str, Any], keys: int, values: int) -> None:
    needs = fit.read(model(tmp_path / "m.gguf", changes))
    assert (needs.keys, needs.values) == (keys, values)


@pytest.mark.parametrize(
    ("changes", "buffers"),
    [
        ({}, 512 * 4 * (3 * 160 + 4 * 64)),
        ({"feed_forward_length": [160, 320, 0, 160]}, 512 * 4 * (3 * 320 + 4 * 64)),
        ({"feed_forward_length": None}, 512 * 4 * 4 * 64),
    ],
)
def test_buffers(tmp_path: Path, changes: dict[str, Any], buffers: int) -> None:
    assert fit.read(model(tmp_path / "m.gguf", changes)).buffers == buffers


@pytest.mark.parametrize("arch", ["llama", "qwen3moe", "zażółć"])
def test_weights_and_context_of_any_architecture(tmp_path: Path, arch: str) -> None:
    path = model(tmp_path / "m.gguf", arch=arch)
    needs = fit.read(path)
    assert (needs.weights, needs.context) == (path.stat().st_size, 4096)
    assert all(type(number) is int for number in vars(needs).values()), "JSON takes them"


def test_a_model_that_does_not_know_its_context(tmp_path: Path) -> None:
    assert fit.read(model(tmp_path / "m.gguf", {"context_length": None})).context == 0


def test_smollm2(root: Path) -> None:
    """The numbers are those of llama.cpp's log."""
    entry = catalogue.read_models(root / "models.toml")["smollm2-135m"]
    path = inputs.model_file(entry, cache_root())
    needs = fit.read(path)
    assert needs.weights == 98362432
    assert needs.keys * 2048 == needs.values * 2048 == 22.5 * MIB
    for context, compute in ((2048, 15.51), (8192, 21.51)):
        assert (needs.buffers + context * fit.BATCH * 2) / MIB == pytest.approx(compute, rel=0.01)


@pytest.mark.parametrize(
    ("words", "context"),
    [
        ("", 8192),
        ("-c 2048", 2048),
        ("--ctx-size 2048", 2048),
        ("-c 2048 -n 5 --ctx-size 1024 --temp 0", 1024),
        ("--ctx-size 1024 -c 2048", 2048),
        ("-c 0", 8192),
        ("-c 2048 -c 0", 8192),
        ("-c", 8192),
        ("--temp 0 -c 4096 -c", 4096),
        *((f"-c {garbage}", 8192) for garbage in ("x", "-1", "1.5", "²", "0x10", "-c", "1e3", "٣", "9" * 400)),
    ],
)
def test_memory_grows_with_the_context(words: str, context: int) -> None:
    assert NEEDS.memory(words.split()) == FIXED + context * EACH // MIB


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
def test_memory_by_the_types_of_the_cache(words: str, bits: tuple[float, float]) -> None:
    keys, values = bits
    expected = FIXED + (8192 * ((1 << 10) * keys / 16 + (1 << 11) * values / 16) + 8192 * 1024) / MIB
    assert expected <= NEEDS.memory(words.split()) < expected + 1


def test_memory_is_whole_mib_and_never_less() -> None:
    assert replace(NEEDS, weights=NEEDS.weights + 1).memory([]) == NEEDS.memory([]) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" * 100, "is no GGUF model: it begins with b'GGML', not b'GGUF'. Convert it"),
        (b"<html>", "begins with b'<htm'"),
        (b"", "begins with b''"),
        (b"GGU", "begins with b'GGU'"),
        (b"GGUF", "is damaged, or no model: "),
        (b"GGUF" + bytes(100_000), "is damaged, or no model: "),
        (b"GGUF" + b"\xff" * 100_000, "is damaged, or no model: "),
        (None, "can't be read: No such file or directory. Type MODEL="),
    ],
    ids=["old", "page", "empty", "short", "magic", "zeros", "ones", "missing"],
)
def test_no_model(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    assert message in refused(tmp_path / "m.gguf")


def test_a_folder(tmp_path: Path) -> None:
    assert "can't be read: Is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_count": None},
        {"block_count": "four"},
        {"block_count": [1, 2]},
        {"embedding_length": None},
        {"attention.head_count_kv": "two"},
        {"attention.key_length": "long\nand \x1b[31mred"},
        {"context_length": "long"},
    ],
)
def test_metadata_that_makes_no_sense(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "is damaged, or no model: " in refused(model(tmp_path / "m.gguf", changes))


def test_a_model_of_no_architecture(tmp_path: Path) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(content.replace(b"general.architecture", b"general.architectura"))
    assert "general.architecture" in refused(tmp_path / "m.gguf")


def test_truncated_anywhere(tmp_path: Path) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(4, len(content), 3):
        path.write_bytes(content[:size])
        assert "is damaged, or no model: " in refused(path)


FLIPS = [*(("version", bit) for bit in range(32)), *((name, bit) for name in ("tensors", "keys") for bit in range(64))]


@pytest.mark.parametrize(("field", "bit"), FLIPS)
def test_flipped_bits_in_the_header(tmp_path: Path, field: str, bit: int) -> None:
    content = bytearray(model(tmp_path / "m.gguf").read_bytes())
    content[{"version": 4, "tensors": 8, "keys": 16}[field] + bit // 8] ^= 1 << bit % 8
    (tmp_path / "m.gguf").write_bytes(content)
    if (field, bit) in {("version", 0), ("tensors", 0)}:  # version 2, or no tensors: the metadata is whole
        assert fit.read(tmp_path / "m.gguf").context == 4096
    else:
        refused(tmp_path / "m.gguf")


@pytest.mark.parametrize("extra", range(4))
@pytest.mark.parametrize("length", [4, 1 << 20, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("array", ["tokens", "token_type"])
def test_an_array_that_says_it_is_longer(tmp_path: Path, array: str, length: int, extra: int) -> None:
    path = model(tmp_path / "m.gguf")
    name = f"tokenizer.ggml.{array}".encode()
    before, _, after = path.read_bytes().partition(name)
    header = name + after[:8]  # its type and its elements' type
    path.write_bytes(before + header + struct.pack("<Q", length) + after[16:] + bytes(extra))
    refused(path)


def test_flipped_bits_anywhere_end_in_a_sentence_or_a_number(tmp_path: Path) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    path, chance = tmp_path / "flipped.gguf", random.Random(1)
    metadata = content.index(b"token_embd.weight") * 8 + 400
    for bit in chance.sample(range(32, metadata), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            needs = fit.read(path)
        except ZosiaError as error:
            assert str(error).isprintable()
        else:
            assert needs.memory([]) > 0
