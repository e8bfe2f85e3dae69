"""Ends of the chat program, and of what it does."""

from __future__ import annotations

from zosia.base.errors import ZosiaError


class Stopped(Exception):
    """Ctrl+C was pressed."""


class Ended(Exception):
    """The end of the program: its status, the error to show, and the words to become instead."""

    def __init__(self, status: int = 0, error: ZosiaError | None = None, become: tuple[str, ...] = ()) -> None:
        self.status, self.error, self.become = status, error, become
        super().__init__(status)
