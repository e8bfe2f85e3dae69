"""Records of a transcript as lines of its file: JSON, or as another codec has them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from zosia.base.errors import ZosiaError


def encoded(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON in one line, whose text can be searched for."""
    # Half of a surrogate pair, which UTF-8 does not have, becomes \udXXX: so JSON has it, too.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")


def decoded(line: bytes) -> dict[str, Any]:
    """Return the JSON object in a line.

    Raises:
        ValueError: it is none.
    """
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


class Codec(Protocol):
    """A way to have records in lines. `before` is the SHA-256 of all lines before."""

    @property
    def header(self) -> Mapping[str, Any]:
        """Fields of the header, which is JSON in any case."""

    def line(self, record: Mapping[str, Any], before: str) -> bytes:
        """Return a record as a line."""

    def record(self, line: bytes, before: str) -> dict[str, Any]:
        """Return the record in a line.

        Raises:
            ValueError: it is damaged.
        """


class Plain:
    """Records as they are."""

    header: Mapping[str, Any] = {}

    def line(self, record: Mapping[str, Any], before: str) -> bytes:
        """Return a record as JSON."""
        return encoded(record)

    def record(self, line: bytes, before: str) -> dict[str, Any]:
        """Return the JSON object in a line."""
        return decoded(line)


PLAIN = Plain()


def damaged(path: Path, number: int, error: Exception) -> ZosiaError:
    """Return the error of a damaged line."""
    cut = f", or keep what is before this line: sed -i.damaged '{number},$d' {shlex.quote(str(path))}"
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).replace("\n", " ")
    return ZosiaError(f"{path} is damaged in line {number}: {reason}", f"Restore it from a backup{cut * (number > 1)}")
