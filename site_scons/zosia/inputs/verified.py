"""Which files were verified: a file of gigabytes is hashed once, and known by its size and time from then on.

The record is the file NAME.json beside the place for NAME in the cache: path, size in bytes, time in ns and SHA-256 of
the file that was verified for it. The path is NAME for the file at that place, so that a cache can be moved and copied,
and absolute for one that lies elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, size_text
from zosia.base.progress import sha256

SHOWN = 10**9  # bytes; what takes seconds to hash is worth a line


class Unreadable(ZosiaError):
    """There is no telling whether a file is the one that is wanted."""


def record_of(place: Path) -> Path:
    """Where the record for a place is, or would be."""
    return place.with_name(f"{place.name}.json")


def write(path: Path, place: Path, digest: str) -> None:
    """Record that `path` has the SHA-256 `digest`, for `place`."""
    facts = _facts(path, place, digest)
    with replacing(record_of(place)) as temporary:
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def read(place: Path, digest: str) -> Path | None:
    """The file that was verified for `place` and has not changed since."""
    try:
        written = json.loads(record_of(place).read_text(encoding="utf-8"))
        path = place.parent / written["path"]
        return path if written == _facts(path, place, digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verify(path: Path, place: Path, *, size: int, digest: str) -> bool:
    """Whether a file is the one that is wanted for `place`; if so, it is recorded.

    Raises:
        Unreadable: it can't be read, or changes meanwhile.
    """
    try:
        before = _facts(path, place, digest)
        if before["size"] != size:
            return False
        if size >= SHOWN:
            style.say("CHECK", f"{path} ({size_text(size)})")
        right = sha256(path) == digest
        changed = _facts(path, place, digest) != before
    except OSError as error:  # the disk's, somebody else's file, or gone
        raise Unreadable(
            f"{path} can't be read: {error.strerror}",
            f"Look at its permissions and at the disk; to do without the file, type: rm {path}",
        ) from error
    if changed:
        raise Unreadable(f"{path} changed while it was checked", "Leave it alone, and run it again")
    if right:
        write(path, place, digest)
    return right


def _facts(path: Path, place: Path, digest: str) -> dict[str, str | int]:
    stat = path.stat()
    name = place.name if path == place else str(path.absolute())
    return {"path": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
