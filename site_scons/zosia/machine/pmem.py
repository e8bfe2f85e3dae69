"""The model's disk as memory of the guest ("persistent memory"): what a machine needs for that before it is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.process import run
from zosia.machine.boards import Maps
from zosia.machine.qemu import RAM_START, Bus, Machine, Pmem

ALIGN = 1 << 21  # bytes: Linux takes whole 2 MiB only
INITRD = 1 << 27  # bytes: as far into all memory, or into half of it, QEMU puts the initramfs (hw/arm/boot.c)


def attach(machine: Machine, folder: Path, *, boots: bool = True) -> Machine:
    """The machine as it is started: on Bus.DAX its disk becomes memory, described in a file in `folder`.

    A machine that does not boot, but goes on from a state, has read that description already.

    A disk that was cut off stays a disk, so that it fails as such, and the guest says how. So does any of a `virt` with
    so little memory that QEMU would put the initramfs where the disk is, and crash.

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
    if own < min((own + size) // 2, INITRD) + initramfs + 2 * ALIGN:  # behind it is the device tree, at whole 2 MiB
        return machine
    if not boots:
        return replace(machine, pmem=Pmem(size=size))
    tree = folder / "virt.dtb"
    # What QEMU refuses here, an unknown processor for example, it will refuse again, and be heard.
    described = run(machine.tree_argv(tree), check=False).returncode == 0 and _describe(machine, size, tree)
    return replace(machine, pmem=Pmem(size=size, tree=tree)) if described else machine


def _describe(machine: Machine, size: int, tree: Path) -> bool:
    """Put the disk into the board's device tree. What is on its command line QEMU adds itself."""
    import fdt  # not on the way of those without

    try:
        board = fdt.parse_dtb(tree.read_bytes())
    except (OSError, ValueError) as error:
        raise ZosiaError(f"QEMU's device tree can't be read: {error}", "Type MODEL_BUS=virtio-blk") from error
    start = machine.pmem_start
    node = fdt.Node(f"pmem@{start:x}")
    node.append(fdt.PropStrings("compatible", "pmem-region"))  # Linux, Documentation/devicetree/bindings/pmem
    node.append(fdt.PropWords("reg", start >> 32, start & 0xFFFFFFFF, size >> 32, size & 0xFFFFFFFF))
    board.add_item(node)
    tree.write_bytes(board.to_dtb(version=17))
    return True
