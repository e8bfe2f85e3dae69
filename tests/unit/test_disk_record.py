"""The record beside an image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zosia.disk import record
from zosia.model.shape import Shape

SHAPE = Shape(architecture="llama", block_count=2, embedding_length=512, head_count=(8, 4), sliding_window=0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with its record."""
    path = tmp_path / "a.b.img"
    path.write_bytes(b"image")
    record.write(path, content="key", sha256="abc", weights=5, shape=SHAPE)
    return path


def test_what_is_written_is_read(image: Path) -> None:
    read = record.read(image)
    assert read == record.read_current(image)
    assert read
    assert (read.content, read.sha256, read.weights, read.shape) == ("key", "abc", 5, SHAPE)
    assert (read.size, read.mtime_ns) == (5, image.stat().st_mtime_ns)
    assert sorted(path.name for path in image.parent.iterdir()) == ["a.b.img", "a.b.img.json"]


def test_what_it_is_made_of(image: Path) -> None:
    """A record of a zosia that did not write that is read, and is of nothing that one could make now."""
    assert record.read(image) == record.read_current(image)
    record.write(image, content="key", made_of="key mke2fs 1")
    facts = json.loads(record.path_of(image).read_text(encoding="utf-8"))
    current = record.read_current(image)
    assert current
    assert current.made_of == facts.pop("made_of") == "key mke2fs 1"
    record.path_of(image).write_text(json.dumps(facts), encoding="utf-8")
    older = record.read_current(image)
    assert older
    assert (older.content, older.made_of) == ("key", "")


def test_a_record_without_a_model(image: Path) -> None:
    record.write(image)
    assert record.read_current(image) == record.Record(size=5, mtime_ns=image.stat().st_mtime_ns)


def shorten(path: Path) -> None:
    os.truncate(path, 4)
    os.utime(path, (1, 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "size": shorten,
    "time": lambda path: os.utime(path, (2, 2)),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_changed(image: Path, change: str) -> None:
    os.utime(image, (1, 1))
    record.write(image, content="key")
    assert record.read_current(image)
    CHANGES[change](image)
    assert record.read_current(image) is None
    assert record.read(image), "the record itself is what it was"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"text"', "\0", "\xff"])
def test_a_damaged_record_is_none(image: Path, text: str) -> None:
    record.path_of(image).write_text(text, encoding="latin-1")
    assert record.read(image) is None
    assert record.read_current(image) is None


@pytest.mark.parametrize(
    "change",
    [{"more": 1}, {"size": None}, {"weights": "many"}, {"shape": []}, {"shape": {"block_count": 1}}],
)
def test_a_record_with_other_fields_is_none(image: Path, change: dict[str, object]) -> None:
    facts = json.loads(record.path_of(image).read_text(encoding="utf-8"))
    record.path_of(image).write_text(json.dumps({**facts, **change}), encoding="utf-8")
    assert record.read(image) is None


def test_no_record(tmp_path: Path) -> None:
    assert record.read(tmp_path / "m.img") is None
    assert record.read_current(tmp_path / "m.img") is None
