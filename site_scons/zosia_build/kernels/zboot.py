"""EFI zboot images, in which arm64 distributions have their kernel: a program for the firmware that unpacks an Image.

QEMU starts the Image itself. The format is in Linux, drivers/firmware/efi/libstub/zboot-header.S and Makefile.zboot.
"""

from __future__ import annotations

import gzip
import lzma
import shlex
import struct
import zlib
from importlib import import_module

from zosia.base.errors import ZosiaError

MAGIC, MAGIC_AT = b"zimg", 4
PLACE = struct.Struct("<II")  # of the payload, and its size: at 8
PLACE_AT, NAME_AT, NAME_END = 8, 24, 0x38
ZSTD = "compression.zstd"  # since Python 3.14
AGAIN = "Get the file again"
TOOLS = {"zstd": "zstd", "lz4": "lz4", "lzo": "lzop"}


def unwrapped(image: bytes, name: str) -> bytes:
    """Return the kernel inside a zboot image; any other content as it is.

    Args:
        image: content of a file.
        name: of that file, for messages.

    Raises:
        ZosiaError: the image is truncated or damaged, or Python can't unpack its kernel.
    """
    if not image.startswith(MAGIC, MAGIC_AT):
        return image
    if len(image) < NAME_END:
        raise ZosiaError(f"{name} is truncated: it has {len(image)} bytes, and its header takes {NAME_END}", AGAIN)
    start, size = PLACE.unpack_from(image, PLACE_AT)
    if start + size > len(image):
        raise ZosiaError(f"{name} is truncated: it has {len(image)} bytes, and its kernel takes {start + size}", AGAIN)
    packing = image[NAME_AT:NAME_END].split(b"\0")[0].decode("ascii", "replace")
    try:
        return _unpacked(image[start : start + size], packing)
    except ImportError as error:
        tool = next(tool for begin, tool in TOOLS.items() if packing.startswith(begin))
        raise ZosiaError(
            f"{name} is an EFI zboot image, and this Python can't unpack its kernel, which is packed with {tool}",
            f"Type: tail -c +{start + 1} {shlex.quote(name)} | head -c {size} | {tool} -d >Image, and set KERNEL=Image",
        ) from error
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ZosiaError(f"{name} is damaged: its kernel can't be unpacked: {reason}", AGAIN) from error


def _unpacked(payload: bytes, packing: str) -> bytes:
    """Unpack a kernel; the names of packings end with a level or a variant, as in zstd22 and xzkern."""
    if packing == "gzip":
        return gzip.decompress(payload)
    if packing == "lzma" or packing.startswith("xz"):
        return lzma.decompress(payload)
    if packing.startswith("zstd"):
        zstd = import_module(ZSTD)
        try:
            return bytes(zstd.decompress(payload))
        except zstd.ZstdError as error:
            raise ValueError(str(error)) from error
    if packing.startswith(tuple(TOOLS)):
        raise ImportError(packing)
    raise ValueError(f"unknown packing {packing!r}")
