"""Checks of the host for a guest: an accelerator that works, and memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace

from zosia.base import style
from zosia.base.files import cache_root, temporary_folder
from zosia.base.packages import remedy
from zosia.base.process import missing
from zosia.doctor import checks
from zosia.doctor.findings import Check, Finding, fail, ok, warn
from zosia.machine import fence, host
from zosia.machine.boards import BOARDS, Accel
from zosia.model.plan import gib
from zosia.run import probe
from zosia.settings import hardware
from zosia.settings.settings import Settings
from zosia.settings.settle import notes, settle
from zosia.settings.variables import NATIVE


def tolerant(values: Mapping[str, str]) -> dict[str, str]:
    """Return values that can be read whatever accelerator they name: one that does not work is for a finding to say.

    Raises:
        ZosiaError: ZOSIA_CACHE is not a path.
    """
    requested, arch = values["ACCEL"], values["ARCH"]
    if requested not in [accel.value for accel in Accel]:
        return dict(values)
    if arch == NATIVE:
        arch = hardware.native_arch(requested, cache_root(), dry_run=False)
    return {**values, "ACCEL": "auto", "ARCH": arch}


def of_run(settings: Settings, requested: str) -> Iterator[Check]:
    """Yield the checks of what runs a guest and shows it; the accelerator is `requested`, which may not work."""
    yield lambda: checks.qemu(settings.arch)
    if not missing([f"qemu-system-{settings.arch}"]):  # else nothing can be tried, and the check above reports it
        yield lambda: acceleration(settings, requested)
    yield processors
    yield lambda: memory(settings)
    yield checks.terminal


def acceleration(settings: Settings, requested: str) -> Iterator[Finding]:
    """Check that the requested accelerator runs a guest; it is tried with the kernel, once that is built."""
    # The result is stored in the cache, if there is one already.
    with nullcontext(settings.cache) if settings.cache.is_dir() else temporary_folder() as folder:
        yield from _acceleration(replace(settings, cache=folder), requested)


def _acceleration(settings: Settings, requested: str) -> Iterator[Finding]:
    named = requested != "auto"
    if refused := hardware.sandbox_refusal(settings):
        if settings.sandbox:
            raise hardware.sandbox_error(refused)
        yield warn(f"QEMU's sandbox can't be used here ({refused}): runs are without it")
        settings = replace(settings, sandbox=False)
    yield from fenced(settings)
    settings = replace(settings, accel=host.accelerator(requested, settings.arch), accel_named=named)
    machine = hardware.trial(settings, settings.accel, hardware.choose_board(settings, settings.accel))
    built = machine.kernel.is_file() and machine.initramfs.is_file()
    if settings.accel is not Accel.TCG:
        name = settings.accel.value
        if not built:
            yield ok(f"{name} can be opened; it is tried once the kernel is there")
            return
        board, failure = hardware.tried(settings, machine)
        if board:
            yield ok(f"{name}: a guest runs on {board.name}{f' (own interrupt controller: {failure})' * board.own_gic}")
            return
        if named:
            raise host.accel_error(name, failure)
        refusal = f"{name} was tried, and {failure}"
    else:
        refusal = "" if requested == Accel.TCG.value else hardware.refusal(settings.arch)
    if refusal:
        yield warn(f"the guest is emulated (tcg), which is slow: {refusal}{_remedy(settings)}")
    if built:
        yield emulation(settings)
    elif not refusal:
        yield ok("tcg, as requested")


def fenced(settings: Settings) -> Iterator[Finding]:
    """Check that the system holds QEMU to its files."""
    if sys.platform != "linux" or settings.sandbox is False:
        return
    if refused := hardware.fence_refusal(settings):
        if settings.sandbox:
            raise hardware.sandbox_error(refused)
        yield warn(f"QEMU can't be held to its files here ({refused}): runs are without it")
    elif not (version := fence.abi()):
        yield warn("QEMU can open all files that you can: this kernel has no Landlock (Linux 5.13 has one)")
    elif version < fence.SIGNALS:
        yield ok("Landlock holds QEMU to its files; that of Linux before 6.12 lets it send signals to other programs")


def emulation(settings: Settings) -> Finding:
    """Check that this QEMU boots the kernel without an accelerator."""
    machine = hardware.trial(settings, Accel.TCG, hardware.choose_board(settings, Accel.TCG))
    failure = probe.failure(replace(machine, cpu=settings.cpu), settings.cache, tries=probe.TCG_TRIES)
    return fail(f"tcg: {failure}. To see its command line, type: scons -n run") if failure else ok("tcg: a guest runs")


def _remedy(settings: Settings) -> str:
    """Return a remedy that makes an accelerator available, or "" if there is none."""
    if settings.arch == host.arch():
        return _access()
    if host.arch() not in BOARDS:
        return ""
    failure = hardware.native_failure(settings.cache)
    if failure:
        return f". It can't be used for {host.arch()} either: {failure}{_access()}"
    lacking = missing([f"qemu-system-{host.arch()}"])
    return f". {remedy(lacking)}" if lacking else ". Set ARCH=native"


def _access() -> str:
    """Return what gives access to KVM, or "" where it is not missing."""
    if sys.platform == "linux" and not host.KVM.exists():
        return ". Switch virtualization on in the firmware, or in the hypervisor around this machine"
    if sys.platform == "linux" and not os.access(host.KVM, os.R_OK | os.W_OK):
        return ". Type: sudo usermod -aG kvm $USER, and log in again"
    return ""


def processors() -> Iterator[Finding]:
    """Report the processors, where a container or a service gets less of their time than it sees."""
    usable, seen = host.processors(), host.affinity()
    if usable < seen:
        yield ok(f"processors: {usable} of {seen}, by the CPU quota of this container or service (cgroup)")


def memory(settings: Settings) -> Iterator[Finding]:
    """Check that the model fits into this machine."""
    settled, (total, _) = settle(settings, hardware.expected(settings, checked=False)), host.memory()
    plan = settled.plan
    for note in notes(settled):
        yield warn(f"memory: {note[len(style.line('', '')) :]}")
    model = f"{settings.model.name} with a context of {plan.context} tokens"
    if plan.need:
        yield ok(f"memory: this machine has {gib(total)} GiB; {model} gets {gib(plan.memory)} GiB")
    else:
        yield warn(f"memory: requirement unknown until {settings.model.name} is downloaded")
