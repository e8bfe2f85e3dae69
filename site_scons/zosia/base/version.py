"""Version of zosia, and the folder that the package is below: a clone, unless it was copied or installed elsewhere."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.2.0"  # pyproject.toml takes it from this line
ROOT = Path(__file__).parents[3]
