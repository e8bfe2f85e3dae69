"""The scripts, with programs around them that note their arguments and end as told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

BOTH, NONE, FAILED = 0, 5, 1


@pytest.mark.parametrize(
    ("units", "machines", "arguments", "status", "runs"),
    [
        (BOTH, BOTH, [], 0, 4),
        (FAILED, BOTH, [], 1, 1),
        (BOTH, FAILED, [], 1, 2),
        (3, BOTH, [], 3, 1),
        (NONE, BOTH, [], 5, 4),
        (BOTH, NONE, [], 5, 4),
        (BOTH, NONE, ["-k", "a b"], 0, 4),
        (NONE, BOTH, ["-k", "a b"], 0, 4),
        (NONE, FAILED, ["-k", "a b"], 1, 2),
        (FAILED, NONE, ["-k", "a b"], 1, 1),
        (NONE, NONE, ["-k", "a b"], 5, 4),
    ],
)
def test_the_tests_fail_when_one_of_them_does(
    root: Path, tmp_path: Path, units: int, machines: int, arguments: list[str], status: int, runs: int
) -> None:
    programs = {
        "scripts/bootstrap.sh": "exit 0",
        ".venv/bin/scons": "exit 0",
        ".venv/bin/python": r'printf "%s\0" "$@" >>ran; echo >>ran; '
        f"case $* in *tests/unit*) exit {units} ;; *) exit {machines} ;; esac",
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copy(root / "scripts" / "test.sh", tmp_path / "scripts")
    done = subprocess.run([tmp_path / "scripts" / "test.sh", *arguments], check=False)
    assert done.returncode == status
    resumed = [f"tests/boot/test_{name}.py" for name in ("chat", "reasoning", "terminal")]
    two = ["-n", "2"]
    tests = [
        [*two, "tests/unit", "tests/build", "tests/site"],
        [*two, "tests/boot"],
        ["-m", "alone", "tests/boot"],
        [*two, *resumed],
    ]
    ran = [line.split("\0")[:-1] for line in (tmp_path / "ran").read_text().splitlines()]
    assert ran == [["-m", "pytest", *words, *arguments] for words in tests[:runs]]


def test_a_path_for_cd_is_not_followed(root: Path, tmp_path: Path) -> None:
    """CDPATH makes cd say where it went."""
    for program in ("scripts/bootstrap.sh", ".venv/bin/scons"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for script in ("build.sh", "make-model-disk.sh", "run-qemu-aarch64.sh"):
        shutil.copy(root / "scripts" / script, tmp_path / "scripts")
        argv = ["/bin/sh", f"scripts/{script}"]
        done = subprocess.run(
            argv, cwd=tmp_path, env={"CDPATH": f"/tmp:{tmp_path}:.", "PATH": "/usr/bin:/bin"}, check=False
        )
        assert done.returncode == 0
