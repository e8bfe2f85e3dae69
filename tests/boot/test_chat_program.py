"""The chat program on a terminal, with real machines: what a person sees and types, and what is kept."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from tests import parrot
from zosia.base.patience import patience
from zosia.chat import main
from zosia.chat.kept.chats import Chats
from zosia.chat.wish import ChatWish
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.machine.task import Attached
from zosia.run.guest import PROMPT
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import LONGEST, Boot, Supervise, environment
from .screen import Screen

SECRET = "My secret is the number 2718281828."
COLUMNS = 80


@pytest.fixture(scope="module")
def chatting(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine of `scons chat`, which is saved in a folder of its own."""
    return replace(machines.chat(settings, ())[0], hot=tmp_path_factory.mktemp("states"))


class Talk:
    """The program on a terminal."""

    def __init__(self, child: pexpect.spawn[str], screen: Screen) -> None:
        self.child, self.screen = child, screen

    @property
    def text(self) -> str:
        return "\n".join(self.screen.lines)

    def sees(self, pattern: str) -> str:
        """Wait until the screen shows it, above the status line."""
        self.screen.wait(lambda screen: bool(re.search(pattern, "\n".join(screen.lines), re.MULTILINE)))
        return self.text

    def prompted(self) -> None:
        """Wait for an empty prompt."""
        self.screen.wait(lambda screen: screen.screen.display[screen.screen.cursor.y].strip() == ">")

    def says(self, text: str, *patterns: str) -> str:
        """Enter a text at a prompt, wait for what it brings, and for the next prompt."""
        self.prompted()
        self.child.send(f"{text}\r")
        for pattern in patterns:
            self.sees(pattern)
        self.prompted()
        return self.text

    def ends(self, keys: str = "/exit\r") -> int | None:
        self.prompted()
        self.child.send(keys)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


Start = Callable[..., Talk]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of this user's data."""
    return tmp_path / "data"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder in which the program is started."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def command(root: Path, tmp_path: Path, files: Path, chatting: Machine) -> Callable[..., list[str]]:
    def words(machine: Machine = chatting, **fields: Any) -> list[str]:
        fields = {"model": "parrot", "sha256": "ab12", "context": 4096, **fields}
        file = tmp_path / "chat.json"
        file.write_text(main.to_json(machine, ChatWish(launched=files, **fields)), encoding="utf-8")
        return [sys.executable, "-m", "zosia.chat.main", str(file)]

    return words


@pytest.fixture
def start(
    request: pytest.FixtureRequest,
    root: Path,
    data: Path,
    command: Callable[..., list[str]],
    no_machine_left: None,
) -> Start:
    def started(machine: Machine | None = None, env: dict[str, str] | None = None, **fields: Any) -> Talk:
        program, *arguments = command(*([machine] if machine else []), **fields)
        child = pexpect.spawn(
            program,
            arguments,
            cwd=str(root),
            env=environment(root, TERM="xterm", XDG_DATA_HOME=str(data), **(env or {})),
            encoding="utf-8",
            timeout=LONGEST * patience(),
            dimensions=(40, COLUMNS),
            echo=False,
        )

        def end() -> None:
            if child.isalive():
                child.kill(signal.SIGTERM)
                child.expect(pexpect.EOF)
            child.close()

        request.addfinalizer(end)
        return Talk(child, Screen(child, rows=40, columns=COLUMNS))

    return started


def transcript(data: Path, name: str) -> list[dict[str, Any]]:
    """Return the messages in a transcript."""
    lines = (data / "zosia" / "chats" / name / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record.get("record") == "message"]


def holds(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder that hold a text, in any of a guest's or the host's usual encodings."""
    wanted = [text.encode(), text.encode("utf-16-le"), json.dumps(text).encode()]
    return [path for path in folder.rglob("*") if path.is_file() and any(one in path.read_bytes() for one in wanted)]


def test_a_chat_without_a_name_leaves_nothing(start: Start, tmp_path: Path, chatting: Machine) -> None:
    talk = start()
    talk.sees("nothing of it is kept")
    assert parrot.ANSWER in talk.says(SECRET, re.escape(parrot.ANSWER))
    talk.sees("parrot · not kept · [0-9]+ of 4,096 tokens")
    assert talk.ends() == 0
    assert chatting.hot
    assert list(chatting.hot.glob("*.state"))
    assert holds(tmp_path, SECRET) + holds(chatting.hot, SECRET) == []


def test_a_chat_with_a_name_is_kept_and_resumed_evaluated(start: Start, data: Path) -> None:
    talk = start(name="work")
    talk.sees("chat work, which is kept")
    talk.says("/set temp 0", "temp is 0")
    talk.says(f"{SECRET} Tell me about a cat.", "Meow")
    assert talk.ends() == 0
    folder = data / "zosia" / "chats" / "work"
    (state,) = folder.glob("*.state")
    assert [path for path in (data, folder, state) if path.stat().st_mode & 0o077 and path != data] == []
    assert state in holds(folder, SECRET)  # it is the machine with the chat in it
    question, answer = transcript(data, "work")
    assert (question["role"], question["content"]) == ("user", f"{SECRET} Tell me about a cat.")
    assert (answer["content"], answer["model"], answer["sampling"]) == ("Meow.", "parrot", {"temperature": 0.0})
    talk = start(name="work")
    talk.sees("1 question so far")
    talk.says("And you?", "Meow")
    assert "evaluated" not in talk.text  # nothing was said of another evaluation
    talk.prompted()
    talk.child.send("\x1b[A")
    talk.sees("> And you\\?$")
    assert talk.ends("\x03\x03") == 0
    assert [one["content"] for one in transcript(data, "work")][2:] == ["And you?", "Meow."]


def test_keys(start: Start, data: Path) -> None:
    talk = start(name="keys")
    talk.prompted()
    talk.child.send("one\x1b\rtwo\x1b[13;2uthree\x1b[27;2;13~four")
    talk.sees("four")
    talk.child.send("\x03")  # clears
    talk.says("/help", "Ctrl\\+R")
    talk.says("/exti", "Did you mean /exit")
    talk.says("/exit strategies?", re.escape(parrot.ANSWER[:5]))
    talk.prompted()
    talk.child.send("Tell me\x1b[13;2ua story\r")
    talk.sees(parrot.STORY)
    talk.child.send("\x03")
    talk.sees("stopped")
    assert talk.ends("\x04") == 0
    question, _, story, told = transcript(data, "keys")
    assert story["content"] == "Tell me\na story"
    assert (told["ended"], told["content"][: len(parrot.STORY)]) == ("stopped", parrot.STORY)
    assert question["content"] == "/exit strategies?"


def test_commands(start: Start, data: Path, files: Path) -> None:
    (files / "note.txt").write_text("A cat sat on the mat.\n", encoding="utf-8")
    talk = start()
    talk.says("/set temp 0")
    talk.says("/file note.txt nothing.txt", "nothing.txt")
    talk.says("/file note.txt", r"attached to the next question: note.txt \(\d+ tokens\)")
    talk.says("What is it about?", "Meow")
    talk.says("/undo", "taken back")
    talk.says("Who are you?", re.escape(parrot.ANSWER))
    talk.says("/rename first", "kept as first")
    talk.says("/retry", re.escape(parrot.ANSWER))
    talk.says("/export out.md", "written")
    talk.says("/chats", "first +parrot +1")
    talk.says("/open second", "chat second, which is kept")
    talk.says("/open first", "1 question so far")
    talk.prompted()
    talk.child.send("/edit\r")
    talk.sees(r"> .*Who are you\?")
    talk.child.send(" A cat?\r")
    talk.sees("Meow")
    talk.prompted()
    talk.child.send("/delete\r")
    talk.sees("y/N")
    talk.child.send("y\r")
    talk.sees("the chat first is deleted")
    assert talk.ends() == 0
    assert parrot.ANSWER in (files / "out.md").read_text(encoding="utf-8")
    assert [path.name for path in (data / "zosia" / "chats").iterdir() if path.is_dir()] == ["second"]


def test_killed_in_the_middle(start: Start, data: Path) -> None:
    talk = start(name="work")
    talk.says("Who are you?", re.escape(parrot.ANSWER))
    talk.child.send("Tell me a story\r")
    talk.sees(parrot.STORY)
    left = psutil.Process(talk.child.pid).children()
    talk.child.kill(signal.SIGKILL)
    talk.child.expect(pexpect.EOF)
    psutil.wait_procs(left, 30 * patience())
    assert [one["content"] for one in transcript(data, "work")] == ["Who are you?", parrot.ANSWER, "Tell me a story"]
    talk = start(name="work")
    talk.sees("2 questions so far")
    talk.prompted()
    assert talk.ends() == 0


def test_two_programs_on_one_chat(start: Start) -> None:
    first = start(name="work")
    first.prompted()
    second = start(name="work")
    second.child.expect(pexpect.EOF)
    said = second.child.before or ""
    assert f"is open in another program (pid {first.child.pid})" in " ".join(said.split())
    second.child.close()
    assert second.child.exitstatus == 2
    assert first.ends() == 0


def test_an_encrypted_chat(start: Start, data: Path, tmp_path: Path) -> None:
    env = {"ZOSIA_PASSPHRASE": "correct horse"}
    talk = start(name="diary", encrypt=True, env=env)
    talk.sees("chat diary, which is kept, encrypted")
    talk.says(SECRET, re.escape(parrot.ANSWER))
    assert talk.ends() == 0
    folder = data / "zosia" / "chats" / "diary"
    assert any(path.stat().st_size > 1 << 20 for path in folder.iterdir())  # the machine
    assert holds(tmp_path, SECRET) == []
    talk = start(name="diary", env=env)
    talk.sees("1 question so far")
    talk.says("And you?", re.escape(parrot.ANSWER))
    assert talk.ends() == 0
    wrong = start(name="diary", env={"ZOSIA_PASSPHRASE": "battery staple"})
    wrong.child.expect(pexpect.EOF)
    assert "passphrase" in (wrong.child.before or "")
    wrong.child.close()
    assert wrong.child.exitstatus == 2


def test_a_full_context(start: Start, settings: Settings, data: Path) -> None:
    small = replace(settings, context=256)
    machine = replace(machines.chat(small, ())[0], hot=None)
    talk = start(machine, name="work", context=256)
    text = talk.says("Tell me a story", "cut off: the context of 256 tokens is full")
    assert "/compact" in text
    assert transcript(data, "work")[-1]["ended"] == "length"
    talk.says("/new", "nothing of it is kept")
    talk.prompted()
    talk.child.send(f"{'Why? ' * 70}\r")
    talk.sees("The question is too long: it takes [0-9]+ tokens, and the context has 256")
    talk.sees("^> Why")  # it is there again
    talk.child.send("\x03")
    talk.says("Who are you?", re.escape(parrot.ANSWER))
    assert talk.ends() == 0


def test_a_question_from_a_pipe(
    root: Path, data: Path, command: Callable[..., list[str]], no_machine_left: None
) -> None:
    def piped(question: str, **fields: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(**fields),
            cwd=root,
            env=environment(root, XDG_DATA_HOME=str(data)),
            input=question,
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST * patience(),
            check=False,
        )

    done = piped("Who are you?\n", name="work")
    assert (done.returncode, done.stdout) == (0, f"{parrot.ANSWER}\n")
    assert piped("A cat?", name="work").stdout == "Meow.\n"
    assert [one["content"] for one in transcript(data, "work")] == ["Who are you?", parrot.ANSWER, "A cat?", "Meow."]
    with Chats(data / "zosia" / "chats").open("short") as chat:
        chat.transcript.set("max_tokens", 2)
    short = piped("Who are you?", name="short")
    assert short.returncode == Status.CUT_OFF
    assert parrot.ANSWER.startswith(short.stdout.strip())
    assert "error: The answer is cut off: it has as many tokens as max_tokens" in short.stderr
    nothing = piped(" \n")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "no prompt on standard input. Type: echo PROMPT | scons chat" in nothing.stderr
    assert sorted(path.name for path in (data / "zosia" / "chats").iterdir()) == ["short", "work"]


# ---- Files, in the guest's own chat


def test_a_folder_takes_what_fits_for_a_single_question(
    settings: Settings, supervise: Supervise, tmp_path: Path
) -> None:
    """As `/file` does it, but the guest counts."""
    plain = machines.run_machine(settings)
    machine = replace(plain, hot=tmp_path / "states").given(llama_args=(*plain.task.llama_args, "-c", "512"))
    large, cat, small = (
        Attached(name=name, text=f"File: {name}\n```\n{text}\n```", named=False)
        for name, text in (("large", "x" * 400), ("cat", "I have a cat."), ("small", "y" * 100))
    )
    note = r"  NOTE  {} takes {} tokens, for which there is no room, and is left out\n"
    error = "zosia: error: the prompt is too long: {}\\. Set CTX=[0-9]+, or {}\n"
    none = r"none of its 2 files has room: the smallest takes 42\d tokens, and there are \d\d\d left"
    for files, answer, said in [
        ((large, cat, small), parrot.CAT, note.format("large", r"42\d")),
        ((large, small), parrot.ANSWER, note.format("large", r"42\d")),
        ((replace(small, named=True), cat), parrot.CAT, ""),
        (
            (replace(large, named=True), replace(cat, name="z"), replace(small, named=True)),
            "",
            error.format(r"it has 5\d\d tokens, and the context has 512", "shorten the prompt"),
        ),
        ((large, large), "", note.format("large", r"42\d") * 2 + error.format(none, "name a smaller file")),
    ]:
        for _ in range(2):  # it boots, and resumes
            done = supervise(machine.given(files=files), stdin="Who is it?\n")
            assert re.fullmatch(said, done.stderr), done.stderr
            assert (done.returncode, done.stdout) == ((0, f"{answer}\n") if answer else (Status.TOO_LONG, ""))


def test_the_guests_files_by_a_pattern(settings: Settings, boot: Boot) -> None:
    guest = boot(machines.run_machine(settings))
    guest.expect(PROMPT, LONGEST)
    for pattern, names in [
        ("/e**/zosia-ll*", ["/etc/zosia-llama"]),
        ("/etc/zosia-[kl]l*", ["/etc/zosia-llama"]),
        ("/*/zosia-llama", ["/etc/zosia-llama"]),
        ("/*sia-llama", []),
    ]:
        guest.send(f"/glob {pattern}")
        loaded = "".join(f"Loaded text from '{name}'\n" for name in names) or f"Error: no file is like '{pattern}'\n"
        guest.expect(f"/glob {pattern}\n{loaded}")
        guest.expect(PROMPT)
