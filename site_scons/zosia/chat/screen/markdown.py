"""A Markdown text that comes in parts, as rows of a screen: those that are finished, and those that may change."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from zosia.chat.screen import code
from zosia.chat.screen.leaves import CODE, EMPTY, FENCE, HEADING, RULE, TABLE, Leaf, excess, inline, leaves
from zosia.chat.screen.letters import visible
from zosia.chat.screen.rows import NARROWEST, Row, folded, indented, parts, wrapped

JUSTIFY: dict[str, JustifyMethod] = {"right": "right", "center": "center"}
CELL = 6  # columns of a table's cell that is legible


class Source(Protocol):
    """A text that becomes rows."""

    def feed(self, text: str) -> None:
        """Take a part."""

    def rows(self, width: int, *, last: bool = False) -> tuple[list[Row], list[Row]]:
        """Return the rows that are finished since the last call, and all that may still change."""


class Markdown:
    """A Markdown text.

    Its leaves are shown in pieces: a fence is finished some lines at a time, any other leaf as a whole, as soon as the
    next begins. A line that could still become another doesn't count: "#" begins a heading, and "#1" does not.
    """

    def __init__(self) -> None:
        self._text = ""  # from the last outermost block on
        self._done = 0  # pieces of it that are finished
        self._first = True

    def feed(self, text: str) -> None:
        """Take a part."""
        self._text += text

    def rows(self, width: int, *, last: bool = False) -> tuple[list[Row], list[Row]]:
        """Return the rows that are finished since the last call, and all that may still change.

        Those that are finished have code in whole lines, however wide, so that it can be copied from the terminal.
        """
        if last and not self._text.endswith("\n"):
            self._text += "\n"
        every = leaves(self._text)
        complete = every if self._complete(every) else leaves(self._text[: self._text.rfind("\n") + 1])
        ready = sum(map(_pieces, complete)) - (0 if last or not complete else 1)
        ready = max(ready, self._done)
        done: list[Row] = []
        live: list[Row] = []
        number = 0
        for index, leaf in enumerate(every):
            before = every[index - 1] if index else None
            for piece in range(_pieces(leaf)):
                if number >= self._done:
                    finished = number < ready
                    gap = [] if piece else self._gap(before, leaf)
                    (done if finished else live).extend([*gap, *_rows(leaf, piece, width, whole=finished)])
                number += 1
        self._trim(complete, ready)
        return done, live

    def _complete(self, every: list[Leaf]) -> bool:
        """Return True if what comes can't change which leaf is the last: behind a newline, or in a line of words."""
        line = self._text.rpartition("\n")[2].lstrip(" ")
        return not line or (line[0].isalpha() and every[-1].kind != FENCE)

    def _gap(self, before: Leaf | None, leaf: Leaf) -> list[Row]:
        """Return the empty row above a leaf: always between outermost blocks, else where the source has one."""
        if before is None:
            return [] if self._first else [[]]
        if before.top != leaf.top:
            return [[]]
        if leaf.start <= before.end:
            return []
        shared = "".join(holder.rest for holder in leaf.holders if holder in before.holders)
        return [parts(Text(shared.rstrip(), "dim"))]

    def _trim(self, complete: list[Leaf], ready: int) -> None:
        """Forget the blocks that are finished."""
        self._done = ready
        self._first = self._first and not ready
        if not complete or not complete[-1].top:
            return
        top = complete[-1].top
        self._done -= sum(_pieces(leaf) for leaf in complete if leaf.top != top)
        self._text = self._text.split("\n", top)[top]


def _lines(leaf: Leaf) -> list[str]:
    content = leaf.tokens[0].content
    return content.removesuffix("\n").split("\n") if content else []


def _pieces(leaf: Leaf) -> int:
    """Return the number of pieces: of a fence its batches, and what comes behind them."""
    return len(_lines(leaf)) // code.BATCH + 1 if leaf.kind == FENCE else 1


def _rows(leaf: Leaf, piece: int, width: int, *, whole: bool) -> list[Row]:
    room = max(width // 2, width - NARROWEST * 2)  # a prefix that leaves no columns is cut off
    first, rest = (Text(prefix[:room] if len(prefix) > room else prefix, "dim") for prefix in (leaf.first, leaf.rest))
    inner = width - max(first.cell_len, rest.cell_len)
    if leaf.kind == FENCE:
        rows = _fence(leaf, piece, inner, whole=whole)
    elif leaf.kind == CODE:
        rows = [row for line in _lines(leaf) for row in folded(Text("    " + line), 0 if whole else inner)]
    elif leaf.kind == TABLE:
        rows = _table(leaf, inner)
    elif leaf.kind == RULE:
        rows = [parts(Text("─" * inner, "dim"))]
    elif leaf.kind == EMPTY:
        rows = [[]]
    else:
        style = "bold" if leaf.kind == HEADING else ""
        text = inline(leaf.tokens[1].content, style)
        if leaf.kind == HEADING:
            text = Text(f"{leaf.tokens[0].markup} ", style).append_text(text)
        rows = wrapped(text, inner)
    return indented(rows, rest if piece else first, rest)


def _fence(leaf: Leaf, piece: int, width: int, *, whole: bool) -> list[Row]:
    """Return a batch of a fence, with the row above it or the one below it."""
    token, lines = leaf.tokens[0], _lines(leaf)
    start = piece * code.BATCH
    end = min(start + code.BATCH, len(lines))
    language = visible(token.info).strip()
    texts = [Text(token.markup + language, "dim")] if not piece else []
    texts += code.coloured(lines, start, end, language.partition(" ")[0].lower())
    if end - start < code.BATCH and leaf.end - leaf.start == len(lines) + 2:
        texts.append(Text(token.markup, "dim"))
    return [row for text in texts for row in folded(text, 0 if whole else width)]


def _table(leaf: Leaf, width: int) -> list[Row]:
    """Return a table; if that were too wide, its cells one behind the other; if it is malformed, its source."""
    rows: list[list[Text]] = []
    sides: list[str] = []
    for before, token in pairwise(leaf.tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            head = before.type == "th_open"
            rows[-1].append(inline(token.content, "bold" if head else ""))
            if head:
                sides.append(str(before.attrs.get("style", "text-align:left")).partition(":")[2])
    if excess(leaf.source, len(sides)):
        return wrapped(Text(visible(leaf.source)), width)
    if len(sides) * CELL > width:
        return [row for cells in rows for row in wrapped(_joined(cells), width)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, border_style="dim")
    for heading, side in zip(rows[0], sides, strict=True):
        justify = JUSTIFY.get(side, "left")
        table.add_column(heading, justify=justify, overflow="fold")
    for cells in rows[1:]:
        table.add_row(*cells)
    return wrapped(table, width)


def _joined(cells: list[Text]) -> Text:
    return Text(" | ").join(cells)
