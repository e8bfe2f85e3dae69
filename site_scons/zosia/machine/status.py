"""Exit statuses of `scons run`: one table for the guest, the host and the documentation.

Numbers below 64 are llama-cli's own; 128 + n means that signal n ended it, as in a shell.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Exit status of a run, other than llama-cli's own; `meaning` is its text in the documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Status:
        """Create a status from its number and its meaning."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status

    OK = (
        0,
        "a normal end: an answer, `/exit`, Ctrl+D; Ctrl+C while loading or at an empty prompt, or twice in an answer",
    )
    REFUSED = 2, "something could not be built, read or written, is missing, or was not understood"
    NO_DISK = 64, "no model disk is attached"
    BAD_DISK = 65, "the disk holds no filesystem that can be mounted, or is damaged"
    NO_MODEL = 66, "the disk holds no model"
    CPU_TOO_OLD = 67, "the processor lacks a feature that llama-cli was built for"
    GUEST_FAILED = 68, "`/init` failed"
    BAD_MODEL = 69, "llama.cpp can't load the model"
    NO_STATUS = 70, "the guest ended without reporting a status"
    QEMU_FAILED = 71, "QEMU did not start, or failed"
    NO_MEMORY = 72, "the guest has too little memory for the model and its context"
    PANIC = 73, "the guest's kernel panicked"
    SILENT = 74, "the guest gave no sign of life"
    QEMU_KILLED = 75, "QEMU was killed"
    DISTURBED = 76, "another program was about to change the model's disk"
    CUT_OFF = 77, "the answer to a single question was cut off, by the context or by `-n`"
    TOO_LONG = 78, "a single question has more tokens than the context"
    NO_WORKER = 79, "a worker can't be reached, does not fit, or was lost"


def shell_table() -> str:
    """Return the table as shell assignments for /init."""
    return "".join(f"{status.name}={status.value}\n" for status in Status)
