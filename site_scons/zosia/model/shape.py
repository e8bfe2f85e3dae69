"""Shape of a model: the metadata of a GGUF that affects the memory of a run.

Format and keys are in the GGUF specification (ggml, docs/gguf.md). Of a split model the first part has the metadata
(llama.cpp, tools/gguf-split).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as declared
from pathlib import Path
from reprlib import repr as short
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.model import engine, header
from zosia.model.engine import GENERAL_TYPES, KINDS, Kind
from zosia.model.header import Header, Listed, Value

MOST_LAYERS = 1024  # llama.cpp has room for 512
MOST_WIDTH = 1 << 24  # of anything else: vocabularies are below 2^19, contexts below 2^24
NO_POOLING, RANK_POOLING = 0, 4  # enum llama_pooling_type
Count = int | tuple[int, ...]  # one for all layers, or one for each


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a model. Fields have the names of the last part of their GGUF keys, which the specification explains.

    A field that a model lacks is 0; None stands for llama.cpp's own default for the architecture. `vocab_size` and
    `merges` are the lengths of the tokenizer's lists where the metadata has no number. `longest_token` is the most
    bytes of a text that one token stands for, 0 if unknown; models with the same shape may differ there.
    """

    architecture: str
    block_count: int
    embedding_length: int
    context_length: int = 0
    vocab_size: int = 0
    merges: int = 0
    feed_forward_length: Count = 0
    head_count: Count = 0
    head_count_kv: Count | None = None  # as many as head_count
    key_length: int = 0  # embedding_length / head_count
    value_length: int = 0  # likewise
    key_length_swa: int = 0  # key_length
    value_length_swa: int = 0  # value_length
    key_length_mla: int = 0
    sliding_window: int | None = None
    sliding_window_pattern: Count | None = None
    shared_kv_layers: int = 0
    expert_count: int = 0
    expert_used_count: Count = 0
    expert_feed_forward_length: Count = 0
    expert_shared_feed_forward_length: int = 0
    expert_shared_count: int = 0
    conv_kernel: int = 0
    inner_size: int = 0
    state_size: int = 0
    group_count: int = 0
    full_attention_interval: int = 0
    l_cache: int = 0  # of lfm2's short convolutions
    head_size: int = 0  # of RWKV
    head_dim: int = 0  # of Kimi's linear attention
    embedding_length_per_layer_input: int = 0
    num_inputs: int = 0  # of gemma3n's AltUp
    longest_token: int = declared(default=0, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str):
            raise ValueError(f'wrong value for field "architecture": {short(self.architecture)} is no text')
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            listed = isinstance(value, tuple) and str(field.type).startswith("Count")
            most = MOST_LAYERS if field.name == "block_count" else MOST_WIDTH
            for number in value if listed else (value,):
                if number is None and field.default is None and not listed:
                    continue
                if not isinstance(number, int):
                    raise ValueError(f'wrong value for field "{field.name}": {short(number)} is no whole number')
                if not 0 <= number <= most:
                    raise ValueError(f'wrong value for field "{field.name}": {number} is not within 0 and {most}')
            if listed and len(value) < self.block_count:
                raise ValueError(
                    f'wrong value for field "{field.name}": it has {len(value)} numbers for {self.block_count} layers'
                )
        for name in ("block_count", "embedding_length"):
            if not getattr(self, name):
                raise ValueError(f'wrong value for field "{name}": 0 is not above 0')

    def each(self, name: str) -> tuple[int, ...]:
        """Return a field's number for each layer; 0 for None."""
        value = getattr(self, name) or 0
        return value[: self.block_count] if isinstance(value, tuple) else (value,) * self.block_count


# Prefixes of keys, between the architecture and the name of the field.
PREFIXES = {
    **dict.fromkeys(
        (
            *("head_count", "head_count_kv", "key_length", "value_length", "key_length_swa", "value_length_swa"),
            *("key_length_mla", "sliding_window", "sliding_window_pattern", "shared_kv_layers"),
        ),
        "attention.",
    ),
    **dict.fromkeys(("conv_kernel", "inner_size", "state_size", "group_count"), "ssm."),
    "l_cache": "shortconv.",
    "head_size": "wkv.",
    "head_dim": "kda.",
    "num_inputs": "altup.",
}
LISTS = {"vocab_size": "tokenizer.ggml.tokens", "merges": "tokenizer.ggml.merges"}
# GPT-2's letters for bytes: those that can be printed are themselves, and the others are numbered from U+0100.
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
BYTES = {chr(letter).encode() for letter in (*PRINTABLE, *range(0x100, 0x200 - len(PRINTABLE)))}
PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def split_names(name: str) -> list[str]:
    """Return the name, or those of all parts in order if it is one of NAME-00001-of-00003.gguf."""
    found = PART.fullmatch(name)
    if not found or not 0 < int(found["number"]) <= int(found["count"]):
        return [name]
    count = int(found["count"])
    return [f"{found['name']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def split_parts(gguf: Path) -> list[Path]:
    """Return the file, or all parts in order if it is one of NAME-00001-of-00003.gguf.

    Raises:
        ZosiaError: a part is missing.
    """
    parts = [gguf.with_name(name) for name in split_names(gguf.name)]
    if len(parts) == 1:
        return [gguf]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ZosiaError(
            f"{gguf} is one of {len(parts)} parts, and {missing[0]}{more} is not in {gguf.parent}",
            "Put all parts into one folder",
        )
    return parts


def read(parts: Sequence[Path], *, any_engine: bool = False) -> Shape:
    """Read the shape of a model that llama.cpp can load.

    Args:
        parts: its .gguf, or the parts of a split one, in order (`split_parts`).
        any_engine: the user's own llama.cpp loads it, which may know more than the pinned one.

    Raises:
        ZosiaError: a file can't be read, is damaged or no model for llama.cpp; a part is missing or out of order.
    """
    first, *others = parts
    found = header.read(first)
    _check_place(found, first, 0)
    count = _number(found, first, "split.count") or 1
    if count != len(parts):
        expected = PART.fullmatch(first.name)
        name = f"{expected['name']}-{len(parts) + 1:05}-of-{count:05}.gguf" if expected else f"part {len(parts) + 1}"
        missing = f": {name} is missing" if count > len(parts) else ""
        raise ZosiaError(
            f"{first} is the first of {count} parts, and {len(parts)} are given{missing}",
            "Put all parts into one folder",
        )
    architecture = _architecture(found, first, any_engine=any_engine)
    headers = {first: found}
    for place, part in enumerate(others, 1):
        headers[part] = header.read(part)
        _check_place(headers[part], part, place)
    for part, each in headers.items():
        if not any_engine:
            engine.check_types(part, (tensor.kind for tensor in each.tensors))
        header.check_weights(part, each)
    if not any(each.tensors for each in headers.values()):
        raise Kind.VOCABULARY.refusal(first)
    try:
        return _shape(found.values, architecture)
    except ValueError as error:
        raise ZosiaError(f"{first} is damaged, or no model: {error}", "Get the file again") from error


def _check_place(found: Header, part: Path, place: int) -> None:
    number = _number(found, part, "split.no")
    if number != place:
        raise ZosiaError(f"{part} is part {number + 1} of a model, not part {place + 1}", "Get the parts again")


def _number(found: Header, part: Path, key: str) -> int:
    value = found.values.get(key, 0)
    if not isinstance(value, int):
        raise ZosiaError(f"{part} is damaged: {key} is no whole number", "Get the file again")
    return value


def _architecture(found: Header, gguf: Path, *, any_engine: bool) -> str:
    """Return the architecture of a model.

    Raises:
        ZosiaError: the file is no model for a chat, or llama.cpp does not know it.
    """
    if kind := GENERAL_TYPES.get(str(found.values.get("general.type"))):
        raise kind.refusal(gguf)
    if "adapter.type" in found.values:  # of before there was a general.type
        raise Kind.ADAPTER.refusal(gguf)
    architecture = found.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise ZosiaError(
            f"{gguf} is no model: its metadata has no general.architecture", "Set MODEL= to the .gguf of a model"
        )
    if not any_engine or architecture in KINDS:
        engine.check_architecture(gguf, architecture)
    pooling = found.values.get(f"{architecture}.pooling_type", NO_POOLING)
    if pooling == RANK_POOLING:
        raise Kind.RERANKER.refusal(gguf)
    if pooling != NO_POOLING or found.values.get(f"{architecture}.attention.causal") is False:
        raise Kind.EMBEDDER.refusal(gguf)
    return architecture


def _shape(values: Mapping[str, Value], architecture: str) -> Shape:
    found: dict[str, Any] = {}
    for field in fields(Shape)[1:]:
        key = f"{architecture}.{PREFIXES.get(field.name, '')}{field.name}"
        if key in values:
            found[field.name] = _plain(values[key])
        elif field.default is MISSING:
            raise ValueError(f"its metadata has no {header.shown(key)}")
    for name, key in LISTS.items():
        listed = values.get(key)
        if isinstance(listed, Listed) and not found.get(name):
            found[name] = listed.count
    found["longest_token"] = _longest_token(values)
    return Shape(architecture=architecture, **found)


def _longest_token(values: Mapping[str, Value]) -> int:
    """Return the most bytes of a text that one token stands for; 0 where llama.cpp may drop or replace some of them.

    It drops bytes for which a byte-pair vocabulary has no token (llm_tokenizer_bpe_session in src/llama-vocab.cpp); a
    SentencePiece vocabulary without them is an error. Tokens are written with as many bytes as they stand for, or more.
    """
    kind, tokens = values.get("tokenizer.ggml.model"), values.get(LISTS["vocab_size"])
    if not isinstance(tokens, Listed):
        return 0
    whole = kind == "llama" or (kind == "gpt2" and tokens.shortest >= BYTES)
    return tokens.longest if whole else 0


def _plain(value: Value) -> object:
    """Return a list as a tuple, and what is true or false as a number."""
    if isinstance(value, Listed):
        return tuple(map(_plain, value.numbers))
    return int(value) if isinstance(value, bool) else value
