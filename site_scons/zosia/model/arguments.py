"""Values of llama-cli's and llama-server's arguments that affect memory."""

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
UNIFIED, NOT_UNIFIED = ("-kvu", "--kv-unified"), ("-no-kvu", "--no-kv-unified")
OTHER_TEXT = ("--override-kv", "--chat-template", "--chat-template-file", "--chat-template-kwargs")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Values of llama-cli's arguments, or llama-server's.

    Attributes:
        context: in tokens, of each stream.
        batch: tokens of one evaluation.
        keys: bits of a cached key.
        values: bits of a cached value.
        flash: flash attention is on.
        whole_windows: the cache of a sliding window holds the whole context.
        checkpoints: most copies of a window or a recurrent state, for each sequence.
        parallel: sequences; a server has one for each conversation.
        streams: caches that they have: one that all share (unified), or each its own.
    """

    context: int
    batch: int
    keys: float
    values: float
    flash: bool
    whole_windows: bool
    checkpoints: int
    parallel: int = 1
    streams: int = 1

    @property
    def tokens(self) -> int:
        """Return the tokens that buffers are reserved for: a batch, with as many of each sequence (graph_reserve)."""
        return math.ceil(self.batch / self.parallel) * self.parallel

    @property
    def quantized(self) -> bool:
        """Return True if the cache is of a type for which llama.cpp rotates values."""
        return min(self.keys, self.values) < 16


def read(shape: Shape, words: Sequence[str]) -> Arguments:
    """Read the arguments of a run of this model; the last of each option counts, as for llama.cpp.

    A server that is not told how many sequences it has (-np) would have four.
    """
    context = _number(words, ("-c", "--ctx-size"), 0) or shape.context_length
    context = max(1, math.ceil(context / STEP)) * STEP
    parallel = max(1, _number(words, ("-np", "--parallel"), 1))
    switches = [word in UNIFIED for word in words if word in (*UNIFIED, *NOT_UNIFIED)]
    streams = 1 if switches and switches[-1] else parallel
    batch = _number(words, ("-b", "--batch-size"), 2048)
    flash = _last(words, ("-fa", "--flash-attn"), "auto") not in OFF
    return Arguments(
        context=max(1, math.ceil(context // streams / STEP)) * STEP,
        batch=min(context, batch, _number(words, ("-ub", "--ubatch-size"), 512) or batch),
        keys=BITS.get(_last(words, ("-ctk", "--cache-type-k"), "f16"), BITS_OF_OTHERS),
        values=BITS.get(_last(words, ("-ctv", "--cache-type-v"), "f16"), BITS_OF_OTHERS),
        flash=flash,
        whole_windows="--swa-full" in words,
        checkpoints=_number(words, ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"), 32),
        parallel=parallel,
        streams=streams,
    )


def room(shape: Shape, words: Sequence[str]) -> int:
    """Return the most bytes of text that can fit into the context of a sequence; 0 if unknown.

    With another template or vocabulary it is: a template may leave out any of the text.
    """
    return 0 if set(OTHER_TEXT) & set(words) else read(shape, words).context * shape.longest_token


def _last(words: Sequence[str], names: Sequence[str], default: str) -> str:
    """Return the value of the last of these options."""
    found = [value for name, value in pairwise(words) if name in names]
    return found[-1] if found else default


def _number(words: Sequence[str], names: Sequence[str], default: int) -> int:
    found = _last(words, names, "")
    return int(found) if re.fullmatch("[0-9]{1,9}", found) else default
