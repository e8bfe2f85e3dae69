"""Which of llama-cli's arguments can still change when its model is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from zosia.model.sampling import FIELDS, split


@pytest.mark.parametrize(
    ("typed", "kept", "fields"),
    [
        ("-c 2048 --temp 0.2 -fit off --top-p 0.9", "-c 2048 -fit off", {"temperature": 0.2, "top_p": 0.9}),
        ("--temp 0.2 --temperature 0", "", {"temperature": 0}),
        ("-n 16 -s 7", "", {"n_predict": 16, "seed": 7}),
        ("--seed 7 --seed -1 -n 3", "--seed 7 --seed -1", {"n_predict": 3}),
        ("--temp 1e3", "--temp 1e3", {}),
        ("--temp hot --top-k 40", "--temp hot", {"top_k": 40}),
        ("--top-k 007", "--top-k 007", {}),
        ("--samplers top_k;temperature", "--samplers top_k;temperature", {}),
        ("--color off -n", "--color off -n", {}),
        ("", "", {}),
    ],
)
def test_split(typed: str, kept: str, fields: dict[str, float]) -> None:
    words, text = split(typed.split())
    assert words == tuple(kept.split())
    assert json.loads("{" + text.removesuffix(",") + "}") == fields
    assert text.endswith(",") or not text


def test_the_names_are_llama_cpps(llama_source: Path) -> None:
    options = (llama_source / "common" / "arg.cpp").read_text()
    known = {
        name for names in re.findall(r"\n\s+\{((?:\"-[^}]*))\}, ", options) for name in re.findall(r'"(.*?)"', names)
    }
    assert set(FIELDS) <= known
    schema = (llama_source / "tools" / "server" / "server-schema.cpp").read_text()
    assert set(FIELDS.values()) <= set(re.findall(r'field_num\("(\w+)"', schema))
