"""The shapes of models of no use, but with metadata as real ones have it, whole and damaged."""

from __future__ import annotations

import math
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

import gguf
import numpy as np
import pytest
from gguf import bytes_to_unicode

from tests import shapes
from tests.gguf_file import write as model
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.inputs import catalogue, model_files
from zosia.model import reader, shape
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


pytestmark = pytest.mark.filterwarnings("error")


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
        reader.read(parts)
    assert str(parts[0].parent) in str(caught.value)
    plain(caught.value)
    return str(caught.value)


def plain(error: ZosiaError) -> None:
    """A sentence and a remedy, on one line, without what a program says to its programmer."""
    assert str(error).isprintable(), "it is one line, for a terminal"
    assert len(str(error)) < 500
    assert error.hint
    assert not re.search(r"\w*(?<!Zosia)(?:Error|Exception|Warning)\b|np\.|<\w+ object", error.message)


def typed(path: Path, number: int) -> Path:
    """The model with another number for the type of its one tensor."""
    before, name, after = path.read_bytes().partition(b"token_embd.weight")
    at = 4 + 2 * 8  # the number of dimensions, and two of them
    path.write_bytes(before + name + after[:at] + struct.pack("<I", number) + after[at + 4 :])
    return path


def keyed(path: Path, changes: dict[str, str]) -> Path:
    """The model with keys of texts put before its own."""
    content = path.read_bytes()
    keys = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in changes.items())
    (count,) = struct.unpack("<Q", content[16:24])
    end = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8 + 4 + 8
    data = content[-(-end // 32) * 32 :]
    header = content[:16] + struct.pack("<Q", count + len(changes)) + keys + content[24:end]
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def text(words: str) -> bytes:
    return struct.pack("<Q", len(words.encode())) + words.encode()


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
    assert reader.read([model(tmp_path / "m.gguf", changes)]) == replace(PLAIN, **fields)


@pytest.mark.parametrize("arch", ["llama", "qwen3moe"])
def test_any_architecture(tmp_path: Path, arch: str) -> None:
    assert reader.read([model(tmp_path / "m.gguf", arch=arch)]) == replace(PLAIN, architecture=arch)


def test_an_engine_of_the_users_own_may_know_more(tmp_path: Path) -> None:
    path = typed(model(tmp_path / "m.gguf", arch="zażółć"), 57)
    assert "has the architecture zażółć, which zosia's llama.cpp does not know. Set MODEL=" in refused(path)
    assert reader.read([path], any_engine=True) == replace(PLAIN, architecture="zażółć")
    path.write_bytes(path.read_bytes().replace(struct.pack("<IQ", 57, 0), struct.pack("<IQ", 57, 32)))
    with pytest.raises(ZosiaError, match="is at byte 32 of the weights, and 0 is expected"):
        reader.read([path], any_engine=True)
    with pytest.raises(ZosiaError, match="is a projector"):
        reader.read([model(tmp_path / "mmproj.gguf", arch="clip")], any_engine=True)


def test_a_type_of_unknown_size_leaves_the_next_tensors_place_open(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "m.gguf", shapes.LLAMA_32_1B)
    with path.open("r+b") as file:
        at = file.read(1 << 22).index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
        file.seek(at)
        file.write(struct.pack("<I", 57))
    assert "type 57, which" in refused(path)
    assert reader.read([path], any_engine=True).block_count == 16


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
    assert reader.read([shapes.write(tmp_path / "m.gguf", wanted)]) == wanted


def test_smollm2(root: Path) -> None:
    entry = catalogue.read_models(root / "models.toml")["smollm2-135m"]
    assert reader.read([model_files.model_file(entry, cache_root())]) == Shape(
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
    reader.read([model(tmp_path / "warm.gguf")])
    start = time.process_time()
    assert reader.read([path]).vocab_size == 600_000
    assert time.process_time() - start < 1


def longest(tmp_path: Path, tokenizer: str, tokens: list[bytes]) -> int:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(tokens)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return reader.read([tmp_path / "m.gguf"]).longest_token


LETTERS = [letter.encode() for letter in bytes_to_unicode().values()]


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "most"),
    [
        ("gpt2", [*LETTERS, "Ġzażółć".encode(), b"ab"], 12),
        ("gpt2", [b"long", *LETTERS], 4),
        ("gpt2", LETTERS, 2),
        *(("gpt2", [*LETTERS[:index], *LETTERS[index + 1 :], b"a word"], 0) for index in (0, 100, 255)),
        ("llama", [b"<unk>", "▁▁▁▁".encode(), b"<0x00>"], 12),
        ("bert", [*LETTERS, b"a word"], 0),
        ("t5", [*LETTERS, b"a word"], 0),
        ("gemma4", [*LETTERS, b"a word"], 0),
    ],
)
def test_the_most_bytes_that_a_token_stands_for(tmp_path: Path, tokenizer: str, tokens: list[bytes], most: int) -> None:
    """Unknown where llama.cpp may drop bytes: a byte without a token, and what a normaliser takes away."""
    assert longest(tmp_path, tokenizer, tokens) == most


def test_shapes_are_the_same_whatever_their_tokens() -> None:
    assert replace(PLAIN, longest_token=7) == PLAIN


def part(path: Path, number: int, count: int = 3) -> Path:
    return model(path / f"m-{number:05}-of-{count:05}.gguf", {"split.no": number - 1, "split.count": count})


def test_parts(tmp_path: Path) -> None:
    parts = [part(tmp_path, number) for number in (1, 2, 3)]
    for one in parts:
        assert shape.split_parts(one) == parts
    assert reader.read(parts) == PLAIN


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
    size = len(two.read_bytes())
    two.write_bytes(two.read_bytes()[:-1])
    assert f"{two} is truncated: it has {size - 1} bytes of {size}, so that 1 are" in refused(one, two, three)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGML" * 100, "is no GGUF model: it begins with b'GGML', not b'GGUF'. Convert it"),
        (b"<html>", "begins with b'<htm'"),
        (b"", "begins with b''"),
        (b"GGU", "begins with b'GGU'"),
        (b"GGUF", "is truncated or damaged: it has 4 bytes, and its metadata takes 8 or more, so that 4 are missing."),
        (b"GGUF" + bytes(100_000), "is damaged: GGUF version 2 or 3 is expected, and 0 found. Get the file again"),
        (b"GGUF" + b"\xff" * 100_000, "is damaged: GGUF version 2 or 3 is expected, and 4294967295 found."),
        (b"GGUF\1" + bytes(99), "has an old file format: its GGUF version is 1, and llama.cpp reads 2 and 3. Get a"),
        (b"GGUF\4" + bytes(99), "has a newer file format: its GGUF version is 4, and llama.cpp reads 2 and 3. Get"),
        (b"GGUF\0\0\0\3" + bytes(99), "is a big-endian GGUF, for processors that zosia has no guests for. Get the"),
        (None, "can't be read: No such file or directory. Set MODEL="),
    ],
    ids=["old", "page", "empty", "short", "magic", "zeros", "ones", "v1", "v4", "big", "missing"],
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
        {"context_length": 4096.0},
        {"context_length": math.nan},
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
    weights = len(content) - 3 * 64 * 4
    for size in range(4, len(content), 3):
        path.write_bytes(content[:size])
        said = refused(path)
        if size >= weights:
            missing = len(content) - size
            assert f"is truncated: it has {size} bytes of {len(content)}, so that {missing} are missing." in said
        elif "is truncated:" not in said:  # that is the padding before the weights
            assert f"is truncated or damaged: it has {size} bytes, and its metadata takes " in said


FLIPS = [*(("version", bit) for bit in range(32)), *((name, bit) for name in ("tensors", "keys") for bit in range(64))]


@pytest.mark.parametrize(("field", "bit"), FLIPS)
def test_flipped_bits_in_the_header(tmp_path: Path, field: str, bit: int) -> None:
    content = bytearray(model(tmp_path / "m.gguf").read_bytes())
    content[{"version": 4, "tensors": 8, "keys": 16}[field] + bit // 8] ^= 1 << bit % 8
    (tmp_path / "m.gguf").write_bytes(content)
    if (field, bit) == ("version", 0):  # version 2
        assert reader.read([tmp_path / "m.gguf"]).context_length == 4096
    elif (field, bit) == ("tensors", 0):
        assert "is a vocabulary without weights" in refused(tmp_path / "m.gguf")
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


@pytest.mark.parametrize(
    ("length", "said"), [(99, "is truncated or"), (1 << 40, "a text in tokenizer.ggml.tokens is longer")]
)
def test_a_word_that_says_it_is_longer(tmp_path: Path, length: int, said: str) -> None:
    path = model(tmp_path / "m.gguf")
    before, _, after = path.read_bytes().partition(struct.pack("<Q", 1) + b"b" + text("zażółć"))
    path.write_bytes(before + struct.pack("<Q", length) + after[:80])
    assert said in refused(path)


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


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits_anywhere_end_in_a_sentence_or_a_shape(tmp_path: Path, seed: int) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    path, chance = tmp_path / "flipped.gguf", random.Random(seed)
    metadata = content.index(b"token_embd.weight") * 8 + 400
    for bit in chance.sample(range(32, metadata), 300):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        ends_well(path)


WORDS = [bytes(8), b"\xff" * 8, b"\n\x1b[31m\0\0", struct.pack("<Q", 1 << 62), struct.pack("<Q", 1 << 20), b"\7\0\0\0"]


@pytest.mark.parametrize("seed", range(2))
def test_any_bytes_anywhere_end_in_a_sentence_or_a_shape(tmp_path: Path, seed: int) -> None:
    content = model(tmp_path / "m.gguf").read_bytes()
    path, chance = tmp_path / "changed.gguf", random.Random(seed)
    ends = set()
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(4, content.index(b"token_embd.weight") + 60)
            changed[at : at + chance.choice([0, 1, 4, 8])] = chance.choice([*WORDS, chance.randbytes(4)])
        path.write_bytes(changed)
        ends.add(ends_well(path))
    assert len(ends) > 10, "not all of them end for the same reason"


def ends_well(path: Path) -> str:
    try:
        found = reader.read([path])
    except ZosiaError as error:
        plain(error)
        return re.sub(r"\d+", "", str(error))
    assert found.block_count > 0
    return ""


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("clip", "is a projector (mmproj) of images or sound. Set MODEL= to the text model"),
        ("controlvector", "is a control vector and no whole model. Set MODEL= to the model that it steers"),
        ("bert", "is an embedding model (an encoder), which writes no text. Set MODEL= to a chat model"),
        ("t5encoder", "is an embedding model (an encoder)"),
        ("t5", "is an encoder-decoder (T5), which llama-cli doesn't run"),
        ("llada", "is a diffusion model, which llama-cli doesn't run"),
        ("eagle3", "is a draft model, which only speeds up another one"),
        ("qwen3tts", "is a model that writes speech, not text"),
        ("flux", "is a model of pictures or films, not of text"),
        ("gptoss", "it is Ollama's own file of gpt-oss. Set MODEL=gpt-oss-20b-Q4"),
        (
            "qwen25vl",
            "has the architecture qwen25vl, which zosia's llama.cpp does not know: it is Ollama's own file",
        ),
        ("gptj", "has the architecture gptj, which zosia's llama.cpp does not know. Set MODEL= to another model"),
        ("x\n\x1b[31m", "has the architecture 'x\\n\\x1b[31m', which zosia's llama.cpp does not know"),
    ],
)
def test_a_model_of_another_kind(tmp_path: Path, arch: str, said: str) -> None:
    assert said in refused(model(tmp_path / "m.gguf", arch=arch))


def test_the_model_that_is_named_instead_is_there(root: Path) -> None:
    assert "gpt-oss-20b-Q4" in catalogue.read_models(root / "models.toml")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.type": "mmproj"}, "is a projector"),
        ({"general.type": "adapter"}, "is an adapter (LoRA) and no whole model. Merge it into its model"),
        ({"adapter.type": "lora"}, "is an adapter (LoRA)"),
        ({"general.type": "imatrix"}, "is an importance matrix (imatrix), which helps to quantise a model. Set MODEL="),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    path = keyed(model(tmp_path / "m.gguf"), keys)
    assert said in refused(path)
    path.write_bytes(path.read_bytes().replace(b"general.architecture", b"general.architectura"))
    assert said in refused(path), "an imatrix has no architecture"


def test_a_file_of_a_kind_that_llama_cpp_loads(tmp_path: Path) -> None:
    assert reader.read([keyed(model(tmp_path / "m.gguf"), {"general.type": "model"})]) == PLAIN


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pooling_type": 4}, "is a reranker, which rates texts and writes none"),
        ({"pooling_type": 3}, "is an embedding model"),
        ({"attention.causal": False}, "is an embedding model"),
    ],
)
def test_a_chat_models_architecture_of_another_kind(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(model(tmp_path / "m.gguf", changes))


def test_pooling_of_none_is_a_chat_model(tmp_path: Path) -> None:
    assert reader.read([model(tmp_path / "m.gguf", {"pooling_type": 0})]) == PLAIN


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (31, "type 31 (Q4_0_4_4), which llama.cpp no longer reads. Get the model's file in Q4_0"),
        (36, "type 36 (IQ4_NL_4_4), which llama.cpp no longer reads; in BitNet.cpp it is I2_S. Get"),
        (43, "type 43, which zosia's llama.cpp does not know: a fork or a newer version made it. Get another file"),
        (144, "type 144 (IQ4_KS), which only ik_llama.cpp reads. Get another file of it, or LLAMA_SRC="),
        (214, "type 214, which only ik_llama.cpp reads"),
        (1 << 20, "is damaged: the type of token_embd.weight is 1048576, which is not within 0 and 1024"),
        (2, ""),
        (42, ""),  # the gguf package does not know it
    ],
)
def test_types_of_tensors(tmp_path: Path, number: int, said: str) -> None:
    path = typed(model(tmp_path / "m.gguf"), number)
    if said:
        assert said in refused(path)
    else:
        assert reader.read([path]) == PLAIN


@pytest.mark.parametrize(
    ("number", "at", "value", "said"),
    [
        (0, 24, 1 << 63, "is at byte 9223372036854775808 of the weights, and 0 is expected. Get the file again"),
        (0, 24, 1, "is damaged: its tensor token_embd.weight is at byte 1 of the weights, and 0 is expected"),
        (0, 24, 32, "is at byte 32 of the weights, and 0 is expected"),
        (0, 4, 1 << 63, "is damaged: a dimension of token_embd.weight is -9223372036854775808, which is not within 0"),
        (0, 4, 1 << 62, "the dimensions (4611686018427387904, 3), and less than 2^63 numbers fit"),
        (0, 4, 128, "is truncated: it has 1280 bytes of 2048, so that 768 are missing. Download the rest"),
        (12, 4, 64, "the dimensions (64, 3), and rows of Q4_K have a multiple of 256 numbers"),
    ],
)
def test_a_tensor_out_of_its_place(tmp_path: Path, number: int, at: int, value: int, said: str) -> None:
    path = typed(model(tmp_path / "m.gguf"), number)
    before, name, after = path.read_bytes().partition(b"token_embd.weight")
    path.write_bytes(before + name + after[:at] + struct.pack("<Q", value) + after[at + 8 :])
    assert said in refused(path)


def test_tensors_that_overlap(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "m.gguf", shapes.LLAMA_32_1B)
    assert reader.read([path]).block_count == 16
    with path.open("rb") as file:
        content = file.read(1 << 22)
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8 + 4
    (offset,) = struct.unpack("<Q", content[at : at + 8])
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", offset - 32))
    assert f"output_norm.weight is at byte {offset - 32} of the weights, and {offset} is expected" in refused(path)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = keyed(model(tmp_path / "m.gguf"), {"general.architecture": "llama"})
    assert "is damaged: it has the key general.architecture twice" in refused(path)


def test_a_key_without_a_name(tmp_path: Path) -> None:
    assert "is damaged: one of its keys has no name" in refused(keyed(model(tmp_path / "m.gguf"), {"": "x"}))


@pytest.mark.parametrize("alignment", [0, 24, 1 << 31])
def test_an_alignment(tmp_path: Path, alignment: int) -> None:
    path = model(tmp_path / "m.gguf", {"general.alignment": alignment})
    assert ("a power of two is expected" if alignment != 1 << 31 else "is truncated") in refused(path)
