"""Resources of this host for a guest: accelerator, processors, memory and terminal."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.machine import cgroups
from zosia.machine.boards import Accel

KVM = Path("/dev/kvm")
KVM_CREATE_VM = 0xAE01  # linux/kvm.h: _IO(KVMIO, 0x01)
KVM_CHECK_EXTENSION = 0xAE03
KVM_CAP_ARM_VM_IPA_SIZE = 165
# A container's memory limit, in versions 2 and 1 of cgroups: "max", or more than the machine has, if there is no limit.
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
MEMINFO = Path("/proc/meminfo")
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


def arch() -> str:
    """Return this host's processor architecture, by QEMU's name for it."""
    name = os.uname().machine.lower()  # platform is slow to import
    return MACHINES.get(name, name)


def kvm_refusal(guest_arch: str) -> str:
    """Return the reason why KVM can't run a guest of this architecture here, or "" if it can."""
    if sys.platform != "linux":
        return "KVM is a part of Linux"
    if guest_arch != arch():
        return f"KVM runs guests of the host's own architecture, {arch()}, not {guest_arch}"
    try:
        device = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{KVM} can't be opened: {error.strerror}"
    try:
        # Opening it proves little: another hypervisor may hold the processor's extensions.
        # The argument is the width of the guest's physical addresses: 0 means 40 bits; Apple's processors have fewer.
        bits = fcntl.ioctl(device, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE) if guest_arch == "aarch64" else 0
        os.close(fcntl.ioctl(device, KVM_CREATE_VM, bits))
    except OSError as error:
        return f"{KVM} can't create a virtual machine: {error.strerror}"
    finally:
        os.close(device)
    return ""


def hvf_refusal(guest_arch: str) -> str:
    """Return the reason why macOS' Hypervisor.framework can't run a guest of this architecture here, or ""."""
    if sys.platform != "darwin":
        return "HVF is a part of macOS"
    return "" if guest_arch == arch() else f"HVF runs guests of the host's own architecture, {arch()}, not {guest_arch}"


def accelerator(requested: str, guest_arch: str) -> Accel:
    """Return the requested accelerator, or for "auto" the fastest that can be opened; probe.py tests it later.

    Raises:
        ZosiaError: the requested one can't be used here.
    """
    refusals: dict[Accel, Callable[[str], str]] = {
        Accel.KVM: kvm_refusal,
        Accel.HVF: hvf_refusal,
        Accel.TCG: lambda guest_arch: "",
    }
    if requested == "auto":
        return next(accel for accel in Accel if not refusals[accel](guest_arch))
    refusal = refusals[Accel(requested)](guest_arch)
    if refusal:
        raise accel_error(requested, refusal)
    return Accel(requested)


def accel_error(requested: str, reason: str) -> ZosiaError:
    """Return the error for a requested accelerator that can't be used."""
    return ZosiaError(f"ACCEL={requested} can't be used: {reason}", "Set ACCEL=tcg to emulate, or leave ACCEL= out")


def affinity() -> int:
    """Return the number of processors that this process may run on."""
    # os.cpu_count() and os.process_cpu_count() are different from 3.13 on: PYTHON_CPU_COUNT overrides them.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.sysconf("SC_NPROCESSORS_ONLN")


def processors() -> int:
    """Return the number of processors that this process may keep busy, at least 1: a cgroup's quota counts too."""
    limit = cgroups.quota()
    return affinity() if limit is None else max(1, min(affinity(), int(limit)))


def memory() -> tuple[int, int]:
    """Return the memory of this machine, or of this container, and the part that is free now, in MiB."""
    whole, free = _memory()
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.is_file()]
    total = min([whole, *(int(limit) for limit in limits if limit.isdecimal())])
    return total >> 20, min(free, total) >> 20


def _memory() -> tuple[int, int]:
    """Return the bytes that the machine has, and those that new programs can have without swapping."""
    if sys.platform == "linux":
        fields = dict(line.split(":") for line in MEMINFO.read_text(encoding="ascii").splitlines())
        whole, free = (int(fields[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
        return whole, free
    import psutil  # which takes longer to import than all else that a run does before QEMU

    now = psutil.virtual_memory()
    return now.total, now.available


def terminal() -> tuple[int, int, str]:
    """Return rows, columns and TERM of standard output's terminal; a pipe or a file is a "dumb" terminal."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 24, 80, "dumb"
    return rows or 24, columns or 80, os.environ.get("TERM") or "dumb"
