"""Rows of a screen: texts and their styles, wrapped by `rich`."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache

from rich.cells import chop_cells
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.text import Text

Row = list[Segment]
NARROWEST = 8  # columns of a text, however deep in a list


@cache
def _console() -> Console:
    # Of all that it finds out about its terminal, nothing counts: it only lays texts out.
    return Console(file=io.StringIO(), width=80, height=25, color_system=None, legacy_windows=False)


def wrapped(content: RenderableType, width: int) -> list[Row]:
    """Return rows of at most `width` columns, wrapped between words."""
    console = _console()
    lines = console.render_lines(content, console.options.update(width=width, height=None), pad=False)
    return [_stripped(list(Segment.simplify(part for part in line if part.text))) for line in lines]


def _stripped(row: Row) -> Row:
    """Return a row without the blanks at its end, with which rich fills tables."""
    while row and not row[-1].text.rstrip(" "):
        row.pop()
    return [*row[:-1], Segment(row[-1].text.rstrip(" "), row[-1].style)] if row else row


def folded(line: Text, width: int) -> list[Row]:
    """Return rows of a line of code, with all its blanks; a width of 0 leaves it in one."""
    ends = [0]
    for piece in chop_cells(line.plain, width) if width else []:
        ends.append(ends[-1] + len(piece))
    pieces = line.divide(ends[1:-1]) if len(ends) > 2 else [line]
    return [parts(piece) for piece in pieces]


def parts(text: Text) -> Row:
    """Return one row of a text, without wrapping it."""
    text.end = ""
    return list(Segment.simplify(part for part in text.render(_console()) if part.text))


def indented(rows: Iterable[Row], first: Text, rest: Text) -> list[Row]:
    """Return rows behind a prefix."""
    return [[*parts(rest if number else first), *row] for number, row in enumerate(rows)]


def plain(row: Row) -> str:
    """Return a row's text."""
    return "".join(part.text for part in row)
