"""Files that are whole or not there: digests, locks, replacing in one step, room on the disk."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError


def cache_root() -> Path:
    """Where downloads and compiled parts are kept between clones: ZOSIA_CACHE, or the platform's cache folder."""
    import platformdirs

    named = os.environ.get("ZOSIA_CACHE")
    try:
        return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("zosia")
    except RuntimeError as error:
        raise ZosiaError(f"ZOSIA_CACHE={named} can't be read: {error}", "Type the path of a folder") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path` (its name and .lock); whoever comes second waits and then finds the work done."""
    import filelock  # here, so that Buildroot can use the library with a bare Python

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        style.say("WAIT", f"another build is at work on {path.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; it becomes `path` when the block ends, and is removed when the block fails.

    What killed processes left of earlier attempts is removed as well.

    Raises:
        ZosiaError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ZosiaError(
                f"The disk is full: {path} could not be written", "Make room, then run it again"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left in a folder of files that they were replacing; `name` is a pattern."""
    for old in folder.glob(f".{name}.*"):
        if old.suffix[1:].isdigit() and not _alive(int(old.suffix[1:])):
            old.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    return True


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to.

    Raises:
        ZosiaError: it is one.
    """
    if not os.access(folder, os.W_OK):
        raise ZosiaError(f"{folder} can't be written to", "Build in a clone of your own")


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse when the disk of `folder` (which exists) has less than `needed` bytes free.

    Raises:
        ZosiaError: it has less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        cached = folder.resolve().is_relative_to(cache_root().resolve())
        raise ZosiaError(
            f"{what} needs {size_text(needed)} in {folder}, which has {size_text(free)} free",
            "Make room, or name another place with ZOSIA_CACHE=" if cached else "Make room, then run it again",
        )


def size_text(count: int) -> str:
    """Bytes for a person: 98362432 is 98.4 MB."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count >= 10**6 else f"{count} bytes"
