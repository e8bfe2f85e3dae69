"""Names of upstream's tests of llama-server that are left out: each is one of theirs, and each file has a reason."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia.inputs import catalogue, fetch

PIN = "llama-cpp"


@pytest.fixture(scope="module")
def theirs(root: Path) -> dict[str, list[str]]:
    """Upstream's tests, by the names of their files."""
    pin = fetch.fetch(catalogue.read_sources(root / "sources.toml")[PIN], cache_root()).pin
    files = (fetch.source_tree(pin, cache_root()) / "tools/server/tests/unit").glob("test_*.py")
    return {file.name: re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M) for file in files}


def test_each_name_is_one_of_theirs(root: Path, theirs: dict[str, list[str]]) -> None:
    listed = tomllib.loads((root / "tests/upstream/left-out.toml").read_text(encoding="utf-8"))
    assert set(listed["files"]) < set(theirs), "others are run"
    assert all(listed["files"].values())
    for pattern in (*listed["words"], *(name for names in listed["tests"].values() for name in names)):
        file, _, name = pattern.partition("::")
        assert f"{file}.py" not in listed["files"], pattern
        wanted = name.partition("[[]")[0]
        assert any(fnmatchcase(test, wanted.partition("*response_fields")[0]) for test in theirs[f"{file}.py"]), pattern


def test_the_part_that_tests_boot_runs_is_theirs(root: Path, theirs: dict[str, list[str]]) -> None:
    text = (root / "tests/boot/test_upstream.py").read_text(encoding="utf-8")
    for file, name in re.findall(r'"(test_\w+\.py)(?:::(\w+))?",', text):
        assert not name or name in theirs[file]
