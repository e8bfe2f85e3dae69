"""llama/console/, compiled for this machine: a person types, and a terminal emulator shows what is seen."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pexpect
import psutil
import pyte
import pytest
from wcwidth import wcwidth

from zosia import inputs, llama
from zosia.catalogue import read_sources
from zosia.files import cache_root
from zosia.host import patience

WAIT = 20  # seconds, times patience
LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[3~"
BACKSPACE, ENTER, CTRL_LEFT, CTRL_RIGHT = "\x7f", "\r", "\x1b[1;5D", "\x1b[1;5C"
PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"
# The driver tells on descriptor 3 what it read; 4 is the host's status port. The shell outlives Ctrl+C.
WRAPPER = """trap : INT TERM; stty -g >{folder}/before
{command} 3>{folder}/report 4>{folder}/status
echo $? >{folder}/code; stty -g >{folder}/after"""


def ctrl(letter: str) -> str:
    return chr(ord(letter.upper()) - 64)


def busy() -> str:
    """Seconds that loading and slow answers take."""
    return str(max(2, round(2 * patience())))


@pytest.fixture(scope="session")
def driver(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """console-driver, with the libraries that llama-cli is linked with."""
    program = tmp_path_factory.mktemp("console") / "console-driver"
    upstream = inputs.source_tree(read_sources(root / "sources.toml")["llama-cpp"], cache_root())
    zig = llama.zig_home(cache_root())
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(cache_root() / "zig"))
    compiler = [str(zig / "zig"), "c++", "-target", f"{platform.machine()}-linux-musl"]
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    folders = [f"-I{upstream / name}" for name in ("common", "include", "ggml/include", "tools/cli")]
    files = [root / "llama" / "console" / "console.cpp", root / "tests" / "build" / "console-driver.cpp"]
    subprocess.run(
        [*compiler, *options, *folders, *files, "-o", program],
        env={**os.environ, **caches, "ZIG_LIB_DIR": str(zig / "lib")},
        check=True,
    )
    return program


class Screen(pyte.Screen):
    """pyte's, with what real terminals do: wrap a wide character early, add a zero-width one to the cell before it."""

    def draw(self, data: str) -> None:
        for char in data:
            width = wcwidth(char)
            if width == 2 and self.cursor.x == self.columns - 1:
                self.cursor.x = self.columns
            if width > 0:
                super().draw(char)
            elif self.cursor.x > 0:
                line = self.buffer[self.cursor.y]
                column = self.cursor.x - (1 if line[self.cursor.x - 1].data else 2)
                line[column] = line[column]._replace(data=normalize("NFC", line[column].data + char))


class Terminal:
    """The driver on a terminal."""

    def __init__(
        self, driver: Path, folder: Path, *options: str, rows: int = 24, columns: int = 80, **env: str
    ) -> None:
        self.folder = folder
        self.screen = Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ended = False
        self.keyboard = ThreadPoolExecutor(1)
        script = WRAPPER.format(folder=shlex.quote(str(folder)), command=shlex.join([str(driver), *options]))
        environment: Any = {**os.environ, "TERM": "xterm-256color", "ZOSIA_STATUS": "4", "BUSY": busy(), **env}
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            "/bin/sh", ["-c", script], env=environment, dimensions=(rows, columns), timeout=None
        )

    @property
    def shown(self) -> str:
        """The screen without what is empty at its right and at its bottom."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n")

    @property
    def cursor(self) -> tuple[int, int]:
        return self.screen.cursor.y, self.screen.cursor.x

    @property
    def told(self) -> list[str]:
        """What the driver told, its messages decoded."""
        lines = (self.folder / "report").read_text().splitlines() if (self.folder / "report").exists() else []
        return [bytes.fromhex(line[4:]).decode() if line.startswith("got ") else f"<{line}>" for line in lines]

    def type(self, *keys: str | bytes) -> None:
        """Type at the prompt; in the background, since the terminal's buffers are small."""
        data = b"".join(key if isinstance(key, bytes) else key.encode() for key in keys)
        self.keyboard.submit(self._write, data)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.child.child_fd, data) :]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Follow the screen until the condition holds."""
        deadline = time.monotonic() + WAIT * patience()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"told {self.told}, cursor {self.cursor}, and the screen shows\n{self.shown}")
            try:
                part = self.child.read_nonblocking(1 << 16, timeout=0.02)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                self.ended = True
                time.sleep(0.02)
                continue
            self.raw += part
            self.stream.feed(part)

    def shows(self, text: str, cursor: tuple[int, int] | None = None) -> None:
        """Wait until the screen, below the first line, which is empty, shows the text and nothing else."""
        self.wait(lambda: self.shown.removeprefix("\n") == text and cursor in (None, self.cursor))

    def reads(self, *messages: str) -> None:
        """Wait until the driver has read these messages."""
        self.wait(lambda: self.told == list(messages))

    def ends(self) -> int:
        """Wait until the driver has ended; its status."""
        self.wait(lambda: self.ended)
        return int((self.folder / "code").read_text())

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(request: pytest.FixtureRequest, driver: Path, tmp_path: Path) -> Open:
    """Start the driver on a terminal; it is at its prompt."""

    def start(*options: str, **settings: Any) -> Terminal:
        started = Terminal(driver, tmp_path, *options, **settings)
        request.addfinalizer(lambda: started.child.close(force=True))
        if "spin" not in options and "preset" not in options:
            started.wait(lambda: started.cursor[1] == 2)
        return started

    return start


def test_what_is_typed_is_shown_and_read(terminal: Open) -> None:
    chat = terminal()
    chat.type("What is 2+2?")
    chat.shows("> What is 2+2?", cursor=(1, 14))
    chat.type(ENTER)
    chat.reads("What is 2+2?\n")
    chat.shows("> What is 2+2?\n\n>", cursor=(3, 2))
    assert "LOGO" not in chat.shown


@pytest.mark.parametrize(
    ("text", "columns"),
    [("Zażółć gęślą jaźń", 17), ("你好", 4), ("🙂", 2), ("e\u0301", 1), ("a👍🏽b", 6), ("👩\u200d💻!", 5), ("🥲🫠", 4)],
)
def test_any_script(terminal: Open, text: str, columns: int) -> None:
    chat = terminal()
    chat.type(text)
    chat.wait(lambda: chat.cursor == (1, 2 + columns))
    chat.type(HOME, "<", END, ">")
    chat.wait(lambda: chat.cursor == (1, 4 + columns))
    chat.type(ENTER)
    chat.reads(f"<{text}>\n")
    chat.type(UP, BACKSPACE, HOME, DELETE, ENTER)
    chat.reads(f"<{text}>\n", f"{text}\n")


@pytest.mark.parametrize(
    ("keys", "read"),
    [
        (["ąćę", LEFT, BACKSPACE], "ąę"),
        (["ąćę", LEFT, LEFT, DELETE], "ąę"),
        (["你好吗", LEFT, BACKSPACE, "们"], "你们吗"),
        (["e\u0301a", LEFT, BACKSPACE], "a"),
        (["e\u0301a", HOME, RIGHT, BACKSPACE], "a"),
        (["e\u0301a", HOME, DELETE], "a"),
        (["👩\u200d💻a", LEFT, BACKSPACE], "a"),
        (["👍🏽a", HOME, DELETE], "a"),
        (["❤\ufe0fa", HOME, RIGHT, "-"], "❤\ufe0f-a"),
        (["ac", LEFT, "b", RIGHT, "d"], "abcd"),
        (["b", ctrl("a"), "a", ctrl("e"), "c"], "abc"),
        (
            ["b", "\x1bOH", "a", "\x1bOF", "c", "\x1b[1~", "<", "\x1b[4~", ">", "\x1b[7~", "[", "\x1b[8~", "]"],
            "[<abc>]",
        ),
        (["ac", "\x1bOD", "b"], "abc"),
        (["one two three", CTRL_LEFT, CTRL_LEFT, "-"], "one -two three"),
        (["one two", HOME, CTRL_RIGHT, "-"], "one- two"),
        (["one two", "\x1bb", "-", HOME, "\x1bf", "+"], "one+ -two"),
        (["one two", ctrl("w"), "three"], "one three"),
        (["one two", CTRL_LEFT, ctrl("k"), ctrl("a"), ctrl("y")], "twoone "),
        (["one two", CTRL_LEFT, ctrl("u"), ctrl("e"), ctrl("y")], "twoone "),
        (["abc", LEFT, LEFT, ctrl("d")], "ac"),
        (["abc", ctrl("h")], "ab"),
        (["a\tb"], "a\tb"),
        (["longer\nab", UP, RIGHT, "-"], "lon-ger\nab"),
        (["ab\nlonger", UP, "-"], "ab-\nlonger"),
        (["one\ntwo", UP, "\\", ENTER, "and", END, DOWN, "\\", ENTER, "three"], "one\nand\ntwo\nthree"),
    ],
)
def test_keys(terminal: Open, keys: list[str], read: str) -> None:
    chat = terminal()
    chat.type(*keys, ENTER)
    chat.reads(f"{read}\n")


UNKNOWN = ["\x1b[15~", "\x1b[1;2P", "\x1bOP", "\x1b[?62;c", "\x1b[[A", "\x1bx", "\x1b[<0;3;4M"]
NOT_UTF8 = [b"\xff", b"\x80", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x99", b"\xed\xa0\x80", b"\xc2\x9b", b"\xc0\xaf"]


@pytest.mark.parametrize("sequence", UNKNOWN)
def test_unknown_sequences_are_swallowed(terminal: Open, sequence: str) -> None:
    chat = terminal()
    chat.type("a", sequence, "b")
    chat.shows("> ab")
    chat.type(ENTER)
    chat.reads("ab\n")


def test_a_torn_sequence(terminal: Open) -> None:
    chat = terminal()
    chat.type("ac\x1b[")
    time.sleep(0.2)
    chat.type("Db", ENTER)
    chat.reads("abc\n")


def test_a_lone_escape(terminal: Open) -> None:
    chat = terminal()
    chat.type("a\x1b")
    chat.shows("> a")
    time.sleep(0.2)  # after 50 ms it was the key
    chat.type("[b")
    chat.shows("> a[b")


@pytest.mark.parametrize("bad", NOT_UTF8)
def test_what_is_not_utf8_is_dropped(terminal: Open, bad: bytes) -> None:
    chat = terminal()
    chat.type("a", bad, "b")
    chat.shows("> ab")
    chat.type(bad, ENTER)
    chat.reads("ab\n")


def wrapped(text: str, columns: int = 40) -> str:
    text = f"> {text}"
    return "\n".join(text[i : i + columns] for i in range(0, len(text), columns))


def test_a_long_line_is_edited_across_wraps(terminal: Open) -> None:
    text = "".join(f"{i:05}" for i in range(40))
    chat = terminal(columns=40)
    chat.type(text)
    chat.shows(wrapped(text), cursor=(6, 2))
    chat.type(LEFT * 100, "X")
    text = f"{text[:100]}X{text[100:]}"
    chat.shows(wrapped(text), cursor=(3, 23))
    chat.type(HOME, RIGHT * 38, "Y")  # in the second row's first column
    text = f"{text[:38]}Y{text[38:]}"
    chat.shows(wrapped(text), cursor=(2, 1))
    chat.type(BACKSPACE * 2)
    text = text[:37] + text[39:]
    chat.shows(wrapped(text), cursor=(1, 39))
    chat.type(END, BACKSPACE * 170)
    text = text[:-170]
    chat.shows(wrapped(text), cursor=(1, 2 + len(text)))
    chat.type("x" * 80, ENTER)
    chat.reads(f"{text}{'x' * 80}\n")
    chat.shows(f"{wrapped(text + 'x' * 80)}\n\n>")
    assert text.encode() + b"x" * 80 in chat.raw  # the terminal wraps it, and copies it as one line


def test_a_text_that_ends_in_the_last_column(terminal: Open) -> None:
    chat = terminal(columns=40)
    chat.type("x" * 38)
    chat.shows(wrapped("x" * 38), cursor=(2, 0))
    chat.type(BACKSPACE)
    chat.shows(wrapped("x" * 37), cursor=(1, 39))
    chat.type("yz")
    chat.shows(wrapped("x" * 37 + "yz"), cursor=(2, 1))
    chat.type(BACKSPACE, ENTER)
    chat.reads("x" * 37 + "y\n")
    chat.shows(wrapped("x" * 37 + "y") + "\n\n>", cursor=(3, 2))


def test_a_wide_character_at_the_wrap(terminal: Open) -> None:
    chat = terminal(columns=40)
    chat.type("x" * 37, "好a")
    chat.shows(f"> {'x' * 37}\n好a", cursor=(2, 3))
    chat.type(LEFT)
    chat.wait(lambda: chat.cursor == (2, 2))
    chat.type(LEFT)
    chat.wait(lambda: chat.cursor == (2, 0))
    chat.type(BACKSPACE)
    chat.shows(f"> {'x' * 36}好\na", cursor=(1, 38))
    chat.type("x", ENTER)
    chat.shows(f"> {'x' * 37}\n好a\n\n>", cursor=(4, 2))
    chat.reads("x" * 37 + "好a\n")


def test_a_resize(terminal: Open) -> None:
    text = "".join(f"{i:05}" for i in range(20))
    chat = terminal(columns=80)
    chat.type(text)
    chat.shows(wrapped(text, 80), cursor=(2, 22))
    chat.resize(24, 40)
    chat.shows(wrapped(text, 40), cursor=(3, 22))
    chat.type("-")
    chat.shows(wrapped(f"{text}-", 40), cursor=(3, 23))
    chat.resize(24, 80)
    chat.shows(wrapped(f"{text}-", 80), cursor=(2, 23))
    chat.type(BACKSPACE, ENTER)
    chat.reads(f"{text}\n")


WORDS = " ".join(f"word{i}" for i in range(3000))[:20000]


def draws(chat: Terminal) -> int:
    return chat.raw.count(b"\x1b[J")


@pytest.mark.parametrize("newline", ["\r", "\n", "\r\n"])
def test_a_long_paste_with_newlines(terminal: Open, newline: str) -> None:
    chat = terminal()
    text = WORDS.replace("word1", "\nzażółć")
    chat.type(PASTE, text.replace("\n", newline), PASTE_END)
    chat.wait(lambda: chat.shown.endswith(text[-9:]))
    assert draws(chat) < 5
    assert chat.told == []
    chat.type(ENTER)
    chat.reads(f"{text}\n")


def test_a_long_paste_without_brackets(terminal: Open) -> None:
    chat = terminal()
    chat.type(WORDS)
    chat.wait(lambda: "".join(chat.screen.display).rstrip().endswith(WORDS[-9:]))
    assert len(chat.raw) < 50 * len(WORDS)  # drawn for each character it would be a thousand times as much
    chat.type(ENTER)
    chat.reads(f"{WORDS}\n")


def test_the_end_of_a_paste_in_pieces(terminal: Open) -> None:
    chat = terminal()
    chat.type(PASTE, "a\tb\x1b[31m\x07\r\x1b[2")
    time.sleep(0.2)
    chat.type("01~c")
    chat.shows("> a     b[31m\nc", cursor=(2, 1))
    chat.type(ENTER)
    chat.reads("a\tb[31m\nc\n")


def test_a_text_taller_than_the_terminal(terminal: Open) -> None:
    chat = terminal(rows=5)
    lines = [f"line {i}" for i in range(10)]
    chat.type("\n".join(lines))
    chat.wait(lambda: chat.shown == "\n".join(lines[5:]) and chat.cursor == (4, 6))
    chat.type(UP * 5, "X")
    lines[4] += "X"
    chat.wait(lambda: chat.shown == "\n".join(lines[4:9]) and chat.cursor == (0, 7))
    chat.type(UP * 4)
    chat.wait(lambda: chat.shown == "\n".join([f"> {lines[0]}", *lines[1:5]]) and chat.cursor == (0, 8))
    chat.type(ENTER)
    chat.reads("\n".join(lines) + "\n")
    chat.wait(lambda: chat.shown == "\n".join([*lines[7:], "", ">"]) and chat.cursor == (4, 2))


def test_ctrl_d(terminal: Open) -> None:
    chat = terminal()
    chat.type("a", ctrl("d"), "b", ENTER)
    chat.reads("ab\n")
    chat.type(ctrl("d"))
    chat.reads("ab\n", "<end>")
    assert chat.ends() == 0
    assert "Exiting" not in chat.shown


def test_ctrl_c(terminal: Open) -> None:
    chat = terminal()
    chat.type("unfinished")
    chat.shows("> unfinished")
    chat.type(ctrl("c"))
    chat.reads("<interrupted>")
    assert chat.ends() == 0
    assert chat.shown == "\n> unfinished"


def test_sigterm(terminal: Open) -> None:
    chat = terminal()
    psutil.Process(chat.child.pid).children()[0].terminate()
    chat.reads("<interrupted>")
    assert chat.ends() == 0


def test_keys_of_the_host(terminal: Open) -> None:
    """Ctrl+S does not stop the terminal, Ctrl+Z and Ctrl+\\ do nothing."""
    chat = terminal()
    chat.type("a", ctrl("s"), "b", ctrl("z"), "\x1c", "c")
    chat.shows("> abc")
    chat.type(ENTER)
    chat.reads("abc\n")


@pytest.mark.parametrize("key", ["\\\r", "\n", "\x1b\r"])
def test_more_than_one_line(terminal: Open, key: str) -> None:
    chat = terminal()
    chat.type("one", key, "two", UP, "X", HOME, "Y", DOWN, END, "Z")
    chat.shows("> YoneX\ntwoZ", cursor=(2, 4))
    chat.type(ENTER)
    chat.reads("YoneX\ntwoZ\n")


def test_history(terminal: Open) -> None:
    chat = terminal()
    chat.type("first", ENTER, "one\ntwo", ENTER, "one\ntwo", ENTER)
    chat.reads("first\n", "one\ntwo\n", "one\ntwo\n")
    chat.type(ctrl("l"), "unfinished", UP)
    chat.wait(lambda: chat.shown == "> one\ntwo" and chat.cursor == (1, 3))
    chat.type(UP, UP)
    chat.wait(lambda: chat.shown == "> first")
    chat.type(DOWN, DOWN)
    chat.wait(lambda: chat.shown == "> unfinished")
    chat.type(UP, UP, UP, ENTER)
    chat.wait(lambda: chat.told[3:] == ["first\n"])


def test_tab_completes(terminal: Open) -> None:
    chat = terminal()
    chat.type("/cl\t")
    chat.shows("> /clear", cursor=(1, 8))


def test_typing_ahead(terminal: Open) -> None:
    chat = terminal("answer", "slow")
    chat.type("question", ENTER)
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type("next", ENTER, "last")
    chat.wait(lambda: chat.shown.endswith("> last"))
    assert chat.told == ["question\n", "next\n"]
    assert chat.shown.count("next") == chat.shown.count("last") == 1  # not echoed as well


def test_multiline_input(terminal: Open) -> None:
    chat = terminal("multiline")
    chat.type("one", ENTER)
    chat.shows("> one", cursor=(2, 0))
    chat.type("twoo", BACKSPACE, "/", ENTER)
    chat.reads("one\ntwo\n")


def test_the_terminal_is_as_it_was(terminal: Open, tmp_path: Path) -> None:
    chat = terminal("colour")
    chat.type("/exit", ENTER)
    assert chat.ends() == 0
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
    assert chat.raw.count(b"\x1b[?2004h") == chat.raw.count(b"\x1b[?2004l") == 1
    assert b"\x1b[0m" in chat.raw[chat.raw.rindex(b"/exit") :]


def test_ctrl_c_in_an_answer_takes_what_was_typed_ahead(terminal: Open) -> None:
    chat = terminal("answer", "slow")
    chat.type("question\rnext\r")
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    chat.wait(lambda: chat.shown.count("\n>") == 2)
    chat.type("another", ENTER)
    chat.reads("question\n", "another\n")


def test_ctrl_c_twice_in_an_answer(terminal: Open, tmp_path: Path) -> None:
    chat = terminal("answer", "slow", "deaf")
    chat.type("question", ENTER)
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    time.sleep(0.2)  # two at the same moment are one signal
    chat.type(ctrl("c"))
    assert chat.ends() == 130
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()


def test_colours(terminal: Open) -> None:
    chat = terminal("colour", "answer")
    chat.type("hi", ENTER)
    chat.wait(lambda: chat.cursor[0] > 8 and chat.cursor[1] == 2)
    colour = {chat.screen.display[y].strip(): chat.screen.buffer[y][0].fg for y in range(chat.cursor[0] + 1)}
    assert colour["> hi"] == "green"
    assert colour["a thought"] == "brightblack"
    assert colour["[ Prompt: 1.0 t/s ]"] == "magenta"
    assert next(colour[line] for line in colour if line.startswith("the answer")) == "default"


def test_the_model_does_not_drive_the_terminal(terminal: Open) -> None:
    chat = terminal("answer")
    chat.type("hi", ENTER)
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    assert "the answer[31m is 4\n" in chat.shown
    assert [part for part in (b"\x07", b"\x9b", b"\x7f", b"\x1b[31m") if part in chat.raw] == []


@pytest.mark.parametrize("options", [["simple-io"], []])
def test_a_plain_terminal(terminal: Open, options: list[str]) -> None:
    chat = terminal("colour", "answer", *options, TERM="xterm" if options else "dumb")
    chat.type("hello\\", ENTER, "there", ENTER)
    chat.reads("hello\nthere\n")
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    chat.type(ctrl("d"))
    assert chat.ends() == 0
    assert chat.told[-1] == "<end>"
    assert b"\x1b" not in chat.raw


def test_the_host_learns_of_the_prompt(terminal: Open, tmp_path: Path) -> None:
    chat = terminal()
    chat.type("one", ENTER, "two", ENTER, "/exit", ENTER)
    chat.reads("one\n", "two\n", "/exit\n")
    assert re.fullmatch(r"(loading \d+ \d+\n)*prompt\n", (tmp_path / "status").read_text())


@pytest.fixture
def loading(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has read 43 of 100 MB."""
    with (tmp_path / "model").open("wb") as model:
        model.truncate(100_000_000)
    (tmp_path / "stat").write_text(f"   12 3 {43_000_000 // 512 + 1}   7 0 0\n")
    return {"ZOSIA_MODEL": str(tmp_path / "model"), "ZOSIA_DISK_STAT": str(tmp_path / "stat")}


def test_the_spinner(terminal: Open, tmp_path: Path, loading: dict[str, str]) -> None:
    chat = terminal("spin", **loading)
    chat.wait(lambda: chat.shown == "loading 100 MB: 43 %")
    (tmp_path / "stat").write_text("12 3 999999999 7\n")
    chat.wait(lambda: chat.shown == "loading 100 MB: 100 %")
    chat.wait(lambda: chat.shown == "\n>")


def test_the_host_hears_of_loading_only_while_it_goes_on(
    terminal: Open, tmp_path: Path, loading: dict[str, str]
) -> None:
    chat = terminal("spin", **loading, BUSY="4")
    chat.wait(lambda: chat.shown == "\n>")
    assert (tmp_path / "status").read_text() == "loading 43000320 100000000\nprompt\n"


def test_the_spinner_does_not_know_the_size(terminal: Open) -> None:
    chat = terminal("spin", ZOSIA_MODEL="/nowhere", ZOSIA_DISK_STAT="/nowhere")
    chat.wait(lambda: chat.shown == "loading: 1 s")
    assert b"loading: 0 s" in chat.raw
    chat.wait(lambda: chat.shown == "\n>")


def test_the_spinner_of_a_plain_terminal(terminal: Open, loading: dict[str, str]) -> None:
    chat = terminal(TERM="dumb", **loading)
    assert chat.shown == "loading 100 MB\n\n>"


def test_an_error_while_loading(terminal: Open, loading: dict[str, str]) -> None:
    chat = terminal("spin", "fail", **loading)
    assert chat.ends() == 1
    assert chat.shown == "Error: no model\ntry another"


def test_ctrl_c_while_loading(terminal: Open, tmp_path: Path, loading: dict[str, str]) -> None:
    chat = terminal("spin", **loading)
    chat.wait(lambda: "43 %" in chat.shown)
    chat.type(ctrl("c"))
    assert chat.ends() == 130
    assert "loading" not in chat.shown
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()


def piped(driver: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = shlex.join([str(driver), *options])
    argv = ["/bin/sh", "-c", f"{command} 3>/dev/null"]
    return subprocess.run(argv, capture_output=True, check=False, timeout=WAIT * patience())


def test_a_pipe_gets_the_answer_alone(driver: Path) -> None:
    done = piped(driver, "preset", "answer", "colour")
    assert done.stdout == b"the answer[31m is 4\n"
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_thought_that_no_answer_follows_is_none(driver: Path, tmp_path: Path) -> None:
    report, output = tmp_path / "report", tmp_path / "output"
    with report.open("wb") as told, output.open("wb") as answer:
        argv = ["/bin/sh", "-c", f"exec {shlex.quote(str(driver))} preset answer slow 3>&2"]
        child = subprocess.Popen(argv, env={**os.environ, "BUSY": busy()}, stdout=answer, stderr=told)
        deadline = time.monotonic() + WAIT * patience()
        while b"thinking" not in report.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        child.terminate()
        assert child.wait(WAIT * patience()) == 1
    assert b"the answer is empty\n" in report.read_bytes()
    assert output.read_bytes() == b""


def test_an_error_in_a_pipe(driver: Path) -> None:
    done = piped(driver, "preset", "error", "colour")
    assert done.stdout == b""
    assert done.returncode == 1
    assert b"Error: the context is full\n" in done.stderr
    assert b"\x1b" not in done.stderr


def test_a_pipe_has_no_prompt_to_read_from(driver: Path) -> None:
    done = piped(driver)
    assert done.stdout == b""
    assert done.returncode == 1
    assert done.stderr == b"the answer is empty\n"
