"""Lines of the build's output: two blanks, a label, a text. On a terminal the label is coloured.

Standard library only: Buildroot runs this module with a bare Python. (termcolor would check standard output for a
terminal, and these lines go to standard error.)
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import TextIO

WIDTH = 5  # of a label
ERROR = "zosia: error:"
RED, GREEN, YELLOW, CYAN, RESET = ("\x1b[1;31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m")
WARNINGS = ("ACCEL", "BAD", "CTX", "MEM", "NOTE", "WAIT", "warn")
COLOURS = {**dict.fromkeys(WARNINGS, YELLOW), "fail": RED, "ok": GREEN, ERROR: RED}
spelling: Callable[[str], str] = str  # of what one can type; `zosia` sets its own (zosia.command.spelling)
START = re.compile(rf"  ([A-Z][A-Z0-9]+|\$|ok|warn|fail)(?= )|({ERROR})")


def coloured(stream: TextIO) -> bool:
    """Return True for a terminal, unless NO_COLOR (no-color.org) is set, and always with FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def line(label: str, text: object) -> str:
    """Return a line, without colours."""
    return f"  {label:{WIDTH}} {text}"


def painted(text: str, stream: TextIO) -> str:
    """Return a line, or a message that begins with ERROR, in the words of who reads it, coloured if the stream gets
    colours.
    """
    text = spelling(text)
    start = START.match(text)
    if not start or not coloured(stream):
        return text
    word = start[1] or start[2]
    before, after = text[: start.end() - len(word)], text[start.end() :]
    return f"{before}{COLOURS.get(word, CYAN)}{word}{RESET}{after}"


def show(text: str, stream: TextIO | None = None) -> None:
    """Print a line on a stream, by default standard error, above any progress bars."""
    stream = stream or sys.stderr
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode(file=stream) if tqdm else nullcontext():
        print(painted(text, stream), file=stream)


def say(label: str, text: object) -> None:
    """Print a label and a text on standard error."""
    show(line(label, text))


@functools.cache
def show_once(text: str) -> None:
    """Print a line on standard error at most once per process."""
    show(text)


@functools.cache
def say_once(label: str, text: str) -> None:
    """Print such a line at most once per process."""
    say(label, text)


def error(message: object) -> str:
    """Return an error message for standard error."""
    return painted(f"{ERROR} {message}", sys.stderr)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese letter, none for an accent on another."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth  # a bare Python lacks it

    return max(wcswidth(text), 0)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, with each column as wide as its longest text, in the words of who reads it."""
    rows = [[spelling(text) for text in row] for row in rows]
    widths = [max(map(width, column)) for column in zip_longest(*rows, fillvalue="")]
    return [
        "  ".join(text + " " * (most - width(text)) for text, most in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
