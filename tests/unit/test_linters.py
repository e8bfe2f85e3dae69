"""The hooks of .pre-commit-config.yaml find nothing here, and do find what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pre_commit.yaml import yaml_load

CONFIG = ".pre-commit-config.yaml"
ROOT = Path(__file__).parents[2]
HOOKS: dict[str, dict[str, Any]] = {
    hook["id"]: hook for hook in yaml_load((ROOT / CONFIG).read_text(encoding="utf-8"))["repos"][0]["hooks"]
}
# A script's first line; what is only sourced says its shell to shellcheck.
SHELL = re.compile(rb"#!/bin/(?:ba)?sh\b|(?:#.*\n)*# shellcheck shell=")
MIB = 1 << 20
# A file for each hook that it refuses, and what it says of it
BAD = {
    "ruff-check": ("SConstruct", "import os\n", "F401"),
    "ruff-format": ("site_scons/bad.py", "x = {  'a':1 }\n", '+x = {"a": 1}'),
    "mypy": ("site_scons/bad.py", "def f(x):\n    return x\n", "no-untyped-def"),
    "shellcheck": ("initramfs/init", "#!/bin/sh\necho $1\n", "SC2086"),
    "shfmt": ("initramfs/functions", "# shellcheck shell=sh\nf() {\n\techo\n}\n", "+  echo"),
    "codespell": ("docs/bad.md", "The colour and the behav\x69or of it\n", "==> behaviour"),
    "github-workflows": (".github/workflows/bad.yml", "on: push\njobs: {a: {steps: []}}\n", "runs-on"),
    "github-timeouts": (
        ".github/workflows/bad.yml",
        "on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}\n",
        "timeout-minutes",
    ),
    "github-dependabot": (".github/dependabot.yml", "version: 3\nupdates: []\n", "version"),
    "blanks": ("bad.txt", "one \n", "bad.txt:1"),
    "end-of-file": ("bad.txt", "one", "bad.txt"),
    "merge-marks": ("bad.txt", "<<<<<<< HEAD\n", "bad.txt:1"),
    "large-files": ("bad.bin", "0" * (MIB + 1), "bad.bin"),
}


@pytest.fixture(scope="module")
def listed(root: Path) -> list[str]:
    """The files that git knows of, or would with the next commit."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file()]


@pytest.fixture
def hook_run(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a hook in a repository, on some of its files."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:  # of a commit whose hook this may be
        monkeypatch.delenv(name)
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path_factory.mktemp("pre-commit")))

    def run(hook: str, repository: Path, files: Sequence[str]) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pre_commit", "run", "--color=never", hook, "--files", *files]
        return subprocess.run(argv, cwd=repository, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("hook", HOOKS)
def test_nothing_is_found(root: Path, listed: list[str], hook_run: Any, hook: str) -> None:
    done = hook_run(hook, root, listed)
    if done.returncode != 0 or "Passed" not in done.stdout:
        pytest.fail(f"{hook}\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_wrong_is_found(root: Path, tmp_path: Path, hook_run: Any, hook: str) -> None:
    """In a repository of its own, with this one's settings."""
    name, text, said = BAD[hook]
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for shared in (CONFIG, ".editorconfig", "pyproject.toml", ".venv"):
        (tmp_path / shared).symlink_to(root / shared)
    for file in (tmp_path / name, tmp_path / "tests/none.py", tmp_path / "llama/none.py"):  # folders that mypy needs
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / name).write_text(text, encoding="utf-8")
    done = hook_run(hook, tmp_path, [name])
    assert done.returncode == 1
    assert said in done.stdout
    assert (tmp_path / name).read_text(encoding="utf-8") == text, "hooks only look"


def test_all_shell_scripts_are_checked(root: Path, listed: list[str]) -> None:
    files = [name for name in listed if not (root / name).is_symlink()]
    scripts = {name for name in files if SHELL.match((root / name).read_bytes())}
    guest = {"initramfs/init", "initramfs/functions", "initramfs/shell", "initramfs/stub"}
    assert {"scripts/test.sh", "llama/toolchain/zig", ".ci/run", *guest} <= scripts
    for hook in ("shellcheck", "shfmt"):
        assert {name for name in files if re.search(HOOKS[hook]["files"], name)} == scripts
