"""What several unit tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zosia import archives, catalogue, host, inputs
from zosia.files import cache_root


@pytest.fixture(scope="session")
def busybox(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's busybox, in the build for this host."""
    pin = catalogue.read_sources(root / "sources.toml").get(f"busybox-{host.arch()}")
    if pin is None or not sys.platform.startswith("linux"):
        pytest.skip("the guest's busybox is not built for this host")
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    archives.extract_file(inputs.fetch(pin, cache_root()).path, pin.member, program)
    program.chmod(0o755)
    return program
