"""Fixtures of several unit tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia.inputs import archives, catalogue, fetch
from zosia.machine import host
from zosia_build import relay

from .fake_qemu import chat, place, shell

__all__ = ["chat", "place", "shell"]

CHECKED = ("cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SetHost = Callable[[str, str], None]
Typed = Callable[..., subprocess.CompletedProcess[str]]


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
        own = os.uname_result((*os.uname()[:4], machine))
        monkeypatch.setattr(os, "uname", lambda: own)

    return become


@pytest.fixture(scope="session")
def busybox(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's busybox, in the build for this host."""
    pin = catalogue.read_sources(root / "sources.toml")[f"busybox-{host.arch()}"]
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    archives.extract_file(fetch.fetch(pin, cache_root()).path, pin.member, program)
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def program(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relay, with checks of its memory where this host's compiler has them, else as the guest has it."""
    source, target = root / "initramfs" / "streams.c", tmp_path_factory.mktemp("streams") / "streams"
    try:
        subprocess.run([*CHECKED, "-o", target, source], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        relay.build(source, target, arch=host.arch(), cache=cache_root())
    return target


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """The package zosia as a wheel has it, but without a guest: a folder for Python's path, outside of any clone."""
    folder = tmp_path / "site-packages"
    shutil.copytree(root / "site_scons" / "zosia", folder / "zosia", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "models.toml", folder / "zosia")
    (folder / "zosia" / "images").mkdir()  # which a wheel has, and a clone has not
    return folder


@pytest.fixture
def zosia(installed: Path, tmp_path: Path) -> Typed:
    """Type `zosia` and words, on a host with only the programs in the folder bin, and see what it prints."""

    def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {
            "PYTHONPATH": str(installed),
            "PATH": str(tmp_path / "bin"),
            "HOME": str(tmp_path / "home"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "ZOSIA_CACHE": str(tmp_path / "cache"),
        }
        argv = [sys.executable, "-P", "-m", "zosia.cli", *map(str, words)]
        return subprocess.run(argv, cwd=tmp_path, env=own | environment, capture_output=True, text=True, check=False)

    return run
