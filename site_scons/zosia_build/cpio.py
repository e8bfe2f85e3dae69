"""Writer for the cpio archive that Linux unpacks into its first root, in the "newc" format.

The kernel's Documentation/driver-api/early-userspace/buffer-format.rst describes it. An entry is a header of 110
characters (a magic number and 13 fields of eight hexadecimal digits), the name with a NUL, and the data; name and data
are padded to four bytes.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
LIMIT = 2**32 - 1  # bytes: sizes have 32 bits
GZIP = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # header of a .gz: deflate, no name, no time, an unknown system
BLOCK = 2**16 - 1  # most bytes of a stored block


@dataclass(frozen=True, kw_only=True)
class Entry:
    """File of the archive, owned by root.

    `name` is its path without a leading slash; `mode` its type and permissions as in stat(2); `data` a file's content
    or a link's target; `device` the major and minor number of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def write(entries: Iterable[Entry], file: IO[bytes]) -> None:
    """Write an archive that depends on its entries only: sorted by name, all times 0, inodes numbered.

    Raises:
        ZosiaError: a name occurs twice, or an entry is too large for the format.
    """
    names = set()
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.name), start=1):
        if entry.name in names:
            raise ZosiaError(f"The initramfs has /{entry.name} twice")
        names.add(entry.name)
        _write_entry(entry, number, file)
    _write_entry(Entry(name=TRAILER, mode=0), 0, file)


def write_gz(entries: Iterable[Entry], target: Path, *, level: int = 0, appended: bytes = b"") -> None:
    """Write an archive as a .gz, followed by others that are .gz already: Linux unpacks one after another.

    The same entries give the same bytes everywhere. Errors as in `write`.

    Args:
        level: of compression, up to 12. With 0 the data is stored, which saves a quarter of a start's instructions, and
            more than doubles the size (docs/benchmarks.md).
    """
    archive = io.BytesIO()
    write(entries, archive)
    packed = _compressed(archive.getvalue(), level) if level else _stored(archive.getvalue())
    with replacing(target) as temporary:
        temporary.write_bytes(packed + appended)


def _compressed(data: bytes, level: int) -> bytes:
    import deflate  # Buildroot calls this with Python's own library, and stores

    return bytes(deflate.gzip_compress(data, level))


def _stored(data: bytes) -> bytes:
    """Return a .gz (RFC 1952) of stored blocks (RFC 1951, 3.2.4)."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)] or [b""]
    packed = [struct.pack("<BHH", block is blocks[-1], len(block), BLOCK ^ len(block)) + block for block in blocks]
    return GZIP + b"".join(packed) + struct.pack("<II", zlib.crc32(data), len(data) & LIMIT)


def _write_entry(entry: Entry, inode: int, file: IO[bytes]) -> None:
    if len(entry.data) > LIMIT:
        raise ZosiaError(f"/{entry.name} is too large for an initramfs (4 GiB)", "Put it on the model disk")
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, time, size, dev major and minor, rdev major and minor, length of name, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % field for field in fields) + name
    file.write(header + bytes(-len(header) % 4))
    file.write(entry.data + bytes(-len(entry.data) % 4))
