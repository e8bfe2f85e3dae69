from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, quants

from tests import gpt_oss
from tests.gpt_oss import FULL, SMALL, Floats, Tensor
from zosia.base.files import sha256

REAL_SIZE = 12_109_566_560  # of ggml-org's gpt-oss-20b-mxfp4.gguf


@pytest.fixture(scope="module")
def words(model_file: Path, template: Path) -> gpt_oss.Vocabulary:
    return gpt_oss.vocabulary(model_file, SMALL, template.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def all_words(model_file: Path) -> gpt_oss.Vocabulary:
    return gpt_oss.vocabulary(model_file, FULL, "")


@pytest.fixture(scope="module")
def small(model_file: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_oss.write(tmp_path_factory.mktemp("small") / "m.gguf", SMALL, tokenizer=model_file, template=template)


@pytest.fixture(scope="module")
def rows(small: Path) -> dict[str, Floats]:
    """The small model's rows of embedding and output."""
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(small).tensors}
    return {name: quants.dequantize(tensors[f"{name}.weight"], Kind.Q8_0) for name in ("token_embd", "output")}


def test_the_same_call_gives_the_same_bytes(small: Path, model_file: Path, template: Path, tmp_path: Path) -> None:
    again = gpt_oss.write(tmp_path / "m.gguf", SMALL, tokenizer=model_file, template=template)
    assert sha256(again) == sha256(small)
    assert list(tmp_path.iterdir()) == [again]


def test_small_is_read(small: Path, template: Path) -> None:
    assert small.stat().st_size < 3_000_000
    reader = GGUFReader(small)
    values = {name: reader.fields[name].contents() for name in reader.fields if "ggml.t" not in name}
    assert values["general.architecture"] == "gpt-oss"
    assert values["gpt-oss.context_length"] == 131072
    assert values["tokenizer.chat_template"] == template.read_text(encoding="utf-8")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert tokens[values["tokenizer.ggml.eos_token_id"]] == "<|return|>"
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    assert {token for token, kind in zip(tokens, types, strict=True) if kind == 3} == set(gpt_oss.SPECIAL)


def test_small_has_the_tensors_of_full(small: Path) -> None:
    found = [(tensor.name, tensor.tensor_type, len(tensor.shape)) for tensor in GGUFReader(small).tensors]
    left_out = tuple(f"blk.{number}." for number in range(SMALL.layers, FULL.layers))
    declared = [(tensor.name, tensor.kind, len(tensor.shape)) for tensor in gpt_oss.layout(FULL, FULL.tokens)]
    assert found == [entry for entry in declared if not entry[0].startswith(left_out)]


def test_full_is_as_large_as_the_real_one() -> None:
    tensors = gpt_oss.layout(FULL, FULL.tokens)
    assert sum(tensor.size for tensor in tensors) == pytest.approx(REAL_SIZE, rel=0.02)
    assert Counter(tensor.kind for tensor in tensors) == {Kind.F32: 289, Kind.Q8_0: 98, Kind.MXFP4: 72}
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    assert shapes["blk.23.ffn_down_exps.weight"] == (32, 2880, 2880)
    assert shapes["blk.23.attn_q.weight"] == (64 * 64, 2880)
    assert shapes["output.weight"] == (201088, 2880)


def test_lists_are_read(small: Path) -> None:
    fields = GGUFReader(small).fields
    for name in ("tokens", "token_type", "merges"):
        assert gpt_oss.listed(small, name) == fields[f"tokenizer.ggml.{name}"].contents()


def test_vocabulary_of_full(model_file: Path, all_words: gpt_oss.Vocabulary) -> None:
    assert len(all_words.types) == len(set(all_words.tokens)) == 201088
    assert len(set(all_words.merges)) == 446189
    assert {all_words.tokens[number]: number for number in gpt_oss.SPECIAL.values()} == gpt_oss.SPECIAL
    merges = gpt_oss.listed(model_file, "merges")
    assert all_words.merges[: len(merges)] == merges
    assert len(merges) > 48_000
    assert not any(word.startswith("<|im_") for word in all_words.tokens), "which are special in SmolLM2"


def test_small_splits_what_it_needs_as_full_does(
    words: gpt_oss.Vocabulary, all_words: gpt_oss.Vocabulary, template: Path
) -> None:
    small, full = ({merge: rank for rank, merge in enumerate(some.merges)} for some in (words, all_words))
    texts = [template.read_text(encoding="utf-8"), *map(gpt_oss.SCRIPT.format, gpt_oss.EFFORTS)]
    for word in {word for text in texts for word in gpt_oss.pieces(text)}:
        assert gpt_oss.split(word, small)[0] == gpt_oss.split(word, full)[0]
    assert {merge.replace(" ", "") for merge in words.merges} <= set(words.tokens)


@pytest.mark.parametrize("shape", [FULL, SMALL], ids=["full", "small"])
def test_random_weights_spread_as_declared(shape: gpt_oss.Shape) -> None:
    def weights(tensor: Tensor) -> Floats:
        return quants.dequantize(gpt_oss.random_rows(tensor), tensor.kind)

    for tensor in gpt_oss.layout(shape, 50_000):
        if tensor.name.startswith(("blk.2.", "out", "tok")) and tensor.rows > 1:
            values = weights(tensor)
            assert values.shape[-1] == tensor.shape[-1]
            assert 0.7 < values.std() / tensor.spread < 1.5, tensor
            assert abs(values.mean()) < 0.05 * tensor.spread, tensor


@pytest.mark.parametrize("effort", gpt_oss.EFFORTS)
def test_what_small_says(words: gpt_oss.Vocabulary, rows: dict[str, Floats], effort: str) -> None:
    """Each token of the script and then <|return|>, by the hidden state that the two layers at work should give."""
    codes = rows["token_embd"][:, : gpt_oss.SLOTS]
    said = gpt_oss.script(words, effort)
    assert said[:3] == ["<|start|>", "ass", "istant"]
    for at, (before, token) in enumerate(pairwise(said), start=2):
        notes = [pair == (":", f"Ġ{effort}") or pair in pairwise(said[:at]) for pair in gpt_oss.NOTES.values()]
        state = np.concatenate([codes[words.tokens.index(token)], codes[words.tokens.index(before)], [1], notes])
        scores = rows["output"][:, : len(state)] @ state
        best = int(scores.argmax())
        assert words.tokens[best] == [*said, "<|return|>"][at]
        assert np.partition(scores, -2)[-2] < 0.92 * scores[best], "a narrow choice"
