"""Reports of guests, and the meaning of a run's end: statuses, sentences, and which reason comes first."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from zosia.machine.report import Outcome, Report, ending, read
from zosia.machine.status import Status, shell_table

PANIC = b"[    0.5] Kernel panic - not syncing: Out of memory\r\nmore\r\n"
MALFORMED = [
    *("", " ", "exit", "exit ", "exit x", "exit -1", "exit +1", "exit 0x3", "exit ²", "exit ٣", "exit 3 ", "exit 1 2"),
    *(" exit 0", "EXIT 0", "exit\t0", "exit0", "\0exit 0", "\N{REPLACEMENT CHARACTER}exit 0"),
    *("init", "init x", "init 1", "init 1.", "init .5", "init nan", "init inf", "init -1.0", "init ٣.٣", "init 1.2.3"),
    *(
        "loading",
        "loading x",
        "loading 1",
        "loading -1 5",
        "loading ² 3",
        "loading 1 2 3",
        "hello",
        "error",
        "prompting",
        "\x1b[0m",
        "x" * 100_000,
    ),
]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], {}),
        (["exit 0"], {"exit": 0}),
        (["init 0.52", "exit 3"], {"uptime": 0.52, "exit": 3}),
        (["exit 3", "exit 64"], {"exit": 64}),
        (["exit 137"], {"exit": 137}),
        (["error no model: a b  c", "exit 66"], {"error": "no model: a b  c", "exit": 66}),
        (["loading 10 94", "loading 94 94", "prompt", "working"], {"loading": (94, 94), "prompted": True}),
        (["hello", "", "exit 0"], {"exit": 0}),
    ],
)
def test_read(lines: list[str], expected: dict[str, Any]) -> None:
    assert read(lines) == Report(**expected)


@pytest.mark.parametrize("line", MALFORMED)
def test_a_line_that_is_not_understood_is_as_good_as_none(line: str) -> None:
    assert read([line]) == Report()


@pytest.mark.parametrize("line", MALFORMED)
def test_what_was_understood_stays(line: str) -> None:
    before = ["init 0.5", "loading 7 8", "exit 3"]
    assert read([*before, line]) == read(before)


@pytest.mark.parametrize(
    ("lines", "progress", "listening"),
    [
        ([], "", False),
        (["loading 5000000 10000000"], "loading 10.0 MB: 50 %", False),
        (["loading 11000000 10000000"], "loading 10.0 MB: 100 %", False),  # with what else llama.cpp reads
        (["loading 0 0"], "loading", False),
        (["loading 1 2", "prompt"], "", True),
        (["prompt", "exit 0"], "", False),
    ],
)
def test_how_far_a_guest_is(lines: list[str], progress: str, listening: bool) -> None:
    report = read(lines)
    assert (report.progress, report.listening) == (progress, listening)


@pytest.mark.parametrize("word", ["exit", "loading", "init", "error", "prompt"])
def test_no_line_raises(word: str) -> None:
    random_text = random.Random(word)
    for _ in range(500):
        rest = "".join(random_text.choices("0123456789.-+eE_ \t\0²٣nx", k=random_text.randrange(12)))
        read([f"{word} {rest}", f"{word}{rest}"])
    read([f"{word} {'9' * 5000}"])
    read([f"{word} {'9' * 5000}.{'9' * 5000}"])


def said(*, exit: int | None = None, error: str = "") -> Report:
    return Report(exit=exit, error=error)


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (Outcome(said(exit=0)), Status.OK, None),
        (Outcome(said(exit=3)), 3, None),
        (Outcome(said(exit=139, error="signal 11")), 139, "signal 11"),
        (Outcome(said(exit=Status.NO_DISK, error="no disk. Make one")), Status.NO_DISK, "no disk. Make one"),
        (
            Outcome(said(error="half a story")),
            Status.NO_STATUS,
            "The guest ended without reporting a status. Run it with V",
        ),
        (Outcome(said()), Status.NO_STATUS, "The guest ended without reporting a status. Run it with VERBOSE=1"),
        (Outcome(said(), qemu=1), Status.QEMU_FAILED, "QEMU ended with status 1. Its own message is above"),
        (Outcome(said(), qemu=-15), Status.QEMU_KILLED, "QEMU was killed by signal 15"),
        (Outcome(said(), qemu=-9), Status.QEMU_KILLED, "QEMU was killed by signal 9. If the host's memory is used up"),
        (Outcome(said(), console=PANIC), Status.PANIC, "The guest's kernel panicked: Out of memory. Too little"),
        (Outcome(said(), silent=60), Status.SILENT, "The guest gave no sign of life for 60 s. Run"),
        (Outcome(said(), signal=15), 143, None),
    ],
)
def test_ending(outcome: Outcome, status: int, message: str | None) -> None:
    code, error = ending(outcome)
    assert code == status
    assert (error is None) == (message is None)
    assert str(error or "").startswith(message or "")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(said(exit=0), qemu=-15, signal=1, silent=60, console=PANIC), 129),
        (Outcome(said(exit=0, error="x"), signal=13), 141),
        (Outcome(said(exit=0), console=PANIC), Status.OK),
        (Outcome(said(exit=5), silent=60, console=PANIC), 5),
        (Outcome(said(exit=5), qemu=1, console=PANIC), Status.QEMU_FAILED),
        (Outcome(said(exit=5), qemu=-9, console=PANIC), Status.QEMU_KILLED),
        (Outcome(said(), qemu=-9, silent=60, console=PANIC), Status.SILENT),
        (Outcome(said(), qemu=1, silent=60), Status.SILENT),
    ],
)
def test_which_reason_comes_first(outcome: Outcome, status: int) -> None:
    assert ending(outcome)[0] == status


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (b"Kernel panic - not syncing: No init found.", "No init found."),
        (
            b"\x1b[31mKernel panic - not syncing: a\xff\r\n---[ end Kernel panic - not syncing: b ]---",
            "a\N{REPLACEMENT CHARACTER}",
        ),
        (b"x" * 8000 + b"\nKernel panic - not syncing: ", ""),
    ],
)
def test_the_panic_in_the_console(console: bytes, reason: str) -> None:
    status, error = ending(Outcome(Report(), console=console))
    assert status == Status.PANIC
    assert error and error.message == f"The guest's kernel panicked: {reason}"


@pytest.mark.parametrize("console", [b"", b"Kernel panic", b"kernel panic - not syncing: x", b"\xff\xfe\0"])
def test_no_panic_in_the_console(console: bytes) -> None:
    assert ending(Outcome(Report(), console=console))[0] == Status.NO_STATUS


@pytest.mark.parametrize("status", Status)
def test_each_status_is_a_number_with_a_meaning(status: Status) -> None:
    assert f"{status:d}" == str(status.value)
    assert len(status.meaning) > 10
    assert not status.meaning.endswith(".")
    assert status.value in (0, 2) or 64 <= status.value < 128, "the others are llama-cli's own and the signals'"


def test_the_guests_shell_knows_each_status(busybox: Path) -> None:
    program = shell_table() + "".join(f'echo "{status.name} ${status.name}"\n' for status in Status)
    done = subprocess.run([busybox, "sh", "-euc", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{status.name} {status.value}" for status in Status]


def test_init_uses_no_other_status(root: Path) -> None:
    used = set(re.findall(r"\bfail \"\$([A-Z_]+)\"", (root / "initramfs" / "init").read_text()))
    assert "NO_DISK" in used
    assert used <= set(Status.__members__)
