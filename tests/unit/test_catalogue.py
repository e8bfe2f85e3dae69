"""The catalogues: the real ones are right, and a wrong entry is named with its field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import Model, read_models, read_sources
from zosia.model import reader
from zosia.model.shape import Shape

PIN = {
    "origin": "pypi",
    "project": "tiny",
    "version": "1",
    "file": "tiny.whl",
    "size": 10,
    "sha256": "0" * 64,
    "licence": "MIT",
}
MODEL: dict[str, Any] = {
    **PIN,
    "title": "Tiny",
    "context": 2048,
    "shape": {
        "architecture": "llama",
        "block_count": 2,
        "embedding_length": 64,
        "context_length": 2048,
        "head_count": [1, 2],
    },
    "member": "tiny.gguf",
    "member_size": 20,
    "member_sha256": "1" * 64,
    "sampling": {"temp": 0, "top-p": 0.9},
    "reasoning": ["on", "off"],
}


def toml(table: dict[str, Any]) -> str:
    def value(of: Any) -> str:
        if isinstance(of, list):
            return f"[{', '.join(map(value, of))}]"
        pairs = (f"{key} = {value(item)}" for key, item in of.items()) if isinstance(of, dict) else ()
        return f"{{ {', '.join(pairs)} }}" if isinstance(of, dict) else json.dumps(of)

    return "\n".join(["[tiny]", *(f"{key} = {value(of)}" for key, of in table.items())])


def test_real_sources(root: Path) -> None:
    sources = read_sources(root / "sources.toml")
    assert {"llama-cpp", "linux", "busybox-aarch64"} <= set(sources)
    for pin in sources.values():
        assert pin.member or pin.name.startswith("linux-distro-")
        assert pin.version.rpartition(":")[2] in unquote(pin.file)
        if pin.origin == "debian" and pin.name != "linux":  # for which there is linux-upstream
            assert pin.snapshot.startswith("https://snapshot.debian.org/archive/debian")
            epochless = pin.file.replace(pin.version.replace(":", "%3a"), pin.version.rpartition(":")[2])
            assert unquote(pin.snapshot).endswith("/" + epochless)


def test_real_models(root: Path) -> None:
    models = read_models(root / "models.toml")
    for model in models.values():
        assert model.gguf_size > model.size // 2
        assert model.shape and model.context <= model.shape.context_length
        assert model.file.endswith(".whl") if model.member else model.file.endswith(".gguf")
        if model.origin == "hub":
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.project), "a repository"
            assert re.fullmatch("[0-9a-f]{40}", model.version), "a commit, and no branch"
    assert {"smollm2-135m", "gpt-oss-20b-Q4", "gpt-oss-20b-Q4_K_M"} < set(models)
    large = models["gpt-oss-20b-Q4"]
    assert large.llama_args == ("--temp", "1.0", "--top-p", "1.0", "--top-k", "0", "--min-p", "0")
    assert large.reasoning[0] == "medium"
    larger = models["gpt-oss-120b"]
    assert larger.gguf_size == 63_387_346_464
    assert all(len(part.sha256) == 64 for part in larger.parts)
    assert (len(larger.files), larger.llama_args) == (3, large.llama_args)


def test_the_default_models_shape_is_its_files(root: Path, model_file: Path) -> None:
    assert read_models(root / "models.toml")["smollm2-135m"].shape == reader.read([model_file])


SHAPE = Shape(architecture="llama", block_count=2, embedding_length=64, context_length=2048, head_count=(1, 2))


def test_a_right_entry(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(toml(MODEL))
    model = read_models(tmp_path / "models.toml")["tiny"]
    values = {**MODEL, "reasoning": ("on", "off"), "shape": SHAPE}
    assert model == Model(name="tiny", **values)
    assert (model.gguf_size, model.gguf_sha256) == (20, "1" * 64)
    assert model.llama_args == ("--temp", "0", "--top-p", "0.9")
    assert model.files == (model,)
    plain = Model(name="tiny", **{**values, "member": "", "sampling": {}})
    assert (plain.gguf_size, plain.gguf_sha256, plain.llama_args) == (10, "0" * 64, ())


def test_what_the_first_download_decides(tmp_path: Path) -> None:
    unpinned = {key: value for key, value in MODEL.items() if key not in {"size", "sha256", "member"}}
    (tmp_path / "models.toml").write_text(toml({**unpinned, "origin": "hub"}))
    model = read_models(tmp_path / "models.toml")["tiny"]
    assert (model.gguf_size, model.gguf_sha256) == (0, "")


SPLIT = {
    **{key: value for key, value in MODEL.items() if "member" not in key and key not in {"size", "sha256"}},
    "origin": "hub",
    "file": "sub/tiny-00001-of-00002.gguf",
}


def test_a_split_model(tmp_path: Path) -> None:
    digests = [{"size": 7, "sha256": "1" * 64}, {"size": 8, "sha256": "2" * 64}]
    (tmp_path / "models.toml").write_text(toml({**SPLIT, "parts": digests}))
    model = read_models(tmp_path / "models.toml")["tiny"]
    assert (model.gguf_size, model.gguf_sha256) == (15, "")
    assert [(part.file, part.size, part.sha256, part.parts) for part in model.files] == [
        ("sub/tiny-00001-of-00002.gguf", 7, "1" * 64, ()),
        ("sub/tiny-00002-of-00002.gguf", 8, "2" * 64, ()),
    ]
    assert [part.files for part in model.files] == [(part,) for part in model.files]
    (tmp_path / "models.toml").write_text(toml(SPLIT))
    unpinned = read_models(tmp_path / "models.toml")["tiny"]
    assert [(part.file, part.size, part.sha256) for part in unpinned.files] == [
        (part.file, 0, "") for part in model.files
    ]
    assert unpinned.gguf_size == 0


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [{}]},
        {"parts": [{}, {}, {}]},
        {"parts": {}},
        {"file": "tiny-00002-of-00002.gguf", "parts": [{}, {}]},
        {"file": "tiny.gguf", "parts": [{}, {}]},
        {"size": 7, "sha256": "1" * 64},
        {"size": 7},
        {"origin": "url", "url": "https://x/", "size": 7, "sha256": "1" * 64},
    ],
)
def test_a_wrong_split_model(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "models.toml").write_text(toml({**SPLIT, **change}))
    with pytest.raises(ZosiaError, match=r'^models.toml, entry \[tiny\]: .*"parts'):
        read_models(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"sha256": "1", "size": 7}, "sha256"),
        ({"sha256": "A" * 64, "size": 7}, "sha256"),
        ({"sha256": "1" * 64}, "size"),
        ({"size": -1}, "sha256"),
        ({"size": 7, "colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_part(tmp_path: Path, part: dict[str, Any], field: str) -> None:
    (tmp_path / "models.toml").write_text(toml({**SPLIT, "parts": [{}, part]}))
    with pytest.raises(ZosiaError, match=rf'^models.toml, entry \[tiny\]: .*"{field}"'):
        read_models(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"origin": "npm"}, "origin"),
        ({"origin": "url"}, "url"),
        ({"project": ""}, "project"),
        ({"size": "10"}, "size"),
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": "0" * 64 + "\n"}, "sha256"),
        ({"colour": "blue"}, "colour"),
        ({"version": 1.5}, "version"),
        *(
            ({name: None}, name)
            for name in ("origin", "version", "file", "size", "sha256", "licence", "title", "context")
        ),
        ({"sampling": "--temp 0"}, "sampling"),
        ({"sampling": {"temperature": 0}}, "sampling"),
        ({"sampling": {"temp": "hot"}}, "sampling"),
        *(({"sampling": {"temp": bad}}, "sampling") for bad in (-1, True)),
        ({"file": ""}, "file"),
        ({"file": "../tiny.whl"}, "file"),
        ({"origin": "hub"}, "member"),
        ({"reasoning": ["much"]}, "reasoning"),
        ({"reasoning": "on"}, "reasoning"),
        ({"context": 0}, "context"),
        ({"context": 2049}, "context"),
        ({"shape": {"architecture": "llama"}}, "shape.block_count"),
        ({"shape": {**MODEL["shape"], "head_count": [1]}}, "head_count"),
        ({"shape": {**MODEL["shape"], "heads": 1}}, "heads"),
        ({"origin": "hub", "member": None, "sha256": "0"}, "sha256"),
        ({"origin": "hub", "member": None, "size": 0}, "size"),
        ({"origin": "hub", "member": None, "project": ""}, "project"),
        ({"member_size": None}, "member_size"),
        ({"member_sha256": None}, "member_sha256"),
        ({"member_sha256": "1"}, "member_sha256"),
    ],
)
def test_a_wrong_entry(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    table = {key: value for key, value in {**MODEL, **change}.items() if value is not None}
    (tmp_path / "models.toml").write_text(toml(table))
    with pytest.raises(ZosiaError, match=rf'^models.toml, entry \[tiny\]: .*"{field}"'):
        read_models(tmp_path / "models.toml")


@pytest.mark.parametrize("name", ["../evil", "", "a$HOME", "a b", "-a"])
def test_a_wrong_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "models.toml").write_text(toml(MODEL).replace("[tiny]", f'["{name}"]'))
    with pytest.raises(ZosiaError, match='wrong value for field "name"'):
        read_models(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tiny", "can't be read: "),
        ("size = 1", r"entry \[size\]"),
        (b"\xff", "can't be read: "),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    path = tmp_path / "sources.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ZosiaError, match=rf"sources.toml.*{message}"):
        read_sources(path)
