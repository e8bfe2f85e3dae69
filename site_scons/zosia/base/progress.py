"""How far a long step is: on a terminal a bar, in a log a plain line now and then. Both are tqdm's."""

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

EVERY = 30.0  # seconds between two lines of a log; what is done sooner is done without any
SOON = 0.5  # seconds before there is a bar
CHUNK = 1 << 23  # bytes that are hashed at a time
BIG = 10**9  # bytes; what takes seconds to hash
# What is shown; the last one where there is no total.
BYTES = "{percentage:3.0f}%|{bar}| {n_fmt}B/{total_fmt}B, {rate_fmt}, {remaining} left"
STEPS = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed}, {remaining} left{postfix}"
BYTES_LINE = "{n_fmt}B of {total_fmt}B, {percentage:.0f} %, {rate_fmt}, {remaining} left"
STEPS_LINE = "{n_fmt}/{total_fmt}, {percentage:.0f} %, {elapsed}, {remaining} left{postfix}"
UNKNOWN = "{n_fmt} steps, {elapsed}{postfix}"


class _Lines(Bar):
    """A bar that is a line each time it is drawn."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write where it is; `msg` is "" at the end, when a bar is wiped out."""
        if msg is None:
            style.show(str(self))


def bar(label: str, what: str = "", *, size: int | None = None, done: int = 0, total: int | None = None) -> Bar:
    """Something to `update`, and to close.

    Args:
        label: of the line, as style.line has it.
        what: is being done, for the line.
        size: in bytes, for something that is measured in them; else it goes in steps.
        done: bytes or steps that were done before.
        total: steps, where somebody knows them; or else 0 or None.
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
    # The file takes what tqdm writes besides.
    return _Lines(delay=EVERY, mininterval=EVERY, miniters=1, file=io.StringIO(), disable=False, **options)


class Steps:
    """Counts the steps that a build system tells of, a line each.

    Ninja says [7/312]. Of make's lines those of kbuild count, "  CC      init/main.o", if there is a total; else all.
    Buildroot's ">>> linux 6.1 Building" is shown.
    """

    def __init__(self, label: str, total: int = 0) -> None:
        self.label = label
        self.bar = bar(label, total=total)

    def take(self, line: str) -> None:
        """Take in a line."""
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
        """End it."""
        self.bar.close()


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; of a big one it is shown how far it is."""
    size = path.stat().st_size
    if size < BIG:
        return files.sha256(path)
    sha = hashlib.sha256()
    with path.open("rb") as file, bar("CHECK", path.name, size=size) as shown:
        while data := file.read(CHUNK):
            sha.update(data)
            shown.update(len(data))
    return sha.hexdigest()
