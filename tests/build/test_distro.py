"""A distribution's kernel and busybox become what boots, on a host that has no compiler and no tools."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from zosia_build import kernel

from .conftest import Scons

ARCHES = ("aarch64", "x86_64")
# Packages of Debian; gpgv checks signatures in Debian 12, and sqv in 13.
APT = ("apt", "coreutils", "dash", "diffutils", "findutils", "gpgv", "grep", "sed", "sqv")


def stub(arch: str) -> str:
    return f"build/{arch}/distro/initramfs-stub.cpio.gz"


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A PATH with nothing but apt, where that brings the packages, and what its check of signatures calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if shutil.which("dpkg-query"):
        listed = subprocess.run(["dpkg-query", "-L", *APT], capture_output=True, text=True, check=False).stdout
        for path in map(Path, listed.splitlines()):
            if path.parent.name == "bin" and path.is_file():
                (folder / path.name).symlink_to(path)
    return str(folder)


def test_nothing_is_needed_and_nothing_built_twice(tree: Path, scons: Scons, bare: str) -> None:
    for again in (False, True):
        for arch in ARCHES:
            done = scons(tree, f"ARCH={arch}", "BASE=distro", "kernel", stub(arch), PATH=bare)
            assert done.returncode == 0, done.stderr
            assert ("  TAKE " in done.stdout, "  CPIO " in done.stdout) == (not again, not again), done.stdout
        assert scons(tree, "build/aarch64/busybox", PATH=bare).returncode == 0, "another base in between"
    for arch in ARCHES:
        image, archive = tree / f"build/{arch}/distro/Image", tree / stub(arch)
        kernel.read_image(image, arch=arch)
        content = gzip.decompress(archive.read_bytes())
        for name in (b"lib/modules/virtio_blk.ko\0", b"etc/zosia-modules\0", b"bin/insmod\0"):
            assert name in content
        assert b"\nqemu_fw_cfg\n" in content, "each module is in the list"


def test_a_kernel_of_ones_own_has_no_modules(tree: Path, scons: Scons, tmp_path: Path) -> None:
    own = tmp_path / "Image"
    own.write_bytes(bytes(56) + b"ARM\x64" + bytes(64))
    done = scons(tree, "BASE=distro", f"KERNEL={own}", "kernel", stub("aarch64"))
    assert done.returncode == 0, done.stderr
    assert (tree / "build/aarch64/distro/Image").read_bytes() == own.read_bytes()
    assert b"virtio_pci" not in gzip.decompress((tree / stub("aarch64")).read_bytes())
