"""Warning before another program changes a file that a guest uses: Linux' leases, see fcntl(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import explained

BROKEN = signal.SIGIO  # what this process gets when another one opens the file to write; that one waits meanwhile


class Lease:
    """A lease on a file that is read. Where the system has none, others may write without warning."""

    def __init__(self, path: Path | None) -> None:
        """Take it, if there is such a file; the handler of BROKEN has to be there before.

        Raises:
            ZosiaError: it is being written, or can't be read.
        """
        self._path, self._file = path, -1
        if path is None or not path.is_file():
            return
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error) from error
        if sys.platform != "linux":
            return
        try:
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(self._file, fcntl.F_SETOWN, os.getpid())  # not the thread that took it
        except OSError as error:  # another user's file, or a filesystem without leases
            if error.errno == errno.EAGAIN:
                os.close(self._file)
                raise ZosiaError(
                    f"Another program has {path} open for writing", "Start it again when that one has ended"
                ) from error

    def end(self) -> bool:
        """Give it up; return whether another file has the name now, or none. The file itself stayed the same."""
        if self._file < 0 or self._path is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return True
        finally:
            os.close(self._file)
