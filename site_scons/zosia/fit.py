"""What a model needs: its GGUF's own metadata, and the memory that follows from it and a context.

Names of keys are those of the GGUF specification (ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import ZosiaError

MAGIC = b"GGUF"
MIB = 1 << 20
BATCH = 512  # tokens that llama.cpp evaluates at once by default (-ub)
OWN = 48 * MIB  # llama-cli beside its buffers: vocabulary, templates, the server's threads
BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0}  # a cached value
BITS_OF_OTHERS = 4.5  # q4_0 and iq4_nl


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that a model takes: its file, and for each token of context its cached values of 16 bits.

    `buffers` is what evaluating BATCH tokens takes, `context` the longest context that the model was trained for.
    """

    weights: int
    keys: int
    values: int
    buffers: int
    context: int

    def memory(self, llama_args: Sequence[str]) -> int:
        """MiB that llama-cli takes with these arguments; the last of each option counts, as it does for llama-cli."""
        asked = _last(llama_args, ("-c", "--ctx-size"), "0")
        context = (int(asked) if re.fullmatch("[0-9]{1,9}", asked) else 0) or self.context
        cache = sum(
            context * size * BITS.get(_last(llama_args, names, "f16"), BITS_OF_OTHERS) / 16
            for size, names in (
                (self.keys, ("-ctk", "--cache-type-k")),
                (self.values, ("-ctv", "--cache-type-v")),
            )
        )
        mask = context * BATCH * 2
        return math.ceil((self.weights + cache + mask + self.buffers + OWN) / MIB)


def _last(words: Sequence[str], names: Sequence[str], default: str) -> str:
    """The value that the last of these options has."""
    found = [value for name, value in pairwise(words) if name in names]
    return found[-1] if found else default


def _fields(gguf: Path) -> Mapping[str, Any]:
    """The file's metadata."""
    import numpy  # slow to import, both
    from gguf import GGUFReader

    class Reader(GGUFReader):
        """Without an end to the file the reader takes a damaged length for true, and reads nothing for ever."""

        def _get(self, offset: int, dtype: Any, count: Any = 1, *rest: Any, **named: Any) -> Any:
            if offset + numpy.dtype(dtype).itemsize * int(count) > len(self.data):
                raise EOFError("it ends too early")
            return super()._get(offset, dtype, count, *rest, **named)

    return Reader(gguf).fields


def read(gguf: Path) -> Needs:
    """What the model in a file needs.

    Raises:
        ZosiaError: the file can't be read, or is no GGUF model.
    """
    try:
        with gguf.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ZosiaError(
            f"The model {gguf} can't be read: {error.strerror}", "Type MODEL= and the path of a .gguf"
        ) from error
    if magic != MAGIC:
        raise ZosiaError(
            f"{gguf} is no GGUF model: it begins with {magic!r}, not {MAGIC!r}", "Convert it to GGUF first"
        )
    try:
        fields = _fields(gguf)
        arch = fields["general.architecture"].contents()

        def value(key: str, default: Any = None) -> Any:
            field = fields.get(f"{arch}.{key}")
            return default if field is None else field.contents()

        layers, embedding = int(value("block_count")), int(value("embedding_length"))

        def each(number: Any) -> list[int]:
            """One number for each layer, of which the file has one for all of them, or each."""
            return number if isinstance(number, list) else [number] * layers

        heads = each(value("attention.head_count", 0))
        cached = sum(each(value("attention.head_count_kv", heads)))
        width = embedding // (max(heads) or 1)  # of a head
        forward = max(each(value("feed_forward_length", 0)))
        return Needs(
            weights=gguf.stat().st_size,
            keys=2 * cached * int(value("attention.key_length", width)),
            values=2 * cached * int(value("attention.value_length", width)),
            buffers=BATCH * 4 * (3 * forward + 4 * embedding),
            context=int(value("context_length", 0)),
        )
    except Exception as error:  # the reader has no exception of its own for a file that is damaged
        reason = f"{type(error).__name__}: {error}"
        raise ZosiaError(f"{gguf} is damaged, or no model: {reason}", "Get the file again") from error
