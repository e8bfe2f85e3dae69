"""Which board and which accelerator a machine gets: the fastest that work here."""

from __future__ import annotations

import functools
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.machine import host
from zosia.machine.qemu import BOARDS, Accel, Board, Bus, Machine
from zosia.model import plan
from zosia.run import probe

if TYPE_CHECKING:
    from zosia.settings.settings import Settings


@functools.cache
def say_once(label: str, text: str) -> None:
    """A line that is shown once, however often it is found out."""
    style.say(label, text)


def choose(settings: Settings, accel: Accel) -> Board:
    """The board that was typed, or else the fastest on which the kernel runs with this accelerator.

    Raises:
        ZosiaError: it does not run on the one that was typed.
    """
    if settings.board is Board.MICROVM and accel is not Accel.KVM:
        # No chip that Linux could measure the processor's clock with; KVM tells it.
        raise ZosiaError("BOARD=microvm runs with KVM only, which can't be used here", "Leave BOARD= out")
    # microvm has no PCI, and so no memory that holds a filesystem: a boot is faster there, but the weights are copied.
    fast = accel is Accel.KVM and settings.base != "distro" and settings.model_bus == Bus.VIRTIO_BLK.value
    return settings.board or (BOARDS[settings.arch][0] if fast else BOARDS[settings.arch][-1])


def working(settings: Settings, machine: Machine) -> Machine:
    """The machine, on an accelerator that is known to run guests: it is tried, once a boot of the host; else TCG.

    Raises:
        ZosiaError: the one that was typed does not.
    """
    built = machine.kernel.is_file() and machine.initramfs.is_file()
    if settings.accel is Accel.TCG or not built:
        return machine
    board, failure = tried(settings, machine)
    if board:
        return replace(machine, board=board)
    if settings.accel_named:
        raise host.accel_error(settings.accel.value, failure)
    again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
    text = f"tcg, which is slow: {settings.accel.value} was tried, and {failure}. To try it again, type: {again}"
    say_once("ACCEL", text)
    return replace(machine, accel=Accel.TCG, board=choose(settings, Accel.TCG))


def tried(settings: Settings, machine: Machine) -> tuple[Board | None, str]:
    """The board on which the machine's accelerator runs its kernel; or None, and why there is none."""
    least = replace(machine, disk=None, bus=Bus.VIRTIO_BLK, cpu="", cpus=1, memory=plan.LEAST_MEMORY, verbose=True)
    boards = BOARDS[settings.arch]
    failure = ""
    for board in (settings.board,) if settings.board else boards[boards.index(machine.board) :]:
        failure = probe.failure(replace(least, board=board), settings.cache, dry_run=settings.dry_run)
        if not failure:
            return board, ""
    return None, failure
