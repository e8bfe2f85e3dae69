"""The line editor: a person types, and a terminal emulator shows what is seen."""

from __future__ import annotations

import time

import psutil
import pytest

from .console import (
    BACKSPACE,
    CTRL_LEFT,
    CTRL_RIGHT,
    DELETE,
    DOWN,
    END,
    ENTER,
    HOME,
    LEFT,
    PASTE,
    PASTE_END,
    RIGHT,
    UP,
    Open,
    Terminal,
    ctrl,
)


def test_what_is_typed_is_shown_and_read(terminal: Open) -> None:
    chat = terminal()
    chat.type("What is 2+2?")
    chat.shows("> What is 2+2?", cursor=(1, 14))
    chat.type(ENTER)
    chat.reads("What is 2+2?\n")
    chat.shows("> What is 2+2?\n\n>", cursor=(3, 2))
    assert "Loading" not in chat.shown


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
UNKNOWN += ["\x1b[97;5u", "\x1b[27;5;97~"]
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


def test_ctrl_c_on_an_empty_line(terminal: Open) -> None:
    chat = terminal()
    chat.type("typed")
    chat.shows("> typed")
    chat.type(BACKSPACE * 5)
    chat.shows(">")
    chat.type(ctrl("c"))
    chat.reads("<interrupted>")
    assert chat.ends() == 0


def test_ctrl_c_clears_a_line(terminal: Open) -> None:
    chat = terminal()
    chat.type("one\ntwo\nthree", UP)
    chat.wait(lambda: chat.cursor == (2, 3))
    chat.type(ctrl("c"))
    chat.shows(">", cursor=(1, 2))
    chat.type("another ")
    chat.shows("> another")
    chat.type(ctrl("y"), ENTER)  # it can be had again
    chat.reads("another one\ntwo\nthree\n")
    chat.wait(lambda: chat.shown.endswith("\n>"))
    chat.type("x\x1b[")  # in the middle of a key
    chat.wait(lambda: chat.shown.endswith("> x"))
    time.sleep(0.2)
    chat.type(ctrl("c"))
    chat.wait(lambda: chat.shown.endswith("\n>"))
    chat.type(ctrl("c"))
    chat.reads("another one\ntwo\nthree\n", "<interrupted>")
    assert chat.ends() == 0


def test_ctrl_c_after_a_line_was_sent(terminal: Open) -> None:
    chat = terminal("answer", "slow")
    chat.type("question", ENTER)
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    chat.wait(lambda: chat.shown.endswith("\n>"))
    assert "the answer" not in chat.shown, "it was the answer that ended"


def test_sigterm(terminal: Open) -> None:
    chat = terminal()
    chat.type("text that only Ctrl+C would clear")
    chat.wait(lambda: chat.shown.endswith("clear"))
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


@pytest.mark.parametrize("key", ["\\\r", "\n", "\x1b\r", "\x1b[13;2u", "\x1b[27;2;13~"])
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
