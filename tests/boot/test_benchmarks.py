"""Budgets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .conftest import environment


def test_budgets(root: Path, scons: Path) -> None:
    argv = [sys.executable, "-m", "zosia_build.benchmarks", "check"]
    done = subprocess.run(argv, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
