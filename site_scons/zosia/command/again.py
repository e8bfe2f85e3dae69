"""Chats that are started again: with the same words, the machine of the last run resumes while settings are read.

What is remembered decides nothing. Before anything is shown, the settings have to come to the very same machine; if
they don't, it is ended unseen, and the run begins anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root, refused, replacing
from zosia.base.places import CLONE, INSTALLED
from zosia.base.version import VERSION

if TYPE_CHECKING:
    from zosia.machine.qemu import Machine

KEPT = 16  # machines; those that were started last
Starting = Callable[["Machine"], int]  # runs a machine, and returns the exit status


def memory(words: Sequence[str], launched: Path) -> Path:
    """Return the file for the machine that the words mean in the folder that they are typed in."""
    parts = [VERSION, str(CLONE), str(launched), *words]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_root() / "again" / f"{digest[:32]}.json"


def remembered(words: Sequence[str]) -> Machine | None:
    """Return the machine that was started last with the words, for a chat in this terminal."""
    if not (os.isatty(0) and os.isatty(1)):
        return None
    try:
        text = memory(words, Path.cwd()).read_text(encoding="utf-8")
    except (OSError, ValueError, ZosiaError):  # ZOSIA_CACHE is no path, or the folder has gone, which is said later
        return None
    import dacite

    from zosia.run import supervisor

    try:
        return supervisor.from_json(text)
    except (ValueError, TypeError, AttributeError, dacite.DaciteError):  # damaged, or of a zosia with other fields
        return None


def remember(words: Sequence[str], machine: Machine, launched: Path) -> None:
    """Remember a machine that can be resumed, for `remembered` in the folder `launched`; not one that has something
    private to read.
    """
    task = machine.task
    if machine.hot is None or machine.verbose or task.prompt or task.files:
        return
    from zosia.run import supervisor

    with suppress(OSError, ZosiaError):  # the next run is as slow as this one
        path, data = memory(words, launched), supervisor.to_json(machine).encode()
        if not path.exists() or path.read_bytes() != data:
            with replacing(path) as temporary:
                temporary.touch(0o600)
                temporary.write_bytes(data)
            for old in sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)


def forget() -> None:
    """Forget all machines."""
    shutil.rmtree(memory([], CLONE).parent, ignore_errors=True)


def run(words: Sequence[str], machine: Machine, act: Callable[[], Callable[..., int]]) -> int:
    """Run the machine that is remembered for the words, or the one that they mean now; return the exit status.

    Args:
        act: imports the function that acts on words: it takes them, the folder that relative paths start from, and
            `start`, what is done with the machine; it returns the exit status.
    """
    from zosia.run import supervisor
    from zosia.run.hot import RefutedError

    launched = Path.cwd()
    found: list[Machine] = []
    statuses: list[int] = []

    def start(wanted: Machine) -> int:
        found.append(wanted)
        return 0

    def confirming() -> Iterator[None]:
        does = act()  # slow, while QEMU starts
        yield
        statuses.append(does(words, launched=launched, start=start))
        if found != [machine]:
            raise RefutedError
        yield

    if not INSTALLED:
        os.chdir(CLONE)
    with suppress(OSError):  # it has gone, or is on a disk that can't be written
        os.utime(memory(words, launched))
    try:
        return supervisor.run(machine, confirming())
    except BrokenPipeError:
        raise
    except (RefutedError, ZosiaError, OSError) as error:
        if any(statuses):  # it was said already
            return statuses[0]
        if found == [machine] and not isinstance(error, RefutedError):
            return refused(error)
    return act()(words, launched=launched)
