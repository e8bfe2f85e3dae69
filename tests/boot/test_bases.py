"""Every way to a kernel, on every architecture: each boots, answers, and leaves the others alone."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

SCONS = (sys.executable, "-m", "SCons")
# Buildroot is in no package registry: it is tested where there is one.
BUILDROOT = os.environ.get("ZOSIA_TEST_BUILDROOT")
BASES = ("direct", "distro", *(["buildroot"] if BUILDROOT else []))
COMBINATIONS = [
    *((f"ARCH={arch}", f"BASE={base}") for arch, base in product(("aarch64", "x86_64"), BASES)),
    ("ARCH=x86_64", "BOARD=q35"),
]


def scons(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    more = [f"BUILDROOT={BUILDROOT}"] if BUILDROOT else []
    done = subprocess.run([*SCONS, *words, *more], cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# The default combination has all other tests.
@pytest.mark.parametrize("typed", COMBINATIONS[1:], ids=" ".join)
def test_smoke_and_a_chat(root: Path, typed: tuple[str, ...], no_machine_left: None) -> None:
    for words in ([], ["MODEL=smollm2-135m"]):
        assert "  SMOKE " in scons(root, "smoke", *words, *typed).stdout


def test_going_back_and_forth_builds_nothing(root: Path) -> None:
    for typed in COMBINATIONS:
        scons(root, ".", *typed)
    for typed in COMBINATIONS:
        assert scons(root, ".", *typed).stdout == ""
