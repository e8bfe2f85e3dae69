"""Transcripts of chats."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.chat.kept.records import decoded, encoded
from zosia.chat.kept.transcript import Message, Transcript, message

WHEN = "2026-11-30T06:30:00+01:00"
ASKED = Message(role="user", content="Czym to jest?\n\t\u2028«\x00»", time=WHEN, files=("a.md", "b c.pdf"))
ANSWER = Message(
    role="assistant",
    content="Rzecz.",
    reasoning="Hm.",
    time=WHEN,
    ended="length",
    model="smollm2-135m",
    sha256="ab" * 32,
    sampling={"temperature": 0.3, "top_k": 0},
    seed=0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transcript.jsonl"


def filled(path: Path) -> list[tuple[list[Message], dict[str, object]]]:
    """Write a transcript, and return what it held after each of its lines."""
    kept = Transcript(path)
    after = [(list(kept.messages), dict(kept.settings))]
    steps: list[tuple[Callable[..., None], *tuple[Any, ...]]] = [
        (kept.set, "system", "Be brief."),
        (kept.append, ASKED),
        (kept.append, ANSWER),
        (kept.drop,),
        (kept.append, ANSWER),
        (kept.set, "temp", 0.5),
        (kept.drop, 2),
        (kept.set, "system", None),
        (kept.append, ASKED),
    ]
    for step, *args in steps:
        step(*args)
        after.append((list(kept.messages), dict(kept.settings)))
    kept.close()
    return after


def test_what_is_written_is_read(path: Path) -> None:
    after = filled(path)
    assert after[3] == ([ASKED, ANSWER], {"system": "Be brief."})
    assert after[-1] == ([ASKED], {"temp": 0.5})
    again = Transcript(path)
    assert (again.messages, again.settings) == after[-1]
    assert (again.turns, again.model) == (1, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", again.created)
    again.append(ANSWER)
    assert (again.turns, again.model) == (1, "smollm2-135m")
    again.close()
    assert Transcript.read(path).messages == [ASKED, ANSWER]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_format_is_what_the_page_says(path: Path) -> None:
    filled(path)
    header, *records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert {**header, "created": ""} == {"format": "zosia chat", "version": 1, "created": ""}
    assert [record["record"] for record in records] == [
        *("set", "message", "message", "drop", "message", "set", "drop", "set", "message"),
    ]
    assert records[0] == {"record": "set", "name": "system", "value": "Be brief."}
    assert records[1] == {
        "record": "message",
        "role": "user",
        "content": ASKED.content,
        "time": WHEN,
        "files": ["a.md", "b c.pdf"],
    }
    assert records[2] == {
        name: value for name, value in {"record": "message", **vars(ANSWER)}.items() if name != "files"
    }
    assert records[6] == {"record": "drop", "count": 2}
    assert "«" in path.read_text(encoding="utf-8"), "grep finds it"


def test_without_a_file_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unnamed = Transcript()
    unnamed.set("temp", 1)
    unnamed.extend([ASKED, ANSWER])
    unnamed.drop()
    assert (unnamed.messages, unnamed.settings, unnamed.path) == ([ASKED], {"temp": 1}, None)
    unnamed.close()
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None)
@given(st.text(st.characters()), st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers()))
def test_any_text(content: str, reasoning: str, sampling: dict[str, float]) -> None:
    whole = Message(role="user", content=content, reasoning=reasoning, time=WHEN, sampling=sampling)
    line = encoded(whole.record())
    assert b"\n" not in line
    assert message(decoded(line)) == whole


def test_half_of_a_surrogate_pair() -> None:
    for text in ("\ud800", "\\\ud800", '\\"\udfff\\', "a\udc80b"):
        assert decoded(encoded({"text": text})) == {"text": text}


def test_cut_at_every_byte(path: Path) -> None:
    after = filled(path)
    whole = path.read_bytes()
    header = whole.index(b"\n")
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut < header:  # which is there before the file has its name
            with pytest.raises(ZosiaError, match="is damaged in line 1"):
                Transcript.read(path)
            continue
        lines = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")  # a newline alone may be missing
        read = Transcript.read(path)
        assert (read.messages, read.settings) == after[lines - 1]
        assert path.read_bytes() == whole[:cut], "reading changes nothing"
    for cut in range(header, len(whole), 7):
        path.write_bytes(whole[:cut])
        kept = Transcript(path)
        kept.append(ANSWER)
        kept.close()
        assert Transcript.read(path).messages == [*kept.messages]
        assert kept.messages[-1] == ANSWER
        assert all(line.startswith(b"{") and line.endswith(b"}") for line in path.read_bytes().split(b"\n")[:-1])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"content": "x"}', "'record' is missing"),
        (b'{"record": "dance"}', "a record 'dance' is unknown"),
        (b'{"record": "message", "role": "user", "content": "x"}', "'time' is missing"),
        (b'{"record": "message", "role": "user", "content": 5, "time": ""}', "content can't be 5"),
        (b'{"record": "message", "role": "user", "content": "", "time": "", "files": [5]}', "files can't be [5]"),
        (b'{"record": "message", "role": "user", "content": "", "time": "", "seed": "1"}', "seed can't be '1'"),
        (b'{"record": "message", "role": "king", "content": "", "time": ""}', "'king' is none of: system, user"),
        (b'{"record": "message", "role": "user", "content": "", "time": "", "ended": "so"}', "'so' is none of"),
        (b'{"record": "drop", "count": 2}', "2 messages can't be taken back: there are 1"),
        (b'{"record": "drop", "count": 0}', "0 messages"),
        (b'{"record": "drop", "count": "1"}', "not supported"),
        (b'{"record": "drop"}', "'count' is missing"),
        (b'{"record": "set", "name": "temp"}', "'value' is missing"),
        (b'{"record": "set", "name": "temp", "value": \xff}', "codec can't decode"),
    ],
)
def test_damage(path: Path, line: bytes, why: str) -> None:
    kept = Transcript(path)
    kept.append(ASKED)
    kept.close()
    whole = path.read_bytes()
    path.write_bytes(whole + line + b'\n{"record": "set", "name": "a", "value": 1}\n')
    with pytest.raises(ZosiaError) as caught:
        Transcript(path)
    assert f"{path} is damaged in line 3: " in caught.value.message
    assert why in caught.value.message
    assert "\n" not in str(caught.value)
    command = caught.value.hint.partition("keep what is before this line: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert path.read_bytes() == whole
    assert Transcript.read(path).messages == [ASKED]


@pytest.mark.parametrize("text", [b"", b"\n", b"hello\n", b"{}\n", b'{"format": "zosia chat", "version": "1"}\n'])
def test_another_file_is_left_alone(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(ZosiaError, match=r"is damaged in line 1.*Restore it from a backup$"):
        Transcript(path)
    assert path.read_bytes() == text


def test_versions(path: Path) -> None:
    header = b'{"format": "zosia chat", "version": %d, "mood": 5}\n'
    known = b'{"record": "message", "role": "user", "content": "x", "time": "", "mood": {"a": 1}}\n'
    path.write_bytes(header % 1 + known)
    kept = Transcript(path)
    assert kept.messages == [Message(role="user", content="x", time="")]
    kept.append(ANSWER)
    kept.close()
    assert path.read_bytes().startswith(header % 1 + known), "what is unknown stays in the file"
    path.write_bytes(header % 2 + known)
    with pytest.raises(ZosiaError, match=r"is of a newer zosia \(its format is 2\)\. Update zosia"):
        Transcript(path)


def test_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZosiaError, match="file: File exists"):
        Transcript(tmp_path / "file" / "x")
    with pytest.raises(ZosiaError, match="Is a directory"):
        Transcript(tmp_path)
    with pytest.raises(ZosiaError, match="No such file"):
        Transcript.read(tmp_path / "none")


def test_a_wrong_drop_changes_nothing(path: Path) -> None:
    kept = Transcript(path)
    kept.append(ASKED)
    size = path.stat().st_size
    with pytest.raises(ValueError, match="2 messages can't be taken back"):
        kept.drop(2)
    assert (kept.messages, path.stat().st_size) == ([ASKED], size)


def test_closed(path: Path) -> None:
    kept = Transcript(path)
    kept.close()
    kept.close()
    with pytest.raises(ZosiaError, match="Bad file descriptor"):
        kept.append(ASKED)
    assert kept.messages == []


def test_each_record_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def count(file: int) -> None:
        fsync(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", count)
    kept = Transcript(path)
    assert len(synced) == 2  # the file, and its folder
    kept.append(ASKED)
    assert (len(synced), synced[-1]) == (3, path.stat().st_size)
    kept.drop()
    assert (len(synced), synced[-1]) == (4, path.stat().st_size)
    kept.set("a", 1)
    assert (len(synced), synced[-1]) == (5, path.stat().st_size)
    kept.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("broken", ["pwrite", "fsync", "ftruncate"])
def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, number: int) -> None:
    kept = Transcript(path)
    kept.append(ASKED)
    whole, original = path.read_bytes(), os.pwrite

    def some(file: int, data: bytes, at: int) -> int:
        if at > len(whole):
            raise OSError(number, os.strerror(number))
        return original(file, data[:10], at)

    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", some)
        if broken != "pwrite":
            patch.setattr(os, broken, none)
        with pytest.raises(ZosiaError, match=rf"disk is full: {path} could not be written") as caught:
            kept.append(ANSWER)
    assert caught.value.hint == "Make room, then run it again"
    assert kept.messages == [ASKED]
    if broken != "ftruncate":
        assert path.read_bytes() == whole
    kept.append(ANSWER)
    assert Transcript.read(path).messages == [ASKED, ANSWER]


def test_a_limit_of_the_system(path: Path) -> None:
    """The real system refuses to write on in the middle of a record."""
    kept = Transcript(path)
    kept.append(ASKED)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(ZosiaError, match="File too large"):
            kept.append(ANSWER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    kept.append(ANSWER)
    assert Transcript.read(path).messages == [ASKED, ANSWER]


def test_an_interrupt_leaves_no_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Transcript(path)
    whole = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kept.append(ASKED)
    assert (path.read_bytes(), kept.messages) == (whole, [])


WRITER = """
import sys
from pathlib import Path
from zosia.chat.kept.transcript import Message, Transcript
kept = Transcript(Path(sys.argv[1]))
for number in range(len(kept.messages), 10**6):
    kept.append(Message(role="user", content=f"{number} " + "word " * 3000, time=""))
    print(number, flush=True)
"""


def test_a_writer_that_is_killed(path: Path) -> None:
    """Everything that it reported as written is there, whenever it is killed, and the next one goes on behind it."""
    for moment in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            cwd=ROOT / "site_scons",
        ) as writer:
            assert writer.stdout
            first = writer.stdout.readline()
            time.sleep(0.0017 * moment)
            writer.send_signal(signal.SIGKILL)
            reported = [int(line) for line in (first + writer.stdout.read()).split(b"\n")[:-1]]
            assert writer.wait(30 * patience()) == -signal.SIGKILL
        numbers = [int(kept.content.split()[0]) for kept in Transcript.read(path).messages]
        assert numbers == list(range(len(numbers)))
        assert reported[-1] in numbers[-2:]
        assert all(kept.content.count("word") == 3000 for kept in Transcript.read(path).messages)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["message", "drop", "set", "again"]), max_size=20))
def test_any_order_of_records(tmp_path: Path, steps: list[str]) -> None:
    path = tmp_path / "any"
    path.unlink(missing_ok=True)
    kept, memory = Transcript(path), Transcript()
    for number, step in enumerate(steps):
        if step == "again":
            kept.close()
            kept = Transcript(path)
        for one in (kept, memory):
            if step == "message":
                one.append(Message(role="user", content=str(number), time=WHEN))
            elif step == "set":
                one.set(str(number % 3), number)
            elif step == "drop" and one.messages:
                one.drop(1 + number % len(one.messages))
        assert (kept.messages, kept.settings) == (memory.messages, memory.settings)
    kept.close()
    read = Transcript.read(path)
    assert (read.messages, read.settings) == (memory.messages, memory.settings)


def test_nothing_is_left_of_a_long_record_that_was_cut_off(path: Path) -> None:
    kept = Transcript(path)
    kept.append(Message(role="user", content="x" * 10_000, time=WHEN))
    kept.close()
    path.write_bytes(path.read_bytes()[:-5])
    kept = Transcript(path)
    kept.append(ASKED)
    kept.close()
    assert Transcript.read(path).messages == [ASKED]
    assert b"xx" not in path.read_bytes()
