"""What this host has for a guest: an accelerator that works, processors, a terminal."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.machine.boards import Accel

KVM = Path("/dev/kvm")
KVM_CREATE_VM = 0xAE01  # linux/kvm.h: _IO(KVMIO, 0x01)
KVM_CHECK_EXTENSION = 0xAE03
KVM_CAP_ARM_VM_IPA_SIZE = 165
# What a container may have, by version 2 and 1 of cgroups; "max", or more than there is, without a limit.
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


def arch() -> str:
    """This host's processor architecture, by the name that QEMU uses."""
    name = platform.machine().lower()
    return MACHINES.get(name, name)


def kvm_refusal(guest_arch: str) -> str:
    """Why KVM can't run a guest of this architecture here; "" when it can."""
    if not sys.platform.startswith("linux"):
        return "KVM is a part of Linux"
    if guest_arch != arch():
        return f"KVM runs guests of the host's own architecture, {arch()}, not {guest_arch}"
    try:
        device = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{KVM} can't be opened: {error.strerror}"
    try:
        # Opening it proves little: another hypervisor may hold the processor's extensions.
        # The type is how many bits the guest's physical addresses have; 0 means 40, and Apple's processors have fewer.
        bits = fcntl.ioctl(device, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE) if guest_arch == "aarch64" else 0
        os.close(fcntl.ioctl(device, KVM_CREATE_VM, bits))
    except OSError as error:
        return f"{KVM} makes no virtual machine: {error.strerror}"
    finally:
        os.close(device)
    return ""


def hvf_refusal(guest_arch: str) -> str:
    """Why macOS' Hypervisor.framework can't run a guest of this architecture here; "" when it can."""
    if sys.platform != "darwin":
        return "HVF is a part of macOS"
    return "" if guest_arch == arch() else f"HVF runs guests of the host's own architecture, {arch()}, not {guest_arch}"


def accelerator(asked: str, guest_arch: str) -> Accel:
    """The accelerator to use: the one asked for, or with "auto" the fastest that can be opened (probe.py tries it).

    Raises:
        ZosiaError: the one asked for does not work here.
    """
    refusals: dict[Accel, Callable[[str], str]] = {
        Accel.KVM: kvm_refusal,
        Accel.HVF: hvf_refusal,
        Accel.TCG: lambda guest_arch: "",
    }
    if asked == "auto":
        return next(accel for accel in Accel if not refusals[accel](guest_arch))
    refusal = refusals[Accel(asked)](guest_arch)
    if refusal:
        raise accel_error(asked, refusal)
    return Accel(asked)


def accel_error(asked: str, reason: str) -> ZosiaError:
    """What is said of an accelerator that was typed and can't be used."""
    return ZosiaError(f"ACCEL={asked} can't be used: {reason}", "Type ACCEL=tcg to emulate, or leave ACCEL= out")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """MiB that this machine has, or this container may have, and how many are free now."""
    import psutil  # only a run needs it

    now = psutil.virtual_memory()
    limits = [path.read_text().strip() for path in MEMORY_LIMITS if path.is_file()]
    total = min([now.total, *(int(limit) for limit in limits if limit.isdecimal())])
    return total >> 20, min(now.available, total) >> 20


def terminal() -> tuple[int, int, str]:
    """Rows, columns and TERM of the terminal that a run writes to; a pipe or a file is as dumb as a terminal can be."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 24, 80, "dumb"
    return rows or 24, columns or 80, os.environ.get("TERM") or "dumb"
