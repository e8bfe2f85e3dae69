"""The accelerator and the board of a machine: the fastest that work on this host."""

from __future__ import annotations

import functools
import shlex

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.machine import host
from zosia.machine.boards import BOARDS, Accel, Board
from zosia.machine.qemu import Bus, Machine
from zosia.model import plan
from zosia.run import probe
from zosia.settings.settings import Settings

INITRAMFS = "initramfs.cpio.gz"


@functools.cache
def say_once(label: str, text: str) -> None:
    """Print a line at most once per process."""
    style.say(label, text)


def choose(settings: Settings, accel: Accel) -> Board:
    """Return the requested board, or the fastest on which the kernel runs with this accelerator.

    Raises:
        ZosiaError: the kernel does not run on the requested board.
    """
    if settings.board and settings.board.kvm_only and accel is not Accel.KVM:
        raise ZosiaError(
            f"BOARD={settings.board.name} runs with KVM only, which can't be used here", "Leave BOARD= out"
        )
    # microvm has no PCI, and so no memory that holds a filesystem: a boot is faster there, but the weights are copied.
    fast = accel is Accel.KVM and settings.base != "distro" and settings.model_bus == Bus.VIRTIO_BLK.value
    return settings.board or (BOARDS[settings.arch][0] if fast else BOARDS[settings.arch][-1])


def working(settings: Settings, initramfs: str = INITRAMFS) -> tuple[Accel, Board]:
    """Return an accelerator that is known to run guests, and its board; each is tried once per boot of the host.

    TCG where the others fail. Nothing is tried before the kernel and the initramfs are built.

    Raises:
        ZosiaError: the requested accelerator runs no guest.
    """
    board = choose(settings, settings.accel)
    machine = trial(settings, settings.accel, board, initramfs)
    built = machine.kernel.is_file() and machine.initramfs.is_file()
    if settings.accel is Accel.TCG or not built:
        return settings.accel, board
    found, failure = tried(settings, machine)
    if found:
        return settings.accel, found
    if settings.accel_named:
        raise host.accel_error(settings.accel.value, failure)
    again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
    text = f"tcg, which is slow: {settings.accel.value} was tried, and {failure}. To try it again, type: {again}"
    say_once("ACCEL", text)
    return Accel.TCG, choose(settings, Accel.TCG)


def tried(settings: Settings, machine: Machine) -> tuple[Board | None, str]:
    """Return the board on which the machine's accelerator runs its kernel; or None, and the reason."""
    boards = BOARDS[settings.arch]
    failure = ""
    for board in (settings.board,) if settings.board else boards[boards.index(machine.board) :]:
        candidate = trial(settings, machine.accel, board, machine.initramfs.name)
        failure = probe.failure(candidate, settings.cache, dry_run=settings.dry_run)
        if not failure:
            return board, ""
    return None, failure


def trial(settings: Settings, accel: Accel, board: Board, initramfs: str = INITRAMFS) -> Machine:
    """Return the smallest machine that shows whether a guest runs: no disk, one processor, the kernel's messages."""
    return Machine(
        arch=settings.arch,
        board=board,
        accel=accel,
        cpu="",
        cpus=1,
        memory=plan.LEAST_MEMORY,
        kernel=settings.base_build / "Image",
        initramfs=settings.base_build / initramfs,
        disk=None,
        verbose=True,
    )
