"""The real QEMU in its fence: by its monitor it can be told to do what it would if it were taken over."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from zosia.base.files import temporary_folder
from zosia.machine import fence
from zosia.machine.boards import Q35, VIRT, Accel
from zosia.machine.qemu import Machine
from zosia.run.emulator import Emulator
from zosia.run.loop import Loop
from zosia.run.monitor import Monitor, MonitorError

Told = Callable[..., str]
Start = Callable[[Machine], Told]
MACHINE = Machine(
    arch="aarch64",
    board=VIRT,
    accel=Accel.TCG,
    cpu="",
    cpus=1,
    memory=128,
    kernel=Path("none"),
    initramfs=Path("none"),
    disk=None,
    held=True,
)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a QEMU that waits for a state; return a function that has it do something, and returns its refusal."""
    with ExitStack() as stack:

        def start(machine: Machine) -> Told:
            if shutil.which(f"qemu-system-{machine.arch}") is None:
                pytest.skip(f"qemu-system-{machine.arch} is not installed")
            folder = stack.enter_context(temporary_folder())
            qemu = Emulator(machine, folder, machine.ports, Loop(), monitored=True, incoming=True)
            stack.callback(qemu.close)
            stack.callback(qemu.kill)
            monitor = Monitor(qemu)

            def tell(name: str, **arguments: Any) -> str:
                try:
                    monitor.command(name, **{word.replace("_", "-"): value for word, value in arguments.items()})
                except MonitorError as error:
                    return str(error)
                return ""

            return tell

        yield start


@pytest.fixture
def home() -> Iterator[Path]:
    """A person's folder, with a key, and a program that listens."""
    with temporary_folder() as folder, socket.socket(socket.AF_UNIX) as server:
        (folder / "id").write_text("the key")
        server.bind(str(folder / "socket"))
        server.listen()
        yield folder


def attempts(tell: Told, home: Path) -> dict[str, str]:
    """QEMU's words about each."""
    unix = {"type": "unix", "data": {"path": str(home / "socket")}}
    tcp = {"type": "inet", "data": {"host": "127.0.0.1", "port": "9"}}
    backend = {
        name: {"type": "socket", "data": {"addr": to, "server": False}} for name, to in (("u", unix), ("t", tcp))
    }
    reads: dict[str, Any] = {"driver": "file", "node_name": "key", "filename": str(home / "id"), "read_only": True}
    return {
        "write": tell("pmemsave", val=0, size=4096, filename=str(home / "stolen")),
        "over": tell("pmemsave", val=0, size=4096, filename=str(home / "id")),
        "read": tell("blockdev-add", **reads),
        "unix": tell("chardev-add", id="u", backend=backend["u"]),
        "tcp": tell("chardev-add", id="t", backend=backend["t"]),
    }


@pytest.mark.skipif(not fence.abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(("arch", "board"), [("aarch64", VIRT), ("x86_64", Q35)])
def test_a_qemu_that_is_taken_over(start: Start, home: Path, arch: str, board: Any) -> None:
    machine = replace(MACHINE, arch=arch, board=board)
    if not board.loads:  # it reads its kernel before it waits for a state
        machine = replace(machine, kernel=home / "Image", initramfs=home / "Image")
        header = struct.pack("<4sH36xI", b"HdrS", 0x20C, 0x37FFFFFF)  # Linux, Documentation/arch/x86/boot.rst
        machine.kernel.write_bytes(bytes(0x202) + header + bytes(1 << 16))
    shown = attempts(start(machine), home)
    assert "Permission denied" in shown["write"]
    assert "Permission denied" in shown["over"]
    assert "Permission denied" in shown["read"]
    assert "Operation not permitted" in shown["unix"]
    assert "Operation not permitted" in shown["tcp"]
    assert (home / "id").read_text() == "the key"
    assert not (home / "stolen").exists()
    (qemu,) = [child for child in psutil.Process().children() if "qemu" in child.name()]
    status = dict(line.split(":\t") for line in Path(f"/proc/{qemu.pid}/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["Seccomp_filters"]) >= 2, "the fence's, and QEMU's own"


def test_a_qemu_without_a_fence(start: Start, home: Path) -> None:
    """The same attempts succeed, so that it is the fence that refuses them above."""
    shown = attempts(start(replace(MACHINE, held=False)), home)
    assert (shown["write"], shown["read"], shown["unix"]) == ("", "", "")
    assert (home / "stolen").stat().st_size == 4096
