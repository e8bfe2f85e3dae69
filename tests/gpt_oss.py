"""Models of the gpt-oss architecture, made up: a small one for tests, and one of the true shape of gpt-oss-20b.

`python tests/gpt_oss.py --small|--full OUT.gguf --tokenizer MODEL.gguf --template TEMPLATE.jinja`: MODEL.gguf has a
vocabulary of the kind gpt2, TEMPLATE.jinja is llama.cpp's models/templates/openai-gpt-oss-120b.jinja. The same call
gives the same bytes.

The weights are random, but for some rows that make the model say one thing: after `<|start|>assistant` a thought that
names the reasoning effort of the prompt, then an answer. After the answer, and in any other context, comes <|return|>.

How: each token of the script has a dimension. A head of layer 0 finds the token before by rotary position alone and
notes it in a second set of dimensions; heads of layer 1 look through the whole context for pairs of tokens (": low", or
that a thought was begun) and note which are there. The output row of a token is the sum of what comes before it. Random
weights add to the hidden state: all heads and experts take part, too little to change the choice.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFValueType, GGUFWriter, LlamaFileType, RopeScalingType, quants
from gguf import GGMLQuantizationType as Kind

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Rows = dict[str, dict[int, Floats]]  # tensor, row, what is in it instead of random weights

HEAD = 64  # dimensions of a head
WINDOW = 128  # tokens that even layers see
CONTEXT = 131072
FREQUENCY, SCALED_FROM, SCALING = 150000.0, 4096, 32.0  # YaRN, as in gpt-oss
POOL = 2**22  # bytes of random weights for each tensor, repeated where it is larger

# As in gpt-oss's vocabulary, o200k_harmony.
SPECIAL = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}

EFFORTS = ("low", "medium", "high")
THOUGHT = "The user wrote to me. I think with {} effort."
ANSWER = "Hello from zosia! This answer has been here since I was made: nobody taught me another one."
SCRIPT = (
    "<|start|>assistant<|channel|>analysis<|message|>" + THOUGHT + "<|end|>"
    "<|start|>assistant<|channel|>final<|message|>" + ANSWER
)

# What is to be known before some tokens: a pair of tokens that is in the context.
NOTES = {f"Ġ{effort}": (":", f"Ġ{effort}") for effort in EFFORTS} | {"final": ("analysis", "<|message|>")}

# Dimensions: a token of the script, the same token when it is the one before, one that is always 1, and the notes.
SLOTS = 48
ALWAYS = 2 * SLOTS
NOTE = ALWAYS + 1
# Parts of a score, in LOGITS. A token that needs a note loses where it is not there.
TOKEN, BEFORE, BEFORE_NOTED, NOTED, OTHERWISE, LOGITS = 1.0, 1.0, 0.8, 0.4, 1.6, 60.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model of this architecture. 0 tokens: as many as the script and the template need."""

    name: str
    layers: int
    width: int  # of the hidden state
    heads: int
    kv_heads: int
    experts: int
    inner: int  # width inside of an expert
    tokens: int = 0
    merges: int = 0


FULL = Shape(
    name="gpt-oss-20b, made up",
    layers=24,
    width=2880,
    heads=64,
    kv_heads=8,
    experts=32,
    inner=2880,
    tokens=201088,
    merges=446189,
)
SMALL = Shape(name="gpt-oss, small, made up", layers=4, width=128, heads=8, kv_heads=4, experts=8, inner=128)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their numbers, their types as in GGUF, and the merges."""

    tokens: list[str]
    types: list[int]
    merges: list[str]


@dataclass(frozen=True)
class Tensor:
    """A tensor whose weights are random."""

    name: str
    shape: tuple[int, ...]  # the length of a row comes last
    kind: Kind
    spread: float  # standard deviation
    mean: float = 0  # of F32

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_size(self) -> int:
        """Bytes."""
        elements, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // elements * size

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows * self.row_size


def layout(shape: Shape, tokens: int) -> list[Tensor]:
    """All tensors, in names, kinds and order as llama.cpp's convert_hf_to_gguf.py gives to gpt-oss.

    ggml-org's gpt-oss-20b-mxfp4.gguf has 289 tensors F32, 98 Q8_0 (attention, token_embd, output) and 72 MXFP4.
    """
    width, inner, experts = shape.width, shape.inner, shape.experts
    queries, keys = shape.heads * HEAD, shape.kv_heads * HEAD
    unit = 1 / math.sqrt(width)  # of a row that gives 1 for a normalised state
    noise = math.sqrt(0.3 * unit**2 / (2 * shape.layers))  # that a layer's half adds to each dimension
    q8, f32, mxfp4 = Kind.Q8_0, Kind.F32, Kind.MXFP4

    def layer(number: int) -> Iterator[Tensor]:
        for name, rows, columns, spread, bias in (
            ("attn_q", queries, width, unit, 0.1),
            ("attn_k", keys, width, unit, 0.1),
            ("attn_v", keys, width, unit, 0.1),
            ("attn_output", width, queries, noise / math.sqrt(queries), noise),
        ):
            yield Tensor(f"blk.{number}.{name}.weight", (rows, columns), q8, spread)
            yield Tensor(f"blk.{number}.{name}.bias", (rows,), f32, bias)
        yield Tensor(f"blk.{number}.attn_sinks.weight", (shape.heads,), f32, 1)
        yield Tensor(f"blk.{number}.ffn_gate_inp.weight", (experts, width), f32, unit)
        yield Tensor(f"blk.{number}.ffn_gate_inp.bias", (experts,), f32, 0.1)
        for name, rows, columns, spread, bias in (
            ("ffn_gate_exps", inner, width, unit, 0.1),
            ("ffn_up_exps", inner, width, unit, 0.1),
            ("ffn_down_exps", width, inner, noise / math.sqrt(inner), noise),
        ):
            yield Tensor(f"blk.{number}.{name}.weight", (experts, rows, columns), mxfp4, spread)
            yield Tensor(f"blk.{number}.{name}.bias", (experts, rows), f32, bias)
        for name in ("attn_norm", "post_attention_norm"):
            yield Tensor(f"blk.{number}.{name}.weight", (width,), f32, 0, mean=1)

    return [
        Tensor("token_embd.weight", (tokens, width), q8, unit),
        *(tensor for number in range(shape.layers) for tensor in layer(number)),
        Tensor("output_norm.weight", (width,), f32, 0, mean=1),
        Tensor("output.weight", (tokens, width), q8, unit / 2),
    ]


def listed(gguf: Path, name: str) -> list[Any]:
    """Return a list of the tokenizer in a GGUF's metadata (docs/gguf.md), for which GGUFReader takes seconds."""
    key = f"tokenizer.ggml.{name}".encode()
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(struct.pack("<Q", len(key)) + key) + 8 + len(key)
        kind, element, count = struct.unpack_from("<IIQ", data, at)
        at += 16
        if (kind, element) == (GGUFValueType.ARRAY, GGUFValueType.INT32):
            return list(struct.unpack_from(f"<{count}i", data, at))
        assert (kind, element) == (GGUFValueType.ARRAY, GGUFValueType.STRING), f"{gguf} has no list {name}"
        found = []
        for _ in range(count):
            begin, at = at + 8, at + 8 + struct.unpack_from("<Q", data, at)[0]
            found.append(data[begin:at].decode())
        return found


def vocabulary(tokenizer: Path, shape: Shape, template: str) -> Vocabulary:
    """The ordinary tokens and the merges of a GGUF, gpt-oss's special tokens, and as many made-up ones as needed.

    A small model has only those for its script and for the template, which each prompt has: so it is written and loaded
    at once, and a prompt has as few tokens as in a large one.
    """
    words, types, merges = (listed(tokenizer, name) for name in ("tokens", "token_type", "merges"))
    words = [word for word, kind in zip(words, types, strict=True) if kind == 1]
    invented = ("Q" + "".join(letters) for letters in product(ascii_lowercase, repeat=5))
    if shape.tokens:
        words += islice(invented, min(SPECIAL.values()) - len(words))
        named = {number: name for name, number in SPECIAL.items()}
        special = [named.get(n, f"<|reserved_{n}|>") for n in range(len(words), shape.tokens)]
        merges += (f"{word} {word}" for word in islice(invented, max(0, shape.merges - len(merges))))
    else:
        ranks = {merge: rank for rank, merge in enumerate(merges)}
        texts = [template, *(SCRIPT.format(effort) for effort in EFFORTS)]
        used = {merge for word in set(pieces("\n".join(texts))) for merge in split(word, ranks)[1]}
        merges = [merge for merge in merges if merge in used]
        made = {merge.replace(" ", "") for merge in merges}
        words = [word for word in words if len(word) == 1 or word in made]
        special = list(SPECIAL)
    return Vocabulary(words + special, [1] * len(words) + [3] * len(special), merges)


def pieces(text: str) -> list[str]:
    """Return the words and the special tokens of a text."""
    return re.findall(r"<\|.*?\|>|Ġ?\w+|.", text.replace(" ", "Ġ"))


def split(word: str, ranks: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return the tokens of a word, and the merges that made them."""
    if word in SPECIAL:
        return [word], []
    parts, used = list(word), list[str]()
    while True:
        joints = [(ranks.get(f"{a} {b}", len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts))]
        rank, at = min(joints, default=(len(ranks), 0))
        if rank == len(ranks):
            return parts, used
        used.append(" ".join(parts[at : at + 2]))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def script(words: Vocabulary, effort: str) -> list[str]:
    """Return the output at an effort, in tokens."""
    ranks = {merge: rank for rank, merge in enumerate(words.merges)}
    return [token for word in pieces(SCRIPT.format(effort)) for token in split(word, ranks)[0]]


def vector(length: int, parts: dict[int, float]) -> Floats:
    """A row that is 0 but for some columns."""
    row = np.zeros(length, dtype=np.float32)
    row[list(parts)] = list(parts.values())
    return row


def answering(shape: Shape, words: Vocabulary) -> Rows:
    """The rows that make the model answer."""
    number = {token: index for index, token in enumerate(words.tokens)}
    scripts = [script(words, effort) for effort in EFFORTS]
    slots = {token: slot for slot, token in enumerate(sorted({":"}.union(*scripts)))}
    assert len(slots) <= SLOTS, f"the script has {len(slots)} different tokens"
    # <|start|> comes after any <|end|>, also after one that a reasoning budget forces.
    scores: dict[str, dict[int, float]] = {
        "<|return|>": {ALWAYS: OTHERWISE},
        "<|start|>": {slots["<|end|>"]: 2 * TOKEN},
    }
    scores |= {token: {NOTE + index: NOTED} for index, token in enumerate(NOTES)}
    for said in scripts:
        for before, token, following in zip(said, said[1:], said[2:], strict=False):
            if following != "<|start|>":
                score = scores.setdefault(following, {})
                score[slots[token]] = TOKEN
                score[SLOTS + slots[before]] = BEFORE_NOTED if following in NOTES else BEFORE
    gain = LOGITS / math.sqrt(shape.width / 4)  # of a normalised state of length 2
    return {
        "token_embd.weight": {number[token]: vector(shape.width, {slot: 1}) for token, slot in slots.items()},
        "output.weight": {number[token]: gain * vector(shape.width, score) for token, score in scores.items()},
        **_token_before(shape),
        **_notes(shape, [(slots[before], slots[token]) for before, token in NOTES.values()]),
    }


def _token_before(shape: Shape) -> Rows:
    """Layer 0: its first head takes what the token before has in its slot, wherever it stands, to the second slots.

    Query and key are constant. Of rotary position's 32 pairs those that YaRN leaves alone are used: turned by a
    position and by the next one, they point in the same direction.
    """
    width, queries, strength = shape.width, shape.heads * HEAD, 10.0
    pairs = range(8)
    angles = [FREQUENCY ** (-2 * pair / HEAD) for pair in pairs]
    query = dict.fromkeys(pairs, strength)
    key = {pair: strength * math.cos(angle) for pair, angle in enumerate(angles)}
    key |= {pair + HEAD // 2: strength * math.sin(angle) for pair, angle in enumerate(angles)}
    nothing = {row: vector(width, {}) for row in range(HEAD)}
    value = {slot: vector(width, {slot: 1 / math.sqrt(width)}) for slot in range(SLOTS)}
    return {
        "blk.0.attn_q.weight": nothing,
        "blk.0.attn_k.weight": nothing,
        "blk.0.attn_v.weight": value,
        "blk.0.attn_q.bias": {0: vector(queries, query)},
        "blk.0.attn_k.bias": {0: vector(shape.kv_heads * HEAD, key)},
        "blk.0.attn_v.bias": {0: vector(shape.kv_heads * HEAD, {})},
        "blk.0.attn_sinks.weight": {0: vector(shape.heads, {})},
        "blk.0.attn_output.weight": {SLOTS + slot: vector(queries, {slot: 1}) for slot in range(SLOTS)},
        "blk.0.attn_output.bias": {0: vector(width, {ALWAYS: 1})},
    }


def _notes(shape: Shape, pairs: list[tuple[int, int]]) -> Rows:
    """Layer 1: for each pair of slots, the first head of a group notes whether it is anywhere in the context.

    A query is constant, a key grows with the tokens of the pair that are there, and the sink takes all attention where
    both are nowhere. Of rotary position the pair of dimensions is used that hardly turns.
    """
    width, queries, keys = shape.width, shape.heads * HEAD, shape.kv_heads * HEAD
    apart, column = shape.heads // shape.kv_heads * HEAD, HEAD // 2 - 1
    score = 40.0  # for each token of a pair, in the exponent
    turned = (1 + 0.1 * math.log(SCALING)) ** 2 / math.sqrt(HEAD)  # YaRN's factor and the usual one
    strength = math.sqrt(score / turned)
    unit = 1 / math.sqrt(width / 3)  # of a normalised state with a token, the one before and ALWAYS
    nothing = {row: vector(width, {}) for row in range(len(pairs) * HEAD)}
    query = {index * apart + column: strength for index in range(len(pairs))}
    key = {
        index * HEAD + column: vector(width, {token: strength * unit, SLOTS + before: strength * unit})
        for index, (before, token) in enumerate(pairs)
    }
    value = {index * HEAD: vector(width, {token: unit}) for index, (_, token) in enumerate(pairs)}
    sinks = {index * apart // HEAD: 1.5 * score for index in range(len(pairs))}
    return {
        "blk.1.attn_q.weight": {
            index * apart + row: vector(width, {}) for index in range(len(pairs)) for row in range(HEAD)
        },
        "blk.1.attn_k.weight": nothing | key,
        "blk.1.attn_v.weight": value,
        "blk.1.attn_output.weight": {NOTE + index: vector(queries, {index * apart: 1}) for index in range(len(pairs))},
        "blk.1.attn_q.bias": {0: vector(queries, query)},
        "blk.1.attn_k.bias": {0: vector(keys, {})},
        "blk.1.attn_v.bias": {0: vector(keys, {})},
        "blk.1.attn_sinks.weight": {0: vector(shape.heads, sinks)},
    }


def random_rows(tensor: Tensor) -> Bytes:
    """Rows of random weights, not more than the tensor has, decided by its name: SHAKE is the same everywhere."""
    count = min(tensor.rows, max(1, POOL // tensor.row_size))
    size = count * tensor.row_size
    data = np.frombuffer(bytearray(hashlib.shake_128(tensor.name.encode()).digest(size)), dtype=np.uint8)
    if tensor.kind == Kind.F32:
        numbers = np.resize(data.view(np.int8), size // 4) * np.float32(tensor.spread / 73.9) + np.float32(tensor.mean)
        data = numbers.astype(np.float32).view(np.uint8)
    elif tensor.kind == Kind.Q8_0:  # blocks of a scale in half precision and 32 numbers of 8 bits, that spread by 73.9
        data.reshape(-1, 34)[:, :2] = np.array([tensor.spread / 73.9], dtype=np.float16).view(np.uint8)
    else:  # blocks of a scale in powers of 2 and 32 numbers of 4 bits, that spread by 5.85 * 2**-128
        exponents = data.reshape(-1, 17)[:, 0]
        exponents[:] = (exponents & 1) + int(128 + math.log2(tensor.spread / 5.85))
    return data.reshape(count, tensor.row_size)


def _write_tensor(file: BinaryIO, tensor: Tensor, rows: dict[int, Floats]) -> None:
    pool = random_rows(tensor)
    for first in range(0, tensor.rows, len(pool)):
        part = pool[: tensor.rows - first]
        own = [row for row in rows if first <= row < first + len(part)]
        if own:
            part = part.copy()
        for row in own:
            part[row - first] = quants.quantize(rows[row], tensor.kind).view(np.uint8)
        file.write(part.data)


def _metadata(writer: GGUFWriter, shape: Shape, words: Vocabulary, template: str) -> None:
    writer.add_type("model")
    writer.add_name(shape.name)
    writer.add_file_type(LlamaFileType.MOSTLY_MXFP4_MOE)
    writer.add_quantization_version(2)
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_expert_feed_forward_length(shape.inner)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(4)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_sliding_window(WINDOW)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(FREQUENCY)
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(SCALING)
    writer.add_rope_scaling_orig_ctx_len(SCALED_FROM)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.tokens.index("<|startoftext|>"))
    writer.add_eos_token_id(words.tokens.index("<|return|>"))
    writer.add_pad_token_id(words.tokens.index("<|endoftext|>"))
    writer.add_chat_template(template)


def write(target: Path, shape: Shape, *, tokenizer: Path, template: Path) -> Path:
    """Write a model, first under another name. Takes 12.1 GB of disk for FULL, and some 250 MB of memory."""
    chat = template.read_text(encoding="utf-8")
    words = vocabulary(tokenizer, shape, chat)
    part = target.with_name(target.name + ".part")
    writer = GGUFWriter(part, "gpt-oss")
    _metadata(writer, shape, words, chat)
    tensors = layout(shape, len(words.tokens))
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.size, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout
    file, rows = writer.fout[0], answering(shape, words)
    for tensor in tensors:
        writer.write_padding(file, file.tell())
        _write_tensor(file, tensor, rows.get(tensor.name, {}))
    writer.write_padding(file, file.tell())
    writer.close()
    return part.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a model of the gpt-oss architecture, made up.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--small", type=Path, metavar="OUT.gguf")
    which.add_argument("--full", type=Path, metavar="OUT.gguf", help="12.1 GB")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="MODEL.gguf")
    parser.add_argument("--template", type=Path, required=True, metavar="TEMPLATE.jinja")
    options = parser.parse_args()
    shape = SMALL if options.small else FULL
    write(options.small or options.full, shape, tokenizer=options.tokenizer, template=options.template)


if __name__ == "__main__":
    main()
