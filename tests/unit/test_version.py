"""The version is in one place, and what is written about it is about that one."""

from __future__ import annotations

import datetime
import re
import subprocess
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
    assert found.stdout.split() == ["pyproject.toml"]
