"""One end of the channel for tests, written from docs/channel.md, and independent of both real ends."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

from zosia.base.patience import patience

HELLO, OPEN, DATA, SHUT, CLOSE, CREDIT = range(1, 7)
WINDOW, PAYLOAD, PORTION = 262144, 32768, 65536
LONGEST = 20 * patience()  # seconds
WORD = b"".join(struct.pack(">I", 2654435761 * number & 0xFFFFFFFF) for number in range(1021))
Seen = tuple[int, int, bytes]  # kind, stream, payload


def frame(kind: int, stream: int = 0, payload: bytes = b"", *, zero: int = 0) -> bytes:
    return struct.pack(">BBHI", kind, zero, len(payload), stream) + payload


def credit(stream: int, amount: int) -> bytes:
    return frame(CREDIT, stream, struct.pack(">I", amount))


def hello(nonce: bytes = b"n" * 16) -> bytes:
    return frame(HELLO, 0, b"zos1" + nonce)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which each place can be told from others."""
    start = seed % len(WORD)
    return (WORD * ((start + size) // len(WORD) + 1))[start : start + size]


# Bytes that end the channel after a HELLO, and stream 1, whichever end reads them.
BREACHES = {
    "kind 0": frame(0, 1),
    "kind 8": frame(8, 1),
    "kind 255": frame(255, 1),
    "the second byte": frame(DATA, 1, b"x", zero=1),
    "HELLO, short": frame(HELLO, 0, b"zos1" + bytes(15)),
    "HELLO, long": frame(HELLO, 0, b"zos1" + bytes(17)),
    "HELLO, another version": frame(HELLO, 0, b"zos2" + bytes(16)),
    "HELLO of a stream": frame(HELLO, 1, b"zos1" + bytes(16)),
    "OPEN with a payload": frame(OPEN, 2, b"x"),
    "DATA, empty": frame(DATA, 1),
    "DATA, empty, of no stream": frame(DATA, 9),
    "DATA, long": frame(DATA, 1, bytes(PAYLOAD + 1)),
    "DATA, its header alone": frame(DATA, 1, bytes(PAYLOAD + 1))[:8],
    "DATA far beyond the window": frame(DATA, 1, bytes(PAYLOAD)) * 40,
    "DATA after SHUT": frame(SHUT, 1) + frame(DATA, 1, b"x"),
    "SHUT after SHUT": frame(SHUT, 1) + frame(SHUT, 1),
    "SHUT with a payload": frame(SHUT, 1, b"x"),
    "CLOSE with a payload": frame(CLOSE, 1, b"x"),
    "CREDIT, short": frame(CREDIT, 1, bytes(3)),
    "CREDIT, long": frame(CREDIT, 1, bytes(5)),
    "CREDIT of 0": credit(1, 0),
    "CREDIT of 0 for no stream": credit(9, 0),
    "CREDIT beyond 2^31": credit(9, 2**31 + 1),
    "CREDIT, too much": credit(1, 2**31 - WINDOW),
    "CREDIT, too much in sum": credit(1, 2**31 - 1 - WINDOW) + credit(1, 1),
    "CREDIT, 2^31": credit(1, 2**31),
}

# Bytes that either end goes on after.
HARMLESS = {
    "DATA of no stream": frame(DATA, 9, b"x") + frame(DATA, 0, b"x") + frame(DATA, 2**32 - 1, bytes(PAYLOAD)),
    "SHUT of no stream": frame(SHUT, 9) * 2,
    "CLOSE of no stream": frame(CLOSE, 9) * 2,
    "CREDIT of no stream": credit(9, 2**31) * 2,
    "DATA after CLOSE": frame(CLOSE, 1) + frame(DATA, 1, bytes(PAYLOAD)) * 10 + frame(SHUT, 1) * 2,
    "CREDIT, the most": credit(1, 2**31 - 1 - WINDOW),
    "CREDIT after SHUT": frame(SHUT, 1) + credit(1, 1),
}


class Peer:
    """Frames over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = b""

    def send(self, *frames: bytes) -> None:
        """Send all; the other end must take it."""
        self.sock.settimeout(LONGEST)
        self.sock.sendall(b"".join(frames))

    def there(self) -> Iterator[Seen]:
        """Yield the frames that have come, without waiting."""
        self.sock.setblocking(False)
        while True:
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                return
            self.rest += data
            while len(self.rest) >= 8:
                kind, zero, length, stream = struct.unpack(">BBHI", self.rest[:8])
                if len(self.rest) < 8 + length:
                    break
                assert (zero, length <= PAYLOAD) == (0, True)
                payload, self.rest = self.rest[8 : 8 + length], self.rest[8 + length :]
                yield kind, stream, payload

    def wait(self, count: int = 1) -> list[Seen]:
        """Wait for so many frames, and return what has come."""
        return self.wait_until(lambda seen: len(seen) >= count)

    def wait_for(self, one: Seen) -> list[Seen]:
        """Wait for a frame, and return what has come until then."""
        return self.wait_until(lambda seen: one in seen)

    def wait_until(self, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
        seen = list(self.there())
        end = time.monotonic() + LONGEST
        while not enough(seen):
            left = end - time.monotonic()
            assert left > 0, f"only {len(seen)} frames: {[one[:2] for one in seen[-9:]]}"
            select.select([self.sock], [], [], left)
            seen += self.there()
        return seen
