"""What llama-cli's arguments ask for, as far as it decides about memory."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from zosia.model.shape import Shape

BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0}  # a cached value
BITS_OF_OTHERS = 4.5  # q4_0 and iq4_nl
OFF = ("off", "disabled", "false", "0")
STEP = 256  # of contexts and caches, in tokens


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What llama-cli's arguments ask for: tokens of context and of one evaluation; bits of a cached value."""

    context: int
    batch: int
    keys: float
    values: float
    flash: bool
    whole_windows: bool
    checkpoints: int

    @property
    def quantized(self) -> bool:
        """Whether the cache is of a type that llama.cpp rotates values for."""
        return min(self.keys, self.values) < 16


def read(shape: Shape, words: Sequence[str]) -> Arguments:
    """What the arguments of a run of this model ask for; the last of each option counts, as it does for llama-cli."""
    context = _number(words, ("-c", "--ctx-size"), 0) or shape.context_length
    context = max(1, math.ceil(context / STEP)) * STEP
    batch = _number(words, ("-b", "--batch-size"), 2048)
    flash = _last(words, ("-fa", "--flash-attn"), "auto") not in OFF
    return Arguments(
        context=context,
        batch=min(context, batch, _number(words, ("-ub", "--ubatch-size"), 512) or batch),
        keys=BITS.get(_last(words, ("-ctk", "--cache-type-k"), "f16"), BITS_OF_OTHERS),
        values=BITS.get(_last(words, ("-ctv", "--cache-type-v"), "f16"), BITS_OF_OTHERS),
        flash=flash,
        whole_windows="--swa-full" in words,
        checkpoints=_number(words, ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"), 32),
    )


def _last(words: Sequence[str], names: Sequence[str], default: str) -> str:
    """The value that the last of these options has."""
    found = [value for name, value in pairwise(words) if name in names]
    return found[-1] if found else default


def _number(words: Sequence[str], names: Sequence[str], default: int) -> int:
    found = _last(words, names, "")
    return int(found) if re.fullmatch("[0-9]{1,9}", found) else default
