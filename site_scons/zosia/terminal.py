"""The host's terminal while a guest has it: every key goes to the guest, and afterwards it is as it was."""

from __future__ import annotations

import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

RESET = b"\x1b[0m\x1b[?2004l"  # colours and bracketed paste, which a guest that was cut off leaves on


class Terminal:
    """Standard input as raw terminal; a context manager."""

    def __enter__(self) -> Terminal:
        self._saved = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        with suppress(termios.error, OSError):  # it has gone away
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """For a while, the terminal as it was."""
        self._restore()
        yield
        tty.setraw(0, termios.TCSANOW)
