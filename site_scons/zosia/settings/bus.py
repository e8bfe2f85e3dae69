"""How the model's disk reaches the guest: as memory where that works, else over virtio-blk."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from zosia.base.errors import ZosiaError
from zosia.machine.qemu import Board, Bus, Machine
from zosia.run import probe
from zosia.settings import boards

if TYPE_CHECKING:
    from zosia.settings.settings import Settings

REMEDY = "Type MODEL_BUS=virtio-blk, or leave MODEL_BUS= out"


def refusal(settings: Settings) -> str:
    """Why the disk can't be memory of the guest; "" where that has to be tried."""
    if settings.base == "distro":
        return "Debian's kernel lacks the drivers"
    if boards.choose(settings, settings.accel) is Board.MICROVM:
        return "BOARD=microvm has no PCI"
    if sys.platform == "darwin" and settings.model_bus == "auto":
        return "on macOS nobody has tried dax yet; to do so, type MODEL_BUS=dax"
    return ""


def choose(settings: Settings) -> Bus:
    """The bus that was typed, or else the one that does not copy, as far as can be said before it was tried.

    A dry run has virtio-blk: its command is to be pasted, and needs no files made for it.
    """
    if settings.dry_run or settings.model_bus == Bus.VIRTIO_BLK.value or refusal(settings):
        return Bus.VIRTIO_BLK
    return Bus.DAX


def check(settings: Settings) -> None:
    """Refuse what was typed and can't be.

    Raises:
        ZosiaError: MODEL_BUS=dax does not work with the rest.
    """
    if settings.model_bus == Bus.DAX.value and (reason := refusal(settings)):
        raise ZosiaError(f"MODEL_BUS=dax can't be used: {reason}", REMEDY)


def working(settings: Settings, machine: Machine) -> Settings:
    """The settings with a bus that is known to work: it is tried, once a boot of the host; else virtio-blk.

    Raises:
        ZosiaError: the one that was typed does not.
    """
    check(settings)
    if settings.dry_run or settings.model_bus == Bus.VIRTIO_BLK.value:
        return settings
    reason = refusal(settings)
    if not reason and all(path and path.is_file() for path in (machine.kernel, machine.initramfs, machine.disk)):
        failure = probe.dax_failure(machine, settings.cache)
        if failure and settings.model_bus == Bus.DAX.value:
            raise ZosiaError(f"MODEL_BUS=dax can't be used: it was tried, and {failure}", REMEDY)
        again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
        reason = failure and f"dax was tried, and {failure}. To try it again, type: {again}"
    if not reason:
        return settings
    boards.say_once("MODEL", f"on virtio-blk, with a copy in the guest's memory: {reason}")
    return replace(settings, model_bus=Bus.VIRTIO_BLK.value)
