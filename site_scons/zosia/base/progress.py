"""Progress of long steps, by tqdm: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from zosia.base import files, style

if TYPE_CHECKING:
    Bar = tqdm[Any]
else:
    Bar = tqdm

EVERY = 30.0  # seconds between two lines in a log; shorter steps show none
SOON = 0.5  # seconds before a bar appears
CHUNK = 1 << 23  # bytes to hash at a time
BIG = 10**9  # bytes; larger files take seconds to hash
# Formats; UNKNOWN is for steps without a total.
BYTES = "{percentage:3.0f}%|{bar}| {n_fmt}B/{total_fmt}B, {rate_fmt}, {remaining} left"
STEPS = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed}, {remaining} left{postfix}"
BYTES_LINE = "{n_fmt}B of {total_fmt}B, {percentage:.0f} %, {rate_fmt}, {remaining} left"
STEPS_LINE = "{n_fmt}/{total_fmt}, {percentage:.0f} %, {elapsed}, {remaining} left{postfix}"
UNKNOWN = "{n_fmt} steps, {elapsed}{postfix}"


class _Lines(Bar):
    """Bar that prints a new line each time it is drawn."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the state; `msg` is "" when tqdm erases a finished bar."""
        if msg is None:
            style.show(str(self))


def bar(label: str, what: str = "", *, size: int | None = None, done: int = 0, total: int | None = None) -> Bar:
    """Return a progress bar, to `update` and to close.

    Args:
        label: label of the line, as in style.line.
        what: text behind the label.
        size: total in bytes; without it the bar counts steps.
        done: bytes or steps done before.
        total: number of steps; 0 or None if unknown.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    start = style.line(label, f"{what} " if what else "").replace("{", "{{").replace("}", "}}")
    options: dict[str, Any] = {"initial": done, "leave": False}
    if size is None:
        known = STEPS if terminal else STEPS_LINE
        options |= {"total": total or None, "unit": " steps", "bar_format": start + (known if total else UNKNOWN)}
    else:
        known = BYTES if terminal else BYTES_LINE
        options |= {"total": size, "unit": "B", "unit_scale": True, "bar_format": start + known}
    if terminal:
        options["bar_format"] = style.painted(options["bar_format"], sys.stderr)
        return tqdm(delay=SOON, dynamic_ncols=True, file=sys.stderr, **options)
    # The file swallows what tqdm writes itself.
    return _Lines(delay=EVERY, mininterval=EVERY, miniters=1, file=io.StringIO(), disable=False, **options)


class Steps:
    """Counter of a build system's steps, from its output.

    Ninja prints [7/312]. Of make's lines those of kbuild count, "  CC      init/main.o", if there is a total; else all.
    Buildroot's ">>> linux 6.1 Building" is shown behind the count.
    """

    def __init__(self, label: str, total: int = 0) -> None:
        self.label = label
        self.bar = bar(label, total=total)

    def take(self, line: str) -> None:
        """Count a line of output."""
        ninja = re.match(r"\[(\d+)/(\d+)\]", line)
        stage = re.match(r">>> (.*)", line)
        if ninja:
            if not self.bar.total:
                self.bar.close()
                self.bar = bar(self.label, total=int(ninja[2]))
            self.bar.total = int(ninja[2])
            self.bar.update(int(ninja[1]) - self.bar.n)
            return
        if stage:
            self.bar.set_postfix_str(stage[1], refresh=False)
        if not self.bar.total or re.match("  [A-Z][A-Z0-9]+ ", line):
            self.bar.update(self.bar.n < (self.bar.total or sys.maxsize))

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, with a progress bar for a big one."""
    size = path.stat().st_size
    if size < BIG:
        return files.sha256(path)
    sha = hashlib.sha256()
    with path.open("rb") as file, bar("CHECK", path.name, size=size) as shown:
        while data := file.read(CHUNK):
            sha.update(data)
            shown.update(len(data))
    return sha.hexdigest()
