"""Letters that a terminal may show: control characters of a model's text become visible ones."""

from __future__ import annotations

import re
from typing import TextIO

# C0 and C1, which move cursors and start sequences; lone surrogates, which no encoding has; separators that some
# terminals take for new lines; and overrides of the direction, which make a line read as another.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")
PICTURES, DELETE, UNKNOWN = 0x2400, "\u2421", "\ufffd"  # "␀" and those after it, "␡", "�"


def visible(text: str) -> str:
    """Return a text whose only control characters are tabs and newlines."""
    return UNSAFE.sub(_substitute, text)


def _substitute(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(PICTURES + code) if code < 0x20 else DELETE if code == 0x7F else UNKNOWN


def encodable(text: str, output: TextIO) -> str:
    """Return a text with "?" for letters that an output doesn't have."""
    encoding = output.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


class Letters:
    """A text that comes in parts; CR LF is a newline."""

    def __init__(self) -> None:
        self._return = ""

    def take(self, part: str, *, last: bool = False) -> str:
        """Return what can be shown by now. A CR at the end of a part waits for what follows it."""
        text = self._return + part
        self._return = "\r" if text.endswith("\r") and not last else ""
        return visible(text[: len(text) - len(self._return)].replace("\r\n", "\n"))
