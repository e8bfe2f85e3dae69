"""Service: what is served, under which address, and what the gate needs of the machine behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from zosia.base.errors import ZosiaError

WILDCARDS = ("0.0.0.0", "::")


class Phase(Enum):
    """State of the machine; one that is off is started by the next request."""

    LOADING = "loading"
    READY = "ready"
    OFF = "off"


class BackendError(Exception):
    """Reason why there is no answer, in words for the client."""


class Stream(Protocol):
    """Connection to llama-server: zosia.channel.channel.Stream. Its errors are ConnectionErrors."""

    async def read(self, size: int = 65536) -> bytes:
        """Return some bytes, or none after the other end's last ones."""

    async def write(self, data: bytes) -> None:
        """Send all bytes, as fast as they are taken."""

    def close(self) -> None:
        """End both directions at once; never raises."""


@dataclass(kw_only=True)
class Asking:
    """One request, as a backend of several guests sees it.

    Attributes:
        session: the same for requests that begin alike; "" if that is of no use.
        slot: it is answered by the model itself, in one of a guest's slots.
        guest: number of the guest that has it, from 1 on; 0 where there is only one.
        tried: number of the guest that had it first, and ended before it answered; 0 for none.
    """

    session: str = ""
    slot: bool = True
    guest: int = 0
    tried: int = 0


class Backend(Protocol):
    """Machine with llama-server in it, or several."""

    @property
    def phase(self) -> Phase:
        """Phase of the machine: of several, that of the first that will answer."""

    async def stream(self, asking: Asking | None = None) -> Stream:
        """Return a connection for a request, after the machine has started or resumed if it is off.

        Who waits may be cancelled: its client has hung up. What others wait for goes on.

        Raises:
            BackendError: there is none to be had.
        """


@dataclass(frozen=True, kw_only=True)
class Service:
    """Wishes of who serves: `model` is the name shown, `idle` seconds until the machine is off (0: never)."""

    model: str
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any that is free
    socket: Path | None = None
    key: str = ""
    page: Path | None = None  # folder of the built web page
    parallel: int = 4  # requests that a guest answers at a time
    guests: int = 1
    idle: float = 0.0
    log: Path | None = None
    verbose: bool = False

    @property
    def loopback(self) -> bool:
        """True if only programs of this computer reach the address.

        Raises:
            ZosiaError: it is none.
        """
        import ipaddress  # slow to import, and not on the way to a prompt

        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise ZosiaError(f"HOST={self.host} is no IP address", "Set for example HOST=127.0.0.1") from error

    def check(self) -> None:
        """Refuse what can't be served, or not safely.

        Raises:
            ZosiaError: the first fault.
        """
        if not self.loopback and not self.key:
            raise ZosiaError(
                f"HOST={self.host} lets other computers in, which needs a key",
                "Set KEY=, or leave HOST= out",
            )
        if not re.fullmatch(r"[!-~]*", self.key):  # what a header can carry
            raise ZosiaError(
                "KEY= has a space, or a letter or sign beyond ASCII, which no request can carry", "Set another"
            )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what a client may take; sizes in bytes, times in seconds."""

    head: int = 16384  # of a request; what browsers send takes 1 to 2 kB
    body: int = 10_000_000
    ahead: int = 65536  # sent by a client before its last answer is complete
    connections: int = 64  # as many as the channel has streams
    head_seconds: float = 10.0  # from its first byte to its last
    body_seconds: float = 30.0  # between two pieces
    request_seconds: float = 300.0  # for all of a body
    idle_seconds: float = 75.0  # between two requests
    write_seconds: float = 60.0  # until a client takes more
    linger_seconds: float = 2.0  # for it to read the last answer
