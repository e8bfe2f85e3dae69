"""Progress of long steps: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from zosia.base import progress

# What takes its time, so that tests need none: each step is one second later.
DRIVER = """
import sys, time
sys.path.insert(0, {library!r})
from zosia.base import progress, style
import tqdm.std
clock = time.time()
tqdm.std.time = lambda: clock
def later(seconds):
    global clock
    clock += seconds
{does}
print("end", file=sys.stderr)
"""
NINJA = """
steps = progress.Steps("LLAMA")
for number in range(1, 201):
    later(1)
    steps.take(f"[{number}/200] Building CXX object x.o\\n")
steps.close()
"""
KERNEL = """
steps = progress.Steps("LINUX", 100)
for number in range(110):
    later(1)
    steps.take("  CC      init/main.o\\n")
    steps.take("scripts/x.c: warning: y\\n")
steps.close()
"""
MAKE = """
steps = progress.Steps("BUILDROOT")
steps.take(">>> linux 6.1 Building\\n")
for number in range(100):
    later(1)
    steps.take("gcc x\\n")
steps.close()
"""
BYTES = """
with progress.bar("FETCH", "a {b} file", size=10**9, done=10**8) as bar:
    for part in range(9):
        later(10)
        bar.update(10**8)
        if part == 5:
            style.say("WAIT", "the server is busy")
"""


def command(root: Path, does: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        DRIVER.format(library=str(root / "site_scons"), does=does.replace("{{", "{").replace("}}", "}")),
    ]


def log(root: Path, does: str) -> list[str]:
    """The lines of a log."""
    done = subprocess.run(command(root, does), capture_output=True, text=True, check=True)
    assert done.stdout == ""
    *lines, end = done.stderr.split("\n")[:-1]
    assert end == "end"
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    return lines


def screen(root: Path, does: str, **environment: str) -> str:
    """All that comes to a terminal of 80 columns."""
    argv = command(root, does)
    env = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}
    child = pexpect.spawn(argv[0], argv[1:], env=env, encoding="utf-8", timeout=60, dimensions=(24, 80))
    return str(child.read())


def test_a_log_gets_a_line_now_and_then(root: Path) -> None:
    lines = log(root, NINJA)
    assert len(lines) == 6, "one each 30 s of 200"
    assert all(re.fullmatch(r"  LLAMA \d+/200, \d+ %, \d\d:\d\d, \d\d:\d\d left", line) for line in lines)
    assert lines[0].startswith("  LLAMA 3")


def test_a_kernel_is_measured_by_what_make_said(root: Path) -> None:
    lines = log(root, KERNEL)
    assert lines[0] == "  LINUX 30/100, 30 %, 00:30, 01:10 left"
    assert len(lines) == 3
    assert not [line for line in lines if line.startswith("  LINUX 1")], "no more steps than there are"


def test_without_a_total_it_is_counted(root: Path) -> None:
    lines = log(root, MAKE)
    assert lines[-1] == "  BUILDROOT 91 steps, 01:30, linux 6.1 Building"


def test_bytes_in_a_log(root: Path) -> None:
    lines = log(root, BYTES)
    assert lines[0] == "  FETCH a {b} file 400MB of 1.00GB, 40 %, 10.0MB/s, 01:00 left"
    assert lines[1:] == [
        "  FETCH a {b} file 700MB of 1.00GB, 70 %, 10.0MB/s, 00:30 left",
        "  WAIT  the server is busy",
        "  FETCH a {b} file 1.00GB of 1.00GB, 100 %, 10.0MB/s, 00:00 left",
    ]


def test_what_is_done_soon_is_done_without_a_line(root: Path) -> None:
    assert log(root, NINJA.replace("later(1)", "later(0.1)")) == []
    assert "|" not in screen(root, NINJA.replace("later(1)", "later(0.001)"))


@pytest.mark.parametrize("does", [NINJA, KERNEL, BYTES], ids=["ninja", "kernel", "bytes"])
def test_a_terminal_gets_a_bar(root: Path, does: str) -> None:
    shown = screen(root, does)
    parts = [part for part in re.split(r"[\r\n]+", re.sub(r"\x1b\[\d*[A-Zm]|\x1b\[[\d;]*m", "", shown)) if "%|" in part]
    assert len(parts) >= 8
    assert all(len(part.rstrip()) <= 80 for part in parts)
    assert " left" in parts[-1]
    assert re.search(r"\n?\s*end\r\n$", shown), "and nothing is left of it"
    if does == BYTES:
        assert re.search(r"[\r\n] *\r?  \x1b\[33mWAIT\x1b\[0m  the server is busy\r\n", shown), "on a line of its own"


def test_no_color_keeps_the_bar(root: Path) -> None:
    shown = screen(root, NINJA, NO_COLOR="1")
    assert re.search(r"  LLAMA +\d+%\|.*\| \d+/200", shown)
    assert "\x1b[3" not in shown
    assert "\x1b[36mLLAMA\x1b[0m" in screen(root, NINJA)


def test_a_dumb_terminal_gets_lines(root: Path) -> None:
    shown = screen(root, NINJA, TERM="dumb")
    assert len(re.findall(r"^  LLAMA \d+/200, .* left\r$", shown, re.MULTILINE)) == 6


def test_big_files_are_hashed_with_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"big" * 100000)
    assert progress.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(progress, "BIG", 10)
    monkeypatch.setattr(progress, "CHUNK", 7777)
    assert progress.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
