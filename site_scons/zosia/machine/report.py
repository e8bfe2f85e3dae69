"""What a guest says of itself on its status port, and what a run's end means."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from zosia.base.errors import ZosiaError
from zosia.machine.status import Status

AGAIN = "Start it again: scons run"
VERBOSE = "Run it with VERBOSE=1 to see how far it comes"


@dataclass
class Report:
    """What the guest has said so far: a line each, a word and what belongs to it."""

    uptime: float | None = None  # seconds, when /init started
    exit: int | None = None
    error: str = ""
    loading: tuple[int, int] | None = None  # bytes of the model that are read, and all of them
    prompted: bool = False

    def take(self, line: str) -> None:
        """Take in one line; one that is not understood is as good as none."""
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
            case "loading" if found := re.fullmatch(r"([0-9]{1,18}) ([0-9]{1,18})", rest):
                self.loading = int(found[1]), int(found[2])


def read(lines: Iterable[str]) -> Report:
    """The report that these lines make."""
    report = Report()
    for line in lines:
        report.take(line)
    return report


@dataclass
class Outcome:
    """How a run ended: the guest's report, QEMU's own status, the console's last bytes, what ended it from outside."""

    report: Report
    qemu: int = 0
    console: bytes = b""
    signal: int = 0
    silent: float = 0  # seconds without a sign of life, where that was the reason
    left: bool = False  # by Ctrl+C, before the guest could take it
    disturbed: bool = False  # somebody was about to change the disk
    replaced: bool = False  # another disk has the name of the one that was used, or none

    @property
    def explained(self) -> bool:
        """The guest itself has said how it ended."""
        return self.report.exit is not None and self.qemu == 0 and not self.signal


def ending(outcome: Outcome) -> tuple[int, ZosiaError | None]:
    """Exit status, and the error to show unless all went well."""
    if outcome.left:
        return Status.OK, None
    if outcome.signal:
        return 128 + outcome.signal, None
    if outcome.explained:
        return outcome.report.exit or 0, ZosiaError(outcome.report.error) if outcome.report.error else None
    status, what, remedy = _unexplained(outcome)
    return status, ZosiaError(what, remedy)


def _unexplained(outcome: Outcome) -> tuple[Status, str, str]:
    """Status, message and remedy where the guest could not say them."""
    if outcome.disturbed:
        return Status.DISTURBED, "Another program opened the model's disk for writing, so the machine was ended", AGAIN
    if outcome.silent:
        return Status.SILENT, f"The guest gave no sign of life for {outcome.silent:.0f} s", VERBOSE
    if outcome.qemu < 0:
        remedy = "If the host's memory is used up, type a smaller MEM=" if outcome.qemu == -signal.SIGKILL else AGAIN
        return Status.QEMU_KILLED, f"QEMU was killed by signal {-outcome.qemu}", remedy
    if outcome.qemu > 0:
        return (
            Status.QEMU_FAILED,
            f"QEMU ended with status {outcome.qemu}",
            "Its own message is above; its command line is shown by: scons -n run",
        )
    if panic := re.search(rb"Kernel panic - not syncing: ([^\r\n]*)", outcome.console):
        remedy = f"Too little memory? Give it more with MEM=. {VERBOSE}"
        return Status.PANIC, f"The guest's kernel panicked: {panic[1].decode(errors='replace')}", remedy
    return Status.NO_STATUS, "The guest ended without saying how", VERBOSE
