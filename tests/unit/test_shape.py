"""The shapes of models of no use, but with metadata as real ones have it, whole and damaged."""

from __future__ import annotations

import random
import re
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests import shapes
from tests.gguf_file import write as model
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.inputs import catalogue, model_files
from zosia.model import shape
from zosia.model.shape import Shape

PLAIN = Shape(
    architecture="llama",
    context_length=4096,
    block_count=4,
    embedding_length=64,
    feed_forward_length=160,
    head_count=8,
    head_count_kv=2,
    vocab_size=3,
)


@pytest.fixture(autouse=True)
def no_endless_loop() -> Iterator[None]:
    def fail(number: int, frame: FrameType | None) -> None:
        pytest.fail("it would go on and on")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(*parts: Path) -> str:
    with pytest.raises(ZosiaError) as caught:
        shape.read(parts)
    assert str(parts[0].parent) in str(caught.value)
    assert str(caught.value).isprintable(), "it is one line, for a terminal"
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, {}),
        ({"attention.head_count_kv": None}, {"head_count_kv": None}),
        ({"attention.head_count_kv": [2, 0, 8, 1]}, {"head_count_kv": (2, 0, 8, 1)}),
        ({"feed_forward_length": [1, 2, 3, 4]}, {"feed_forward_length": (1, 2, 3, 4)}),
        ({"attention.sliding_window_pattern": [True, True, False, True]}, {"sliding_window_pattern": (1, 1, 0, 1)}),
        ({"attention.sliding_window_pattern": 6}, {"sliding_window_pattern": 6}),
        ({"attention.sliding_window": 0}, {"sliding_window": 0}),
        ({"vocab_size": 32000}, {"vocab_size": 32000}),
        ({"context_length": None}, {"context_length": 0}),
        ({"ssm.inner_size": 5, "shortconv.l_cache": 3}, {"inner_size": 5, "l_cache": 3}),
        ({"wkv.head_size": 64, "kda.head_dim": 128}, {"head_size": 64, "head_dim": 128}),
        ({"altup.num_inputs": 4}, {"num_inputs": 4}),
    ],
)
def test_fields(tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any]) -> None:
    assert shape.read([model(tmp_path / "m.gguf", changes)]) == replace(PLAIN, **fields)


@pytest.mark.parametrize("arch", ["llama", "qwen3moe", "zażółć"])
def test_any_architecture(tmp_path: Path, arch: str) -> None:
    assert shape.read([model(tmp_path / "m.gguf", arch=arch)]) == replace(PLAIN, architecture=arch)


def test_each() -> None:
    found = replace(PLAIN, head_count_kv=(1, 2, 3, 4, 5), head_count=7)
    assert found.each("head_count") == (7, 7, 7, 7)
    assert found.each("head_count_kv") == (1, 2, 3, 4)
    assert replace(PLAIN, head_count_kv=None).each("head_count_kv") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_count": 0}, '"block_count": 0 is not above 0'),
        ({"embedding_length": 0}, '"embedding_length": 0 is not above 0'),
        ({"block_count": 1025}, '"block_count": 1025 is not within 0 and 1024'),
        ({"head_count": -1}, '"head_count": -1 is not'),
        ({"head_count": (1, 2, 3)}, '"head_count": it has 3 numbers for 4 layers'),
        ({"head_count_kv": (1, 2, 3, -4)}, '"head_count_kv": -4 is not'),
        ({"vocab_size": (1 << 24) + 1}, '"vocab_size": 16777217 is not within'),
        ({"architecture": 5}, '"architecture": 5 is no text'),
        ({"block_count": "x"}, "\"block_count\": 'x' is no whole number"),
        ({"block_count": (4, 4, 4, 4)}, '"block_count": (4, 4, 4, 4) is no whole number'),
        ({"embedding_length": None}, '"embedding_length": None is no'),
        ({"head_count": None}, '"head_count": None is no'),
        ({"head_count_kv": (1, 2, 3, None)}, '"head_count_kv": None is no'),
        ({"head_count_kv": (1, 2, 3, "4")}, "\"head_count_kv\": '4' is no"),
        ({"context_length": 4096.0}, '"context_length": 4096.0 is no'),
    ],
)
def test_a_shape_that_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"wrong value for field {message}")):
        replace(PLAIN, **fields)


@pytest.mark.parametrize("wanted", [shapes.GPT_OSS_20B, shapes.LFM_2_12B], ids=lambda wanted: str(wanted.architecture))
def test_a_real_models_shape(tmp_path: Path, wanted: Shape) -> None:
    assert shape.read([shapes.write(tmp_path / "m.gguf", wanted)]) == wanted


def test_smollm2(root: Path) -> None:
    entry = catalogue.read_models(root / "models.toml")["smollm2-135m"]
    assert shape.read([model_files.model_file(entry, cache_root())]) == Shape(
        architecture="llama",
        block_count=30,
        embedding_length=576,
        context_length=8192,
        vocab_size=49152,
        merges=48900,
        feed_forward_length=1536,
        head_count=9,
        head_count_kv=3,
    )


def test_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    path = model(tmp_path / "m.gguf")
    name = b"tokenizer.ggml.tokens"
    before, _, after = path.read_bytes().partition(name)
    words = b"".join(struct.pack("<Q", 7) + b"letters" for _ in range(600_000))
    path.write_bytes(
        before + name + after[:8] + struct.pack("<Q", 600_000) + words + after[16 + 3 * 8 + 12 :] + bytes(32)
    )
    shape.read([model(tmp_path / "warm.gguf")])
    start = time.process_time()
    assert shape.read([path]).vocab_size == 600_000
    assert time.process_time() - start < 1


def part(path: Path, number: int, count: int = 3) -> Path:
    return model(path / f"m-{number:05}-of-{count:05}.gguf", {"split.no": number - 1, "split.count": count})


def test_parts(tmp_path: Path) -> None:
    parts = [part(tmp_path, number) for number in (1, 2, 3)]
    for one in parts:
        assert shape.split_parts(one) == parts
    assert shape.read(parts) == PLAIN


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00003.bin", "m-1-of-3.gguf", "m-00004-of-00003.gguf"])
def test_a_file_that_is_no_part(tmp_path: Path, name: str) -> None:
    assert shape.split_parts(tmp_path / name) == [tmp_path / name]


def test_a_missing_part(tmp_path: Path) -> None:
    first = part(tmp_path, 1)
    with pytest.raises(
        ZosiaError, match=r"m-00002-of-00003\.gguf and 1 more is not in .*\. Put all parts into one folder"
    ):
        shape.split_parts(first)
    part(tmp_path, 2)
    with pytest.raises(ZosiaError, match=r"is one of 3 parts, and m-00003-of-00003\.gguf is not in"):
        shape.split_parts(first)
    assert "is the first of 3 parts, and 1 are given: m-00002-of-00003.gguf is missing" in refused(first)
    renamed = first.rename(tmp_path / "model.gguf")
    assert "is the first of 3 parts, and 1 are given: part 2 is missing" in refused(renamed)


def test_parts_in_each_others_place(tmp_path: Path) -> None:
    one, two, three = (part(tmp_path, number) for number in (1, 2, 3))
    assert f"{two} is part 2 of a model, not part 1" in refused(two, one, three)
    assert f"{three} is part 3 of a model, not part 2" in refused(one, three, two)
    assert "is the first of 3 parts, and 4 are given. Put" in refused(one, two, three, three)
    whole = model(tmp_path / "m.gguf")
    assert f"{whole} is part 1 of a model, not part 2" in refused(one, whole, three)
    two.write_bytes(two.read_bytes()[:-1])
    assert f"{two} is damaged" in refused(one, two, three)


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
        (None, "can't be read: No such file or directory. Set MODEL="),
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
        {"block_count": 5000},
        {"embedding_length": None},
        {"attention.head_count_kv": "two"},
        {"attention.head_count_kv": [2, 2]},
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
        assert "is damaged, or no model: EOFError: unexpected end of file" in refused(path)


FLIPS = [*(("version", bit) for bit in range(32)), *((name, bit) for name in ("tensors", "keys") for bit in range(64))]


@pytest.mark.parametrize(("field", "bit"), FLIPS)
def test_flipped_bits_in_the_header(tmp_path: Path, field: str, bit: int) -> None:
    content = bytearray(model(tmp_path / "m.gguf").read_bytes())
    content[{"version": 4, "tensors": 8, "keys": 16}[field] + bit // 8] ^= 1 << bit % 8
    (tmp_path / "m.gguf").write_bytes(content)
    if (field, bit) in {("version", 0), ("tensors", 0)}:  # version 2, or no tensors: the metadata is whole
        assert shape.read([tmp_path / "m.gguf"]).context_length == 4096
    else:
        refused(tmp_path / "m.gguf")


@pytest.mark.parametrize("extra", range(4))
@pytest.mark.parametrize("length", [4, 1 << 20, 1 << 32, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("array", ["tokens", "token_type"])
def test_an_array_that_says_it_is_longer(tmp_path: Path, array: str, length: int, extra: int) -> None:
    path = model(tmp_path / "m.gguf")
    name = f"tokenizer.ggml.{array}".encode()
    before, _, after = path.read_bytes().partition(name)
    header = name + after[:8]  # its type and its elements' type
    path.write_bytes(before + header + struct.pack("<Q", length) + after[16:] + bytes(extra))
    refused(path)


@pytest.mark.parametrize("length", [1 << 23, 1 << 32, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("array", ["tokens", "token_type"])
def test_an_array_as_long_as_a_hole(tmp_path: Path, array: str, length: int) -> None:
    path = model(tmp_path / "m.gguf")
    name = f"tokenizer.ggml.{array}".encode()
    before, _, after = path.read_bytes().partition(name)
    path.write_bytes(before + name + after[:8] + struct.pack("<Q", length) + after[16:])
    with path.open("r+b") as file:
        file.truncate(1 << 36)
    refused(path)


@pytest.mark.parametrize("count", [1 << 32, (1 << 64) - 1])
def test_more_tensors_than_a_hole_has(tmp_path: Path, count: int) -> None:
    content = bytearray(model(tmp_path / "m.gguf").read_bytes())
    content[8:16] = struct.pack("<Q", count)
    (tmp_path / "m.gguf").write_bytes(content)
    with (tmp_path / "m.gguf").open("r+b") as file:
        file.truncate(1 << 35)
    refused(tmp_path / "m.gguf")


def test_flipped_bits_anywhere_end_in_a_sentence_or_a_shape(tmp_path: Path) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    path, chance = tmp_path / "flipped.gguf", random.Random(1)
    metadata = content.index(b"token_embd.weight") * 8 + 400
    for bit in chance.sample(range(32, metadata), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = shape.read([path])
        except ZosiaError as error:
            assert str(error).isprintable()
        else:
            assert found.block_count > 0
