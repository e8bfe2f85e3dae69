"""With a real Buildroot, which takes from minutes to hours: scripts/test.sh names this folder when it is told of one.

ZOSIA_TEST_BUILDROOT is its folder, ZOSIA_TEST_BUILDROOT_CONFIG a file of further settings, such as for a toolchain that
need not be built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zosia_build import kernel
from zosia_build.llama import MACHINES, elf_fault

SOURCE = Path(os.environ["ZOSIA_TEST_BUILDROOT"])
SCONS = Path(sys.executable).parent / "scons"
CONFIG = os.environ.get("ZOSIA_TEST_BUILDROOT_CONFIG")


def make(root: Path, output: Path, *words: str) -> None:
    argv: list[str | Path] = ["make", "-C", SOURCE, f"O={output}", f"BR2_EXTERNAL={root / 'buildroot'}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_a_defconfig_loads_and_is_saved_unchanged(root: Path, tmp_path: Path, arch: str) -> None:
    name = f"zosia_{arch}_defconfig"
    make(root, tmp_path, name)
    make(root, tmp_path, "savedefconfig", f"BR2_DEFCONFIG={tmp_path / 'saved'}")
    assert (tmp_path / "saved").read_text() == (root / "buildroot/configs" / name).read_text()


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_kernel_and_busybox(root: Path, arch: str) -> None:
    built = root / "build" / arch / "buildroot"
    words = [
        f"ARCH={arch}",
        "BASE=buildroot",
        f"BUILDROOT={SOURCE}",
        *([f"BUILDROOT_CONFIG={CONFIG}"] if CONFIG else []),
    ]
    argv: list[str | Path] = [SCONS, f"build/{arch}/buildroot/Image", f"build/{arch}/buildroot/busybox", *words]
    for _ in range(2):
        done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "BUILDROOT" not in done.stdout  # the second time there was nothing to do
    kernel.read_image(built / "Image", arch=arch)
    assert elf_fault((built / "busybox").read_bytes(), machine=MACHINES[arch]) == ""
    assert b"BusyBox v" in (built / "busybox").read_bytes()
