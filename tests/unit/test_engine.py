"""The tables of what can be loaded are those of the pinned llama.cpp, read from its source."""

from __future__ import annotations

import ast
import operator
import re
from pathlib import Path

import pytest

from zosia.model import engine
from zosia.model.engine import KINDS, Kind, Type

C_SIZES = {
    **{"int8_t": 1, "int16_t": 2, "int32_t": 4, "int64_t": 8, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4},
    **{"float": 4, "double": 8, "ggml_half": 2, "ggml_fp16_t": 2, "ggml_bf16_t": 2},
}
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.floordiv}


def number(expression: str, names: dict[str, int]) -> int:
    """The value of C's sizeof, names and whole numbers."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return int(OPERATIONS[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Name):
            return names[node.id]
        assert isinstance(node, ast.Constant)
        return int(str(node.value))

    plain = re.sub(r"sizeof\((\w+)\)", lambda found: str(names[found[1]]), expression)
    return value(ast.parse(plain, mode="eval").body)


def types(source: Path) -> dict[int, Type]:
    header = (source / "ggml/include/ggml.h").read_text(encoding="utf-8")
    numbers = {name: int(text) for name, text in re.findall(r"^ +GGML_TYPE_(\w+) *= (\d+),", header, re.M)}
    count = numbers.pop("COUNT")
    common = (source / "ggml/src/ggml-common.h").read_text(encoding="utf-8")
    names = dict(C_SIZES)
    for name, text in re.findall(r"^#define (\w*(?:QK|SCALE)\w*) +([\w/]+)", common, re.M):
        names[name] = number(text, names)
    for name, text in re.findall(r'static_assert\(sizeof\((\w+)\) == (.+?), "', common):
        names[name] = number(text, names)
    traits = (source / "ggml/src/ggml.c").read_text(encoding="utf-8")
    found = {}
    for name, block, size in re.findall(
        r"\n +\[GGML_TYPE_(\w+)\] = \{[^}]*?\.blck_size += (\w+),\s*\.type_size += ([^,]+),", traits
    ):
        found[numbers[name]] = Type(name, number(block, names), number(size, names))
    assert set(found) == set(numbers.values())
    assert max(found) < count
    return dict(sorted(found.items()))


def removed(source: Path) -> dict[int, str]:
    header = (source / "ggml/include/ggml.h").read_text(encoding="utf-8")
    return {int(text): name for name, text in re.findall(r"^ +// GGML_TYPE_(\w+) *= (\d+),", header, re.M)}


def function(code: str, start: str) -> str:
    return code.split(start, 1)[1].split("\n}\n", maxsplit=1)[0]


def cases(code: str, ending: str) -> set[str]:
    """The identifiers of architectures before a statement of a switch."""
    groups = re.findall(rf"((?:case LLM_ARCH_\w+:\s*)+)\{{?\s*{ending}", code)
    return {name for group in groups for name in re.findall(r"LLM_ARCH_(\w+)", group)}


def names(source: Path) -> dict[str, str]:
    code = (source / "src/llama-arch.cpp").read_text(encoding="utf-8")
    table = code.split("LLM_ARCH_NAMES = {")[1].split("};")[0]
    return dict(re.findall(r'\{ LLM_ARCH_(\w+), +"([^"]+)"', table))


def architectures(source: Path) -> set[str]:
    """Those that have a name and a class."""
    mapping = function((source / "src/llama-model.cpp").read_text(encoding="utf-8"), "llama_model_mapping(")
    return {names(source)[name] for name in cases(mapping, r"return new llama_model_\w+\(params\);")}


def test_types(llama_source: Path) -> None:
    wanted = types(llama_source)
    lines = "\n".join(f'    {key}: Type("{kind.name}", {kind.block}, {kind.size}),' for key, kind in wanted.items())
    assert wanted == engine.TYPES, f"engine.py: TYPES =\n{lines}"


def test_removed_types(llama_source: Path) -> None:
    assert removed(llama_source) == engine.REMOVED


def test_file_versions(llama_source: Path) -> None:
    header = (llama_source / "ggml/include/gguf.h").read_text(encoding="utf-8")
    reader = (llama_source / "ggml/src/gguf.cpp").read_text(encoding="utf-8")
    refused = {int(text) for text in re.findall(r"ctx->version == (\d+)\)", reader)}
    (newest,) = re.findall(r"#define GGUF_VERSION (\d+)", header)
    assert set(range(int(newest) + 1)) - refused == set(engine.VERSIONS)
    (alignment,) = re.findall(r"#define GGUF_DEFAULT_ALIGNMENT (\d+)", header)
    assert int(alignment) == engine.ALIGNMENT


def test_architectures(llama_source: Path) -> None:
    wanted = architectures(llama_source)
    assert len(wanted) > 100
    assert wanted == engine.ARCHITECTURES, f"engine.py: ARCHITECTURES =\n{' '.join(sorted(wanted))}"


def kinds(*wanted: Kind) -> set[str]:
    return {name for name, kind in KINDS.items() if kind in wanted}


def test_architectures_of_other_kinds(llama_source: Path) -> None:
    known = names(llama_source)
    arch = (llama_source / "src/llama-arch.cpp").read_text(encoding="utf-8")
    model = (llama_source / "src/llama-model.cpp").read_text(encoding="utf-8")

    def named(code: str, ending: str) -> set[str]:
        return {known[name] for name in cases(code, ending)} & engine.ARCHITECTURES

    assert named(function(arch, "bool llm_arch_is_diffusion("), "return true") == kinds(Kind.DIFFUSION)
    without_memory = named(function(model, "llama_model::create_memory("), "res = nullptr;")
    assert without_memory >= kinds(Kind.DIFFUSION)
    assert without_memory <= kinds(Kind.DIFFUSION, Kind.EMBEDDER, Kind.SPEECH)
    encoders = named(function(model, "bool llama_model_has_encoder("), "return true")
    assert encoders <= kinds(Kind.EMBEDDER, Kind.ENCODER_DECODER, Kind.DRAFT)
    assert kinds(Kind.ENCODER_DECODER) <= encoders
    assert named(function(model, "bool llama_model_has_decoder("), "return false") <= kinds(Kind.EMBEDDER)
    for path in (llama_source / "src/models").glob("*.cpp"):
        if "hparams.causal_attn = false" in path.read_text(encoding="utf-8"):
            assert path.stem in kinds(Kind.DIFFUSION, Kind.EMBEDDER)


def test_each_name_that_says_so_has_its_kind() -> None:
    saying = [name for name in engine.ARCHITECTURES if re.search("bert|embed$|embedding|tts|tokenizer|draft", name)]
    assert [name for name in saying if name not in KINDS] == []


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind.architectures and not kind.foreign], ids=str)
def test_each_kinds_architectures_are_llama_cpps(kind: Kind) -> None:
    assert kinds(kind) <= engine.ARCHITECTURES
