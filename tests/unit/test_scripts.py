"""The scripts, with programs around them that note their arguments and end as told."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest

from tests.web import Web

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
    tests = [
        ["-n", "4", "--dist", "loadfile", "tests/unit", "tests/build", "tests/site"],
        ["-n", "3", "tests/boot"],
        ["-m", "alone", "tests/boot"],
        ["-n", "3", *resumed],
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


@pytest.mark.parametrize(("bootstrap", "status"), [(0, 7), (3, 3)])
def test_a_host_is_tried_once_all_is_installed(root: Path, tmp_path: Path, bootstrap: int, status: int) -> None:
    programs = {
        "scripts/bootstrap.sh": f'printf "%s\\n" "$@" >installed; exit {bootstrap}',
        ".venv/bin/python": 'printf "%s\\n" "$PYTHONPATH" "$@" >tried; exit 7',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    script = tmp_path / "scripts" / "try-host.sh"
    shutil.copy(root / "scripts" / "try-host.sh", script)
    done = subprocess.run([script, "macos", "--dev", "a-package"], cwd="/", check=False)
    assert done.returncode == status
    assert (tmp_path / "installed").read_text().split() == ["--dev", "a-package"]
    tried = (tmp_path / "tried").read_text().split() if status == 7 else []
    assert tried == (["site_scons", "-m", "zosia_build.hosts", "try", "macos"] if status == 7 else [])
    unnamed = subprocess.run([script], capture_output=True, text=True, check=False)
    assert (unnamed.returncode, unnamed.stderr) == (2, "zosia: error: which host? Type: ./scripts/try-host.sh HOST\n")


ELSEWHERE = {
    "user": "true",
    "target": "{elsewhere}/target",
    "prefix": "{elsewhere}/prefix",
    "root": "{elsewhere}/root",
    "require-virtualenv": "true",
    "dry-run": "true",
    "quiet": "3",
}


def wheel() -> bytes:
    """A package with one module."""
    about = "tiny-1.0.dist-info"
    members = {
        "tiny.py": "",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": f"tiny.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # which has a fixed time: each call gives the same bytes
    return packed.getvalue()


@pytest.mark.parametrize(
    ("names", "by_file"),
    [
        (["user"], False),
        (list(ELSEWHERE), False),
        (["user"], True),
        (["target"], True),
        (["prefix", "root"], True),
        (list(ELSEWHERE), True),
    ],
)
def test_packages_are_installed_into_the_tree(
    root: Path, tmp_path: Path, web: Web, names: list[str], by_file: bool
) -> None:
    """With the index of the user's pip, but not where the user's pip installs."""
    file, tree, elsewhere = "tiny-1.0-py3-none-any.whl", tmp_path / "tree", tmp_path / "elsewhere"
    web.files = {"/simple/tiny/": f'<a href="/{file}">{file}</a>'.encode(), f"/{file}": wheel()}
    # ensurepip, which takes no settings of pip's, would take seconds.
    link = f'ln -s "{pip.__path__[0]}" "$3"/lib/python3.*/site-packages'
    venv = f'"{sys.executable}" -m venv --without-pip "$3" && {link}'
    programs = {
        "apt-get": "exit 1",
        "dpkg-query": "echo installed",
        "python3": f'case $2 in venv) {venv} ;; *) exec "{sys.executable}" "$@" ;; esac',
    }
    for program, text in programs.items():
        stub = tmp_path / "bin" / program
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
    (tree / "scripts").mkdir(parents=True)
    for name in ("bootstrap.sh", "interrupt.pth"):
        shutil.copy(root / "scripts" / name, tree / "scripts")
    (tree / "site_scons").symlink_to(root / "site_scons")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (tree / lock).write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel()).hexdigest()}\n")
    settings = {name: ELSEWHERE[name].format(elsewhere=elsewhere) for name in names}
    settings["index-url"] = f"{web.url}/simple/"
    config = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    env = {"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "no_proxy": "127.0.0.1"}
    if by_file:
        config.parent.mkdir(parents=True)
        config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    else:
        env |= {f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings.items()}
    done = subprocess.run([tree / "scripts" / "bootstrap.sh"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "  PIP   .venv\n")
    assert len(list(tree.glob(".venv/lib/python3*/site-packages/tiny.py"))) == 1
    assert not elsewhere.exists()
    assert [path for path, _ in web.requests] == ["/simple/tiny/", f"/{file}"]
