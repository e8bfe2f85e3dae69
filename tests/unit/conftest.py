"""Fixtures of several unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia.inputs import archives, catalogue, fetch
from zosia.machine import host

from .fake_qemu import chat, place, shell

__all__ = ["chat", "place", "shell"]


@pytest.fixture(scope="session")
def busybox(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's busybox, in the build for this host."""
    pin = catalogue.read_sources(root / "sources.toml")[f"busybox-{host.arch()}"]
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    archives.extract_file(fetch.fetch(pin, cache_root()).path, pin.member, program)
    program.chmod(0o755)
    return program
