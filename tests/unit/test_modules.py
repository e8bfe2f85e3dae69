"""The order in which modules are loaded: by made-up modules with a real .modinfo."""

from __future__ import annotations

import lzma
import struct

import pytest

from zosia.base.errors import ZosiaError
from zosia_build.kernels.modules import Modules, module_name

NAMES = b"\0.modinfo\0.shstrtab\0"


def module(*words: str) -> bytes:
    """A 64-bit little-endian ELF file with the sections that a module says things in (System V ABI, 4)."""
    said = b"".join(word.encode() + b"\0" for word in words)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 1, 183, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2)
    place, size = 64 + 3 * 64, len(said)
    sections = [(0, 0, 0, 0), (1, 1, place, size), (10, 3, place + size, len(NAMES))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, n, 0, 0, 1, 0) for name, kind, at, n in sections)
    return header + table + said + NAMES


def modules(*builtin: str, **files: tuple[str, ...]) -> Modules:
    contents = {name: module(*words) for name, words in files.items()}
    return Modules(package="linux.deb", files=contents, builtin=frozenset(builtin))


def test_what_a_module_says() -> None:
    found = modules(x=("license=GPL", "alias=a", "aliases=no", "alias=b=c", "depends="))
    assert found.modinfo("x", "alias") == ["a", "b=c"]
    assert found.modinfo("x", "depends") == [""]
    assert found.modinfo("x", "softdep") == []


def test_each_after_what_it_needs() -> None:
    found = modules(
        virtio_blk=("depends=virtio,virtio-ring",),
        virtio_pci=("depends=virtio_pci_modern,virtio",),
        virtio_pci_modern=("depends=",),
        virtio=("depends=virtio_ring",),
        virtio_ring=(),
        other=("depends=virtio",),
    )
    assert found.order(["virtio_pci", "virtio_blk"]) == [
        "virtio_pci_modern",
        "virtio_ring",
        "virtio",
        "virtio_pci",
        "virtio_blk",
    ]


def test_what_is_built_in_is_left_out() -> None:
    found = modules("virtio", "ext4", virtio_blk=("depends=virtio",))
    assert found.order(["ext4", "virtio_blk"]) == ["virtio_blk"]
    assert found.order(["ext4"]) == []


@pytest.mark.parametrize(
    ("softdep", "order"),
    [
        ("pre: first", ["first", "x"]),
        ("pre: fast-crc", ["slow", "first", "x"]),
        ("pre: known", ["x"]),
        ("pre: nowhere first post: later", ["first", "x"]),
        ("post: later", ["x"]),
        ("post: later pre: first", ["first", "x"]),
    ],
)
def test_what_is_better_first(softdep: str, order: list[str]) -> None:
    found = modules(
        "known",
        x=(f"softdep={softdep}", "depends="),
        first=("alias=fast_crc", "softdep=pre: slow" if "crc" in softdep else "depends="),
        later=(),
        slow=("alias=fast-crc-2",),
    )
    assert found.order(["x"]) == order


def test_two_modules_of_one_alias() -> None:
    found = modules(x=("softdep=pre: crc",), b=("alias=crc",), a=("alias=crc", "depends=c"), c=())
    assert found.order(["x"]) == ["c", "a", "b", "x"]


def test_a_missing_one() -> None:
    found = modules("y", x=("depends=y,z",))
    with pytest.raises(ZosiaError, match=r"linux\.deb has no z, which x needs, built in or as a module"):
        found.order(["x"])
    with pytest.raises(ZosiaError, match=r"linux\.deb has no w built in or as a module"):
        found.order(["w"])


def test_a_circle() -> None:
    found = modules(w=("depends=x",), x=("depends=y",), y=("depends=z",), z=("depends=x",))
    with pytest.raises(ZosiaError, match=r"linux\.deb can't be loaded in any order: x needs y needs z needs x"):
        found.order(["w"])


def test_a_circle_of_mere_wishes() -> None:
    found = modules(x=("softdep=pre: y",), y=("softdep=pre: x",))
    assert found.order(["x"]) == ["y", "x"]
    assert found.order(["y"]) == ["x", "y"]


def test_compressed() -> None:
    plain = module("depends=y")
    found = Modules(package="linux.deb", files={"x": lzma.compress(plain), "y": lzma.compress(module())})
    assert found.order(["x"]) == ["y", "x"]
    assert found.content("x") == plain


@pytest.mark.parametrize("file", [lzma.compress(module())[:-20], b"", b"no ELF", module("depends=y")[:70]])
def test_damaged(file: bytes) -> None:
    with pytest.raises(ZosiaError, match=r"The module x in linux\.deb is damaged"):
        Modules(package="linux.deb", files={"x": file}).order(["x"])


@pytest.mark.parametrize(
    ("file", "name"),
    [("kernel/a/virtio-rng.ko", "virtio_rng"), ("x.ko.xz", "x"), ("kernel/a.ko/x", "x"), ("x", "x")],
)
def test_name(file: str, name: str) -> None:
    assert module_name(file) == name
