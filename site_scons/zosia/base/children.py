"""Programs that end with this process, even if it is killed.

A guest that still loads, or is stopped, would not notice that its console has closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Elsewhere a watcher, whose process group the program joins, waits for the end of its standard input, which only this
# process can write to. As long as the watcher is there, no other process gets the group's number.
WATCHER = ("/bin/sh", "-c", "read _; kill -9 0")


def bound(parent: int, hold: Callable[[], None] | None = None) -> Callable[[], None]:
    """Return a function for a new process to call, which has Linux kill it with the process `parent`.

    It calls `hold` last, which may take rights from it.
    """
    library = ctypes.CDLL(None)

    def bind() -> None:
        if sys.platform == "linux":
            library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has ended before
                os._exit(1)
        if hold:
            hold()

    return bind


class Child(subprocess.Popen[bytes]):
    """A program that ends with this process. Its process group is not this one, so keys send it no signals."""

    def __init__(self, argv: Sequence[str], *, hold: Callable[[], None] | None = None, **options: Any) -> None:
        """Start it; options and errors are those of Popen. The new process calls `hold` first."""
        watched = sys.platform != "linux"
        self._watcher = subprocess.Popen(WATCHER, stdin=subprocess.PIPE, process_group=0) if watched else None
        group = self._watcher.pid if self._watcher else 0
        try:
            super().__init__(argv, preexec_fn=bound(os.getpid(), hold), process_group=group, **options)
        except BaseException:
            self._end_watcher()
            raise

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit status."""
        status = super().wait(timeout)
        self._end_watcher()
        return status

    def _end_watcher(self) -> None:
        if self._watcher:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
