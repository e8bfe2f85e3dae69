"""QEMU's command line is a value; nothing here starts QEMU."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from zosia.machine.boards import MICROVM, Q35, VIRT, Accel, Board
from zosia.machine.qemu import ANSWER_PORT, STATUS_PORT, Bus, Machine, Pmem
from zosia.machine.task import Mode, Task

MACHINE = Machine(
    arch="aarch64",
    board=VIRT,
    accel=Accel.TCG,
    cpu="",
    cpus=2,
    memory=512,
    kernel=Path("build/aarch64/Image"),
    initramfs=Path("build/aarch64/initramfs.cpio.gz"),
    disk=Path("build/models/m.img"),
    task=Task(llama_args=("-c", "2048")),
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


def test_qemus_own_interrupt_controller() -> None:
    options_ = [options(replace(MACHINE, accel=accel, board=replace(VIRT, own_gic=True)), "-accel") for accel in Accel]
    assert options_ == [["kvm"], ["hvf,kernel-irqchip=off"], ["tcg,thread=multi"]]


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


ARGS = {
    "plain": ("-c", "2048"),
    "quotes": ("-p", 'It\'s "quoted" and $HOME ${HOME} `id` $(id) \\ * ?[a-z]* ~ # ; & |'),
    "newlines": ("-p", "two\nlines\n", "\n", "a\n\n\n"),
    "blanks": ("-p", "", " ", "  two  blanks  ", "\t", "a\tb", " 7", "\r\v\f"),
    "UTF-8": ("-p", "Zażółć gęślą jaźń 🙂"),
    "commas": ("-p", "a,b,,c,", "--x=1,2"),
    "no UTF-8": ("-p", "\udcff\udcfe", "\udcff \udcfe\\"),
    "escapes": (r"\c", r"\0040", r"\\0040", r"a\cb", r"\n", r"\x41", "\\", "\\\\", "%s%b%%"),
    "patterns": ("*", "/*", "?", "[a-z]"),
    "empty": ("", "", ""),
    "one that is empty": ("",),
    "long": ("-p", "it's\\ so\n" * 1700),
    "none": (),
}


@pytest.mark.parametrize("args", ARGS.values(), ids=ARGS)
def test_arguments_arrive_in_the_guest(busybox: Path, root: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    text = MACHINE.given(llama_args=args).task.texts(supervised=False).get("args", "")
    (tmp_path / "args").write_bytes(os.fsencode(text))
    show = 'for word; do printf "%s\\0" "$word"; done'
    program = f'. "$1"; with_words "$2" sh -c \'{show}\' sh'
    argv: list[str | Path] = [busybox, "sh", "-uc", program, "sh", root / "initramfs" / "functions", tmp_path / "args"]
    done = subprocess.run(argv, capture_output=True, check=True, cwd="/", env={"LANG": "C.UTF-8"})
    assert tuple(os.fsdecode(done.stdout).split("\0")[:-1]) == args
    assert done.stderr == b""


@pytest.mark.parametrize(
    "text", ["It's, so,,\n\n", " \\0040 $HOME\t", "Zażółć 🙂", "x" * 300_000], ids=["a", "b", "c", "long"]
)
def test_a_system_prompt_is_told_as_it_is(text: str) -> None:
    machine = MACHINE.given(system=text)
    assert machine.task.texts(supervised=False)["system"] == text
    assert fw_cfg(machine)["opt/zosia/system"] == text


@pytest.mark.parametrize("text", ["/exit", "/", "/read secret"])
def test_a_prompt_is_never_a_command(text: str) -> None:
    assert MACHINE.given(prompt=text).task.question == text  # llama/talk.cpp takes it for nothing else
    assert MACHINE.given(system=text).task.texts(supervised=False)["system"] == text


@pytest.mark.parametrize(("text", "question"), [("a\n", "a"), ("a\n\n", "a\n"), ("/a\n", "/a"), ("a b", "a b")])
def test_a_prompt_is_among_the_arguments_without_a_supervisor(text: str, question: str) -> None:
    machine = MACHINE.given(prompt=text)
    once = ("--single-turn", "--no-escape", "-p", question)
    assert machine.task.texts(supervised=False) == MACHINE.given(
        llama_args=(*MACHINE.task.llama_args, *once)
    ).task.texts(supervised=False)
    assert machine.task.texts(supervised=True) == {**MACHINE.task.texts(supervised=False), "begin": "1"}


def test_what_the_guest_is_told() -> None:
    machine = MACHINE.given(need=190, enough=224, mode=Mode.DIAG, terminal=(50, 132, "xterm-256color"))
    assert machine.task.texts(supervised=False) == {
        "args": "-c 2048",
        "mode": "diag",
        "need": "190 224",
        "terminal": "50 132 xterm-256color",
    }


def test_what_is_not_said_is_no_file() -> None:
    machine = MACHINE.given(llama_args=())
    assert machine.task.texts(supervised=False) == {"mode": "chat", "terminal": "24 80 linux"}
    assert set(fw_cfg(machine)) == {"opt/zosia/mode", "opt/zosia/terminal"}


def test_texts_as_files_are_not_in_the_command_line() -> None:
    machine = MACHINE.given(llama_args=("SECRET",), prompt="SECRET", system="SECRET")
    argv = machine.argv({STATUS_PORT: 7}, texts=Path("/run/a,b"))
    assert "SECRET" not in " ".join(argv)
    files = [properties(value) for option, value in pairwise(argv) if option == "-fw_cfg"]
    assert {file["name"]: file["file"] for file in files} == {
        f"opt/zosia/{name}": f"/run/a,b/{name}" for name in machine.task.texts(supervised=True)
    }


def test_ports_over_inherited_sockets() -> None:
    argv = MACHINE.argv({STATUS_PORT: 7, ANSWER_PORT: 19})
    assert "socket,id=status,fd=7" in argv
    assert "socket,id=answer,fd=19" in argv
    assert "virtserialport,chardev=status,name=zosia.status" in argv
    assert "virtserialport,chardev=answer,name=zosia.answer" in argv


@pytest.mark.parametrize(("board", "needs"), [(VIRT, False), (Q35, True), (MICROVM, True)])
def test_a_kernel_for_who_boots_or_has_it_as_a_device(board: Board, needs: bool) -> None:
    """The memory of a machine that resumes comes with its state; a PC's firmware is given the kernel by fw_cfg."""
    machine, ports = replace(MACHINE, board=board), {STATUS_PORT: 7, ANSWER_PORT: 8}
    boots, resumes = machine.argv(ports), machine.argv(ports, incoming=True)
    at = boots.index("-kernel")
    assert boots[at : at + 6 : 2] == ["-kernel", "-initrd", "-append"]
    assert resumes == [*boots[: at + 6 * needs], *boots[at + 6 :], "-incoming", "defer"]


def test_a_file_is_for_the_status_port_alone() -> None:
    assert [word for word in MACHINE.argv(STATUS) if "virtserialport" in word] == [
        "virtserialport,chardev=status,name=zosia.status"
    ]


def test_quiet_unless_verbose() -> None:
    assert "loglevel=3" in options(MACHINE, "-append")[0].split()
    assert "loglevel" not in options(replace(MACHINE, verbose=True), "-append")[0]


def test_sandbox_where_qemu_has_it() -> None:
    assert len(options(MACHINE, "-sandbox")) == 1
    assert options(replace(MACHINE, sandbox=False), "-sandbox") == []


X86 = replace(MACHINE, arch="x86_64", board=MICROVM)


@pytest.mark.parametrize(
    ("machine", "board", "devices"),
    [
        (MACHINE, "virt,gic-version=max", {"virtio-serial-pci", "virtio-rng-pci", "virtio-blk-pci"}),
        (X86, "microvm", {"virtio-serial-device", "virtio-rng-device", "virtio-blk-device"}),
        (replace(X86, board=Q35), "q35", {"virtio-serial-pci", "virtio-rng-pci", "virtio-blk-pci"}),
    ],
)
def test_devices_are_those_of_the_board(machine: Machine, board: str, devices: set[str]) -> None:
    (shown,) = options(machine, "-machine")
    assert shown.startswith(board)
    assert devices <= {device.split(",")[0] for device in options(machine, "-device")}


def test_each_architecture_has_its_console_and_processor() -> None:
    assert options(MACHINE, "-append") == ["console=ttyAMA0 panic=-1 loglevel=3"]
    assert options(X86, "-append") == ["console=ttyS0 panic=-1 reboot=t swiotlb=noforce loglevel=3"]
    assert (options(MACHINE, "-cpu"), options(X86, "-cpu")) == (["max,pauth=off,sve=off"], ["max"])
    assert X86.argv(STATUS)[0] == "qemu-system-x86_64"


SIZE = 104 << 20
DAX = replace(MACHINE, disk=Path("/a,b.img"), bus=Bus.DAX, pmem=Pmem(size=SIZE, tree=Path("/t,t.dtb")))


def test_a_disk_as_memory_of_a_second_node() -> None:
    assert options(DAX, "-m") == [f"{(512 << 10) + (104 << 10)}K"], "QEMU wants the sum of the nodes"
    ram, image = [properties(value) for value in options(DAX, "-object") if "backend" in value]
    assert ram == {"memory-backend-ram": "", "id": "ram", "size": str(512 << 20)}
    shared = {"size": str(SIZE), "readonly": "on", "share": "on", "mem-path": "/a,b.img"}
    assert image == {"memory-backend-file": "", "id": "model"} | shared
    assert options(DAX, "-numa") == ["node,memdev=ram", "node,memdev=model"]
    assert options(DAX, "-dtb") == ["/t,t.dtb"]
    assert "mem=512M" in options(DAX, "-append")[0].split()
    assert options(DAX, "-drive") == []
    assert not any("virtio-blk" in device for device in options(DAX, "-device"))


def test_memory_of_odd_size_ends_before_the_disk() -> None:
    odd = replace(DAX, memory=513)
    assert odd.pmem_start == (1 << 30) + (514 << 20)
    assert options(odd, "-m") == [f"{(514 << 10) + (104 << 10)}K"]
    assert "mem=513M" in options(odd, "-append")[0].split()


def test_a_disk_as_memory_of_a_pc() -> None:
    machine = replace(DAX, arch="x86_64", board=Q35, pmem=Pmem(size=SIZE))
    (memory,) = options(machine, "-m")
    assert memory.startswith("512M,maxmem=")
    assert "virtio-pmem-pci,memdev=model" in options(machine, "-device")
    assert options(machine, "-numa") == options(machine, "-dtb") == options(machine, "-drive") == []
    assert "mem=" not in options(machine, "-append")[0]


def test_without_what_is_made_for_it_the_disk_is_a_disk() -> None:
    assert replace(DAX, pmem=None).argv(STATUS) == replace(DAX, bus=Bus.VIRTIO_BLK, pmem=None).argv(STATUS)
