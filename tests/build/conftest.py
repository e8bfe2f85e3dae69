"""Scratch trees: copies of the repository's files, in which scons may do what it wants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .console import driver, terminal

__all__ = ["driver", "terminal"]

SCONS = Path(sys.executable).parent / "scons"
Scons = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["a tree"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> Path:
    """A copy of what git knows of, as it is now, without anything built; in a folder whose name a test may choose."""
    files = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(["git", *files], cwd=root, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / str(request.param)
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).exists():
            shutil.copy2(root / name, target, follow_symlinks=False)
    return folder


@pytest.fixture(scope="session")
def scons() -> Scons:
    """Run scons in a folder and return what it did."""

    def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run([SCONS, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)

    return run
