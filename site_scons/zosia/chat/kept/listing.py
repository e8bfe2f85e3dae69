"""Tables of chats and of what is found in them: `scons chats`."""

from __future__ import annotations

from datetime import datetime

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia.chat.kept.chats import Chats
from zosia.chat.kept.folders import Hit, Summary
from zosia.chat.kept.names import folded

HEADER = ("CHAT", "MODEL", "TURNS", "SIZE", "LAST USED", "")
SHOWN = 100  # characters of a line in which a text was found


def listing(chats: Chats) -> str:
    """Return all chats as a table, the one that was used last first.

    Raises:
        ZosiaError: their folder can't be read.
    """
    known = chats.list()
    if not known:
        return f"No chat is kept in {chats.folder}"
    total = f"Chats take {size_text(sum(chat.size for chat in known))} in {chats.folder}."
    problems = [f"{chat.name}: {chat.problem}" for chat in known if chat.problem]
    return "\n".join([*style.columns([HEADER, *map(_row, known)]), "", total, *problems])


def _row(chat: Summary) -> tuple[str, ...]:
    used = datetime.fromtimestamp(chat.used).strftime("%Y-%m-%d %H:%M")
    turns = "-" if chat.turns is None else str(chat.turns)
    note = "damaged" if chat.problem else "encrypted" if chat.encrypted else ""
    return chat.name, printable(chat.model) or "-", turns, size_text(chat.size), used, note


def found(chats: Chats, text: str) -> str:
    """Return the lines of chats that have a text, in any case, and the chats that could not be searched.

    Raises:
        ZosiaError: the text is empty, or the folder can't be read.
    """
    if not text:
        raise ZosiaError("A text to search for is needed")
    hits = chats.search(text)
    unread = [chat.name for chat in chats.list() if chat.encrypted or chat.problem]
    rows = [(hit.name, str(hit.number), excerpt(hit, text)) for hit in hits]
    lines = style.columns(rows) or [f"No chat has: {printable(text)}"]
    return "\n".join(
        [*lines, *([f"Not searched, for they are encrypted or damaged: {', '.join(unread)}"] * bool(unread))]
    )


def excerpt(hit: Hit, text: str) -> str:
    """Return the part of a line that has the text, without what a terminal would obey."""
    line = hit.line.strip()
    at = max(0, folded(line).find(folded(text)))  # nearly there in the line itself, too
    start = max(0, min(at - SHOWN // 3, len(line) - SHOWN))
    part = printable(line[start : start + SHOWN])
    return "…" * (start > 0) + part + "…" * (start + SHOWN < len(line))


def printable(text: str) -> str:
    """Return a text in which nothing moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
