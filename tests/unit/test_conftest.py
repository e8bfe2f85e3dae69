"""The switch that makes a skipped test a failure, and the list of tests that take long."""

from __future__ import annotations

import os
import re
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

BURN = "import time\nwhile time.process_time() < {}: pass"
DEAR = f"""
import subprocess, sys, time
def test_own():
    began = time.process_time()
    while time.process_time() - began < 0.2: pass
def test_of_a_child(): subprocess.run([sys.executable, "-c", {BURN.format(0.4)!r}])
def test_that_waits(): time.sleep(0.3)
"""
BUDGET = "from tests import conftest\nconftest.BUDGETS['unit'] = 0.15\n"


def run(root: Path, folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", *words]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root}/site_scons:{folder}", **environment}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins take longer to load than these tests
    return subprocess.run(
        [*argv, "--rootdir", folder, folder], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("skips", "switch", "status"),
    [(True, "1", 1), (True, "", 0), (False, "1", 0)],
    ids=["forbidden", "allowed", "none"],
)
def test_a_skip_is_a_failure_where_it_is_forbidden(
    root: Path, tmp_path: Path, skips: bool, switch: str, status: int
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(skips=skips))
    done = run(root, tmp_path, ZOSIA_TEST_NO_SKIPS=switch)
    assert done.returncode == status, done.stdout
    assert ("test_two" in done.stdout) == bool(status)


def test_what_takes_long_is_listed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit/test_it.py").write_text(DEAR)
    (tmp_path / "frugal.py").write_text(BUDGET)
    done = run(root, tmp_path, "-p", "frugal", "-p", "xdist", "-n", "1")
    assert done.returncode == 0, done.stdout
    listed = re.findall(r"^unit/test_it\.py::(\w+): \d\.\d s, budget 0\.15 s$", done.stdout, re.M)
    assert listed == ["test_of_a_child", "test_own"]
