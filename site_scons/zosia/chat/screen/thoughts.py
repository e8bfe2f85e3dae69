"""Thoughts of a model, as dim rows, or only as their number of words."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from zosia.chat.screen.rows import Row, wrapped


def thought(seconds: float) -> str:
    """Return a line that stands for thoughts."""
    return f"thought for {seconds:.1f} s"


class Thoughts:
    """Lines without Markdown; those at the start and at the end that are empty are left out."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def feed(self, text: str) -> None:
        """Take a part."""
        self._text += text

    def rows(self, width: int, *, last: bool = False) -> tuple[list[Row], list[Row]]:
        """Return the rows that are finished since the last call, and all that may still change."""
        if self._first:
            self._text = self._text.lstrip("\n")
            self._first = not self._text
        text = self._text.rstrip("\n")
        cut = len(text) if last else text.rfind("\n") + 1
        finished, self._text = text[:cut], self._text[cut:]
        return _dim(finished.removesuffix("\n"), width), _dim(text[cut:], width)


class Count:
    """The number of words, and at last the time that they took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began = clock, clock()
        self._words = 0
        self._inside = False  # of a word

    def feed(self, text: str) -> None:
        """Take a part."""
        self._words += len(text.split()) - (self._inside and text[:1].strip() != "")
        self._inside = text[-1:].strip() != ""

    def rows(self, width: int, *, last: bool = False) -> tuple[list[Row], list[Row]]:
        """Return one row."""
        row = _dim(thought(self._clock() - self._began) if last else f"thinking … {self._words} words", width)
        return (row, []) if last else ([], row)


def _dim(text: str, width: int) -> list[Row]:
    return wrapped(Text(text, "dim"), width) if text else []
