"""The way the model's disk reaches the guest: mapped memory where that works, else virtio-blk."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

from zosia.base.errors import ZosiaError
from zosia.machine.boards import Accel, Board
from zosia.machine.qemu import Bus
from zosia.run import probe
from zosia.settings.boards import INITRAMFS, say_once, trial
from zosia.settings.settings import Settings

REMEDY = "Type MODEL_BUS=virtio-blk, or leave MODEL_BUS= out"


def refusal(settings: Settings, board: Board) -> str:
    """Return why the disk can't be mapped as memory on this board; "" where that has to be tried."""
    if settings.base == "distro":
        return "Debian's kernel lacks the drivers"
    if board.maps is None:
        return f"BOARD={board.name} has no PCI"
    if sys.platform == "darwin" and settings.model_bus == "auto":
        return "dax is untested on macOS; to try it, type MODEL_BUS=dax"
    return ""


def choose(settings: Settings, board: Board) -> Bus:
    """Return the requested bus, or the one without a copy where nothing speaks against it; starts nothing.

    A dry run has virtio-blk: its command is to be pasted, and needs no files made for it.
    """
    if settings.dry_run or settings.model_bus == Bus.VIRTIO_BLK.value or refusal(settings, board):
        return Bus.VIRTIO_BLK
    return Bus.DAX


def check(settings: Settings, board: Board) -> None:
    """Refuse a requested bus that does not work with the other settings.

    Raises:
        ZosiaError: MODEL_BUS=dax does not work with them.
    """
    if settings.model_bus == Bus.DAX.value and (reason := refusal(settings, board)):
        raise ZosiaError(f"MODEL_BUS=dax can't be used: {reason}", REMEDY)


def working(settings: Settings, accel: Accel, board: Board, initramfs: str = INITRAMFS) -> Bus:
    """Return a bus that is known to work; dax is tried once per boot of the host, when all is built.

    Raises:
        ZosiaError: the requested bus does not work.
    """
    check(settings, board)
    if choose(settings, board) is Bus.VIRTIO_BLK:
        if not settings.dry_run and settings.model_bus != Bus.VIRTIO_BLK.value:
            _say(refusal(settings, board))
        return Bus.VIRTIO_BLK
    machine = replace(trial(settings, accel, board, initramfs), disk=settings.model.image)
    if not all(path and path.is_file() for path in (machine.kernel, machine.initramfs, machine.disk)):
        return Bus.DAX
    failure = probe.dax_failure(machine, settings.cache)
    if not failure:
        return Bus.DAX
    if settings.model_bus == Bus.DAX.value:
        raise ZosiaError(f"MODEL_BUS=dax can't be used: it was tried, and {failure}", REMEDY)
    again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
    _say(f"dax was tried, and {failure}. To try it again, type: {again}")
    return Bus.VIRTIO_BLK


def _say(reason: str) -> None:
    say_once("MODEL", f"on virtio-blk, with a copy in the guest's memory: {reason}")
