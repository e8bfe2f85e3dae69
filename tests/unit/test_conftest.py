"""The switch that makes a skipped test a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
def test_one(): pass
@pytest.mark.skipif({skips}, reason="not here")
def test_two(): pass
"""


@pytest.mark.parametrize(
    ("skips", "switch", "status"),
    [(True, "1", 1), (True, "", 0), (False, "1", 0)],
    ids=["forbidden", "allowed", "none"],
)
def test_a_skip_is_a_failure_where_it_is_forbidden(
    root: Path, tmp_path: Path, skips: bool, switch: str, status: int
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(skips=skips))
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "--rootdir",
        tmp_path,
        tmp_path / "test_it.py",
    ]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/site_scons", "ZOSIA_TEST_NO_SKIPS": switch}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert ("test_two" in done.stdout) == bool(status)
