"""How tokens are sampled: those of llama-cli's arguments that can still change when its model is loaded."""

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
NUMBER = re.compile(
    r"(?:0|[1-9]\d{0,8})(?:\.\d{1,9})?", re.ASCII
)  # in both; negative ones mean this here and that there


def split(words: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The arguments that llama-cli needs at its start, and the others as fields in JSON, with a comma after each.

    The last of each option counts, as it does for llama-cli; one that is no plain number stays, for llama-cli to judge.
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
