"""Wire between a machine and its worker: first a few lines of JSON each way, then the bytes of the channel.

The worker says what it offers. The other end answers with what it takes, or hangs up. Then the worker boots, and says
that it is ready, or what went wrong. From then on the relays in the two guests talk to each other (docs/channel.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import dacite

from zosia.base.errors import ZosiaError, shown

LONGEST = 4096  # bytes of a line
SHOWN = 300  # characters
MOST = 1 << 30  # MiB


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Offer of a worker: its `version` of zosia, the `memory` that its guest can have, in MiB, and its `speed` in
    million multiplications a second, 0 if that was never measured.
    """

    version: str
    memory: int
    speed: int = 0

    def __post_init__(self) -> None:
        _check(self.memory)
        if type(self.speed) is not int or not 0 <= self.speed < MOST:
            raise ValueError(f"speed {self.speed}")


@dataclass(frozen=True, kw_only=True)
class Order:
    """Order of the other end: a guest with so much `memory`, in MiB, and the model of this digest, if it is there."""

    memory: int
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(self.memory)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Result: the worker computes from now on, or can't, for the reason in `error`; `weights`: it has the model."""

    error: str = ""
    weights: bool = False


Said = TypeVar("Said", Offer, Order, Ready)


def _check(memory: int) -> None:
    if type(memory) is not int or not 0 < memory < MOST:  # True is an int
        raise ValueError(f"{memory} MiB")


def plain(text: str) -> str:
    """Return a text of the other end for a terminal: short, on one line, without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[:LONGEST]).split())[:SHOWN]


class SilenceError(Exception):
    """The other end says nothing, or has hung up."""


def line(said: Mapping[str, Any]) -> bytes:
    """Return a line of JSON."""
    return json.dumps(said).encode() + b"\n"


def hear(read: Callable[[int], bytes], wait: Callable[[float], bool], seconds: float) -> bytes:
    """Return the next line of the other end, and nothing of what comes after it.

    Args:
        read: reads so many bytes.
        wait: waits for bytes, for so many seconds, and returns whether there are any.

    Raises:
        SilenceError: it hangs up, says nothing for so long, or does not end its line.
    """
    end, said = time.monotonic() + seconds, b""
    while not said.endswith(b"\n"):
        if not wait(end - time.monotonic()):
            raise SilenceError(f"it said nothing for {seconds:.0f} s")
        try:
            byte = read(1)
        except OSError:  # it was reset
            byte = b""
        if not byte or len(said) > LONGEST:
            raise SilenceError("it does not speak zosia's language" if said else "it hung up")
        said += byte
    return said


def read(kind: type[Said], said: bytes) -> Said:
    """Return what a line says.

    Raises:
        ZosiaError: it is nothing of the kind.
    """
    try:
        return dacite.from_dict(kind, json.loads(said), dacite.Config(strict=True))
    except (ValueError, TypeError, AttributeError, RecursionError, dacite.DaciteError) as error:
        raise ZosiaError(
            f"{shown(said.decode(errors='replace').strip()[:80])} is no {kind.__name__.lower()}"
        ) from error
