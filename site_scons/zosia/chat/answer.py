"""One answer of a model, shown while it comes: Markdown on a terminal, and the bare text anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TextIO

from zosia.chat.screen.letters import Letters, encodable, visible

if TYPE_CHECKING:
    from zosia.chat.screen.markdown import Source

EVERY = 0.05  # seconds between two drawings
SHARE = 9  # times as long as a drawing took, until the next: the processors are the model's
ROWS = 24  # of a terminal that doesn't say
THOUGHT = "thought for {:.1f} s"
BAR = "| "  # before a line of thoughts, without colours

Size = int | Callable[[], tuple[int, int]]
Clock = Callable[[], float]


class Kind(Enum):
    """Parts of an answer."""

    ANSWER = auto()
    THOUGHTS = auto()
    COUNT = auto()  # thoughts of which only the number of words is shown


class Answer:
    """An answer that comes in parts, of any length."""

    def __init__(
        self, output: TextIO, *, width: Size, plain: bool, thoughts: bool = True, clock: Clock = time.monotonic
    ) -> None:
        """Show an answer from the start of a row on.

        Args:
            output: a stream to write it to.
            width: columns of the terminal, or a function that returns its columns and rows.
            plain: no escape codes. On a terminal, thoughts have a bar before each line. Elsewhere there are neither
                thoughts nor a note: who reads a pipe expects the answer.
            thoughts: False shows one line for them, with the number of words, and at last the time they took.
            clock: seconds.
        """
        self._output, self._letters = output, Letters()
        self._kind: Kind | None = None
        self._thoughts = Kind.THOUGHTS if thoughts else Kind.COUNT
        self._view = _Plain(output, clock) if plain else _Drawn(output, width, clock)

    def think(self, text: str) -> None:
        """Take a part of the reasoning."""
        self._take(self._thoughts, text)

    def feed(self, text: str) -> None:
        """Take a part of the answer."""
        self._take(Kind.ANSWER, text)

    def refresh(self) -> None:
        """Draw what has waited for its time. Of use where a model may pause."""
        self._view.take("")

    def end(self, note: str = "") -> None:
        """Show the rest, and a note."""
        self._finish()
        if note:
            self._view.note(encodable(visible(note), self._output))

    def _take(self, kind: Kind, text: str) -> None:
        if kind != self._kind:
            self._finish()
            self._kind = kind
            self._view.begin(kind)
        self._view.take(encodable(self._letters.take(text), self._output))

    def _finish(self) -> None:
        if self._kind:
            self._view.take(self._letters.take("", last=True))
            self._view.finish()
            self._kind = None


class _View(Protocol):
    """Something that shows one part of an answer after the other."""

    def begin(self, kind: Kind) -> None: ...
    def take(self, text: str) -> None: ...
    def finish(self) -> None: ...
    def note(self, text: str) -> None: ...


class _Plain:
    """The text as it comes, at last with a newline."""

    def __init__(self, output: TextIO, clock: Clock) -> None:
        self._output, self._clock = output, clock
        self._terminal = output.isatty()
        self._kind = Kind.ANSWER
        self._began = 0.0
        self._line = ""  # its start, so far

    def begin(self, kind: Kind) -> None:
        self._kind, self._began = kind, self._clock()

    def take(self, text: str) -> None:
        if self._kind is Kind.ANSWER:
            self._write(text)
        elif self._kind is Kind.THOUGHTS and self._terminal:
            for line in text.splitlines(keepends=True):
                self._write(line if self._line else BAR + line)

    def finish(self) -> None:
        if self._kind is Kind.COUNT and self._terminal:
            self._write(THOUGHT.format(self._clock() - self._began))
        self._write("\n" if self._line else "")

    def note(self, text: str) -> None:
        if self._terminal:
            self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if text:
            self._line = (self._line + text).rpartition("\n")[2][:1]
            self._output.write(text)
            self._output.flush()


class _Drawn:
    """Rows that are drawn anew until they are finished."""

    def __init__(self, output: TextIO, width: Size, clock: Clock) -> None:
        from zosia.chat.screen.canvas import Canvas  # rich takes a tenth of a second

        self._canvas, self._width, self._clock = Canvas(output), width, clock
        self._source: Source | None = None
        self._next = 0.0  # drawing
        self._waits = self._begun = self._apart = False

    def begin(self, kind: Kind) -> None:
        from zosia.chat.screen.markdown import Markdown
        from zosia.chat.screen.thoughts import Count, Thoughts

        if kind is Kind.ANSWER:
            self._source = Markdown()
        else:
            self._source = Thoughts() if kind is Kind.THOUGHTS else Count(self._clock)
        self._apart = self._begun

    def take(self, text: str) -> None:
        if not self._source:
            return
        if text:
            self._source.feed(text)
            self._waits = True
        began = self._clock()
        if self._waits and began >= self._next:
            self._draw()
            self._next = began + max(EVERY, SHARE * (self._clock() - began))

    def finish(self) -> None:
        self._draw(last=True)
        self._source = None

    def note(self, text: str) -> None:
        from zosia.chat.screen.thoughts import Thoughts

        self._source, self._apart = Thoughts(), False
        self._source.feed(text)
        self.finish()

    def _draw(self, *, last: bool = False) -> None:
        assert self._source
        size = (self._width, ROWS) if isinstance(self._width, int) else self._width()
        # The last column stays empty: a terminal that has filled it is in a state of its own.
        done, live = self._source.rows(max(size[0] - 1, 1), last=last)
        if self._apart and (done or live):
            (done or live).insert(0, [])
        self._apart = self._apart and not done
        self._begun = self._begun or bool(done)
        self._waits = False
        self._canvas.draw(done, live, size)
