"""A terminal without a screen, which shows what a program writes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pexpect
import pyte

from zosia.base.patience import patience

from .conftest import LONGEST


class Screen:
    """A terminal that shows what a child writes."""

    def __init__(self, child: pexpect.spawn[str], rows: int = 30, columns: int = 100) -> None:
        self.child = child
        self.screen = pyte.Screen(columns, rows)
        self.screen.write_process_input = child.send  # type: ignore[assignment] # where its cursor is, for one
        self._stream = pyte.Stream(self.screen)

    @property
    def lines(self) -> list[str]:
        """Screen without blanks at the ends of lines, and without blank lines at its end."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def wait(self, condition: Callable[[Screen], bool]) -> None:
        """Show what comes until it is as wanted."""
        deadline = time.monotonic() + LONGEST * patience()
        while not condition(self):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            try:
                self._stream.feed(self.child.read_nonblocking(4096, timeout=1))
            except pexpect.TIMEOUT:
                continue

    def prompted(self) -> None:
        """Wait for an empty prompt."""
        self.wait(lambda screen: screen.lines[-1] == ">")

    def type(self, keys: str, shown: str) -> None:
        """Type, and wait until the last line shows it."""
        self.child.send(keys)
        self.wait(lambda screen: screen.lines[-1] == shown)

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)
