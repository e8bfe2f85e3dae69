"""Facts about the host for a bug report; the guest adds its own (`diagnose` in initramfs/functions)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zosia.base.files import cache_root, sha256
from zosia.base.process import run
from zosia.base.version import ROOT, VERSION
from zosia.disk import record
from zosia.machine import host
from zosia.machine.boards import BOARDS, Accel
from zosia.machine.qemu import Bus, Machine
from zosia.run import probe


def lines(machine: Machine) -> Iterator[str]:
    """Yield the host's part, one fact a line."""
    yield f"zosia: {VERSION}, revision {_revision()}"
    yield f"host: {platform.platform()}, {platform.machine()}, Python {platform.python_version()}"
    yield f"host processors: {host.processors()}, memory: {_memory()} MiB"
    yield f"KVM: {_accelerator(machine, Accel.KVM, host.kvm_refusal)}"
    yield f"HVF: {_accelerator(machine, Accel.HVF, host.hvf_refusal)}"
    yield f"QEMU: {run([f'qemu-system-{machine.arch}', '--version']).stdout.splitlines()[0]}"
    for name in ("scons", "ziglang"):  # which built the guest, in a clone
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name}: {importlib.metadata.version(name)}"
    for kind, path in (("kernel", machine.kernel), ("initramfs", machine.initramfs)):
        yield f"{kind}: {path}, {path.stat().st_size} bytes, sha256 {sha256(path)}"
    if machine.disk:
        yield f"disk: {machine.disk}, {machine.disk.stat().st_size} bytes, model sha256 {_model(machine.disk)}"
    yield f"the disk is on: {machine.bus.value}"
    yield f"memory that the model takes: {machine.task.need or 'unknown'} MiB"
    yield f"cache: {cache_root()}"
    yield f"terminal: {' '.join(map(str, host.terminal()))}"
    yield f"command: {shlex.join(machine.argv(Path('status')))}"


def _accelerator(machine: Machine, accel: Accel, refusal: Callable[[str], str]) -> str:
    """Return how far an accelerator goes here, by what earlier runs have found out; nothing is tried."""
    own, refused = host.arch(), refusal(machine.arch)
    if refused:
        unfit = "" if own == machine.arch or refusal(own) else probe.firmware_failure(accel, cache_root(), dry_run=True)
        return f"{refused}; for {own} it was tried, and {unfit}" if unfit else refused
    if machine.accel is accel:
        return "works"
    boards = BOARDS[machine.arch]
    trials = (replace(machine, accel=accel, board=board, disk=None, pmem=None, bus=Bus.VIRTIO_BLK) for board in boards)
    failures = (probe.failure(trial, cache_root(), dry_run=True) for trial in trials)
    failure = next(filter(None, failures), "")
    return f"opens, and was tried: {failure}" if failure else "opens"


def _revision() -> str:
    """Return git's name for the revision of this tree."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return "unknown: no git, or no clone"
    return run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=False).stdout.strip() or "unknown"


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _model(disk: Path) -> str:
    """Return the digest that was recorded when the disk was made."""
    made = record.read(disk)
    return made.sha256 if made else "unknown"
