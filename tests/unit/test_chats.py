"""Chats that are kept, each in its folder."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from zosia.base import files, places, style
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.chat.kept.chats import Chat, Chats
from zosia.chat.kept.listing import found, listing
from zosia.chat.kept.names import LONGEST, checked, folded
from zosia.chat.kept.transcript import Message, Transcript

WHEN = "2026-11-30T06:30:00+01:00"


@pytest.fixture
def chats(tmp_path: Path) -> Chats:
    return Chats(tmp_path / "data" / "chats")


def ask(chats: Chats, name: str, *texts: str, model: str = "smollm2-135m") -> None:
    """Add questions and answers to a chat."""
    with chats.open(name) as chat:
        for text in texts:
            chat.transcript.append(Message(role="user", content=text, time=WHEN))
            chat.transcript.append(Message(role="assistant", content=f"re: {text}", time=WHEN, model=model))


def age(chats: Chats, *names: str) -> None:
    """Make chats look as if each was last used an hour before the one before it."""
    for hours, name in enumerate(names):
        for path in (chats.folder / name).glob("transcript.*"):
            os.utime(path, (time.time(), 1e9 - 3600 * hours))


def state(chats: Chats, name: str, size: int, file: str = "a.state") -> Path:
    path = chats.folder / name / file
    path.write_bytes(os.urandom(size))
    return path


HOLDER = """
import sys
from pathlib import Path
from zosia.chat.kept.chats import Chats
with Chats(Path(sys.argv[1])).open(sys.argv[2]) as chat:
    print(chat.name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(chats: Chats, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another program that has the chat open."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(chats.folder), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT / "site_scons",
    ) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline().strip() == name.encode()
            yield holder
        finally:
            holder.kill()


def test_a_chat_is_there_again(chats: Chats) -> None:
    with chats.open("plans for May") as chat:
        assert (chat.name, chat.fresh, chat.encrypted, chat.key) == ("plans for May", True, False, None)
        assert chat.folder == chats.folder / "plans for May"
    ask(chats, "plans for May", "one", "two")
    with chats.open("PLANS for may", create=False) as chat:
        assert (chat.name, chat.fresh) == ("plans for May", False)
        assert [message.content for message in chat.transcript.messages] == ["one", "re: one", "two", "re: two"]
    assert [path.name for path in chats.folder.iterdir()] == ["plans for May"]


def test_nobody_else_may_read(tmp_path: Path) -> None:
    chats = Chats(tmp_path / "chats")
    chats.folder.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        ask(chats, "a", "one")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [chats.folder, *chats.folder.rglob("*")]}
    assert modes == {"chats": 0o700, "a": 0o700, "lock": 0o600, "transcript.jsonl": 0o600}


def test_the_place_is_the_same_in_a_clone_and_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for installed in (True, False):
        monkeypatch.setattr(places, "INSTALLED", installed)
        assert Chats().folder == places.chats()
        assert places.chats().parts[-2:] == ("zosia", "chats")
    if sys.platform == "linux":
        assert places.chats() == tmp_path / "zosia" / "chats"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a", "a"),
        (" plans 2 ", "plans 2"),
        ("notes.v1-2_3", "notes.v1-2_3"),
        ("Zażółć", "Zażółć"),
        ("e\u0301te\u0301", "été"),
        ("日本語", "日本語"),
        ("हिन्दी", "हिन्दी"),
        ("ไทย", "ไทย"),
        ("x" * LONGEST, "x" * LONGEST),
    ],
)
def test_names(typed: str, kept: str) -> None:
    assert checked(typed) == kept
    assert checked(kept) == kept


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "can't be the name of a chat"),
        ("  ", "can't be the name of a chat"),
        (".", "can't be the name of a chat"),
        ("..", "can't be the name of a chat"),
        (".hidden", "can't be the name of a chat"),
        ("-rf", "can't be the name of a chat"),
        ("_x", "can't be the name of a chat"),
        ("\u0301x", "can't be the name of a chat"),
        ("x.", "can't be the name of a chat"),
        ("../x", "it has '/'"),
        ("/etc/passwd", "it has '/'"),
        ("a\\b", r"it has '\\\\'"),
        ("a\nb", r"it has '\\n'"),
        ("a\0", r"it has '\\x00'"),
        ("a\x1b[31m", r"it has '\\x1b'"),
        ("a\u200bb", r"it has '\\u200b'"),
        ("a\u202eb", r"it has '\\u202e'"),
        ("a\udc80", r"it has '\\udc80'"),
        ("x*", r"it has '\*'"),
        ("x" * (LONGEST + 1), f"has {LONGEST + 1} bytes, and up to {LONGEST} are possible"),
        ("ж" * (LONGEST // 2 + 1), f"has {LONGEST + 2} bytes"),
    ],
)
def test_what_is_no_name(chats: Chats, name: str, why: str) -> None:
    for refused in (chats.open, chats.delete, lambda name: chats.rename("a", name)):
        with pytest.raises(ZosiaError, match=why) as caught:
            refused(name)
        assert str(caught.value).isprintable()
    assert not chats.folder.exists() or not any(chats.folder.iterdir())


@settings(deadline=None)
@given(st.text(st.characters()))
def test_a_name_is_never_a_path(name: str) -> None:
    try:
        kept = checked(name)
    except ZosiaError:
        return
    assert kept == unicodedata.normalize("NFC", kept)
    assert kept.isprintable() and "/" not in kept and kept[0] not in "-. " and kept[-1] not in ". "
    assert len(kept.encode()) <= LONGEST
    assert checked(kept) == kept
    assert folded(kept) == folded(unicodedata.normalize("NFD", kept)) == folded(folded(kept))


def test_names_that_differ_in_case_are_one(chats: Chats) -> None:
    ask(chats, "Straße", "one")
    ask(chats, "STRASSE", "two")
    (summary,) = chats.list()
    assert (summary.name, summary.turns) == ("Straße", 2)
    chats.rename("strasse", "STRASSE")
    assert [one.name for one in chats.list()] == ["STRASSE"]


def test_an_unknown_name(chats: Chats) -> None:
    with pytest.raises(ZosiaError, match=r"There is no chat plans\. No chat was kept so far"):
        chats.open("plans", create=False)
    ask(chats, "Plans")
    for unknown in (lambda name: chats.open(name, create=False), chats.delete, lambda name: chats.rename(name, "x")):
        with pytest.raises(ZosiaError, match=r"There is no chat planes\. Did you mean Plans\?"):
            unknown("planes")
    assert [path.name for path in chats.folder.iterdir()] == ["Plans"]


def test_list(chats: Chats) -> None:
    assert chats.list() == ()
    ask(chats, "old", "one", model="gemma")
    ask(chats, "new", "one", "two")
    ask(chats, "empty")
    state(chats, "new", 100_000)
    age(chats, "new", "empty", "old")
    (chats.folder / "killed").mkdir()
    (chats.folder / ".DS_Store").touch()
    found = chats.list()
    assert [(one.name, one.model, one.turns, one.encrypted, one.problem) for one in found] == [
        ("new", "smollm2-135m", 2, False, ""),
        ("empty", "", 0, False, ""),
        ("old", "gemma", 1, False, ""),
    ]
    assert found[0].size >= 100_000 > found[2].size > 0
    assert found[0].used == 1e9


def test_a_damaged_chat_is_listed(chats: Chats) -> None:
    ask(chats, "good", "needle")
    ask(chats, "bad", "needle")
    with (chats.folder / "bad" / "transcript.jsonl").open("a") as file:
        file.write("{}\n")
    bad, good = sorted(chats.list(), key=lambda one: one.name)
    assert "is damaged in line 4" in bad.problem and bad.turns is None
    assert good.turns == 1
    assert {hit.name for hit in chats.search("needle")} == {"good"}
    with pytest.raises(ZosiaError, match="is damaged in line 4"):
        chats.open("bad")
    assert Transcript.read(chats.folder / "good" / "transcript.jsonl").turns == 1
    assert chats.delete("bad") > 0


def test_search(chats: Chats) -> None:
    ask(chats, "a", "Un\nKÄSE y\notro Käse", "nothing")
    ask(chats, "b", "ka\u0308se")
    assert chats.search("käse") == (
        ("a", 1, "KÄSE y"),
        ("a", 1, "otro Käse"),
        ("a", 2, "KÄSE y"),
        ("a", 2, "otro Käse"),
        ("b", 1, "ka\u0308se"),
        ("b", 2, "re: ka\u0308se"),
    )
    assert chats.search("cheese") == ()


def test_what_was_taken_back_is_not_found(chats: Chats) -> None:
    ask(chats, "a", "needle")
    with chats.open("a") as chat:
        chat.transcript.drop(2)
    assert chats.search("needle") == ()


def test_rename(chats: Chats) -> None:
    ask(chats, "a", "one")
    ask(chats, "b", "one")
    state(chats, "a", 10)
    with pytest.raises(ZosiaError, match="There is a chat B already"):
        chats.rename("a", "B")
    chats.rename("A", "c")
    assert sorted(one.name for one in chats.list()) == ["b", "c"]
    assert (chats.folder / "c" / "a.state").exists()
    chats.rename("c", "C")
    assert sorted(path.name for path in chats.folder.iterdir()) == ["C", "b"]
    (chats.folder / "killed").mkdir()  # by a program that had made no more yet
    chats.rename("b", "killed")
    assert sorted(one.name for one in chats.list()) == ["C", "killed"]


def test_rename_of_the_open_chat(chats: Chats) -> None:
    with chats.open("a") as chat:
        chats.rename(chat, "b")
        assert (chat.name, chat.folder) == ("b", chats.folder / "b")
        chat.transcript.append(Message(role="user", content="x", time=WHEN))
        assert chat.transcript.path == chats.folder / "b" / "transcript.jsonl"
        with pytest.raises(ZosiaError, match="The chat b is open in another program"):
            Chats(chats.folder).open("b")
    assert [(one.name, one.turns) for one in chats.list()] == [("b", 1)]


def test_delete(chats: Chats) -> None:
    ask(chats, "a", "one")
    ask(chats, "b", "one")
    state(chats, "a", 100_000)
    (chats.folder / "a" / "history").write_text("one\n")
    sizes = {one.name: one.size for one in chats.list()}
    assert chats.delete("A") == sizes["a"] >= 100_000
    with chats.open("b") as chat:
        assert chats.delete(chat) == sizes["b"]
        with pytest.raises(ZosiaError, match="Bad file descriptor"):
            chat.transcript.append(Message(role="user", content="x", time=WHEN))
    assert list(chats.folder.iterdir()) == []


def test_a_deletion_that_was_killed_is_finished(chats: Chats) -> None:
    ask(chats, "a", "one")
    (chats.folder / "a").rename(chats.folder / ".gone")
    assert chats.list() == ()
    ask(chats, "b", "one")
    assert [path.name for path in chats.folder.iterdir()] == ["b"]


def test_prune(chats: Chats) -> None:
    for name in ("a", "b", "c", "d"):
        ask(chats, name, "one")
        state(chats, name, 100_000)
        state(chats, name, 100_000, "b.state.age")
    ask(chats, "e", "one")
    age(chats, "b", "c", "a", "d", "e")  # from the one used last to the one unused for the longest time
    assert chats.prune(10**6) == 0
    freed = chats.prune(500_000)
    assert 400_000 <= freed < 450_000
    assert sorted(path.parent.name for path in chats.folder.glob("*/*.state*")) == ["b", "b", "c", "c"]
    with chats.open("c"):
        age(chats, "b", "c")
        assert chats.prune(0) > 0
        assert sorted(path.parent.name for path in chats.folder.glob("*/*.state*")) == ["c", "c"]
    assert all(one.turns == 1 for one in chats.list())
    assert len(chats.list()) == 5
    (chats.folder / "c" / f".a.state.{2**22 + 1}").write_bytes(b"cut")
    chats.prune(0)
    assert sorted(path.name for path in (chats.folder / "c").iterdir()) == ["lock", "transcript.jsonl"]


def test_two_programs(chats: Chats) -> None:
    ask(chats, "a", "one")
    with holding(chats, "a") as holder:
        said = rf"The chat a is open in another program \(pid {holder.pid}\)"
        for refused in (chats.open, chats.delete, lambda name: chats.rename(name, "b")):
            with pytest.raises(ZosiaError, match=said):
                refused("A")
        assert [(one.name, one.turns) for one in chats.list()] == [("a", 1)]
        assert len(chats.search("one")) == 2
        chats.open("b").close()
        holder.kill()
        holder.wait(30 * patience())
        chats.open("a").close()


def test_one_of_many_gets_a_new_chat(chats: Chats) -> None:
    """All at once: the names are looked for, and the folder is made, by one at a time."""
    command = [sys.executable, "-c", HOLDER, str(chats.folder)]
    names = ["Café", "café", "CAFÉ", "Cafe\u0301"]
    started = [
        subprocess.Popen(
            [*command, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT / "site_scons",
        )
        for name in names
    ]
    deadline = time.monotonic() + 30 * patience()
    while sum(one.poll() is not None for one in started) < len(names) - 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    (holder,) = [one for one in started if one.poll() is None]
    for one in started:
        _, errors = one.communicate()
        assert one is holder or f"(pid {holder.pid})".encode() in errors
    assert len(list(chats.folder.iterdir())) == 1


def test_names_are_looked_for_by_one_at_a_time(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    find, found = Chats._find, []

    def watched(self: Chats, name: str) -> Path | None:
        with Path(f"{self.folder}.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found.append(name)
        return find(self, name)

    monkeypatch.setattr(Chats, "_find", watched)
    chats.open("a").close()
    chats.rename("a", "b")
    chats.delete("b")
    assert found == ["a", "a", "b", "b"]


WRITER = """
import sys
from pathlib import Path
from zosia.chat.kept.chats import Chats
from zosia.chat.kept.transcript import Message
print("begun", flush=True)
for number in range(10**6):
    with Chats(Path(sys.argv[1])).open(f"chat {number % 3}") as chat:
        chat.transcript.append(Message(role="user", content="x" * 5000, time=""))
    if number % 3 == 2:
        Chats(Path(sys.argv[1])).delete("chat 1")
"""


def test_a_program_that_is_killed(chats: Chats) -> None:
    """Chats that it made, wrote and deleted are whole, whenever it is killed, and can be opened at once."""
    for moment in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(chats.folder)], stdout=subprocess.PIPE, cwd=ROOT / "site_scons"
        ) as writer:
            assert writer.stdout and writer.stdout.readline() == b"begun\n"
            time.sleep(0.0037 * moment)
            writer.send_signal(signal.SIGKILL)
        assert [one.problem for one in chats.list() if one.problem] == []
        ask(chats, f"mine {moment}", "one")
        for one in chats.list():
            with chats.open(one.name, create=False) as chat:
                assert all(message.content in ("x" * 5000, "one", "re: one") for message in chat.transcript.messages)
    assert sum(one.name.startswith("mine") for one in chats.list()) == 10


def test_a_full_disk_lets_one_delete(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(chats, "a", "one")

    def full(*_: object) -> None:
        raise OSError(files.FULL[0], os.strerror(files.FULL[0]))

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(ZosiaError, match="The disk is full"):
        ask(chats, "a", "two")
    assert [one.turns for one in chats.list()] == [1]
    assert chats.delete("a") > 0


def test_a_chat_that_can_not_be_made_leaves_nothing(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(files.FULL[0], os.strerror(files.FULL[0]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ZosiaError, match="The disk is full"):
            chats.open("a")
    assert list(chats.folder.iterdir()) == []
    assert isinstance(chats.open("a"), Chat)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZosiaError, match="Not a directory"):
        Chats(tmp_path / "file" / "chats").open("a")
    with pytest.raises(ZosiaError, match="Not a directory"):
        Chats(tmp_path / "file").list()
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "a").touch()
    with pytest.raises(ZosiaError, match="a: File exists"):
        Chats(tmp_path / "chats").open("a")


def test_table(chats: Chats) -> None:
    assert listing(chats) == f"No chat is kept in {chats.folder}"
    ask(chats, "plans", "one", "two")
    ask(chats, "日本語", "one", model="gemma\x1b[31m")
    ask(chats, "bad")
    (chats.folder / "bad" / "transcript.jsonl").write_text("\n")
    (chats.folder / "secret").mkdir()
    (chats.folder / "secret" / "transcript.age").touch()
    for number, name in enumerate(("plans", "日本語", "secret", "bad")):
        for path in (chats.folder / name).glob("transcript.*"):
            os.utime(path, (0, datetime(2026, 11, 30 - number, 6, 30).timestamp()))
    header, *rows, blank, total, problem = listing(chats).splitlines()
    sizes = {one.name: files.size_text(one.size) for one in chats.list()}
    assert header.split() == ["CHAT", "MODEL", "TURNS", "SIZE", "LAST", "USED"]
    assert [" ".join(row.split()) for row in rows] == [
        f"plans smollm2-135m 2 {sizes['plans']} 2026-11-30 06:30",
        f"日本語 gemma [31m 1 {sizes['日本語']} 2026-11-29 06:30",
        f"secret - - {sizes['secret']} 2026-11-28 06:30 encrypted",
        f"bad - - {sizes['bad']} 2026-11-27 06:30 damaged",
    ]
    begins = header.index("LAST")
    assert [style.width(row[: row.index("2026")]) for row in rows] == [begins] * 4, "straight"
    assert blank == "" and total.endswith(f" in {chats.folder}.")
    assert problem.startswith("bad: ") and "is damaged in line 1" in problem


def test_table_of_what_is_found(chats: Chats) -> None:
    ask(chats, "plans", f"{'word ' * 100}NEEDLE\x1b]0;x\x07 {'word ' * 100}\nneedle at the start")
    (chats.folder / "secret").mkdir()
    (chats.folder / "secret" / "transcript.age").touch()
    first, second, *others, note = found(chats, "Needle").splitlines()
    assert first.startswith("plans  1  …") and "NEEDLE ]0;x  word" in first and first.endswith("…")
    assert style.width(first) == len("plans  1  ") + 102
    assert second == "plans  1  needle at the start"
    assert len(others) == 2
    assert note == "Not searched, for they are encrypted or damaged: secret"
    assert found(chats, "hay").splitlines()[0] == "No chat has: hay"
    with pytest.raises(ZosiaError, match="A text to search for is needed"):
        found(chats, "")
