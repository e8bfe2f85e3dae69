"""The recording that README shows, made of what a terminal said."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def record(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(root / "scripts")
    return importlib.import_module("record")


def test_what_appears_is_drawn_when_it_appeared(record: ModuleType) -> None:
    said = [(0.0, "$ "), (1.0, "scons run\r\n"), (1.01, "a < b & c\r\n"), (3.0, "\x1b[1;32m> \x1b[0mhello")]
    shown = record.frames([record.Moment(seconds, text) for seconds, text in said])
    assert [when for when, _ in shown] == [0.0, 1.0, 3.0], "what comes at once is one frame"
    picture = record.picture(shown)
    svg = ET.fromstring(picture)
    texts = ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]
    assert texts == ["$", "$ scons run", "a < b & c", ">", "hello"]
    (prompt,) = (text for text in svg.iter(f"{SVG}text") if text.text == ">")
    assert (prompt.get("fill"), prompt.get("font-weight")) == (record.COLOURS["green"], "bold")
    assert len(list(svg.iter(f"{SVG}use"))) == 1 + 2 + 3, "each line is drawn once, and used in each frame"
    assert re.findall(r"([\d.]+)% \{", picture) == ["0.000", "14.286", "42.857"], "of 7 s"


def test_the_picture_is_one(root: Path) -> None:
    svg = ET.parse(root / "docs" / "chat.svg").getroot()
    texts = ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]
    assert "$ scons run" in texts
    assert any(text.startswith("zosia") for text in texts)
