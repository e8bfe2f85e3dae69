"""Sampling options: llama-cli's arguments that can still change once its model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

# Options of llama-cli (common/arg.cpp), and the fields of a request to its server (tools/server/README.md).
FIELDS = {
    **dict.fromkeys(("-n", "--predict", "--n-predict"), "n_predict"),
    **dict.fromkeys(("-s", "--seed"), "seed"),
    **dict.fromkeys(("--temp", "--temperature"), "temperature"),
    "--top-k": "top_k",
    "--top-p": "top_p",
    "--min-p": "min_p",
    **dict.fromkeys(("--top-nsigma", "--top-n-sigma"), "top_n_sigma"),
    **dict.fromkeys(("--typical", "--typical-p"), "typical_p"),
    "--repeat-last-n": "repeat_last_n",
    "--repeat-penalty": "repeat_penalty",
    "--presence-penalty": "presence_penalty",
    "--frequency-penalty": "frequency_penalty",
}
NUMBER = re.compile(r"(?:0|[1-9]\d{0,8})(?:\.\d{1,9})?", re.ASCII)  # negative numbers mean different things to the two


def split(words: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the arguments that llama-cli needs at its start, and the others as JSON fields, with a comma after each.

    The last of each option counts, as for llama-cli. An option whose value is no plain number is left to llama-cli.
    """
    kept: list[str] = []
    fields: dict[str, str] = {}
    odd = {FIELDS.get(name) for name, value in pairwise([*words, ""]) if not NUMBER.fullmatch(value)}
    rest = iter(words)
    for word in rest:
        if (field := FIELDS.get(word)) and field not in odd:
            fields[field] = next(rest)
        else:
            kept.append(word)
    return tuple(kept), "".join(f'"{field}":{value},' for field, value in fields.items())
