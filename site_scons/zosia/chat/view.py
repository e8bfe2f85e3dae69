"""View of the chat program: what it shows beside answers."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable

from zosia.base import style
from zosia.base.errors import ZosiaError


class View:
    """Standard output of a person, or standard error where that is an answer's alone."""

    def __init__(self, *, person: bool) -> None:
        """Show nothing yet."""
        self._person = person
        self._waiting = ""
        self.drawn = person and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")

    def note(self, text: str) -> None:
        """Show a note beside the chat."""
        if not self._person:
            style.say("CHAT", text)
            return
        text = filled(style.painted(text, sys.stdout))
        self.print([f"\x1b[2m{text}\x1b[0m" if self.drawn else text])

    def fail(self, error: ZosiaError) -> None:
        """Show why something that was asked for can't be done."""
        self.print([filled(style.error(error))])

    def print(self, lines: Iterable[str]) -> None:
        """Show lines that were asked for."""
        print(*lines, sep="\n", flush=True)

    def wait(self, text: str) -> None:
        """Show what an answer waits for, until something else is shown in its place."""
        if self.drawn and text != self._waiting:
            print(f"\r\x1b[2m{text[: size()[0] - 1]}\x1b[0m\x1b[K" if text else "\r\x1b[K", end="", flush=True)
            self._waiting = text


def filled(text: str) -> str:
    """Return a text in lines for the terminal, which break between words."""
    return textwrap.fill(text, size()[0] - 1, break_on_hyphens=False)


def size() -> tuple[int, int]:
    """Return columns and rows of the terminal."""
    found = shutil.get_terminal_size()
    return found.columns, found.lines
