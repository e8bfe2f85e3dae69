"""Database of what was built: a dbm module for SConsignFile.

SCons' own believes a damaged file, and ends in a traceback where it can't write. This one begins with a SHA-256: after
any damage everything is looked at anew. It is written only if something has changed, and a failure costs a line.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing

DIGEST = hashlib.sha256().digest_size


class Database(dict[str, bytes]):
    """Entries by folder, in a file."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one."""
        data, problem = b"", ""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = str(explained(error))
        self._path, self._data = path, data[DIGEST:]
        if data and hashlib.sha256(self._data).digest() != data[:DIGEST]:
            problem, self._data = f"{path.name}, the list of what was built, is damaged", b""
        if problem:
            style.say("NOTE", f"everything is looked at anew: {problem}")
        super().__init__(pickle.loads(self._data) if self._data else {})

    def sync(self) -> None:
        """Write the file, if anything has changed."""
        data = pickle.dumps(dict(sorted(self.items())))
        if data == self._data:
            return
        try:
            with replacing(self._path) as temporary:
                temporary.write_bytes(hashlib.sha256(data).digest() + data)
            self._data = data
        except (OSError, ZosiaError) as error:
            reason = explained(error) if isinstance(error, OSError) else error
            style.say("NOTE", f"the next build may do again what this one did: {reason}")

    def close(self) -> None:
        """Do nothing: `sync` has written everything."""


def open(name: str, flag: str) -> Database:
    """Open the database NAME.dblite, the name that SCons gives its own."""
    return Database(Path(f"{name}.dblite"))
