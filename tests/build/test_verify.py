"""`scons verify`: a second build is compared with the first."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests import gguf_file
from tests.build.conftest import Scons


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model file, named relative to the folder that scons is started in."""
    gguf_file.write(tmp_path / "a model.gguf")
    return "MODEL=../a model.gguf"


def test_the_same_bytes(tree: Path, scons: Scons, model: str) -> None:
    done = scons(tree, "verify", "model.img", "docs", model)
    assert done.returncode == 0, done.stdout + done.stderr
    same = [line.split()[1] for line in done.stderr.splitlines() if "SAME" in line]
    assert [name.partition("-")[0] for name in same] == ["build/models/a_model", "build/site"]
    assert not (tree / "build/verify").exists()


def test_a_byte_that_differs(tree: Path, scons: Scons, model: str) -> None:
    source = tree / "site_scons/zosia/disk/ext4.py"
    text = source.read_text()
    assert '"-U", UUID)' in text
    source.write_text(text.replace('"-U", UUID)', '"-U", "random")'))
    done = scons(tree, "verify", "model.img", model)
    assert done.returncode == 2
    assert "zosia: error: a second build gives other bytes: build/models/a_model-" in done.stderr
    assert ".img: byte 0x468: " in done.stderr, "the UUID, in ext4's superblock"
    (left,) = (tree / "build/verify").glob("*/build/models/*.img")
    assert left.name in done.stderr


def test_a_second_build_that_fails(tree: Path, scons: Scons, model: str, tmp_path: Path) -> None:
    """It has of the cache what was fetched, and nothing that was built."""
    for name in ("downloads", "apt", "ui", "ccache", "zig", "sources"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    source = tree / "site_scons/zosia_build/release/verify.py"
    source.write_text(source.read_text().replace("*words]", '*words, "nothing"]'))
    done = scons(tree, "verify", "model.img", model, ZOSIA_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert done.stderr.strip().endswith("failed. See its messages above")
    assert {path.name for path in (tree / "build/verify/cache").iterdir()} == {"downloads", "apt"}


def test_a_tree_that_can_not_be_copied(tree: Path, scons: Scons, model: str) -> None:
    os.mkfifo(tree / "pipe")
    done = scons(tree, "verify", "model.img", model)
    assert done.returncode == 2
    assert re.search(r"zosia: error: the sources could not be copied to \S+: .*named pipe\n\Z", done.stderr)


def test_what_makes_no_files(tree: Path, scons: Scons) -> None:
    done = scons(tree, "verify", "run")
    assert done.returncode == 2
    assert done.stderr.startswith("zosia: error: `scons verify` can't compare run. Choose of: kernel, llama")
