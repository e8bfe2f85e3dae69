"""Accelerators, and the boards that QEMU emulates: one small value for each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Accel(Enum):
    """Accelerator: runs the guest's instructions."""

    KVM = "kvm"
    HVF = "hvf"
    TCG = "tcg"


class Maps(Enum):
    """The way in which a file of the host becomes memory of the guest."""

    NUMA_NODE = "numa"  # the memory of a second NUMA node, which the device tree names as persistent memory
    VIRTIO_PMEM = "virtio-pmem"


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    `options` are QEMU's; `transport` ends the names of its virtio devices; `console` is the serial port, and `kernel`
    are further words of the kernel's command line; `maps` is None where no file can become memory. `kvm_only`: the
    kernel runs on it with KVM only. `modules`: a distribution's kernel runs on it. `own_gic`: with HVF, the interrupt
    controller is QEMU's own, which is slower, and not macOS'. `loads`: QEMU puts the kernel into memory itself, so that
    a machine whose memory comes with its state needs none; to others it is a device's content.
    """

    name: str
    options: tuple[str, ...]
    transport: str = "pci"
    console: str
    kernel: tuple[str, ...] = ()
    maps: Maps | None = None
    kvm_only: bool = False
    modules: bool = True
    own_gic: bool = False
    loads: bool = False


# Reboot by a triple fault, on which QEMU ends at once (microvm has no other way), and reserve no 64 MiB for devices
# that can't reach all memory (virtio's can).
X86 = ("reboot=t", "swiotlb=noforce")
VIRT = Board(
    name="virt", options=("-machine", "virt,gic-version=max"), console="ttyAMA0", maps=Maps.NUMA_NODE, loads=True
)
Q35 = Board(
    name="q35",
    options=("-machine", "q35,sata=off,smbus=off,usb=off,vmport=off"),
    console="ttyS0",
    kernel=X86,
    maps=Maps.VIRTIO_PMEM,
)
# No firmware to speak of and no PCI: it starts fastest. It has no timer chip that Linux could measure the processor's
# clock with; KVM provides it. Without force-legacy=false its virtio would be that of before 2016.
MICROVM = Board(
    name="microvm",
    options=("-machine", "microvm", "-global", "virtio-mmio.force-legacy=false"),
    transport="device",
    console="ttyS0",
    kernel=X86,
    kvm_only=True,
    modules=False,
)
BOARDS = {"aarch64": (VIRT,), "x86_64": (MICROVM, Q35)}  # the fastest first
