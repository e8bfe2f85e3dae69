"""Reports of a guest on its status port, and the outcome of a run."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia.machine.status import Status

AGAIN = "Start it again: scons run"
VERBOSE = "Run it with VERBOSE=1 to see how far it gets"


@dataclass
class Report:
    """State of the guest as reported so far, a line at a time: a word and its arguments."""

    uptime: float | None = None  # seconds, when /init started
    exit: int | None = None
    error: str = ""
    loading: tuple[int, int] | None = None  # bytes of the model that were read, and its size
    prompted: bool = False
    speed: int = 0  # million multiplications a second, of a machine with workers, or of a worker

    def take(self, line: str) -> None:
        """Update the report with a line; unknown or malformed lines are ignored."""
        word, _, rest = line.partition(" ")
        match word:
            case "init" if re.fullmatch(r"\d+\.\d+", rest, re.ASCII):
                self.uptime = float(rest)
            case "exit" if re.fullmatch("[0-9]{1,9}", rest):
                self.exit = int(rest)
            case "error":
                self.error = rest
            case "prompt":
                self.prompted = True
            case "speed" if re.fullmatch("[0-9]{1,12}", rest):
                self.speed = int(rest)
            case "loading" if found := re.fullmatch(r"([0-9]{1,18}) ([0-9]{1,18})", rest):
                self.loading = int(found[1]), int(found[2])

    @property
    def progress(self) -> str:
        """Return how much of the model was read, in words; nothing when it is there."""
        if not self.loading or self.prompted:
            return ""
        read, size = self.loading
        return f"loading {size_text(size)}: {min(100, 100 * read // size)} %" if size else "loading"

    @property
    def listening(self) -> bool:
        """Return whether the guest is at its prompt, or beyond, and takes what the host says."""
        return self.prompted and self.exit is None


def read(lines: Iterable[str]) -> Report:
    """Return the report that these lines make."""
    report = Report()
    for line in lines:
        report.take(line)
    return report


@dataclass
class Outcome:
    """Outcome of a run: the guest's report, QEMU's exit status, the end of the console, and any cause from outside."""

    report: Report
    qemu: int = 0
    console: bytes = b""
    signal: int = 0
    silent: float = 0  # seconds without a sign of life, if that ended the run
    left: bool = False  # by Ctrl+C, before the guest could handle it
    disturbed: bool = False  # another program was about to change the disk
    unkept: str = ""  # the reason why a machine that was to be kept is not
    replaced: bool = False  # the disk's file was replaced or removed meanwhile

    @property
    def explained(self) -> bool:
        """Return whether the guest itself reported its end."""
        return self.report.exit is not None and self.qemu == 0 and not self.signal


def ending(outcome: Outcome) -> tuple[int, ZosiaError | None]:
    """Return the exit status, and the error to show unless all went well."""
    if outcome.left:
        return Status.OK, None
    if outcome.signal:
        return 128 + outcome.signal, None
    if outcome.explained:
        return outcome.report.exit or 0, ZosiaError(outcome.report.error) if outcome.report.error else None
    status, what, remedy = _unexplained(outcome)
    return status, ZosiaError(what, remedy)


def _unexplained(outcome: Outcome) -> tuple[Status, str, str]:
    """Return status, message and remedy where the guest could not report them."""
    if outcome.disturbed:
        return Status.DISTURBED, "Another program opened the model's disk for writing, so the machine was ended", AGAIN
    if outcome.silent:
        return Status.SILENT, f"The guest gave no sign of life for {outcome.silent:.0f} s", VERBOSE
    if outcome.qemu < 0:
        remedy = "If the host's memory is used up, set a smaller MEM=" if outcome.qemu == -signal.SIGKILL else AGAIN
        return Status.QEMU_KILLED, f"QEMU was killed by signal {-outcome.qemu}", remedy
    if outcome.qemu > 0:
        return (
            Status.QEMU_FAILED,
            f"QEMU ended with status {outcome.qemu}",
            "Its own message is above. To see its command line, type: scons -n run",
        )
    if panic := re.search(rb"Kernel panic - not syncing: ([^\r\n]*)", outcome.console):
        remedy = f"Too little memory? Give it more with MEM=. {VERBOSE}"
        return Status.PANIC, f"The guest's kernel panicked: {panic[1].decode(errors='replace')}", remedy
    return Status.NO_STATUS, "The guest ended without reporting a status", VERBOSE
