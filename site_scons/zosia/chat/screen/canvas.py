"""The last rows of a terminal, redrawn in place: only what changed, in one write."""

from __future__ import annotations

import os
import re
from itertools import takewhile
from typing import TextIO

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.segment import Segment

from zosia.chat.screen.letters import encodable
from zosia.chat.screen.rows import Row, plain

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # synchronized output: the terminal shows it all at once
CLIP, WRAP = "\x1b[?7l", "\x1b[?7h"
# Letters that have the same width everywhere: those of Europe, kana, Chinese and Korean. An emoji or a combined letter
# may be wider or narrower than we think, so no column behind it is counted on.
SURE = re.compile(
    "[ -~\xa0-\xac\xae-\u02ff\u0370-\u0482\u048a-\u052f\u2010-\u2027\u2500-\u257f"
    "\u3001-\u3003\u3008-\u3011\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e]*"
)


class Canvas:
    """Rows that may change. The cursor is behind the last one, or at the start of an empty row if there is none."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._shown: list[Row] = []
        self._size = (0, 0)

    def draw(self, done: list[Row], live: list[Row], size: tuple[int, int]) -> None:
        """Show finished rows, which stay, and below them those that may change.

        Of the latter no more are shown than fit; the oldest go half a screen at a time, so that what stays needn't move
        with each new row.
        """
        most = max(size[1] - 1, 1)
        step = max(most // 2, 1)
        live = live[-(-max(len(live) - most, 0) // step) * step :]
        frame = ""
        if self._size not in (size, (0, 0)):
            rows = sum(self._height(row, size[0]) for row in self._shown)
            frame = "\r" + _up(min(rows, size[1]) - 1) + "\x1b[J"
            self._shown = []
        self._size = size
        frame += self._frame(done, live)
        if frame:
            self._output.write(encodable(frame, self._output))
            self._output.flush()

    def _height(self, row: Row, columns: int) -> int:
        """Return the number of rows that a row is, now that the terminal is narrower.

        Some terminals wrap it anew, and others cut it off. tmux is known to wrap; with any other, one row is counted:
        a part of what isn't finished may stay above, but nothing that is finished is erased.
        """
        wraps = "TMUX" in os.environ and os.environ.get("TERM", "").startswith(("tmux", "screen"))
        return max(-(-cell_len(plain(row)) // columns), 1) if wraps and _sure(row) else 1

    def _frame(self, done: list[Row], live: list[Row]) -> str:
        """Return what changes the rows, and remember them."""
        old, new = self._shown, done + live
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))))
        if same == len(old) == len(new) and not done:
            return ""
        self._shown = live
        added = _added(old, new) if not done and same >= len(old) - 1 else None
        if added is not None:
            return added
        start = min(same, max(len(new) - 1, 0))
        frame = _up(len(old) - 1 - start) if start < len(old) else "\r\n" if old else ""
        for index, row in enumerate(new[start:], start):
            final, end = index < len(done), index == len(new) - 1
            if final and not (_sure(row) and cell_len(plain(row)) <= self._size[0]):  # it may take more than one
                old = old[:index]
                frame += "\r\x1b[J"
            if index >= len(old):
                frame += _written(row, final=final)
            elif end or row != old[index]:
                frame += _changed(old[index], row, final=final)
            frame += "" if end else "\r\n"
        if len(old) > len(new):
            frame += "\x1b[J" if new else "\r\x1b[J"
        frame += "\r\n" if done and not live else ""
        return BEGIN + frame + END


def _added(old: list[Row], new: list[Row]) -> str | None:
    """Return what is to be written behind the cursor, or None if that doesn't suffice."""
    if not old or len(new) < len(old):
        return None
    common, rest = _split(old[-1], new[len(old) - 1])
    rows = [rest, *new[len(old) :]]
    return "\r\n".join(map(_sequence, rows)) if plain(common) == plain(old[-1]) and all(map(_sure, rows)) else None


def _up(rows: int) -> str:
    return f"\x1b[{rows}A" if rows > 0 else ""


def _sure(row: Row) -> bool:
    return SURE.fullmatch(plain(row)) is not None


def _sequence(row: Row) -> str:
    return "".join(
        part.style.render(part.text, color_system=ColorSystem.STANDARD) if part.style else part.text for part in row
    )


def _split(old: Row, new: Row) -> tuple[Row, Row]:
    """Return the start of a row that is shown already, as far as its width is sure, and the rest."""
    letters = [(letter, part.style) for part in old for letter in part.text]
    count = 0
    for part in new:
        for letter in part.text:
            if count >= len(letters) or letters[count] != (letter, part.style) or not SURE.fullmatch(letter):
                break
            count += 1
        else:
            continue
        break
    behind = plain(new)[count : count + 1]
    if count and (not SURE.fullmatch(behind) or not SURE.fullmatch(plain(old)[count : count + 1])):
        count -= 1  # what follows may belong to the letter before
    common: Row = []
    rest: Row = []
    for part in new:
        here, there = part.text[:count], part.text[count:]
        count -= len(here)
        common += [Segment(here, part.style)] if here else []
        rest += [Segment(there, part.style)] if there else []
    return common, rest


def _changed(old: Row, new: Row, *, final: bool) -> str:
    """Return what makes one row of another; the cursor is somewhere in it."""
    common, rest = _split(old, new)
    column = cell_len(plain(common))
    longer = not (_sure(old) and _sure(new)) or cell_len(plain(old)) > cell_len(plain(new))
    return "\r" + (f"\x1b[{column}C" if column else "") + _written(rest, final=final) + ("\x1b[K" if longer else "")


def _written(row: Row, *, final: bool) -> str:
    """Return a row that can't take more than one, unless it is final: then nothing of it may be missing."""
    return _sequence(row) if final or _sure(row) else CLIP + _sequence(row) + WRAP
