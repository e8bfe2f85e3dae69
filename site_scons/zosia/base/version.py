"""Version of zosia: that of the tree's pyproject.toml, or of the installed package; a bare copy has none."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _version() -> str:
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == "zosia":  # and not another tree that this was copied to
            return str(project["version"])
    except (OSError, ValueError, KeyError):
        pass
    from importlib import metadata  # slow to import, and a tree does without

    try:
        return metadata.version("zosia")
    except metadata.PackageNotFoundError:
        return "unknown"


VERSION = _version()
