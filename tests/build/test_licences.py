"""The files that llama-cli was compiled from, as ninja noted them, are those that licences.py names."""

from __future__ import annotations

import re
from pathlib import Path

from ninja import BIN_DIR

from zosia.base.process import run


def test_what_others_wrote(root: Path) -> None:
    """Another folder here needs an entry in PARTS (site_scons/zosia_build/release/licences.py)."""
    listed = run([Path(BIN_DIR) / "ninja", "-C", root / "build/aarch64/llama", "-t", "deps"]).stdout
    assert set(re.findall(r"\bsrc/vendor/([\w-]+)/", listed)) == {"cpp-httplib", "nlohmann"}
    assert set(re.findall(r"\bzig-[\d.]+/lib/(lib\w+)/", listed)) == {"libc", "libcxx"}
    assert "kleidiai" not in listed
