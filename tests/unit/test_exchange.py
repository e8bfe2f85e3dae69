"""Export and import of chats."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zosia.base import files
from zosia.base.errors import ZosiaError
from zosia.chat.kept import exchange
from zosia.chat.kept.transcript import Message, Transcript

WHEN = "2026-11-30T06:30:00+01:00"
CODE = "Look:\n\n```python\nprint('''\n~~~\n''')\n```\n\nThat is all."
QUESTION = Message(role="user", content="Why?", time=WHEN, files=("a.md", "b.pdf"))
ANSWER = Message(
    role="assistant",
    content=CODE,
    reasoning="Hm.\n\n```\nx",
    time=WHEN,
    ended="length",
    model="smollm2-135m",
    sha256="ab",
    sampling={"temperature": 0.5},
    seed=0,
)


@pytest.fixture
def kept() -> Transcript:
    made = Transcript()
    made.created = WHEN
    made.set("system", "Be brief.")
    made.extend([QUESTION, ANSWER])
    return made


def test_markdown(kept: Transcript) -> None:
    assert (
        exchange.markdown("plans", kept)
        == f"""\
# plans

smollm2-135m, {WHEN}

## System

Be brief.

## You

{WHEN}

Files: a.md, b.pdf

Why?

## Answer

smollm2-135m · {WHEN}

> Hm.
>
> ```
> x

{CODE}

*(cut off: the context or a limit was full)*
"""
    )


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("```\nx", "\n```"),
        ("```sh\nx\n```", ""),
        ("a\n  ~~~~ x\ny\n~~~", "\n~~~~"),
        ("````\n```\nx\n```", "\n````"),
        ("````\n```\nx\n```\n`````", ""),
        ("```\nx\n```sh", "\n```"),
        ("``` a ` b", ""),
        ("    ```\nx", ""),
        ("a `b` c", ""),
        ("```\n~~~", "\n```"),
    ],
)
def test_code_that_was_cut_off(text: str, end: str) -> None:
    assert exchange.closed(text) == text + end
    assert exchange.closed(text + end) == text + end


def test_json(kept: Transcript) -> None:
    data = json.loads(exchange.openai("plans", kept))
    assert data["messages"] == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": CODE}]
    assert {**data["zosia"], "messages": []} == {
        "name": "plans",
        "created": WHEN,
        "settings": {"system": "Be brief."},
        "messages": [],
    }
    assert data["zosia"]["messages"][1]["model"] == "smollm2-135m"


texts = st.text(st.characters())
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant"]),
    content=st.text(),
    reasoning=st.text(),
    time=st.text(),
    ended=st.sampled_from(["", "stopped", "length", "failed"]),
    seed=st.none() | st.integers(),
    files=st.lists(st.text()).map(tuple),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(messages, min_size=1, max_size=6))
def test_what_is_exported_is_imported(every: list[Message]) -> None:
    made = Transcript()
    made.extend(every)
    assert list(exchange._messages(json.loads(exchange.openai("a", made)))) == every
    assert exchange.markdown("a", made).count("\n## ") >= len(every)


def test_a_file(kept: Transcript, tmp_path: Path) -> None:
    for name in ("a.json", "b.MD"):
        exchange.export("plans", kept, tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert exchange.read(tmp_path / "a.json") == [QUESTION, ANSWER]
    assert (tmp_path / "b.MD").read_text(encoding="utf-8") == exchange.markdown("plans", kept)
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(ZosiaError, match=r"a\.json is there already"):
        exchange.export("plans", kept, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.MD"]


def test_where_nothing_can_be_written(kept: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZosiaError, match=r"a\.txt does not say in which format"):
        exchange.export("plans", kept, tmp_path / "a.txt")
    (tmp_path / "a.md").mkdir()
    with pytest.raises(ZosiaError, match=r"a\.md is there already\. It is no file"):
        exchange.export("plans", kept, tmp_path / "a.md")
    (tmp_path / "file").touch()
    with pytest.raises(ZosiaError, match="Not a directory|File exists"):  # noqa: RUF043
        exchange.export("plans", kept, tmp_path / "file" / "a.md")

    def full(*_: object) -> None:
        raise OSError(files.FULL[0], os.strerror(files.FULL[0]))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ZosiaError, match="The disk is full"):
        exchange.export("plans", kept, tmp_path / "new.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.md", "file"]


@pytest.mark.parametrize(
    "data",
    [
        [{"role": "developer", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}],
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "name": "x"}], "model": "m"},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "input_text", "text": "q"}, {"type": "text", "text": ""}]},
            ],
            "zosia": {"messages": [{}]},
        },
    ],
)
def test_import(tmp_path: Path, data: Any) -> None:
    (tmp_path / "a").write_text(json.dumps(data), encoding="utf-8-sig")
    found = exchange.read(tmp_path / "a")
    assert [(one.role, one.content) for one in found] == [("system", "s"), ("user", "q")]
    assert all(re.match(r"\d{4}-\d\d-\d\dT", one.time) for one in found)


def test_thoughts_are_imported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('[{"role": "assistant", "content": "", "reasoning_content": "Hm."}]')
    assert exchange.read(tmp_path / "a")[0].reasoning == "Hm."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "is no JSON"),
        ("{}", "there is no list of messages"),
        ("[]", "there is no list of messages"),
        ("5", "there is no list of messages"),
        ('{"messages": {}}', "there is no list of messages"),
        ("[5]", "message 1 is no object"),
        ('[{"content": "x"}]', "message 1 has the role None"),
        ('[{"role": [], "content": "x"}]', r"message 1 has the role \[\]"),
        ('[{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]', "message 2 has the role 'tool'"),
        ('[{"role": "user"}]', "message 1 has something else than text"),
        ('[{"role": "user", "content": null}]', "message 1 has something else"),
        ('[{"role": "user", "content": []}]', "message 1 has something else"),
        ('[{"role": "user", "content": ["x"]}]', "message 1 has something else"),
        ('[{"role": "user", "content": [{"type": "text", "text": 5}]}]', "message 1 has something else"),
        (
            '[{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]}]',
            "message 1 has something else",
        ),
        ('{"messages": [{"role": "user", "content": "x"}], "zosia": {"messages": [{"seed": "x"}]}}', "seed can't be"),
    ],
)
def test_what_is_not_imported(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ZosiaError, match=why) as caught:
        exchange.read(tmp_path / "a")
    assert caught.value.hint.startswith('Expected: {"messages": [')
    assert str(caught.value).isprintable()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ZosiaError, match="is no JSON"):
        exchange.read(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ZosiaError, match="a is empty"):
        exchange.read(tmp_path / "a")
    with pytest.raises(ZosiaError, match="No such file"):
        exchange.read(tmp_path / "none")


def test_what_may_have_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ZosiaError, match=f"{path} is no plain file, but a pipe, socket or device"):
            exchange.read(path)
