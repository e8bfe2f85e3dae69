"""Frames of the channel: their form, and the rules of one stream. docs/channel.md is the specification."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("!BBHI")  # kind, zero, length of the payload, stream
AMOUNT = struct.Struct("!I")  # the payload of CREDIT
MAGIC = b"zos1"  # begins the payload of HELLO
NONCE = 16  # bytes, and end it
PAYLOAD = 32768  # bytes, at most
WINDOW = 262144  # bytes that each direction of a stream begins with
PORTION = WINDOW // 4  # the least that is granted: else it would be a frame a byte
MOST_CREDIT = 2**31 - 1
STREAMS = 64  # at a time


class Kind(IntEnum):
    """Kinds of frames."""

    HELLO = 1
    OPEN = 2
    DATA = 3
    SHUT = 4
    CLOSE = 5
    CREDIT = 6


LENGTHS = {  # of the payload: the least, the most
    Kind.HELLO: (len(MAGIC) + NONCE, len(MAGIC) + NONCE),
    Kind.OPEN: (0, 0),
    Kind.DATA: (1, PAYLOAD),
    Kind.SHUT: (0, 0),
    Kind.CLOSE: (0, 0),
    Kind.CREDIT: (AMOUNT.size, AMOUNT.size),
}


class Breach(Exception):
    """Broken rule of the protocol, by the other end."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    stream: int
    payload: bytes = b""

    def pack(self) -> bytes:
        """Return it as it is sent."""
        return HEADER.pack(self.kind, 0, len(self.payload), self.stream) + self.payload

    @property
    def amount(self) -> int:
        """Return the bytes that a CREDIT grants."""
        amount: int = AMOUNT.unpack(self.payload)[0]
        return amount


def hello(nonce: bytes) -> Frame:
    """Return the frame that a channel begins with."""
    return Frame(Kind.HELLO, 0, MAGIC + nonce)


def credit(stream: int, amount: int) -> Frame:
    """Return the frame that grants so many bytes."""
    return Frame(Kind.CREDIT, stream, AMOUNT.pack(amount))


class Decoder:
    """Bytes to frames. It keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with these bytes.

        Raises:
            Breach: a frame has a wrong form. Nothing after it can be understood.
        """
        self._rest += data
        start = 0
        try:
            while len(self._rest) - start >= HEADER.size:
                number, zero, length, stream = HEADER.unpack_from(self._rest, start)
                kind = _checked(number, zero, length, stream)
                end = start + HEADER.size + length
                if len(self._rest) < end:
                    break
                frame = Frame(kind, stream, bytes(self._rest[end - length : end]))
                start = end
                if kind is Kind.HELLO and not frame.payload.startswith(MAGIC):
                    raise Breach("HELLO of another protocol")
                if kind is Kind.CREDIT and not 1 <= frame.amount <= MOST_CREDIT + 1:
                    raise Breach(f"CREDIT of {frame.amount} bytes")
                yield frame
        finally:
            del self._rest[:start]


def _checked(number: int, zero: int, length: int, stream: int) -> Kind:
    """Return the kind of frame that a header announces."""
    if zero or number not in LENGTHS:
        raise Breach(f"frame of unknown kind {number}")
    kind = Kind(number)
    least, most = LENGTHS[kind]
    if not least <= length <= most:
        raise Breach(f"{kind.name} of {length} bytes")
    if kind is Kind.HELLO and stream:
        raise Breach(f"HELLO of stream {stream}")
    return kind


@dataclass
class Flow:
    """State of a stream at one end: the bytes that may go each way, and which ways have ended."""

    credit: int = WINDOW  # bytes that this end may send
    room: int = WINDOW  # bytes that the other end may send
    consumed: int = 0  # bytes that came and were read, and are not granted again yet
    sent_shut: bool = False
    got_shut: bool = False

    @property
    def over(self) -> bool:
        """Return whether both ways have ended: then no CLOSE follows."""
        return self.sent_shut and self.got_shut

    def receive(self, frame: Frame) -> None:
        """Count a DATA, SHUT or CREDIT.

        Raises:
            Breach: the other end may not send this now.
        """
        if frame.kind is Kind.CREDIT:
            if self.credit + frame.amount > MOST_CREDIT:
                raise Breach("more CREDIT than 2^31-1 bytes")
            self.credit += frame.amount
        elif self.got_shut:
            raise Breach(f"{frame.kind.name} after SHUT")
        elif frame.kind is Kind.SHUT:
            self.got_shut = True
        elif len(frame.payload) > self.room:
            raise Breach("more DATA than the window")
        else:
            self.room -= len(frame.payload)

    @property
    def owes(self) -> bool:
        """Return whether to grant what was read. Nobody needs it after SHUT."""
        return self.consumed >= PORTION and not self.got_shut

    def grant(self) -> int:
        """Return the bytes to grant, and count them as granted."""
        amount, self.consumed = self.consumed, 0
        self.room += amount
        return amount
