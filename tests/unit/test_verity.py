"""Hash trees of disks: the numbers of `veritysetup` and `fsverity`, and who checks a disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_qemu import MACHINE, options
from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.process import find, missing
from zosia.disk import record, verity
from zosia.doctor.model import blocks
from zosia.machine.boards import MICROVM
from zosia.machine.qemu import Bus, Pmem, Verity
from zosia.settings import machines, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS

BLOCK = 4096
# By cryptsetup 2.6.1, `veritysetup format --salt=-`, and fsverity-utils 1.5, `fsverity digest`: of so many blocks, each
# filled with its number.
KNOWN = {
    2: (
        "fe081ebb4d3b623191033e4c9493ea5ad5cee59080a09afd89a4c1a5ae8ce699",
        "d9a3dcc917094237b829ccc94fca0eda037adcacd4b6b6cdfef5d40cb718cd73",
    ),
    129: (  # two levels
        "a4775aa2f6a70f893550e19227f60ae929c00bdf832531ae81731d34f751a502",
        "81afb0b8a388ee5ef55315bab68f225caa6eb1a59f220cbaaee9bb7aaea369c2",
    ),
    128 * 128 + 1: (  # three, and more than is read at a time
        "2c20621eda9e8f8d6c656754f361b140237ed7cff790e8d67981fbb9bd3b7ced",
        "70a1c473b098c1dad74f524fd89483b986d370e7f65e9e5f124d9474cc1ed30f",
    ),
}


def made(folder: Path, blocks: int) -> Path:
    image = folder / "m.img"
    image.write_bytes(b"".join(number.to_bytes(4, "little") * (BLOCK // 4) for number in range(blocks)))
    return image


@pytest.mark.parametrize("blocks", KNOWN)
def test_known_numbers(tmp_path: Path, blocks: int) -> None:
    image = made(tmp_path, blocks)
    root, measure = KNOWN[blocks]
    assert verity.write(image) == root
    assert verity.Root(root, image.stat().st_size).measure == measure
    tree = verity.path_of(image).read_bytes()
    assert tree[:8] == b"verity\0\0"
    assert len(tree) == BLOCK * (1 + {2: 1, 129: 2 + 1, 128 * 128 + 1: 129 + 2 + 1}[blocks])


def test_veritysetup_agrees(tmp_path: Path) -> None:
    if missing(["veritysetup"]):
        pytest.skip("veritysetup (cryptsetup-bin) is not installed")
    image = made(tmp_path, 500)
    root = verity.write(image)
    argv = [find("veritysetup"), "verify", str(image), str(verity.path_of(image)), root]
    subprocess.run(argv, check=True)
    data = bytearray(image.read_bytes())
    data[1_000_000] ^= 1
    image.write_bytes(data)
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode
    assert "Verification failed at position 999424" in done.stderr


@pytest.mark.parametrize("at", [0, 5000, 129 * BLOCK - 1])
def test_one_bit_changes_the_root(tmp_path: Path, at: int) -> None:
    image = made(tmp_path, 129)
    data = bytearray(image.read_bytes())
    data[at] ^= 1
    image.write_bytes(data)
    assert verity.write(image) != KNOWN[129][0]


@pytest.fixture
def filesystem(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A filesystem with fs-verity: a list of what it was asked, whose first word is the digest that it has."""
    monkeypatch.setattr(sys, "platform", "linux")
    asked = [""]

    def ioctl(file: int, request: int, argument: bytearray) -> int:
        if request == verity.FS_IOC_ENABLE_VERITY:
            assert len(argument) == 128
            asked[0] = asked[0] or KNOWN[129][1]
            asked.append("enable")
            return 0
        assert request == verity.FS_IOC_MEASURE_VERITY
        asked.append("measure")
        if not asked[0]:
            raise OSError(errno.ENODATA, "No data")
        argument[:] = (1).to_bytes(2, "little") + (32).to_bytes(2, "little") + bytes.fromhex(asked[0])
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return asked


def test_a_filesystem_that_checks(tmp_path: Path, filesystem: list[str]) -> None:
    image = made(tmp_path, 129)
    root = verity.Root(KNOWN[129][0], image.stat().st_size)
    assert verity.checked_here(image, root)
    assert filesystem[1:] == ["measure", "enable", "measure"]
    del filesystem[1:]
    assert verity.checked_here(image, root)
    assert filesystem[1:] == ["measure"]
    filesystem[0] = KNOWN[2][1]
    with pytest.raises(ZosiaError, match=r"m\.img is not what it was made as\. Remove it: "):
        verity.checked_here(image, root)


def test_a_filesystem_that_checks_since_a_moment_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run was first."""

    def ioctl(file: int, request: int, argument: bytes) -> int:
        raise OSError(errno.EEXIST, "")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(sys, "platform", "linux")
    assert verity.enable(made(tmp_path, 2))


def test_a_disk_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match=r"m\.img: No such file"):
        verity.checked_here(tmp_path / "m.img", verity.Root(KNOWN[2][0], 2 * BLOCK))


@pytest.mark.parametrize("number", verity.NONE)
def test_a_filesystem_that_checks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def ioctl(file: int, request: int, argument: bytearray) -> int:
        raise OSError(number, "")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    image = made(tmp_path, 129)
    assert not verity.checked_here(image, verity.Root(KNOWN[129][0], image.stat().st_size))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not verity.checked_here(image, verity.Root(KNOWN[129][0], image.stat().st_size))


TREE = Verity(root="ab" * 32, size=1 << 21, tree=Path("build/models/m.img.verity"))
CHECKED = replace(MACHINE, verity=TREE).given(verity="abab build/models/m.img")


def test_the_command_line() -> None:
    first, second = options(CHECKED, "-drive")
    assert (first, second) == tuple(
        f"if=none,id={name},format=raw,readonly=on,file={path}"
        for name, path in (("model", "build/models/m.img"), ("tree", "build/models/m.img.verity"))
    )
    table = f"0 4096 verity 1 /dev/vda /dev/vdb 4096 4096 512 1 sha256 {'ab' * 32} -"
    assert f' dm-mod.create="model,,,ro,{table}" ' in options(CHECKED, "-append")[0]
    assert "name=opt/zosia/verity,string=abab build/models/m.img" in options(CHECKED, "-fw_cfg")
    held = replace(CHECKED, held=True).fence({})
    assert held
    assert TREE.tree in held.reads


def test_a_microvm_finds_its_disks_from_the_last_one_on() -> None:
    micro = replace(CHECKED, arch="x86_64", board=MICROVM)
    assert [option.split(",")[1] for option in options(micro, "-drive")] == ["id=tree", "id=model"]


def test_memory_has_no_tree_in_the_guest() -> None:
    mapped = replace(CHECKED, bus=Bus.DAX, pmem=Pmem(size=1 << 21))
    assert options(mapped, "-drive") == []
    assert "dm-mod" not in options(mapped, "-append")[0]


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings of `scons run NAME=value...`, in a folder with a disk and its tree."""
    monkeypatch.chdir(tmp_path)
    image = Path("build/models/smollm2-135m.img")
    image.parent.mkdir(parents=True)
    made(image.parent, 129).rename(image)
    record.write(image, root=verity.write(image))

    def read(**values: str) -> Settings:
        given = {"ACCEL": "tcg", **values}
        return reading.read({**DEFAULTS, **given}, [], root, given=given)

    return read


def test_who_checks(
    typed: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = machines.run_machine(typed())
    assert (machine.verity, machine.task.verity, machine.bus) == (None, "", Bus.DAX)
    style.say_once.cache_clear()
    monkeypatch.setattr(verity, "checked_here", lambda image, root: False)
    machine = machines.run_machine(typed(VERITY="1"))
    assert machine.bus is Bus.VIRTIO_BLK
    assert machine.verity == Verity(
        root=KNOWN[129][0], size=129 * BLOCK, tree=Path("build/models/smollm2-135m.img.verity")
    )
    assert machine.task.verity == f"{KNOWN[129][0]} build/models/smollm2-135m.img"
    reason = "the filesystem of build/models has no fs-verity"
    assert f"  MODEL on virtio-blk, where the guest checks each block: {reason}\n" in capsys.readouterr().err
    with pytest.raises(ZosiaError, match=f"VERITY=1 can't be used: MODEL_BUS=dax, and {reason}. Leave MODEL_BUS= out"):
        machines.run_machine(typed(VERITY="1", MODEL_BUS="dax"))
    monkeypatch.setattr(verity, "checked_here", lambda image, root: root == verity.Root(KNOWN[129][0], 129 * BLOCK))
    machine = machines.run_machine(typed(VERITY="1", MODEL_BUS="dax"))
    assert (machine.bus, machine.verity) == (Bus.DAX, None)


def test_what_can_not_be_checked(typed: Callable[..., Settings]) -> None:
    with pytest.raises(ZosiaError, match="VERITY=1 can't be used: Debian's kernel lacks the drivers"):
        machines.run_machine(typed(VERITY="1", BASE="distro"))
    image = Path("build/models/smollm2-135m.img")
    record.write(image)
    message = r"VERITY=1 can't be used: build/models/smollm2-135m\.img has no hash tree\. Remove it: "
    with pytest.raises(ZosiaError, match=message):
        machines.run_machine(typed(VERITY="1"))
    image.unlink()
    assert machines.run_machine(typed(VERITY="1")).verity is None, "it is made first"


def test_the_doctor_says_who_checks(
    typed: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, filesystem: list[str]
) -> None:
    def said(**values: str) -> str:
        (found,) = blocks(typed(**values))
        return found.text

    assert said() == "the model's disk is known by its size and time; VERITY=1 checks each block, on virtio-blk"
    assert said(VERITY="1") == "the guest checks each block of the model's disk (dm-verity, on virtio-blk)"
    filesystem[0] = KNOWN[129][1]
    assert said() == "the host's filesystem checks each block of the model's disk (fs-verity)"
    image = Path("build/models/smollm2-135m.img")
    record.write(image)  # by an older zosia
    with pytest.raises(ZosiaError, match=r"^VERITY=1 can't be used: .* has no hash tree"):
        said(VERITY="1")
    os.utime(image, (1, 1))
    assert not list(blocks(typed(VERITY="1"))), "it is made again"
    image.unlink()
    assert not list(blocks(typed()))
