"""Clock of a guest: it counts as the host's monotonic clock does, and so stands still while the host sleeps."""

from __future__ import annotations

import os
import time

ENTROPY = 32  # bytes
JUMP = 1.0  # seconds, from which on the guest's clock is set again


def moment() -> tuple[str, int]:
    """Return the time and entropy, as a guest takes them, and the zone: seconds east of Greenwich."""
    return f"{time.time():.9f} {os.urandom(ENTROPY).hex()}", time.localtime().tm_gmtoff


def wake() -> bytes:
    """Return the line that sets the clock of a guest which has begun."""
    now, zone = moment()
    return f"wake {now} {zone}\n".encode()


class Clock:
    """The difference between the host's time and its monotonic clock, which changes when the time jumps."""

    def __init__(self) -> None:
        """Begin now."""
        self._difference = _difference()

    def jumped(self) -> bool:
        """Return whether the time has jumped since this was last true."""
        found = _difference()
        if abs(found - self._difference) < JUMP:
            return False
        self._difference = found
        return True


def _difference() -> float:
    return time.time() - time.monotonic()
