"""How a run ended, as the exit status of `scons run`: one table for the guest and the host.

0 is a normal end; other numbers below 64 are llama-cli's own; 128 + n means that signal n ended it, as in a shell.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What a run can end with besides llama-cli's own status."""

    OK = 0
    REFUSED = 2  # something was missing or not understood; nothing was started. SCons' own status for this, too
    NO_DISK = 64  # no model disk is attached
    BAD_DISK = 65  # the disk holds no filesystem that can be mounted
    NO_MODEL = 66  # the disk holds no model.gguf
    CPU_TOO_OLD = 67  # the processor lacks what every llama-cli of the image was built for
    GUEST_FAILED = 68  # /init could not do its work
    NO_STATUS = 70  # the guest ended without reporting: panic, or QEMU was killed
    QEMU_FAILED = 71  # QEMU did not start


def shell_table() -> str:
    """The table as assignments for /init."""
    return "".join(f"{status.name}={status.value}\n" for status in Status)
