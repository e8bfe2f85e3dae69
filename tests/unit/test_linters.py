"""The linters find nothing, in the settings of pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(sys.executable).parent
LINTERS = {
    "ruff check": ["ruff", "check", "--quiet"],
    "ruff format": ["ruff", "format", "--check", "--quiet"],
    "mypy": ["mypy"],
}


def check(argv: list[str], root: Path) -> None:
    done = subprocess.run([PROGRAMS / argv[0], *argv[1:]], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(argv)}\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.mark.parametrize("linter", LINTERS)
def test_python(root: Path, linter: str) -> None:
    check(LINTERS[linter], root)


def test_shell(root: Path) -> None:
    """Every shell script that git knows of, or would with the next commit."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [name for name in names if name and (root / name).is_file() and not (root / name).is_symlink()]
    scripts = [name for name in files if (root / name).read_bytes()[:64].startswith((b"#!/bin/sh", b"#!/bin/bash"))]
    assert {"scripts/test.sh", "initramfs/init", "initramfs/stub", "llama/toolchain/zig", ".ci/run"} <= set(scripts)
    check(["shellcheck", *scripts], root)
