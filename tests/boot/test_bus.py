"""The model's disk as memory of the guest, and as a disk: the same answers, and nothing that a guest could change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.base.patience import patience
from zosia.machine.qemu import Bus, Machine
from zosia.machine.status import Status
from zosia.run.guest import PROMPT
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import Boot, Chat

# What llama-cli's place is taken by: it tries to write to the model, in all ways that root in a guest has.
VANDAL = r"""
b() { busybox "$@"; }
device=$(b grep ' /models ' /proc/mounts | b cut -d ' ' -f 1)
echo "on $device"
echo x >>/models/model.gguf && echo APPENDED
mount -o remount,rw /models && echo REMOUNTED
umount /models
b dd if=/dev/zero of="$device" bs=1M count=8 conv=fsync && echo accepted
b dd if=/dev/urandom of="$device" bs=4096 seek=3000 count=8 conv=fsync
echo 3 >/proc/sys/vm/drop_caches
b dd if="$device" bs=4096 skip=3000 count=8 | b sha256sum
echo done
"""


@pytest.fixture
def machine(machine: Machine) -> Machine:
    """One that has its model as memory, where that works."""
    if machine.bus is not Bus.DAX:
        pytest.skip("the model is on virtio-blk")
    return machine


@pytest.fixture
def own(machine: Machine, tmp_path: Path) -> Machine:
    """The same with a disk that may be changed."""
    assert machine.disk
    return replace(machine, disk=Path(shutil.copyfile(machine.disk, tmp_path / "disk, its own.img")))


def test_the_same_answer(machine: Machine, settings: Settings, boot: Boot) -> None:
    for one in (machine, machines.run_machine(replace(settings, model_bus="virtio-blk"))):
        guest = boot(one)
        guest.expect(PROMPT, 180)
        guest.send("What is 2+2?")
        guest.expect("What is 2+2?\n")
        guest.expect(f"{parrot.ANSWER}\n", 180)
        guest.expect(PROMPT)
        guest.send("/exit")
        assert guest.wait_end() == 0


@pytest.mark.parametrize("bus", Bus)
def test_a_guest_can_not_change_the_disk(
    own: Machine, boot: Boot, with_program: Callable[[str], Path], bus: Bus
) -> None:
    assert own.disk
    before = hashlib.sha256(own.disk.read_bytes()).digest()
    guest = boot(replace(own, bus=bus, initramfs=with_program(VANDAL)).given(need=0))
    guest.expect("on /dev/pmem0" if bus is Bus.DAX else "on /dev/vda")
    said = guest.expect("done\n")
    assert "APPENDED" not in said
    assert "REMOUNTED" not in said or bus is Bus.DAX, "Linux believes that it could write there"
    assert guest.wait_end() == 0
    assert hashlib.sha256(own.disk.read_bytes()).digest() == before


def test_a_disk_that_is_about_to_be_changed_ends_the_machine(own: Machine, chat: Chat, boot: Boot) -> None:
    assert own.disk
    child = chat(own)
    child.expect_exact("\r\n> ")
    with subprocess.Popen([sys.executable, "-c", f"open({str(own.disk)!r}, 'r+b').write(b'changed')"]) as writer:
        child.expect_exact("Another program opened the model's disk for writing, so the machine was ended")
        assert "its console" not in child.read()
        child.wait()
        assert child.exitstatus == Status.DISTURBED
        assert writer.wait(20 * patience()) == 0, "it waited, and then could"
    assert own.disk.read_bytes().startswith(b"changed")


def test_a_disk_that_is_replaced_stays_that_of_the_machine(own: Machine, chat: Chat, tmp_path: Path) -> None:
    assert own.disk
    child = chat(own)
    child.expect_exact("\r\n> ")
    (tmp_path / "new").write_bytes(b"another")
    (tmp_path / "new").rename(own.disk)
    child.send("What is 2+2?\r")
    child.expect_exact(parrot.ANSWER)
    child.expect_exact("\r\n> ")
    child.send("/exit\r")
    child.expect_exact("the model's disk was replaced or removed meanwhile")
    child.wait()
    assert child.exitstatus == 0
