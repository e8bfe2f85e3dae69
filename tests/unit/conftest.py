"""Fixtures of several unit tests."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia.inputs import archives, catalogue, fetch
from zosia.machine import host

from .fake_qemu import chat, place, shell

__all__ = ["chat", "place", "shell"]

SetHost = Callable[[str, str], None]


@pytest.fixture
def set_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetHost:
    """Be another host; its /dev/kvm works, until it is changed."""
    kvm = tmp_path / "kvm"
    kvm.touch()
    monkeypatch.setattr(host, "KVM", kvm)
    monkeypatch.setattr(
        fcntl, "ioctl", lambda device, request, argument: os.dup(device) if request == host.KVM_CREATE_VM else 36
    )

    def become(system: str, machine: str) -> None:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return become


@pytest.fixture(scope="session")
def busybox(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's busybox, in the build for this host."""
    pin = catalogue.read_sources(root / "sources.toml")[f"busybox-{host.arch()}"]
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    archives.extract_file(fetch.fetch(pin, cache_root()).path, pin.member, program)
    program.chmod(0o755)
    return program
