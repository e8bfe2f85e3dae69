"""BASE=buildroot through scons: what it asks Buildroot for, and when it does not."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests import fake_buildroot

from .conftest import Scons

OUTPUT = Path("build/aarch64/buildroot")
BOTH = (str(OUTPUT / "Image"), str(OUTPUT / "busybox"))


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    return ["BASE=buildroot", f"BUILDROOT={fake_buildroot.write(tmp_path / 'buildroot')}"]


@pytest.fixture
def tree(tree: Path, tmp_path: Path) -> Path:
    """The same without a blank in its name, which makefiles don't take."""
    return tree.rename(tmp_path / "tree")


def test_it_is_asked_once(tree: Path, scons: Scons, typed: list[str], tmp_path: Path) -> None:
    before = {path for path in tree.rglob("*") if path.name != ".sconsign.dblite"}
    assert scons(tree, "-n", *BOTH, *typed).returncode == 0
    assert not (tree / OUTPUT).exists()
    first = scons(tree, *BOTH, *typed)
    assert first.returncode == 0, first.stderr
    assert [line for line in first.stdout.splitlines() if "BUILDROOT" in line] == [f"  BUILDROOT {BOTH[0]}"]
    assert (tree / BOTH[1]).read_text() == "busybox\n"
    assert "BUILDROOT" not in scons(tree, *BOTH, *typed).stdout

    with (tree / "buildroot/board/zosia/busybox.config").open("a") as file:
        file.write("\n")
    assert "BUILDROOT" in scons(tree, *BOTH, *typed).stdout
    assert fake_buildroot.asked(tree / OUTPUT / "buildroot").count("defconfig") == 1
    extra = tmp_path / "a file, further"
    extra.write_text("BR2_CCACHE=y\n")
    assert "BUILDROOT" in scons(tree, *BOTH, *typed, f"BUILDROOT_CONFIG={extra}").stdout
    assert "BR2_CCACHE=y" in (tree / OUTPUT / "buildroot/.config").read_text()
    extra.write_text("BR2_DROPPED=y\n")
    os.utime(extra, (time.time(), time.time() + 10))  # SCons looks at whole seconds
    refused = scons(tree, *BOTH, *typed, f"BUILDROOT_CONFIG={extra}")
    assert refused.returncode == 2
    assert f"zosia: error: Buildroot drops BR2_DROPPED=y (set in {extra})" in refused.stderr

    assert scons(tree, "-c", *BOTH, *typed).returncode == 0
    left = {path for path in tree.rglob("*") if path.name != ".sconsign.dblite"}
    assert {path for path in left - before if path.is_file()} <= {tree / "build/scons.lock"}


def test_what_the_user_has_is_not_built(tree: Path, scons: Scons, typed: list[str], tmp_path: Path) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(bytes(56) + b"ARM\x64" + bytes(64))
    done = scons(tree, *BOTH, *typed, f"KERNEL={kernel}")
    assert done.returncode == 0, done.stderr
    assert (tree / BOTH[0]).read_bytes() == kernel.read_bytes()
    assert fake_buildroot.asked(tree / OUTPUT / "buildroot") == ["defconfig", "busybox"]


def test_a_failure_is_shown_and_the_next_one_goes_on(tree: Path, scons: Scons, typed: list[str]) -> None:
    (tree / OUTPUT).mkdir(parents=True)
    (tree / OUTPUT / "fail-linux").touch()
    failed = scons(tree, *BOTH, *typed)
    assert failed.returncode == 2
    assert "    100\n    linux went wrong\n" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tree / BOTH[0]).exists()
    (tree / OUTPUT / "fail-linux").unlink()
    assert scons(tree, *BOTH, *typed).returncode == 0
    assert fake_buildroot.asked(tree / OUTPUT / "buildroot").count("defconfig") == 1


def test_a_folder_that_is_no_buildroot(tree: Path, scons: Scons, typed: list[str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "buildroot/package")
    refused = scons(tree, *BOTH, *typed)
    assert refused.returncode == 2
    assert f"zosia: error: {tmp_path}/buildroot is no Buildroot" in refused.stderr
