"""The catalogues: the real ones are right, and a wrong entry is named with its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from zosia.catalogue import Model, near, read_models, read_sources
from zosia.errors import ZosiaError

PIN = {
    "origin": "pypi",
    "project": "tiny",
    "version": "1",
    "file": "tiny.whl",
    "size": 10,
    "sha256": "0" * 64,
    "licence": "MIT",
}
MODEL = {
    **PIN,
    "title": "Tiny",
    "context": 2048,
    "memory": 512,
    "member": "tiny.gguf",
    "member_size": 20,
    "member_sha256": "1" * 64,
    "sampling": ["--temp", "0"],
}


def toml(table: dict[str, Any]) -> str:
    return "\n".join(["[tiny]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])


def test_real_sources(root: Path) -> None:
    sources = read_sources(root / "sources.toml")
    assert {"llama-cpp", "linux", "busybox-aarch64"} <= set(sources)
    for pin in sources.values():
        assert pin.member
        assert pin.version.rpartition(":")[2] in unquote(pin.file)
        if pin.origin == "debian":
            assert pin.snapshot.startswith("https://snapshot.debian.org/archive/debian")
            epochless = pin.file.replace(pin.version.replace(":", "%3a"), pin.version.rpartition(":")[2])
            assert unquote(pin.snapshot).endswith("/" + epochless)


def test_real_models(root: Path) -> None:
    models = read_models(root / "models.toml")
    for model in models.values():
        assert model.gguf_size > model.size // 2
        assert model.memory * (1 << 20) > model.gguf_size, "a model must fit into its guest"
        assert model.file.endswith(".whl") if model.member else model.file.endswith(".gguf")
        if model.origin == "url":
            assert model.version in model.url
            assert model.url.endswith("/" + model.file)
    assert "--temp" in models["gpt-oss-20b-Q4"].sampling


def test_a_right_entry(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(toml(MODEL))
    model = read_models(tmp_path / "models.toml")["tiny"]
    assert model == Model(name="tiny", **{**MODEL, "sampling": ("--temp", "0")})  # type: ignore[arg-type]
    assert (model.gguf_size, model.gguf_sha256) == (20, "1" * 64)
    plain = Model(name="tiny", **{**MODEL, "member": "", "sampling": ()})  # type: ignore[arg-type]
    assert (plain.gguf_size, plain.gguf_sha256) == (10, "0" * 64)


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
        ({"sampling": [1]}, "sampling"),
        ({"context": 0}, "context"),
        ({"memory": -1}, "memory"),
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


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("smollm2", "Did you mean smollm2-135m?"),
        ("SMOLLM2-135M", "Did you mean smollm2-135m?"),
        ("GPT-OSS-20B-q4", "Did you mean gpt-oss-20b-Q4?"),
        ("gpt-oss-20b-Q4", "Did you mean gpt-oss-20b-Q4?"),
        ("llama", "Known are: gpt-oss-20b-Q4, smollm2-135m"),
    ],
)
def test_near(word: str, remedy: str) -> None:
    assert near(word, iter(["smollm2-135m", "gpt-oss-20b-Q4"])) == remedy
