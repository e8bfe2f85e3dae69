"""The linters find nothing, in the settings of pyproject.toml."""

from __future__ import annotations

import re
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
# A script's first line; what is only sourced says its shell to shellcheck.
SHELL = re.compile(rb"#!/bin/(?:ba)?sh\b|(?:#.*\n)*# shellcheck shell=")


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
    scripts = [name for name in files if SHELL.match((root / name).read_bytes())]
    guest = {"initramfs/init", "initramfs/functions", "initramfs/shell", "initramfs/stub"}
    assert {"scripts/test.sh", "llama/toolchain/zig", ".ci/run", *guest} <= set(scripts)
    check(["shellcheck", *scripts], root)
