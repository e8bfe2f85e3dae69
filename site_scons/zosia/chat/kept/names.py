"""Names of chats, which are names of folders as well."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from zosia.base.errors import ZosiaError

LONGEST = 100  # bytes in UTF-8: a file system has room for 143 or more
OTHERS = " -_."
HINT = "Begin with a letter or digit; then letters, digits, blanks and - _ . are possible, but no . at the end"
KINDS = "LMN"  # letters, marks on them, and digits, as Unicode's categories


def checked(name: str) -> str:
    """Return a name that was typed in the form in which it is kept.

    Raises:
        ZosiaError: it can't be the name of a chat.
    """
    kept = unicodedata.normalize("NFC", name.strip())
    odd = [letter for letter in kept if letter not in OTHERS and unicodedata.category(letter)[0] not in KINDS]
    if odd:
        raise ZosiaError(f"{name!r:.120} can't be the name of a chat: it has {odd[0]!r}", HINT)
    if not kept or unicodedata.category(kept[0])[0] not in "LN" or kept.endswith("."):
        raise ZosiaError(f"{name!r:.120} can't be the name of a chat", HINT)
    if len(kept.encode()) > LONGEST:
        raise ZosiaError(f"The name {kept:.20}… has {len(kept.encode())} bytes, and up to {LONGEST} are possible")
    return kept


def folded(text: str) -> str:
    """Return a text without its case: a file system may take no notice of it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def shown(folder: Path) -> str:
    """Return the name of the chat in a folder; macOS may have given it to the folder in another form."""
    return unicodedata.normalize("NFC", folder.name)
