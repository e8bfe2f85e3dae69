"""An answer while it comes, on a terminal of every size, and without one."""

from __future__ import annotations

import io
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zosia.base.patience import patience
from zosia.chat import answer as chat_answer
from zosia.chat.answer import EVERY, SHARE, Answer
from zosia.chat.screen.letters import UNSAFE
from zosia.chat.screen.markdown import Markdown
from zosia.chat.screen.rows import plain

WIDTHS = [40, 80, 200]
SEQUENCE = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]")
# What a text is made of. pyte doesn't show what follows a zero width joiner, so it isn't in here.
PIECES = [
    *["# ", "## x\n", "- ", "* ", "1. ", "2) ", "10. ", "> ", "```", "```py\n", "~~~\n", "    ", "\t", "\n", "\n\n"],
    *["a", "b c", "word " * 9, "**", "*", "_", "`", "|", "a|b\n", "-|-\n", "|---|:-:|\n", "---\n", "===\n", "***\n"],
    *["[x](http://y)", "[x]: /u\n", "<b>", "&lt;", "\\", "![i](u)", "漢字", "e\u0301", "😀", "ż", "x = '''\n", "/* \n"],
    *["*/", " ", "<http://a.b>", "1", "#", "-", "<!--", "-->", "<div>\n", "\r\n", "def f(x): return 1  # one\n"],
]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=25).map("".join)


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Draw each part, though a second passes with each look at the clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_answer, "SHARE", 0)
        yield


class Clock:
    """Time that passes as it is told, or a second with each look."""

    def __init__(self, step: float = 1) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Screen(io.StringIO):
    """A terminal, as a stream."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        super().__init__()
        self.terminal = pyte.HistoryScreen(columns, rows, history=100_000)
        self._stream = pyte.Stream(self.terminal)
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        self._stream.feed(text)
        return len(text)

    def resize(self, columns: int, rows: int, *, wraps: bool) -> None:
        """Have another size; text that is too long now is wrapped or cut off."""
        texts = self.rows if wraps else [row[:columns] for row in self.rows]
        self.terminal = pyte.HistoryScreen(columns, rows, history=100_000)
        self._stream = pyte.Stream(self.terminal)
        self._stream.feed("\r\n".join(texts))

    @property
    def size(self) -> tuple[int, int]:
        return self.terminal.columns, self.terminal.lines

    @property
    def cells(self) -> list[list[pyte.screens.Char]]:
        """Cells of all rows, with those that have left the screen."""
        buffer = self.terminal.buffer
        rows = [*self.terminal.history.top, *(buffer[number] for number in range(self.terminal.lines))]
        return [[row[column] for column in range(self.terminal.columns)] for row in rows]

    @property
    def rows(self) -> list[str]:
        """Rows with a text, from the first to the last."""
        return "\n".join("".join(cell.data for cell in row).rstrip() for row in self.cells).rstrip("\n").split("\n")

    def answer(self, *, thoughts: bool = True, clock: Callable[[], float] | None = None) -> Answer:
        return Answer(self, width=lambda: self.size, plain=False, thoughts=thoughts, clock=clock or Clock())


def parts(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def shown(text: str, *, columns: int = 80, rows: int = 24, size: int = 4) -> list[str]:
    screen = Screen(columns, rows)
    answer = screen.answer()
    for part in parts(text, size):
        answer.feed(part)
    answer.end()
    return screen.rows


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from(WIDTHS), st.integers(4, 30), st.integers(0, 2**32), st.booleans())
def test_any_split_gives_the_same_screen(text: str, columns: int, rows: int, seed: int, thoughts: bool) -> None:
    screens = [Screen(columns, rows), Screen(columns, rows)]
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(text) + 1), k=chance.choice([1, 10, len(text)])))
    for screen, places in zip(screens, ([0], [0, *cuts]), strict=True):
        answer = screen.answer()
        for start, end in zip(places, [*places[1:], len(text)], strict=True):
            if thoughts:
                answer.think(text[start:end])
        for start, end in zip(places, [*places[1:], len(text)], strict=True):
            answer.feed(text[start:end])
        answer.end("stopped")
    assert screens[0].cells == screens[1].cells


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from([9, *WIDTHS]))
def test_what_is_finished_never_changes(text: str, columns: int) -> None:
    text = text.replace("\r", "")
    whole, letter = Markdown(), Markdown()
    whole.feed(text)
    finished = []
    for part in text:
        letter.feed(part)
        finished += letter.rows(columns)[0]
    finished += letter.rows(columns, last=True)[0]
    assert finished == whole.rows(columns, last=True)[0]


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from([20, *WIDTHS]))
def test_no_letter_is_lost(text: str, columns: int) -> None:
    text = text.replace("\r", "").replace("&lt;", "<").replace("```py", "```")
    markdown = Markdown()
    markdown.feed(text)
    rows = "".join(map(plain, markdown.rows(columns, last=True)[0]))
    assert sorted(filter(str.isalpha, rows)) == sorted(filter(str.isalpha, text))


def styled(text: str, size: int) -> list[list[tuple[str, str]]]:
    markdown = Markdown()
    rows = []
    for part in parts(text, size):
        markdown.feed(part)
        rows += markdown.rows(40)[0]
    rows += markdown.rows(40, last=True)[0]
    return [[(part.text, str(part.style)) for part in row] for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        "```java\n/* one\n" + "a word\n" * 20 + "*/\nint x;\n```\n",
        "See [x] and [y][x].\n\nMore.\n\n[x]: http://example.org\n",
        "Above\n---\nBelow\n===\nEnd\n",
    ],
    ids=["comment", "reference", "underline"],
)
def test_what_comes_later_changes_nothing(text: str) -> None:
    assert styled(text, 1) == styled(text, len(text))


def test_models_separate_with_dashes() -> None:
    assert shown("Above\n---\nBelow [x]\n\n[x]: /u\n", columns=10) == [
        *["Above", "", "─" * 9, "", "Below [x]", "", "[x]: /u"]
    ]


def test_a_paragraph_that_becomes_shorter() -> None:
    assert shown("Before.\n\nWords **that need two rows, in all** x", columns=40, size=1) == [
        *["Before.", "", "Words that need two rows, in all x"]
    ]


def test_tables_that_lose_nothing() -> None:
    assert shown("a|b\n-|-\n1|2|`x|y`\n") == ["a|b", "-|-", "1|2|`x|y`"]
    assert "".join(shown("word|b\n-|-\n" + "x" * 50 + "|1\n", columns=40)).count("x") == 50
    many = "|".join("abcdefgh")
    assert shown(f"{many}\n{'-|' * 8}\n{many}\n", columns=40)[0] == "a | b | c | d | e | f | g | h"


MIXED = """# Sorting

Here is a **bold** idea with *emphasis*, `code`, a [link](http://example.org/ü?a_b=c_d), <http://b.example> and a
vector<int>, as words that go on and on.

1. First
   - nested

     ```python
     x = 1
     ```
9. Second
10. Third

> quoted
>
> more

| name | number |
|:-----|-------:|
| one  | 1      |
| ten  | 10     |

---
The end.
"""


def test_markdown_at_forty_columns() -> None:
    assert shown(MIXED, columns=40) == [
        "# Sorting",
        "",
        "Here is a bold idea with emphasis,",
        "code, a link",
        "(http://example.org/ü?a_b=c_d),",
        "http://b.example and a",
        "vector<int>, as words that go on and",
        "on.",
        "",
        " 1. First",
        "     • nested",
        "",
        "       ```python",
        "       x = 1",
        "       ```",
        " 9. Second",
        "10. Third",
        "",
        "│ quoted",
        "│",
        "│ more",
        "",
        "name   number",
        "─────────────",
        "one         1",
        "ten        10",
        "",
        "─" * 39,
        "",
        "The end.",
    ]


def test_emphasis_and_code_have_the_terminals_own_colours() -> None:
    screen = Screen()
    answer = screen.answer()
    answer.feed('**bold** _under_ `code`\n\n```python\ndef f(): return "s"  # c\n```')
    answer.end()
    text, code = screen.cells[0], screen.cells[3]
    assert (text[0].bold, text[5].underscore, text[11].fg) == (True, True, "cyan")
    assert [code[column].fg for column in (0, 9, 16)] == ["magenta", "magenta", "green"]
    assert {cell.bg for row in screen.cells for cell in row} == {"default"}


def test_a_long_string_keeps_its_colour() -> None:
    screen = Screen(80, 10)
    answer = screen.answer()
    lines = ["x = '''", *(f"text {number} if" for number in range(44)), "'''"]
    for part in parts("```python\n" + "\n".join(lines) + "\n```\n", 3):
        answer.feed(part)
    answer.end()
    assert [row[0].fg for row in screen.cells[2:46]] == ["green"] * 44


@pytest.mark.parametrize("columns", WIDTHS)
def test_each_line_is_in_the_scrollback_once(columns: int) -> None:
    paragraphs = [f"Paragraph {number}." for number in range(30)]
    items = [f"- item {number}" for number in range(30)]
    assert shown("\n\n".join(paragraphs) + "\n\n" + "\n".join(items), columns=columns, rows=10) == [
        *(row for paragraph in paragraphs for row in (paragraph, "")),
        *(f" • item {number}" for number in range(30)),
    ]


@pytest.mark.parametrize("text", ["a word " * 120, "1|2\n-|-\n" + "3|4\n" * 20], ids=["paragraph", "table"])
def test_a_block_that_is_higher_than_the_screen_is_shown_whole_at_last(text: str) -> None:
    screen = Screen(40, 10)
    answer = screen.answer()
    answer.feed("Before.\n\n")
    for part in parts(text, 3):
        answer.feed(part)
    assert text.rsplit(maxsplit=1)[-1].rpartition("|")[2] in screen.rows[-1]  # the latest
    answer.end()
    assert screen.rows == shown(text="Before.\n\n" + text, columns=40, rows=1000, size=10**6)


def test_long_code_reaches_the_scrollback_while_it_comes() -> None:
    screen = Screen(40, 24)
    answer = screen.answer()
    lines = [f"line_{number} = {number}" for number in range(50)]
    for part in parts("```python\n" + "\n".join(lines), 5):
        answer.feed(part)
        assert "```python".startswith(screen.rows[0])
    assert screen.rows == ["```python", *lines]  # finished, though the block isn't
    answer.feed("\n```\nEnd")
    answer.end()
    assert screen.rows == ["```python", *lines, "```", "", "End"]


def test_a_long_line_of_code_can_be_copied() -> None:
    screen = Screen(40)
    answer = screen.answer()
    line = "x = " + "1234567890" * 10
    for part in parts(f"```\n{line}\ny\n```\n", 7):
        answer.feed(part)
    answer.end()
    assert line in "".join("".join(cell.data for cell in row) for row in screen.cells)  # the terminal wraps it
    assert screen.rows[4:6] == ["y", "```"]


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("One paragraph of plain words, on and on. " * 10, 2),
        ("One paragraph of plain words, on and on. " * 30, 4),  # higher than the screen
        ("Some **bold** and `code` words that go on.\n\n" * 8, 4.5),
        ("- an item of a list with some words\n" * 12, 2.5),
        ("```python\n" + "def f(x): return x + 1\n" * 20 + "```\n", 5),
        ("漢字かな交じり文の段落。" * 20, 2),
    ],
    ids=["paragraph", "long", "emphasis", "list", "code", "chinese"],
)
@pytest.mark.parametrize("columns", WIDTHS)
def test_only_what_changed_is_written(text: str, factor: float, columns: int) -> None:
    screen = Screen(columns, 24)
    answer = screen.answer()
    for part in parts(text, 4):
        answer.feed(part)
    answer.end()
    assert sum(map(len, screen.writes)) < factor * len(text)


def test_nothing_is_written_when_nothing_changed() -> None:
    screen = Screen()
    answer = screen.answer()
    answer.feed("A word")
    count = len(screen.writes)
    answer.refresh()
    answer.feed("")
    answer.feed("\n")
    assert len(screen.writes) == count


def test_each_drawing_is_one_write() -> None:
    screen = Screen()
    answer = screen.answer()
    for part in parts(MIXED, 5):
        count = len(screen.writes)
        answer.feed(part)
        assert len(screen.writes) <= count + 1
    for write in screen.writes:
        if "\x1b[" in SEQUENCE.sub(lambda match: "" if match[0].endswith("m") else match[0], write):
            assert write.startswith("\x1b[?2026h") and write.endswith("\x1b[?2026l")


def test_drawings_wait_for_their_time() -> None:
    clock = Clock(0)
    screen = Screen()
    answer = screen.answer(clock=clock)
    for _ in range(1000):
        clock.now += 0.001
        answer.feed("x ")
    assert len(screen.writes) <= 1 / EVERY + 1
    clock.now += EVERY
    count = len(screen.writes)
    answer.feed("last")
    answer.feed(" word")
    assert "last word" not in " ".join(screen.rows)
    clock.now += EVERY
    answer.refresh()
    assert len(screen.writes) == count + 2
    assert "last word" in " ".join(screen.rows)


def test_a_slow_drawing_leaves_time_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_answer, "SHARE", SHARE)
    clock = Clock(0.1)  # a drawing takes so long
    screen = Screen()
    answer = screen.answer(clock=clock)
    while clock.now < 100:
        answer.feed("x ")
    assert len(screen.writes) <= 100 / (SHARE * 0.1)


SIZES = [((80, 24), (40, 24)), ((40, 12), (200, 50)), ((80, 24), (80, 10)), ((40, 24), (80, 6))]


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_a_new_size_leaves_what_is_finished(
    before: tuple[int, int], after: tuple[int, int], wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "tmux-256color")
    monkeypatch.delenv("TMUX", raising=False)
    if wraps:
        monkeypatch.setenv("TMUX", "/tmp/tmux")
    screen = Screen(*before)
    answer = screen.answer()
    finished = [f"- finished {number}" for number in range(5)]
    start = "A paragraph of words that wraps. And it goes on " + "as it came, and " * 16
    end = "with some words, as many as are needed for another row of this terminal."
    for part in parts("\n".join(finished) + "\n\n" + start, 3):
        answer.feed(part)
    screen.resize(*after, wraps=wraps)
    for part in parts(end + "\n\nEnd.", 3):
        answer.feed(part)
    answer.end()
    rows = [row for row in screen.rows if row]
    assert rows[:5] == [f" • finished {number}" for number in range(5)]
    again = [row for row in shown(f"{start}{end}\n\nEnd.", columns=after[0]) if row]
    assert rows[-len(again) :] == again
    # Rows that have left a screen that is lower now can't be drawn again.
    left = max(len(shown(start, columns=before[0])) - after[1], 0)
    assert len(rows) - 5 - len(again) == left


@pytest.mark.parametrize("columns", [40, 20])
def test_a_terminal_that_wraps_by_surprise_keeps_what_is_finished(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    screen = Screen()
    answer = screen.answer()
    answer.feed("- one\n- two\n\nA paragraph " + "of many words " * 20)
    screen.resize(columns, 24, wraps=True)
    answer.feed("and the last")
    answer.end()
    assert screen.rows[:3] == [" • one", " • two", ""]
    assert " ".join(screen.rows).endswith("and the last")


def test_thoughts_are_above_the_answer() -> None:
    screen = Screen()
    answer = screen.answer()
    for part in parts("\nLet me *see*.\n\nA list:\n- one\n\n", 2):
        answer.think(part)
    answer.feed("\n\nYes.")
    answer.end("stopped")
    assert screen.rows == ["Let me *see*.", "", "A list:", "- one", "", "Yes.", "stopped"]
    assert "\x1b[2mL" in "".join(screen.writes)  # pyte knows no dim letters


def test_folded_thoughts_are_one_line() -> None:
    clock = Clock(0)
    screen = Screen()
    answer = screen.answer(thoughts=False, clock=clock)
    for part in parts("one two three four", 3):
        answer.think(part)
        clock.now += 0.8
    assert screen.rows == ["thinking … 4 words"]
    answer.feed("Yes.")
    answer.end()
    assert screen.rows == ["thought for 4.8 s", "", "Yes."]


def test_thoughts_in_the_middle_of_an_answer() -> None:
    screen = Screen()
    answer = screen.answer(thoughts=False, clock=Clock(0))
    for text in ("First", "Second"):
        answer.think("Hm")
        answer.feed(text)
    answer.end()
    assert screen.rows == ["thought for 0.0 s", "", "First", "", "thought for 0.0 s", "", "Second"]


def test_an_answer_without_a_word() -> None:
    screen = Screen()
    answer = screen.answer()
    answer.feed("\n \n")
    answer.end()
    assert screen.rows == [""]
    answer.end("cut off: 20 tokens")
    assert screen.rows == ["cut off: 20 tokens"]


EVIL = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0xD800, 0xDFFF, *range(0x2028, 0x202F), 0x2066]))
EVIL += "\x1b]0;title\x07\x1b[2J\x9b31m\x1b]8;;http://e\x1b\\"
PLACES = ["{}", "# {}\n", "- {}\n", "> {}", "`{}`", "```\n{}\n```\n", "```{}\nx\n```", "a|b\n-|-\n{}|c\n"]
PLACES += ["[x](<{}>)", "[{}](y)", "![{}](<{}>)", "    {}\n", "a|b\n-|-\n1|2|{}\n", "<http://{}>"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("evil", [EVIL, "&#27;[2J&#x9b;31m&#x202e;&#x2066;&#x2028;&#7;&NewLine;"], ids=["raw", "named"])
def test_no_control_character_reaches_the_terminal(place: str, evil: str) -> None:
    for size in (5, 10**6):
        screen = Screen()
        answer = screen.answer()
        for part in parts(place.replace("{}", evil), size):
            answer.think(part)
        for part in parts(place.replace("{}", evil), size):
            answer.feed(part)
        answer.end(evil)
        output = "".join(screen.writes)
        ours = set(SEQUENCE.findall(output))
        assert all(re.fullmatch(r"\x1b\[(\?2026[hl]|\?7[hl]|\d*[ACJK]|(\d+;?)*m)", code) for code in ours), ours
        assert "\x1b[2J" not in ours
        assert not UNSAFE.search(SEQUENCE.sub("", output).replace("\r\n", "").replace("\r", ""))


def test_control_characters_are_visible() -> None:
    assert shown("a\x1b[2Jb\x07c\x7fd\x9be\u202ef\ud800g") == ["a␛[2Jb␇c␡d�e�f�g"]


def test_rows_with_letters_of_unknown_width_cannot_wrap() -> None:
    screen = Screen(40)
    answer = screen.answer()
    answer.feed("Family 👩\u200d👩\u200d👧, ")
    answer.feed("one")
    assert all("\x1b[?7l" in write and write.endswith("\x1b[?7h\x1b[K\x1b[?2026l") for write in screen.writes[1:])
    assert "👩" in screen.writes[-1]  # no column behind it is counted on
    answer.end()
    assert "\r\x1b[JFamily" in screen.writes[-1]  # it may take two rows now: whatever was below it has gone


class Pipe(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def plainly(text: str, size: int, *, terminal: bool = False, thoughts: bool = True, note: str = "") -> str:
    output = Pipe(terminal=terminal)
    answer = Answer(output, width=80, plain=True, thoughts=thoughts, clock=Clock(0))
    for part in parts("Hm.\n\nSo.", size):
        answer.think(part)
    for part in parts(text, size):
        answer.feed(part)
    answer.end(note)
    return output.getvalue()


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 9))
def test_plain_is_the_text(text: str, size: int) -> None:
    expected = text.replace("\r\n", "\n")
    assert plainly(text, size, note="stopped") == (expected if expected.endswith("\n") else expected + "\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_plain_has_no_escapes(terminal: bool) -> None:
    for size in (1, 10**6):
        assert not UNSAFE.search(plainly(EVIL, size, terminal=terminal, note=EVIL))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_terminal_without_colours_has_thoughts_and_notes(size: int) -> None:
    assert plainly("*Yes*", size, terminal=True, note="stopped") == "| Hm.\n| \n| So.\n*Yes*\nstopped\n"
    assert plainly("*Yes*", size, terminal=True, thoughts=False) == "thought for 0.0 s\n*Yes*\n"


@pytest.mark.parametrize("plain_text", [False, True])
def test_letters_that_the_output_does_not_have(plain_text: bool) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "ascii", newline="")
    answer = Answer(output, width=80, plain=plain_text, clock=Clock())
    answer.feed("- 漢ż")
    answer.feed("!")
    answer.end()
    output.seek(0)
    assert SEQUENCE.sub("", output.read()).replace("\r", "").strip() == ("- ??!" if plain_text else "? ??!")


PROGRAM = """
import os, sys, time
from zosia.chat.answer import Answer
text = open(sys.argv[1], encoding="utf-8").read()
answer = Answer(sys.stdout, width=lambda: tuple(os.get_terminal_size()), plain=False, thoughts=False)
answer.think("some words")
for start in range(0, len(text), 16):
    answer.feed(text[start : start + 16])
    time.sleep(0.002)
answer.end("stopped")
"""


def test_a_real_terminal(tmp_path: Path, root: Path) -> None:
    text = MIXED * 3
    (tmp_path / "text").write_text(text, encoding="utf-8")
    child = pexpect.spawn(
        sys.executable,
        ["-c", PROGRAM, str(tmp_path / "text")],
        env={"PYTHONPATH": str(root / "site_scons"), "TERM": "linux", "LANG": "C.UTF-8", "PATH": "/usr/bin"},
        encoding="utf-8",
        dimensions=(12, 40),
        timeout=30 * patience(),
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    screen = Screen(40, 12)
    screen.write(child.before or "")
    first, *rows = screen.rows
    assert re.fullmatch(r"thought for \d+\.\d s", first)
    assert rows == ["", *shown(text, columns=40), "stopped"]
