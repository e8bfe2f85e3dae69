"""Real machines: QEMU, the kernel and the initramfs that `scons` builds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import zosia_options
from zosia.console import Guest
from zosia.machine import Machine
from zosia_options import Settings

Boot = Callable[[Machine], Guest]


@pytest.fixture(scope="session")
def scons(root: Path) -> Path:
    """The scons program, after it has built everything that boots."""
    program = Path(sys.executable).parent / "scons"
    subprocess.run([program, ".", "-s"], cwd=root, check=True)
    return program


@pytest.fixture(scope="session")
def settings(root: Path, scons: Path) -> Settings:
    """The settings of a plain `scons run`; the machines name files relative to the repository."""
    os.chdir(root)
    defaults = {name: default for name, _, default in zosia_options.OPTIONS}
    return zosia_options.read(defaults, [], root, named=False)


@pytest.fixture
def boot(request: pytest.FixtureRequest, root: Path) -> Boot:
    """Start a machine; its console's log is kept in build/test-logs under the test's name."""

    def start(machine: Machine) -> Guest:
        guest = Guest(machine, root / "build" / "test-logs" / f"{request.node.name}.log")
        request.addfinalizer(lambda: guest.__exit__(None, None, None))
        return guest

    return start
