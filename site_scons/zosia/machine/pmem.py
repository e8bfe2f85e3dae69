"""Preparations for a model's disk that is memory of the guest ("persistent memory"), before the machine is started."""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, TimeoutExpired

from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine.boards import Maps
from zosia.machine.qemu import RAM_START, Bus, Machine, Pmem

ALIGN = 1 << 21  # bytes: Linux maps such memory in units of 2 MiB
TREE = 10.0  # seconds (times patience) to write a device tree, which takes a twentieth of one
INITRD = 1 << 27  # bytes: QEMU puts the initramfs this far into memory, or halfway if memory is smaller (hw/arm/boot.c)


def attach(machine: Machine, folder: Path, *, boots: bool = True) -> Machine:
    """Return the machine as it is started: on Bus.DAX its disk becomes memory, described in a file in `folder`.

    A machine that resumes a saved state (`boots` is false) has read that description already.

    A truncated disk stays a disk: mounting it fails, and the guest reports that. So does any disk of a `virt` with so
    little memory that QEMU would put the initramfs where the disk is, and crash.

    Raises:
        ZosiaError: QEMU is missing, or its device tree can't be read.
    """
    size = machine.disk.stat().st_size if machine.bus is Bus.DAX and machine.disk and machine.disk.is_file() else 0
    if not size or size % ALIGN:
        return machine
    if machine.board.maps is not Maps.NUMA_NODE:
        return replace(machine, pmem=Pmem(size=size))
    own = machine.pmem_start - RAM_START
    initramfs = machine.initramfs.stat().st_size if machine.initramfs.is_file() else 0
    if own < min((own + size) // 2, INITRD) + initramfs + 2 * ALIGN:  # the device tree follows at a multiple of 2 MiB
        return machine
    if not boots:
        return replace(machine, pmem=Pmem(size=size))
    tree = folder / "virt.dtb"
    # If QEMU fails here, for example for an unknown processor, it fails again when it is started, and is heard then.
    described = _write_tree(machine, tree) and _describe(machine, size, tree)
    return replace(machine, pmem=Pmem(size=size, tree=tree)) if described else machine


def map_refusal(disk: Path) -> str:
    """Return why this disk's file can't be mapped as QEMU does it, read-only and shared; "" if it can.

    Some filesystems refuse that, mmap(2) with MAP_SHARED: of FUSE, 9p and WSL's drvfs, for example. A file that is
    empty or can't be opened is not refused: a run reports that.
    """
    with suppress(OSError, ValueError), disk.open("rb") as file:
        try:
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ).close()
        except OSError as error:
            return f"the filesystem of {disk.parent} maps no files ({error.strerror})"
    return ""


def _write_tree(machine: Machine, tree: Path) -> bool:
    """Have QEMU write its board's device tree, and return whether it did, in time."""
    program, *arguments = machine.tree_argv(tree)
    with Child([find(program), *arguments], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as qemu:
        try:
            return qemu.wait(TREE * patience()) == 0
        except TimeoutExpired:
            return False
        finally:
            qemu.kill()


def _describe(machine: Machine, size: int, tree: Path) -> bool:
    """Add the disk to the board's device tree; QEMU itself adds everything that is set on its command line."""
    import fdt  # only needed here

    try:
        board = fdt.parse_dtb(tree.read_bytes())
    except (OSError, ValueError) as error:
        raise ZosiaError(f"QEMU's device tree can't be read: {error}", "Set MODEL_BUS=virtio-blk") from error
    start = machine.pmem_start
    node = fdt.Node(f"pmem@{start:x}")
    node.append(fdt.PropStrings("compatible", "pmem-region"))  # Linux, Documentation/devicetree/bindings/pmem
    node.append(fdt.PropWords("reg", start >> 32, start & 0xFFFFFFFF, size >> 32, size & 0xFFFFFFFF))
    board.add_item(node)
    tree.write_bytes(board.to_dtb(version=17))
    return True
