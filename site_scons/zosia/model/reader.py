"""Reading of the shape of a model from its GGUF.

Format and keys are in the GGUF specification (ggml, docs/gguf.md). Of a split model the first part has the metadata
(llama.cpp, tools/gguf-split).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError, shown
from zosia.model import engine, header
from zosia.model.engine import GENERAL_TYPES, KINDS, Kind
from zosia.model.header import Header, Listed, Value
from zosia.model.shape import PART, Shape

NO_POOLING, RANK_POOLING = 0, 4  # enum llama_pooling_type
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
            raise ValueError(f"its metadata has no {shown(key)}")
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
