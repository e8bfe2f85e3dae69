"""QEMU's command line is a value; nothing here starts QEMU."""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from zosia.machine import Accel, Machine

MACHINE = Machine(
    arch="aarch64",
    accel=Accel.TCG,
    cpu="",
    cpus=2,
    memory=512,
    kernel=Path("build/aarch64/Image"),
    initramfs=Path("build/aarch64/initramfs.cpio.gz"),
    disk=Path("build/models/m.img"),
    llama_args=("-c", "2048"),
)
STATUS = Path("/tmp/status")


def options(machine: Machine, name: str, status: Path = STATUS) -> list[str]:
    """The values of an option, each time it comes."""
    return [value for option, value in pairwise(machine.argv(status)) if option == name]


def properties(option: str) -> dict[str, str]:
    """An option's properties as QEMU's util/keyval.c takes them apart."""
    parts = [part.replace("\0", ",") for part in option.replace(",,", "\0").split(",")]
    return {key: value for key, _, value in (part.partition("=") for part in parts)}


def fw_cfg(machine: Machine) -> dict[str, str]:
    files = [properties(value) for value in options(machine, "-fw_cfg")]
    return {file["name"]: file["string"] for file in files}


def test_what_is_asked_for() -> None:
    argv = MACHINE.argv(STATUS)
    assert argv[0] == "qemu-system-aarch64"
    for name, value in {
        "-smp": "2",
        "-m": "512M",
        "-kernel": "build/aarch64/Image",
        "-initrd": "build/aarch64/initramfs.cpio.gz",
        "-serial": "chardev:console",
    }.items():
        assert options(MACHINE, name) == [value]
    assert all(isinstance(word, str) for word in argv)
    assert MACHINE.argv(STATUS) == argv, "it is a pure function"


def test_nothing_else() -> None:
    argv = MACHINE.argv(STATUS)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert [options(MACHINE, name) for name in ("-nic", "-monitor", "-display")] == [["none"]] * 3
    assert not {"-netdev", "-net", "-qmp", "-mon", "-vnc", "-gdb", "-s", "-vga"} & set(argv)
    assert not any(word in device for device in options(MACHINE, "-device") for word in ("net", "vga", "gpu", "usb"))


@pytest.mark.parametrize(
    ("accel", "cpu", "accel_option", "cpu_option"),
    [
        (Accel.TCG, "", "tcg,thread=multi", "max,pauth=off,sve=off"),
        (Accel.KVM, "", "kvm", "max"),
        (Accel.HVF, "", "hvf", "max"),
        (Accel.TCG, "cortex-a72", "tcg,thread=multi", "cortex-a72"),
        (Accel.KVM, "host,pmu=off", "kvm", "host,pmu=off"),
    ],
)
def test_accelerators(accel: Accel, cpu: str, accel_option: str, cpu_option: str) -> None:
    machine = replace(MACHINE, accel=accel, cpu=cpu)
    assert options(machine, "-accel") == [accel_option]
    assert options(machine, "-cpu") == [cpu_option]


PATHS = ["/plain", "/with,comma", "/a,,b,", "/two words", '/it\'s "so"', "/zażółć", "/a=b,if=virtio"]


@pytest.mark.parametrize("path", PATHS)
def test_paths_with_commas(path: str) -> None:
    machine = replace(MACHINE, disk=Path(path))
    (drive,) = options(machine, "-drive")
    assert properties(drive) == {"if": "none", "id": "model", "format": "raw", "readonly": "on", "file": path}
    (status,) = [value for value in options(machine, "-chardev", Path(path)) if "id=status" in value]
    assert properties(status)["path"] == path


def test_without_a_disk() -> None:
    machine = replace(MACHINE, disk=None)
    assert options(machine, "-drive") == []
    assert not any("virtio-blk" in device for device in options(machine, "-device"))


@pytest.mark.parametrize(
    "args",
    [
        ("-c", "2048"),
        ("-p", 'It\'s "quoted" and $HOME `id` $(id) \\ *'),
        ("-p", "two\nlines\n"),
        ("-p", "Zażółć gęślą jaźń 🙂"),
        ("-p", "a,b,,c,", "--x=1,2"),
        ("-p", "", " "),
        ("-p", "\udcff\udcfe"),
    ],
)
def test_arguments_arrive_unharmed(args: tuple[str, ...]) -> None:
    assert tuple(shlex.split(fw_cfg(replace(MACHINE, llama_args=args))["opt/zosia/args"])) == args


def test_no_arguments_are_no_file() -> None:
    assert "opt/zosia/args" not in fw_cfg(replace(MACHINE, llama_args=()))


def test_terminal() -> None:
    assert (
        fw_cfg(replace(MACHINE, terminal=(50, 132, "xterm-256color")))["opt/zosia/terminal"] == "50 132 xterm-256color"
    )


def test_verbose_is_not_quiet() -> None:
    assert options(MACHINE, "-append")[0].split()[-1] == "quiet"
    assert "quiet" not in options(replace(MACHINE, verbose=True), "-append")[0]


def test_sandbox_where_qemu_has_it() -> None:
    assert len(options(MACHINE, "-sandbox")) == 1
    assert options(replace(MACHINE, sandbox=False), "-sandbox") == []
