"""Wish of who chats: with what, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ChatWish:
    """Model and settings of the program.

    `name` of a chat that is kept, "" for one that is not; `encrypt` new ones, None as the user's environment has it;
    `context` in tokens; `launched` is where relative paths
    start, and `again` are the words that start the program with other settings.
    """

    model: str
    sha256: str
    context: int
    name: str = ""
    encrypt: bool | None = None
    system: str = ""
    launched: Path
    again: tuple[str, ...] = ()
