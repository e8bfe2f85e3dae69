"""Version of zosia, as pyproject.toml has it."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
