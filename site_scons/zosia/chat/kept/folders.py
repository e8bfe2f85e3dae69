"""Folders of chats: what can be read of them without a lock or a passphrase."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from zosia.base.errors import ZosiaError
from zosia.base.files import explained
from zosia.chat.kept.names import folded, shown
from zosia.chat.kept.sealed import IDENTITY
from zosia.chat.kept.transcript import Transcript

PLAINLY, SEALED = "transcript.jsonl", "transcript.age"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that can be read of a chat without a passphrase.

    Attributes:
        turns: number of questions; None if that can't be read.
        size: bytes on the disk, with its states.
        used: time of its last use, in seconds since 1970.
        problem: the reason for which it can't be read, or "".
    """

    name: str
    model: str = ""
    turns: int | None = None
    size: int
    used: float
    encrypted: bool
    problem: str = ""


class Hit(NamedTuple):
    """A line of a chat in which a text was found; messages are counted from 1."""

    name: str
    number: int
    line: str


def folders(top: Path) -> Sequence[Path]:
    """Return the folders of all chats; errors are a ZosiaError."""
    try:
        return sorted(path for path in top.iterdir() if path.name[0] != "." and begun(path))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise explained(error) from error


def sealed(folder: Path) -> bool:
    """Return whether a chat is encrypted."""
    return (folder / SEALED).exists() or (folder / IDENTITY).exists()


def begun(folder: Path) -> bool:
    """Return whether this is more than the folder of a process that was killed when it had made it."""
    return (folder / PLAINLY).exists() or sealed(folder)


def states(folder: Path) -> Sequence[Path]:
    """Return the states of a chat's machine."""
    return sorted(folder.glob("*.state*"))


def blocks(path: Path) -> int:
    """Return the bytes that a file has on the disk."""
    with suppress(FileNotFoundError):
        return path.lstat().st_blocks * 512
    return 0


def size(folder: Path) -> int:
    """Return the bytes that a chat has on the disk."""
    return sum(blocks(Path(top, name)) for top, _, names in os.walk(folder) for name in names)


def used(folder: Path) -> float:
    """Return the time of a chat's last use."""
    with suppress(OSError):
        return (folder / (SEALED if sealed(folder) else PLAINLY)).stat().st_mtime
    return 0


def hits(folder: Path, wanted: str) -> Iterator[Hit]:
    """Yield the lines of a chat that have a folded text; errors are those of its transcript."""
    for number, message in enumerate(Transcript.read(folder / PLAINLY).messages, 1):
        for line in message.content.splitlines():
            if wanted in folded(line):
                yield Hit(shown(folder), number, line)


def summary(folder: Path) -> Summary:
    """Return what can be read of a chat."""
    common = Summary(name=shown(folder), size=size(folder), used=used(folder), encrypted=sealed(folder))
    if common.encrypted:
        return common
    try:
        read = Transcript.read(folder / PLAINLY)
    except ZosiaError as error:
        return replace(common, problem=str(error))
    return replace(common, model=read.model, turns=read.turns)
