"""Hash tree over a model's disk: who knows its root can check each block by itself, before it is used.

In a guest the kernel does that (dm-verity), of a disk that it reads by virtio-blk; the tree is a file beside the disk,
in the format of `veritysetup` (https://docs.kernel.org/admin-guide/device-mapper/verity.html), which checks it by hand.
On the host the filesystem may (fs-verity, https://docs.kernel.org/filesystems/fsverity.html), with a tree of its own
that has the same root; what dax maps is checked then.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing

BLOCK = 4096  # bytes, of data as of the tree
DIGEST = 32  # bytes; a block of the tree has 128 of them
CHUNK = 256 * BLOCK  # bytes read at a time
UUID = "7a6f7369-6100-4000-8000-000000000002"  # constant: the same disk gives the same tree
SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")  # cryptsetup, lib/verity/verity.c
DESCRIPTOR = struct.Struct("<BBBBIQ64s32s144x")  # linux/fsverity.h, struct fsverity_descriptor
ENABLE_ARGUMENT = struct.Struct("<IIIIQIIQ11Q")  # struct fsverity_enable_arg
FS_IOC_ENABLE_VERITY, FS_IOC_MEASURE_VERITY = 0x40806685, 0xC0046686
SHA256 = 1  # FS_VERITY_HASH_ALG_SHA256
NONE = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # a filesystem or a kernel without fs-verity


@dataclass(frozen=True)
class Root:
    """Root of a tree: its `digest` in hexadecimal, and the size of the file below it in bytes."""

    digest: str
    size: int

    @property
    def measure(self) -> str:
        """Digest of the file as fs-verity has it, in hexadecimal."""
        root = bytes.fromhex(self.digest)
        return hashlib.sha256(
            DESCRIPTOR.pack(1, SHA256, BLOCK.bit_length() - 1, 0, 0, self.size, root, b"")
        ).hexdigest()


def path_of(image: Path) -> Path:
    """Return the path of an image's tree."""
    return image.with_name(f"{image.name}.verity")


def write(image: Path) -> str:
    """Write the tree of an image, whose size is a multiple of a block, beside it; return its root in hexadecimal.

    Raises:
        ZosiaError: the disk is full.
        OSError: it can't be read or written.
    """
    size = image.stat().st_size
    levels = [_of_file(image)]
    while len(levels[-1]) > DIGEST:
        levels.append(_digests(_padded(levels[-1])))
    *stored, root = levels
    head = SUPERBLOCK.pack(
        b"verity", 1, 1, bytes.fromhex(UUID.replace("-", "")), b"sha256", BLOCK, BLOCK, size // BLOCK, 0, b""
    )
    with replacing(path_of(image)) as temporary, temporary.open("wb") as file:
        file.write(_padded(head))
        for level in reversed(stored):  # the highest one first
            file.write(_padded(level))
    return root.hex()


def enable(image: Path) -> bool:
    """Have the filesystem check a file from now on, which nobody can write to any more; return whether it does."""
    if sys.platform != "linux":
        return False
    argument = ENABLE_ARGUMENT.pack(1, SHA256, BLOCK, 0, 0, 0, 0, 0, *[0] * 11)
    file = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(file, FS_IOC_ENABLE_VERITY, argument)
    except OSError as error:
        return error.errno == errno.EEXIST
    finally:
        os.close(file)
    return True


def measured(image: Path) -> str:
    """Return the digest by which the filesystem checks a file, in hexadecimal; "" if it checks none.

    Raises:
        OSError: the file can't be opened, or the filesystem fails.
    """
    if sys.platform != "linux":
        return ""
    answer = bytearray(struct.pack("<HH", 0, DIGEST) + bytes(DIGEST))  # struct fsverity_digest
    with image.open("rb") as file:
        try:
            fcntl.ioctl(file, FS_IOC_MEASURE_VERITY, answer)
        except OSError as error:
            if error.errno in (*NONE, errno.ENODATA):
                return ""
            raise
    return bytes(answer[4:]).hex()


def checked_here(image: Path, root: Root) -> bool:
    """Return whether this host's filesystem checks an image whenever it is read, from now on if it did not before.

    Raises:
        ZosiaError: it checks another content, or the file can't be read.
    """
    try:
        found = measured(image) or (measured(image) if enable(image) else "")
    except OSError as error:
        raise explained(error) from error
    if found and found != root.measure:
        raise ZosiaError(f"{image} is not what it was made as", "Remove it: the next run makes it again")
    return bool(found)


def _of_file(image: Path) -> bytes:
    found = bytearray()
    part = memoryview(bytearray(CHUNK))
    with image.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            found += _digests(part[:size])
    return bytes(found)


def _digests(data: bytes | memoryview) -> bytes:
    """Return the digests of the data's blocks, one after the other."""
    view, sha256 = memoryview(data), hashlib.sha256
    return b"".join([sha256(view[at : at + BLOCK]).digest() for at in range(0, len(view), BLOCK)])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
