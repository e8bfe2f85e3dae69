"""GitHub's workflows, as far as it can be known without GitHub: tests/unit/test_linters.py checks its form."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pre_commit.yaml import yaml_load

FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.iterdir())
WRITES = {"abuse.yml": set(), "test.yml": {"site"}, "release.yml": {"publish"}}  # jobs that may change anything outside


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml_load((FOLDER / name).read_text(encoding="utf-8"))
    return workflow


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in read(name)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("name", NAMES)
def test_each_script_is_there(root: Path, name: str) -> None:
    words = [word for step in steps(name) for word in shlex.split(step.get("run", ""))]
    scripts = [word for word in words if word.startswith("./")]
    assert scripts
    for script in scripts:
        assert os.access(root / script, os.X_OK), script


def test_the_tests_are_those_of_everybody() -> None:
    assert "./scripts/test.sh" in [step.get("run") for step in steps("test.yml")]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_short(name: str) -> None:
    for step in steps(name):
        assert "\n" not in step.get("run", ""), "that is for a script, which can be run and tested anywhere"
        assert "${{" not in step.get("run", ""), "text of others would become a part of a command"


def test_actions_are_pinned() -> None:
    """By their whole commit, the same everywhere, with the version for a person to read."""
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in NAMES]
    used = [line for text in texts for line in re.findall(r"uses: (.*)", text)]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used), used
    assert len(set(used)) == len({line.split("@")[0] for line in used})


@pytest.mark.parametrize("name", NAMES)
def test_least_permissions(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    jobs = {job for job, said in workflow["jobs"].items() if "permissions" in said}
    assert jobs == WRITES[name]
    for job in jobs:
        said = workflow["jobs"][job]
        assert "container" not in said
        assert not [step for step in said["steps"] if step.get("uses", "").startswith("actions/checkout")]


def test_the_cache_goes_by_content(root: Path) -> None:
    (cache,) = (step["with"] for step in steps("test.yml") if step.get("uses", "").startswith("actions/cache@"))
    patterns = re.findall(r"'([^']+)'", cache["key"])
    assert {"sources.toml", "models.toml"} < set(patterns)
    for pattern in patterns:
        assert list(root.glob(pattern)), pattern
    assert cache["key"].startswith(cache["restore-keys"])
