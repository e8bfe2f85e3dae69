"""EFI zboot images, made around a small Image."""

from __future__ import annotations

import gzip
import lzma
import random
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

from zosia.base.errors import ZosiaError
from zosia_build import kernel
from zosia_build.kernels import zboot

IMAGE = bytes(56) + b"ARM\x64" + random.Random(1).randbytes(5000)
STUB = 4096  # bytes before the payload


def zboot_image(payload: bytes, packing: bytes = b"gzip", *, size: int = -1) -> bytes:
    """Wrap a payload as Linux's zboot-header.S does; `size` is what it says of the payload's."""
    length = len(payload) if size < 0 else size
    header = b"MZ\0\0zimg" + struct.pack("<IIII", STUB, length, 0, 0) + packing
    return header.ljust(0x38, b"\0") + bytes(STUB - 0x38) + payload


def packed(packing: bytes) -> bytes:
    match packing:
        case b"gzip":
            return gzip.compress(IMAGE)
        case b"lzma":
            return lzma.compress(IMAGE, format=lzma.FORMAT_ALONE)
        case _:
            return lzma.compress(IMAGE, check=lzma.CHECK_CRC32)


def read(folder: Path, content: bytes, arch: str = "aarch64") -> bytes:
    path = folder / "vmlinuz"
    path.write_bytes(content)
    return kernel.read_image(path, arch=arch)


def refused(folder: Path, content: bytes, arch: str = "aarch64") -> str:
    with pytest.raises(ZosiaError) as caught:
        read(folder, content, arch)
    text = str(caught.value)
    assert text.startswith(f"{folder}/vmlinuz is ")
    assert text.isprintable(), "one line"
    return text


@pytest.mark.parametrize("packing", [b"gzip", b"lzma", b"xzkern", b"xz"])
@pytest.mark.parametrize("behind", [b"", struct.pack("<I", len(IMAGE)) + bytes(4096)], ids=["", "padded"])
def test_a_kernel_is_taken_out(tmp_path: Path, packing: bytes, behind: bytes) -> None:
    assert read(tmp_path, zboot_image(packed(packing), packing) + behind) == IMAGE


def test_zstd_is_unpacked_by_a_python_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has it since 3.14."""
    fake = types.SimpleNamespace(decompress=zlib.decompress, ZstdError=zlib.error)
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, zboot.ZSTD, fake)
    payload = zlib.compress(IMAGE)
    assert read(tmp_path, zboot_image(payload, b"zstd22")) == IMAGE
    assert " is damaged: its kernel can't be unpacked: " in refused(tmp_path, zboot_image(b"x" * 99, b"zstd22"))


@pytest.mark.parametrize(
    ("packing", "tool"), [(b"zstd22", "zstd"), (b"zstd", "zstd"), (b"lz4", "lz4"), (b"lzo", "lzop")]
)
def test_what_to_type_where_python_can_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bytes, tool: str
) -> None:
    monkeypatch.setitem(sys.modules, zboot.ZSTD, None)
    folder = tmp_path / "it's here"
    folder.mkdir()
    text = refused(folder, zboot_image(b"the payload", packing) + b"and more")
    message, _, remedy = text.partition(". Type: ")
    assert message.endswith(
        f"is an EFI zboot image, and this Python can't unpack its kernel, which is packed with {tool}"
    )
    command, _, after = remedy.partition(f" | {tool} -d >Image")
    assert after == ", and set KERNEL=Image"
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout == b"the payload"


GZIP = gzip.compress(IMAGE)
TRUNCATED, DAMAGED = " is truncated: it has ", " is damaged: its kernel can't be unpacked: "


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zboot_image(GZIP)[:-1], f"{TRUNCATED}{STUB + len(GZIP) - 1} bytes, and its kernel takes {STUB + len(GZIP)}"),
        (zboot_image(GZIP)[:100], f"{TRUNCATED}100 bytes"),
        (zboot_image(GZIP)[:20], f"{TRUNCATED}20 bytes, and its header takes 56"),
        (zboot_image(GZIP)[:8], f"{TRUNCATED}8 bytes"),
        (zboot_image(GZIP, size=0xFFFFFFFF), f"{TRUNCATED}{STUB + len(GZIP)} bytes"),
        (zboot_image(GZIP[:-100]), DAMAGED),
        (zboot_image(GZIP[:1000] + b"\0\0\0" + GZIP[1003:]), DAMAGED),
        (zboot_image(b"\0" + GZIP[1:]), DAMAGED),
        (zboot_image(lzma.compress(IMAGE)[:-20], b"xzkern"), DAMAGED),
        (zboot_image(b"nothing", b"lzma"), DAMAGED),
        (zboot_image(GZIP, b"new\n\xff"), f"{DAMAGED}unknown packing 'new"),
        (zboot_image(GZIP, b""), f"{DAMAGED}unknown packing ''"),
        (zboot_image(gzip.compress(b"root:x:0:0")), " is not a kernel image for aarch64"),
        (zboot_image(gzip.compress(b"")), " is not a kernel image for aarch64"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refused(tmp_path, content)


def test_another_architecture(tmp_path: Path) -> None:
    assert " is not a kernel image for x86_64. Set KERNEL=" in refused(tmp_path, zboot_image(GZIP), "x86_64")
