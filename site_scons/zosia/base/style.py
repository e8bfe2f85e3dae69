"""How a line of the build looks: two blanks, a label, what it is about. On a terminal the label has a colour.

Standard library only, for Buildroot calls the library with a bare Python. (termcolor would ask whether standard output
is a terminal, and these lines go to standard error.)
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext
from typing import TextIO

WIDTH = 5  # of a label
ERROR = "zosia: error:"
RED, GREEN, YELLOW, CYAN, RESET = ("\x1b[1;31m", "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[0m")
WARNINGS = ("ACCEL", "BAD", "CTX", "MEM", "NOTE", "WAIT", "warn")
COLOURS = {**dict.fromkeys(WARNINGS, YELLOW), "fail": RED, "ok": GREEN, ERROR: RED}
START = re.compile(rf"  ([A-Z][A-Z0-9]+|\$|ok|warn|fail)(?= )|({ERROR})")


def coloured(stream: TextIO) -> bool:
    """Whether a stream gets colours: a terminal does, unless NO_COLOR (no-color.org) is set; FORCE_COLOR gives any."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def line(label: str, text: object) -> str:
    """A line, without colours."""
    return f"  {label:{WIDTH}} {text}"


def painted(text: str, stream: TextIO) -> str:
    """A line, or a message that begins with ERROR, as this stream gets it."""
    start = START.match(text)
    if not start or not coloured(stream):
        return text
    word = start[1] or start[2]
    before, after = text[: start.end() - len(word)], text[start.end() :]
    return f"{before}{COLOURS.get(word, CYAN)}{word}{RESET}{after}"


def show(text: str, stream: TextIO | None = None) -> None:
    """Print such a line, on standard error unless told otherwise; bars that are shown make room for it."""
    stream = stream or sys.stderr
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode(file=stream) if tqdm else nullcontext():
        print(painted(text, stream), file=stream)


def say(label: str, text: object) -> None:
    """Print a line on standard error."""
    show(line(label, text))


def error(message: object) -> str:
    """A message for standard error."""
    return painted(f"{ERROR} {message}", sys.stderr)
