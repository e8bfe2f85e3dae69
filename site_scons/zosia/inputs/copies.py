"""Copies of files of gigabytes: shared with the original where the filesystem can, else made by the kernel."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from zosia.base.errors import ZosiaError
from zosia.base.files import check_room

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

CHUNK = 1 << 23  # bytes that are copied at a time
WHOLE = 1 << 21  # bytes; a multiple of any filesystem's block
FICLONERANGE = 0x4020940D  # of linux/fs.h; on the few architectures that number it otherwise nothing is shared
CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # copy_file_range between such filesystems


def copy(source: Path, target: Path) -> str:
    """Copy a file and give its SHA-256, for which it is read only once: it may lie on a slow stick.

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
        what: what is made, for the progress bar and the message when there is no room.
        offset: where in `target` it begins, in bytes: a multiple of WHOLE if blocks are to be shared.
        needed: bytes that must be free if no blocks can be shared; 0 for `size`.
        sha: what is given all bytes of `source`.

    Raises:
        ZosiaError: `source` can't be read, or changes meanwhile; there is no room.
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
        raise ZosiaError(f"{source} changed while it was copied", "Leave it alone, and run it again")


def shares(folder: Path, other: Path) -> bool:
    """Whether files in these folders can share blocks, so that a copy takes no room."""
    with tempfile.NamedTemporaryFile(dir=folder) as source, tempfile.NamedTemporaryFile(dir=other) as goal:
        source.truncate(WHOLE)
        return bool(_share(source.fileno(), goal.fileno(), 0, WHOLE))


def _share(source: int, goal: int, offset: int, size: int) -> int:
    """Let an open file share another's blocks, from an offset on, and return how many bytes it does: 0 if it can't."""
    count = size // WHOLE * WHOLE  # the rest is copied
    if not count:
        return 0  # which would mean: all
    try:
        fcntl.ioctl(goal, FICLONERANGE, struct.pack("=qQQQ", source, 0, count, offset))
    except OSError:
        return 0
    return count


def _copy_rest(
    source: FileIO, goal: FileIO, offset: int, size: int, *, what: str, shared: int, sha: Hash | None
) -> None:
    """Copy the bytes behind those that are shared, and give them all to `sha`; `what` is shown as being made.

    Raises:
        EOFError: there are fewer.
    """
    from zosia.base import progress  # tqdm is not on the way to a prompt

    buffer = memoryview(bytearray(CHUNK if sha else 0))
    with progress.bar("COPY", what, size=size) as bar, ThreadPoolExecutor(1) as copier:
        for at in range(0 if sha else shared, size, CHUNK):
            end = min(at + CHUNK, size)
            # One thread copies in the kernel what the other reads at the same time: the disk is read once.
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
    """Copy the bytes from `start` to `end` to where they are `offset` further on."""
    while start < end:
        copied = _kernel_copy(source, goal, end - start, start, start + offset)
        copied = copied or os.pwrite(goal.fileno(), os.pread(source.fileno(), end - start, start), start + offset)
        if not copied:
            raise EOFError
        start += copied


def _kernel_copy(source: FileIO, goal: FileIO, count: int, start: int, to: int) -> int:
    """Copy without a way through this process; return how many bytes: 0 where that is not to be had."""
    if not hasattr(os, "copy_file_range"):
        return 0  # macOS
    try:
        return os.copy_file_range(source.fileno(), goal.fileno(), count, start, to)
    except OSError as error:
        if error.errno in CANNOT:
            return 0
        raise


def unreadable(source: Path, error: OSError) -> ZosiaError:
    """What to say of a file that was to be copied."""
    return ZosiaError(f"{source} can't be read: {error.strerror}", "Copy it to this machine again")
