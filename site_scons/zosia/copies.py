"""A copy of a file of gigabytes, hashed while it is made: the original, on a slow stick say, is read once."""

from __future__ import annotations

import fcntl
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from .errors import ZosiaError
from .files import check_room, sha256

COPY = 1 << 20  # bytes
FICLONE = 0x40049409  # ioctl of Linux, linux/fs.h: have the content of another file, in the same place of the disk


def copy(source: Path, target: Path) -> str:
    """Copy `source` to `target` and give the SHA-256; where the filesystem can, they share their place on the disk.

    Raises:
        ZosiaError: `source` can't be read, or there is no room.
    """
    try:
        original = source.open("rb")
    except OSError as error:
        raise _unreadable(source, error) from error
    with original, target.open("wb") as file:
        if _shared(original, file):
            return sha256(target)
        size = source.stat().st_size
        check_room(target.parent, size, source.name)
        digest = hashlib.sha256()
        with tqdm(
            total=size, unit="B", unit_scale=True, desc=f"  {source.name}", disable=None, leave=False
        ) as progress:
            for piece in _pieces(original, source):
                digest.update(piece)
                file.write(piece)
                progress.update(len(piece))
        return digest.hexdigest()


def _shared(original: BinaryIO, file: BinaryIO) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(file, FICLONE, original.fileno())
    except OSError:  # another disk, or a filesystem that can't
        return False
    return True


def _pieces(original: BinaryIO, source: Path) -> Iterator[bytes]:
    try:
        while piece := original.read(COPY):
            yield piece
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: Path, error: OSError) -> ZosiaError:
    return ZosiaError(f"{source} can't be read: {error.strerror}", "Copy it to this machine again")
