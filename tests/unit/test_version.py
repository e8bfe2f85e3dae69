"""The version is in one place, and what is written about it is about that one."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from zosia.base.version import VERSION

ENTRY = re.compile(r"^## \[([\d.]+)\] - (\S+)$", re.MULTILINE)


def test_the_newest_entry_of_the_changelog(root: Path) -> None:
    entries = ENTRY.findall((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert entries[0][0] == VERSION
    dates = [datetime.date.fromisoformat(date) for _, date in entries]
    assert dates == sorted(dates, reverse=True)


def test_it_is_nowhere_else(root: Path) -> None:
    """But for examples in the documentation and in comments, and for others' packages of the same version."""
    argv = ["git", "grep", "--untracked", "-lF", "-e", VERSION]
    paths = ("site_scons", "initramfs", "iso", "llama", "buildroot", "SConstruct", "*.toml", ".github")
    found = subprocess.run([*argv, "--", *paths], cwd=root, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["site_scons/zosia/base/version.py"]


EVERYTHING = """
import importlib, pkgutil, sys, zosia
for module in pkgutil.walk_packages(zosia.__path__, "zosia."):
    importlib.import_module(module.name)
from zosia.base.version import VERSION
print(VERSION, zosia.__path__[0], *(name for name in sys.modules if name.startswith(("SCons", "zosia_"))))
"""


def test_a_copy_of_the_package_stands_alone(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "site_scons/zosia", tmp_path / "a/b/zosia")
    argv = [sys.executable, "-c", EVERYTHING]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "a/b"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{VERSION} {tmp_path}/a/b/zosia\n", "")
