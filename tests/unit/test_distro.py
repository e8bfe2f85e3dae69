"""From a distribution's kernel package to what the guest gets: by made-up packages."""

from __future__ import annotations

import gzip
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia_build.kernels import distro

from .test_archives import deb, tar
from .test_cpio import read
from .test_modules import module
from .test_zboot import IMAGE, zboot_image

TREE = "./lib/modules/6.1.0-1-cloud-arm64"
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\nkernel/drivers/firmware/qemu_fw_cfg.ko\n"
FILES: dict[str, bytes] = {
    "./boot/": b"",
    "./boot/vmlinuz-6.1.0-1-cloud-arm64": b"MZ kernel",
    "./boot/config-6.1.0-1-cloud-arm64": b"CONFIG_X=y",
    f"{TREE}/kernel/a/virtio_blk.ko": module("depends=virtio"),
    f"{TREE}/kernel/a/virtio_pci.ko.xz": lzma.compress(module("depends=virtio")),
    f"{TREE}/kernel/b/virtio.ko": module(),
    f"{TREE}/kernel/c/virtio_console.ko": module("depends="),
    f"{TREE}/kernel/c/virtio-rng.ko": module("softdep=pre: crypto-crc32c"),
    f"{TREE}/kernel/c/unwanted.ko": module("alias=crypto_crc32c"),
    f"{TREE}/modules.builtin": BUILTIN.encode(),
    f"{TREE}/modules.builtin.modinfo": b"ext4.license=GPL\0crc32c_generic.alias=crypto-crc32c\0",
}
ORDER = ["virtio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_rng"]


def package(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "linux-image_6.1_arm64.deb"
    path.write_bytes(deb(tar(files, "xz")))
    return path


def build(folder: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    image, modules = folder / "out" / "Image", folder / "out" / "modules.cpio.gz"
    distro.build(package(folder, files), kernel=image, modules=modules)
    return image, modules


def test_build(tmp_path: Path) -> None:
    image, modules = build(tmp_path, FILES)
    assert image.read_bytes() == b"MZ kernel"
    found = {entry.name: entry for entry in read(gzip.decompress(modules.read_bytes()))}
    files = [f"lib/modules/{name}.ko" for name in ORDER]
    assert sorted(found) == sorted(["bin/insmod", "etc/zosia-modules", "lib", "lib/modules", *files])
    assert found["etc/zosia-modules"].data.decode().split() == ORDER
    assert found["lib/modules/virtio_pci.ko"].data == module("depends=virtio"), "as it is loaded"
    assert found["bin/insmod"].data == b"busybox"
    assert found["bin/insmod"].header.mode == 0o120777
    assert found["lib/modules"].header.mode == 0o040755
    assert found["lib/modules/virtio.ko"].header.mode == 0o100644


def test_a_zboot_image(tmp_path: Path) -> None:
    wrapped = zboot_image(gzip.compress(IMAGE))
    image, _ = build(tmp_path, {**FILES, "./boot/vmlinuz-6.1.0-1-cloud-arm64": wrapped})
    assert image.read_bytes() == IMAGE


def test_a_truncated_zboot_image(tmp_path: Path) -> None:
    wrapped = zboot_image(gzip.compress(IMAGE))[:-1]
    with pytest.raises(ZosiaError, match=r"^boot/vmlinuz-6\.1\.0-1-cloud-arm64 is truncated: "):
        build(tmp_path, {**FILES, "./boot/vmlinuz-6.1.0-1-cloud-arm64": wrapped})
    assert not list((tmp_path).glob("out/*"))


def test_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    _, one = build(first, FILES)
    _, two = build(second, dict(reversed(FILES.items())))
    assert one.read_bytes() == two.read_bytes()


def test_a_merged_usr(tmp_path: Path) -> None:
    moved = {name.replace("./lib/", "./usr/lib/"): content for name, content in FILES.items()}
    _, modules = distro.read(package(tmp_path, moved))
    assert modules.order(distro.WANTED) == ORDER


def test_the_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    plain = tarfile.open

    def count(*args: Any, **kwargs: Any) -> tarfile.TarFile:
        opened.append(kwargs)
        return plain(*args, **kwargs)

    path = package(tmp_path, FILES)
    monkeypatch.setattr(tarfile, "open", count)
    distro.build(path, kernel=tmp_path / "Image", modules=tmp_path / "modules.cpio.gz")
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("boot/vmlinuz-6.1.0-1-cloud-arm64", r"arm64\.deb is not a kernel package: it has no vmlinuz"),
        (f"{TREE}/modules.builtin", r"arm64\.deb is not a kernel package: it has no modules\.builtin"),
        (f"{TREE}/kernel/c/virtio_console.ko", r"linux-image_6\.1_arm64\.deb has no virtio_console built in"),
        (f"{TREE}/kernel/b/virtio.ko", r"has no virtio, which virtio_pci needs, built in"),
    ],
)
def test_a_package_that_lacks_something(tmp_path: Path, missing: str, message: str) -> None:
    kept = {name: content for name, content in FILES.items() if not name.endswith(missing)}
    assert len(kept) == len(FILES) - 1
    with pytest.raises(ZosiaError, match=message):
        build(tmp_path, kept)
    assert not list((tmp_path).glob("out/*"))


def test_a_damaged_package(tmp_path: Path) -> None:
    path = package(tmp_path, FILES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ZosiaError, match=r"arm64\.deb is damaged"):
        distro.read(path)


def test_builtin() -> None:
    assert distro.builtin("kernel/a/x-y.ko\nkernel/b.ko\n") == {"x_y", "b"}
    info = "a.alias=one\0b.aliases=no\0b.alias=pci:v0*\0b.description=c.alias=no\0a.alias=t-w-o"
    assert distro.builtin("", info) == {"one", "pci:v0*", "t_w_o"}
