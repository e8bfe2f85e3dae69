"""The host's terminal while a guest has it: every key goes to the guest, and afterwards it is as it was."""

from __future__ import annotations

import os
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
        tty.setraw(0, termios.TCSANOW)  # a job in the background is stopped here, until a shell's fg
        self._raw = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def take(self) -> None:
        """Have it raw again, unless it is another job's now."""
        group = os.getpgrp()
        with suppress(OSError):  # a terminal without jobs
            group = os.tcgetpgrp(0)
        if group == os.getpgrp():
            with suppress(termios.error):  # it has gone away
                tty.setraw(0, termios.TCSANOW)
                self._raw = True

    def _restore(self) -> None:
        if self._raw:
            self._raw = False
            with suppress(termios.error, OSError):  # it has gone away
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """For a while, the terminal as it was."""
        self._restore()
        yield
        self.take()
