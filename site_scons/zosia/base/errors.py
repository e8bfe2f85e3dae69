"""ZosiaError, the one exception that users see, its did-you-mean hint, and names in it."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 63  # characters of a name in a message


class ZosiaError(Exception):
    """Failure as a sentence (what was expected, what was found) and a hint (what to do about it)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


def near(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: the known word that resembles it, or all of them."""
    import difflib  # slow to import, and only needed here

    known = sorted(known)
    same_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), same_case, n=1, cutoff=0.5)
    return f"Did you mean {same_case[close[0]]}?" if close else f"Choose one of: {', '.join(known)}"


def shown(name: str) -> str:
    """Return a name for a message: short, and on one line."""
    short = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
    return short if short.isprintable() and short else repr(short)
