"""Validation of settings: the text of NAME=value becomes a value, or an error."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError, near
from zosia.machine.task import Attached
from zosia.settings.usage import TARGETS
from zosia.settings.variables import DEFAULTS

MEMORY_UNITS = {"": 1, "M": 1, "G": 1024, "K": 1 / 1024}  # in MiB


def memory(text: str) -> int:
    """Return the MiB of a size such as 512, 512M, 4G or 524288K.

    Raises:
        ZosiaError: it is no such size, above 1 TiB, or below the 64 MiB that the kernel alone needs.
    """
    match = re.fullmatch(r"([0-9]{1,12})(?:([KMG])(?:i?B)?)?", text.strip(), re.IGNORECASE)
    size = int(int(match[1]) * MEMORY_UNITS[(match[2] or "").upper()]) if match else 0
    if not 64 <= size <= 1 << 20:
        raise ZosiaError(
            f"MEM={text} is not a size from 64 MiB to 1 TiB", "Set a number and K, M or G, such as MEM=512M"
        )
    return size


def count(name: str, text: str, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`.

    Raises:
        ZosiaError: it is no such number.
    """
    if not re.fullmatch("[0-9]{1,12}", text) or not least <= int(text) <= most:
        raise ZosiaError(
            f"{name}={text} is not a whole number from {least} to {most}",
            f"Set for example {name}={DEFAULTS.get(name) or least}",
        )
    return int(text)


def duration(name: str, text: str) -> float:
    """Return the seconds of a time such as 90, 90s, 10m or 2h.

    Raises:
        ZosiaError: it is no such time, or 0.
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh]?)", text)
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0
    if not seconds:
        raise ZosiaError(f"{name}={text} is no time above 0", f"Set a number and s, m or h, such as {name}=10m")
    return seconds


def words(name: str, text: str) -> list[str]:
    """Split arguments as a shell does, without expanding anything in them.

    Raises:
        ZosiaError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ZosiaError(
            f"{name}={text} can't be split into words: {error}", "Close each quote that is opened"
        ) from error


def attached(text: str, start: Path, *, asked: bool) -> tuple[Attached, ...]:
    """Return the files that a question is about, which is `asked`, or comes by a pipe; say which are left out, and why.

    Raises:
        ZosiaError: there is no question, or no file, or one can't be read.
    """
    if not asked and os.isatty(0):
        raise ZosiaError("ATTACH= is for a question about the files, and there is none", "Set PROMPT= as well")
    from zosia.chat.files import documents  # most runs do without

    named = documents.split(text, start)
    if not named or "" in named:
        raise ZosiaError("ATTACH= is empty", "Give the path of a file, or leave ATTACH= out")
    found, left = documents.attached(named, start)
    for path, why in left:
        style.say("NOTE", f"{documents.shown(path)} {why}, and is left out")
    return tuple(Attached(name=one.name, text=documents.fenced(one), named=one.named) for one in found)


def check_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an unknown name, and suggest a similar one.

    Raises:
        ZosiaError: a name is unknown.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ZosiaError(f"{name} is not {kind} of zosia", near(name, known))


def check_value(name: str, text: str, allowed: Iterable[str]) -> None:
    """Refuse a value that is not allowed, and suggest a similar one.

    Raises:
        ZosiaError: the value is not allowed.
    """
    allowed = list(allowed)
    if text not in allowed:
        raise ZosiaError(f"{name}={text} is not a value that zosia knows", near(text, allowed))


def flag(name: str, text: str) -> bool:
    """Return True for 1, and False for 0 or nothing.

    Raises:
        ZosiaError: it is something else.
    """
    check_value(name, text or "0", ["0", "1"])
    return text == "1"


def check_targets(targets: Iterable[str]) -> None:
    """Refuse a misspelt target; paths are left to SCons. What is named beside `repin` is its input, and checked by it.

    Raises:
        ZosiaError: a target is unknown.
    """
    names = [name for name in targets if "/" not in name and name != "."]
    check_known("a target", ["repin"] if "repin" in names else names, TARGETS)
