"""Validation of settings: the text of NAME=value becomes a value, or an error."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from zosia.base.errors import ZosiaError, near
from zosia.settings.variables import TARGETS

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
            f"MEM={text} is not a size from 64 MiB to 1 TiB", "Type a number and K, M or G, such as MEM=512M"
        )
    return size


def count(name: str, text: str, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`.

    Raises:
        ZosiaError: it is no such number.
    """
    if not re.fullmatch("[0-9]{1,12}", text) or not least <= int(text) <= most:
        raise ZosiaError(
            f"{name}={text} is not a whole number from {least} to {most}", f"Type for example {name}={least}"
        )
    return int(text)


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
    """Refuse a misspelt target; paths are left to SCons.

    Raises:
        ZosiaError: a target is unknown.
    """
    check_known("a target", [name for name in targets if "/" not in name and name != "."], TARGETS)
