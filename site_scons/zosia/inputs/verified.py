"""Record of verified files: a large file is hashed once, and later recognized by its size and time.

NAME.json, beside the place of NAME in the cache, has path, size in bytes, time in ns and SHA-256 of the file that was
verified for that place. The path is NAME for the file at that place, so that a cache can be moved and copied, and
absolute for a file elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, size_text
from zosia.base.progress import sha256

SHOWN = 10**9  # bytes; hashing more takes seconds, and is reported


class Unreadable(ZosiaError):
    """Failure to verify a file, which may be right or wrong."""


def record_of(place: Path) -> Path:
    """Return the path of a place's record."""
    return place.with_name(f"{place.name}.json")


def write(path: Path, place: Path, digest: str) -> None:
    """Record that `path` has the SHA-256 `digest`, for `place`."""
    facts = _facts(path, place, digest)
    with replacing(record_of(place)) as temporary:
        temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def read(place: Path, digest: str) -> Path | None:
    """Return the file that was verified for `place`; None if there is none, or it has changed."""
    try:
        written = json.loads(record_of(place).read_text(encoding="utf-8"))
        path = place.parent / written["path"]
        return path if written == _facts(path, place, digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def verify(path: Path, place: Path, *, size: int, digest: str) -> bool:
    """Return True if a file has this size and digest, and record it for `place` then.

    Raises:
        Unreadable: the file can't be read, or changes meanwhile.
    """
    try:
        before = _facts(path, place, digest)
        if before["size"] != size:
            return False
        if size >= SHOWN:
            style.say("CHECK", f"{path} ({size_text(size)})")
        right = sha256(path) == digest
        changed = _facts(path, place, digest) != before
    except OSError as error:  # a broken disk, another user's file, or a removed one
        raise Unreadable(
            f"{path} can't be read: {error.strerror}",
            f"Check its permissions and the disk; to discard it, type: rm {path}",
        ) from error
    if changed:
        raise Unreadable(f"{path} changed while it was checked", "Leave it unchanged, and run it again")
    if right:
        write(path, place, digest)
    return right


def _facts(path: Path, place: Path, digest: str) -> dict[str, str | int]:
    stat = path.stat()
    name = place.name if path == place else str(path.absolute())
    return {"path": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
