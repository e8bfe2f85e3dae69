"""A disk of which each block is checked: the guest's kernel finds one flipped bit, and nothing is answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.disk import record, verity
from zosia.machine.qemu import Bus, Machine
from zosia.machine.status import Status
from zosia.run.guest import PROMPT
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import Boot, Supervise
from .test_failures import ends_with

BLOCK = 4096


@pytest.fixture
def checked(settings: Settings, tmp_path: Path) -> Machine:
    """A machine with VERITY=1, and a disk and a tree that may be changed."""
    if settings.base == "distro":
        pytest.skip("Debian's kernel lacks the drivers")
    machine = machines.run_machine(replace(settings, verity=True, model_bus=Bus.VIRTIO_BLK.value))
    assert machine.disk
    assert machine.verity
    disk = tmp_path / "own.img"
    shutil.copyfile(machine.disk, disk)
    tree = shutil.copyfile(machine.verity.tree, verity.path_of(disk))
    words = f"{machine.verity.root} {disk}"
    machine = replace(machine, hot=None, disk=disk, verity=replace(machine.verity, tree=tree))
    return machine.given(verity=words, llama_args=(*machine.task.llama_args, "--temp", "0"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_a_disk_that_is_what_it_was(checked: Machine, boot: Boot, settings: Settings) -> None:
    made = record.read(settings.model.image)
    assert made
    guest = boot(checked)
    assert f"verity {made.root}\n" in guest.expect(PROMPT, 180)
    guest.send("What is 2+2?")
    guest.expect("What is 2+2?\n")
    guest.expect(f"{parrot.ANSWER}\n", 180)
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == 0


# Offsets in the disk of its superblock's name, of the model's first bytes, of its middle and of its last byte
PLACES: dict[str, Callable[[int, int], int]] = {
    "superblock": lambda begin, end: 1024 + 0x78,
    "header": lambda begin, end: begin,
    "weights": lambda begin, end: (begin + end) // 2,
    "end": lambda begin, end: end,
}


@pytest.mark.parametrize("name", PLACES)
def test_one_flipped_bit_of_the_disk(checked: Machine, supervise: Supervise, name: str) -> None:
    assert checked.disk
    data = checked.disk.read_bytes()
    at = PLACES[name](data.index(b"GGUF"), len(data.rstrip(b"\0")) - 1)
    flip(checked.disk, at)
    done = supervise(checked.given(prompt="What is 2+2?"))
    assert (done.returncode, done.stdout) == (Status.BAD_DISK, "")
    damage = f"the model's disk {checked.disk} is damaged: data block {at // BLOCK} is corrupted"
    assert done.stderr.splitlines()[-1] == f"zosia: error: {damage}. Remove it: the next run makes it again"


@pytest.mark.parametrize(("block", "found"), [(1, 1), (2, 2)])
def test_one_flipped_bit_of_the_tree(checked: Machine, supervise: Supervise, block: int, found: int) -> None:
    """The block under the root, and one of the lowest level."""
    assert checked.verity
    flip(checked.verity.tree, block * BLOCK + 5)
    done = supervise(checked.given(prompt="What is 2+2?"))
    assert (done.returncode, done.stdout) == (Status.BAD_DISK, "")
    assert f"{checked.disk} is damaged: metadata block {found} is corrupted. " in done.stderr


def test_a_tree_that_does_not_fit(checked: Machine, boot: Boot) -> None:
    assert checked.verity
    checked.verity.tree.write_bytes(checked.verity.tree.read_bytes()[:BLOCK])
    message = f"the model's disk {checked.disk} and its hash tree don't fit. Remove it: the next run makes it again"
    ends_with(boot, checked, message, Status.BAD_DISK)
