"""Copies of large files: sharing blocks with the original where the filesystem can, else made by the kernel."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import tempfile
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from zosia.base.errors import ZosiaError
from zosia.base.files import check_room

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

CHUNK = 1 << 23  # bytes to copy at a time
WHOLE = 1 << 21  # bytes; a multiple of any filesystem's block
FICLONERANGE = 0x4020940D  # of linux/fs.h; nothing is shared on the few architectures with another number
CANNOT = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # errors of copy_file_range where filesystems don't support it


def copy(source: Path, target: Path) -> str:
    """Copy a file and return its SHA-256, reading it only once: it may be on a slow stick.

    Raises:
        ZosiaError: as `copy_into`.
    """
    sha = hashlib.sha256()
    try:
        size = source.stat().st_size
    except OSError as error:
        raise unreadable(source, error) from error
    target.touch()
    copy_into(source, target, size=size, what=source.name, sha=sha)
    return sha.hexdigest()


def copy_into(
    source: Path, target: Path, *, size: int, what: str, offset: int = 0, needed: int = 0, sha: Hash | None = None
) -> None:
    """Copy a whole file into another one, which exists.

    Args:
        size: of `source`, in bytes.
        what: name of the copy, for the progress bar and the error if there is no room.
        offset: start in `target`, in bytes; blocks are shared only at multiples of WHOLE.
        needed: bytes that must be free if no blocks can be shared; 0 for `size`.
        sha: digest to update with all bytes of `source`.

    Raises:
        ZosiaError: `source` can't be read or changes meanwhile, or there is no room.
    """
    try:
        original = source.open("rb", buffering=0)
    except OSError as error:
        raise unreadable(source, error) from error
    with original, target.open("r+b", buffering=0) as goal:
        before = os.fstat(original.fileno())
        shared = _share(original.fileno(), goal.fileno(), offset, size)
        if not shared:
            check_room(target.parent, needed or size, what)
        try:
            _copy_rest(original, goal, offset, size, what=what, shared=shared, sha=sha)
            after = os.fstat(original.fileno())
        except EOFError:
            after = None
    if not after or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
        raise ZosiaError(f"{source} changed while it was copied", "Leave it unchanged, and run it again")


def shares(folder: Path, other: Path) -> bool:
    """Return True if files in these folders can share blocks, so that a copy takes no room."""
    with tempfile.NamedTemporaryFile(dir=folder) as source, tempfile.NamedTemporaryFile(dir=other) as goal:
        source.truncate(WHOLE)
        return bool(_share(source.fileno(), goal.fileno(), 0, WHOLE))


def _share(source: int, goal: int, offset: int, size: int) -> int:
    """Share blocks between open files, at an offset in `goal`; return the number of bytes shared, 0 if impossible."""
    count = size // WHOLE * WHOLE  # the remainder is copied
    if not count:
        return 0  # the kernel takes a count of 0 for the whole file
    try:
        fcntl.ioctl(goal, FICLONERANGE, struct.pack("=qQQQ", source, 0, count, offset))
    except OSError:
        return 0
    return count


def _copy_rest(
    source: FileIO, goal: FileIO, offset: int, size: int, *, what: str, shared: int, sha: Hash | None
) -> None:
    """Copy the bytes behind the shared ones, and update `sha` with all; `what` labels the progress bar.

    Raises:
        EOFError: `source` is shorter than `size`.
    """
    from concurrent.futures import ThreadPoolExecutor  # imported late: with tqdm it would delay each run

    from zosia.base import progress

    buffer = memoryview(bytearray(CHUNK if sha else 0))
    with progress.bar("COPY", what, size=size) as bar, ThreadPoolExecutor(1) as copier:
        for at in range(0 if sha else shared, size, CHUNK):
            end = min(at + CHUNK, size)
            # One thread has the kernel copy a chunk while the other hashes it, so that the disk is read once.
            copying = copier.submit(_copy_range, source, goal, offset, max(at, shared), end)
            if sha:
                sha.update(_read(source, buffer[: end - at], at))
            copying.result()
            bar.update(end - at)


def _read(source: FileIO, buffer: memoryview, at: int) -> memoryview:
    try:
        count = os.preadv(source.fileno(), [buffer], at)
    except OSError as error:
        raise unreadable(Path(os.fsdecode(source.name)), error) from error
    if count < len(buffer):
        raise EOFError
    return buffer


def _copy_range(source: FileIO, goal: FileIO, offset: int, start: int, end: int) -> None:
    """Copy the bytes from `start` to `end`, to `offset` bytes further on."""
    while start < end:
        copied = _kernel_copy(source, goal, end - start, start, start + offset)
        copied = copied or os.pwrite(goal.fileno(), os.pread(source.fileno(), end - start, start), start + offset)
        if not copied:
            raise EOFError
        start += copied


def _kernel_copy(source: FileIO, goal: FileIO, count: int, start: int, to: int) -> int:
    """Copy within the kernel; return the number of bytes copied, 0 where that is not supported."""
    copy: Callable[[int, int, int, int, int], int] | None = getattr(os, "copy_file_range", None)
    if not copy:
        return 0  # macOS
    try:
        return copy(source.fileno(), goal.fileno(), count, start, to)
    except OSError as error:
        if error.errno in CANNOT:
            return 0
        raise


def unreadable(source: Path, error: OSError) -> ZosiaError:
    """Return the error for a file that can't be read."""
    return ZosiaError(f"{source} can't be read: {error.strerror}", "Copy it to this machine again")
