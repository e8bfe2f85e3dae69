"""The recording that README shows, made of what a terminal said."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from zosia.base.errors import ZosiaError

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


def test_each_colour_of_a_terminal_is_one(record: ModuleType) -> None:
    codes = [*(f"{number}" for number in (*range(30, 38), *range(90, 98))), "38;5;208", "38;2;1;2;3"]
    said = "".join(f"\x1b[{code}mx\r" + "\n" * (at + 1 < record.ROWS) for at, code in enumerate(codes[: record.ROWS]))
    rest = "".join(f"\x1b[{code}my" for code in codes[record.ROWS :])
    svg = ET.fromstring(record.picture(record.frames([record.Moment(0.0, f"{said}\x1b[C{rest}")])))
    fills = [text.get("fill") or "" for text in svg.iter(f"{SVG}text")]
    assert [fill for fill in fills if not re.fullmatch("#[0-9a-f]{6}", fill)] == []
    found = dict(zip(codes, fills, strict=True))
    assert [found[code] for code in ("38;5;208", "38;2;1;2;3", "32")] == ["#ff8700", "#010203", "#7ee787"]


def test_what_is_reversed_is_drawn_so(record: ModuleType) -> None:
    said = "a \x1b[7;32m b\x1b[0m  \x1b[7;32mc\x1b[0m d"
    svg = ET.fromstring(record.picture(record.frames([record.Moment(0.0, said)])))
    green = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("fill") == record.COLOURS["green"]]
    places = [float(rect.get("x", "")) for rect in green]
    assert places == pytest.approx([at * record.WIDTH for at in (2, 3, 6)]), "and not the blanks between"
    fills = {(text.text or "").strip(): text.get("fill") for text in svg.iter(f"{SVG}text")}
    assert fills == {"a": "#d5d9e0", "b  c": record.GROUND, "d": "#d5d9e0"}


def test_the_picture_is_whole_or_not_there(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "chat.svg"
    monkeypatch.setattr(record, "record", lambda script: [record.Moment(0.0, "$ ")])
    record.main("chat", target)
    assert capsys.readouterr().err == f"  SVG   {target}\n"
    before = target.read_bytes()
    write = Path.write_text

    def half(path: Path, text: str, **options: str) -> None:
        write(path, text[:5], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ZosiaError, match="The disk is full"):
        record.main("chat", target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_typed_is_recorded(record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the terminal says where its cursor is, when it is asked."""
    where = "stty raw -echo min 0 time 20; printf '\\33[6n'; head -c 6 | tail -c 5; stty sane; echo"
    monkeypatch.setattr(record, "KEY", 0.005)
    monkeypatch.setattr(record, "LOOK", 0.1)
    typed = [("$", where), ("$", "")]
    shown = record.frames(record.record(typed))[-1][1]
    rows = ["".join(char.data for _, char in line).strip() for line in shown]
    assert re.search(r"\d;1R", "".join(rows)), rows
    monkeypatch.setattr(record, "LONGEST", 0.3)
    with pytest.raises(ZosiaError, match="There is no prompt"):
        record.record([(">", "")])


PICTURES = {"chat": ["$ scons run"], "kept-chat": ["$ scons chat CHAT=garden", "1 question so far"]}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_one(record: ModuleType, root: Path, name: str) -> None:
    svg = ET.parse(root / "docs" / f"{name}.svg").getroot()
    texts = ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]
    for wanted in PICTURES[name]:
        assert any(text.startswith(wanted) for text in texts)
    assert list(record.SCRIPTS) == list(record.LABELS) == list(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_short(root: Path, name: str) -> None:
    (seconds,) = re.findall(r"animation: run ([\d.]+)s", (root / "docs" / f"{name}.svg").read_text(encoding="utf-8"))
    assert float(seconds) < 60, "nobody watches for longer"
