"""Preparation of a disk as memory of the guest."""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import replace
from pathlib import Path

import fdt
import pytest

from tests.unit.test_qemu import MACHINE
from zosia.disk import ext4
from zosia.machine import pmem
from zosia.machine.boards import Q35
from zosia.machine.qemu import Bus, Pmem

DAX = replace(MACHINE, bus=Bus.DAX)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk, with commas"
    path.write_bytes(bytes(3 * pmem.ALIGN))
    return path


def test_the_device_tree_names_the_disk(disk: Path, tmp_path: Path) -> None:
    made = pmem.attach(replace(DAX, disk=disk, memory=700), tmp_path)
    assert made.pmem == Pmem(size=3 * pmem.ALIGN, tree=tmp_path / "virt.dtb")
    tree = fdt.parse_dtb((tmp_path / "virt.dtb").read_bytes())
    assert tree.get_property("#address-cells", "/").value == tree.get_property("#size-cells", "/").value == 2
    node = tree.get_node(f"pmem@{(1 << 30) + (700 << 20):x}")
    assert node.get_property("compatible").value == "pmem-region"
    assert node.get_property("reg").data == [0, (1 << 30) + (700 << 20), 0, 3 * pmem.ALIGN]
    assert tree.exist_node("/pl011@9000000"), "and all that the board has"


def test_ranges_above_4_gib(disk: Path, tmp_path: Path) -> None:
    with disk.open("r+b") as file:
        file.truncate(5 << 30)  # sparse
    pmem.attach(replace(DAX, disk=disk, memory=8192), tmp_path)
    tree = fdt.parse_dtb((tmp_path / "virt.dtb").read_bytes())
    assert tree.get_node("pmem@240000000").get_property("reg").data == [2, 0x40000000, 1, 0x40000000]


def test_a_pc_needs_no_tree(disk: Path, tmp_path: Path) -> None:
    machine = replace(DAX, arch="x86_64", board=Q35, disk=disk)
    assert pmem.attach(machine, tmp_path).pmem == Pmem(size=3 * pmem.ALIGN)


@pytest.mark.parametrize("size", [0, 1500, 3 * pmem.ALIGN - 1])
def test_a_disk_that_was_cut_off_stays_a_disk(disk: Path, tmp_path: Path, size: int) -> None:
    disk.write_bytes(bytes(size))
    machine = replace(DAX, disk=disk)
    assert pmem.attach(machine, tmp_path) == machine


def test_a_filesystem_that_maps_no_files(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pmem.map_refusal(disk) == ""
    assert pmem.map_refusal(disk.with_name("none")) == "", "a run reports that"
    disk.write_bytes(b"")
    assert pmem.map_refusal(disk) == ""
    tried = []

    def refuse(file: int, length: int, *, flags: int, prot: int) -> mmap.mmap:
        tried.append((os.fstat(file).st_ino, length, flags, prot))
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert pmem.map_refusal(disk) == f"the filesystem of {disk.parent} maps no files (No such device)"
    assert tried == [(disk.stat().st_ino, 0, mmap.MAP_SHARED, mmap.PROT_READ)], "all of the very file, as QEMU does it"


@pytest.mark.parametrize(("memory", "fits"), [(54, True), (52, False), (152, True), (150, False)])
def test_an_initramfs_that_would_reach_the_disk(disk: Path, tmp_path: Path, memory: int, fits: bool) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(bytes(20 << 20))
    if memory > 100:
        with disk.open("r+b") as file:
            file.truncate(1 << 30)  # sparse
    made = pmem.attach(replace(DAX, disk=disk, memory=memory, initramfs=initramfs), tmp_path)
    assert bool(made.pmem) == fits


def test_what_is_no_memory_stays_as_it_is(disk: Path, tmp_path: Path) -> None:
    for machine in (replace(MACHINE, disk=disk), replace(DAX, disk=None), replace(DAX, disk=tmp_path / "none")):
        assert pmem.attach(machine, tmp_path) == machine


def test_what_qemu_refuses_it_will_say_itself(disk: Path, tmp_path: Path) -> None:
    machine = replace(DAX, disk=disk, cpu="no-such-cpu")
    assert pmem.attach(machine, tmp_path) == machine


@pytest.mark.parametrize("sizes", [[0], [1], [98_362_432], [7_000_000_000, 5_109_566_560]])
def test_images_are_what_linux_takes(sizes: list[int]) -> None:
    assert ext4.image_size(sizes) % pmem.ALIGN == 0
