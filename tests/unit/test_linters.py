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
# A file for each hook that it refuses, of a name of its own, and what it says of it
BAD = {
    "ruff-check": ("SConstruct", "import os\n", "F401"),
    "ruff-format": ("site_scons/form.py", "x = {  'a':1 }\n", '+x = {"a": 1}'),
    "mypy": ("site_scons/types_.py", "def f(x):\n    return x\n", "no-untyped-def"),
    "mypy-darwin": ("site_scons/mac.py", "import os\n\nNUMBER = len(os.sched_getaffinity(0))\n", "sched_getaffinity"),
    "shellcheck": ("initramfs/init", "#!/bin/sh\necho $1\n", "SC2086"),
    "shfmt": ("initramfs/functions", "# shellcheck shell=sh\nf() {\n\techo\n}\n", "+  echo"),
    "codespell": ("docs/bad.md", "The colour and the behav\x69or of it\n", "==> behaviour"),
    "github-workflows": (".github/workflows/bad.yml", "on: push\njobs: {a: {steps: []}}\n", "runs-on"),
    "github-timeouts": (
        ".github/workflows/slow.yml",
        "on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}\n",
        "timeout-minutes",
    ),
    "github-dependabot": (".github/dependabot.yml", "version: 3\nupdates: []\n", "version"),
    "blanks": ("blanks.txt", "one \n", "blanks.txt:1"),
    "end-of-file": ("end.txt", "one", "end.txt"),
    "merge-marks": ("merge.txt", "<<<<<<< HEAD\n", "merge.txt:1"),
    "large-files": ("bad.bin", f"{'0' * MIB}\n", "bad.bin"),
}


@pytest.fixture(scope="module")
def listed(root: Path) -> list[str]:
    """The files that git knows of, or would with the next commit."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file()]


def run(repository: Path, home: Path, files: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Run all hooks in a repository on some of its files, and return the verdict and the output of each."""
    git = {name for name in os.environ if name.startswith("GIT_")}  # of a commit whose hook this may be
    environment = {name: value for name, value in os.environ.items() if name not in git} | {
        "PRE_COMMIT_HOME": str(home)
    }
    argv = [sys.executable, "-m", "pre_commit", "run", "--color=never", "--files", *files]
    done = subprocess.run(argv, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    names = {hook["name"]: name for name, hook in HOOKS.items()}
    verdict = rf"^({'|'.join(map(re.escape, names))})\.+(?:\(.*\))?(\w+)$"
    _, *parts = re.split(verdict, done.stdout, flags=re.M)
    assert len(parts) == 3 * len(HOOKS), done.stdout + done.stderr
    return {names[parts[at]]: (parts[at + 1], parts[at + 2]) for at in range(0, len(parts), 3)}


@pytest.fixture(scope="module")
def here(root: Path, listed: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return run(root, tmp_path_factory.mktemp("pre-commit"), listed)


@pytest.fixture(scope="module")
def repository(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this one's settings, and with all that is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for shared in (CONFIG, ".editorconfig", "pyproject.toml", ".venv"):
        (folder / shared).symlink_to(root / shared)
    for name in ("tests/none.py", "llama/none.py"):  # folders that mypy needs
        (folder / name).parent.mkdir()
        (folder / name).touch()
    for name, text, _ in BAD.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def there(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return run(repository, tmp_path_factory.mktemp("pre-commit"), [name for name, _, _ in BAD.values()])


@pytest.mark.parametrize("hook", HOOKS)
def test_nothing_is_found(here: dict[str, tuple[str, str]], hook: str) -> None:
    verdict, output = here[hook]
    if verdict != "Passed":
        pytest.fail(f"{hook}: {verdict}\n{output}", pytrace=False)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_wrong_is_found(repository: Path, there: dict[str, tuple[str, str]], hook: str) -> None:
    name, text, said = BAD[hook]
    verdict, output = there[hook]
    assert verdict == "Failed"
    assert said in output
    assert Path(name).name in output
    assert (repository / name).read_text(encoding="utf-8") == text, "hooks only look"


def test_all_shell_scripts_are_checked(root: Path, listed: list[str]) -> None:
    files = [name for name in listed if not (root / name).is_symlink()]
    scripts = {name for name in files if SHELL.match((root / name).read_bytes())}
    guest = {"initramfs/init", "initramfs/functions", "initramfs/shell", "initramfs/stub"}
    assert {"scripts/test.sh", "llama/toolchain/zig", ".ci/run", *guest} <= scripts
    for hook in ("shellcheck", "shfmt"):
        assert {name for name in files if re.search(HOOKS[hook]["files"], name)} == scripts
