"""Machine, and the QEMU command line that makes it. Pure: nothing here looks at the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from zosia.machine.boards import Accel, Board, Maps
from zosia.machine.fence import Fence
from zosia.machine.host import KVM
from zosia.machine.task import Mode, Task

STATUS_PORT = "zosia.status"
ANSWER_PORT = "zosia.answer"
STREAMS_PORT = "zosia.streams"
WORKER_PORT = "zosia.worker"  # and the number of a worker
RAM_START = 1 << 30  # bytes: where the memory of `virt` begins (QEMU, hw/arm/virt.c, base_memmap)
PMEM_SPARE = 1 << 30  # bytes: QEMU puts memory devices at whole GiB
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Bus(Enum):
    """Connection of the model's disk to the guest."""

    DAX = "dax"  # as memory that the guest maps: the host's page cache itself, and no copy of it
    VIRTIO_BLK = "virtio-blk"  # as a disk, which the guest reads into its own memory


@dataclass(frozen=True, kw_only=True)
class Pmem:
    """Disk as memory: its size in bytes, and for a `virt` that boots, the device tree that describes it."""

    size: int
    tree: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Verity:
    """Hash tree of a disk, in a file as `veritysetup` makes it: its root, and the size of the disk in bytes."""

    root: str
    size: int
    tree: Path

    @property
    def table(self) -> str:
        """The kernel's table for a device that checks the first disk by the second one."""
        blocks = self.size // 4096
        return f"0 {self.size // 512} verity 1 /dev/vda /dev/vdb 4096 4096 {blocks} 1 sha256 {self.root} -"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hardware of one guest, and its task.

    `memory` is in MiB. `cpu` is a QEMU CPU model, "" for the best that `accel` has. `disk` is None for none; `bus` is
    what it should be on, and `pmem` what pmem.attach() made of Bus.DAX, without which it is on virtio-blk; there the
    guest checks it by `verity`, if that is given. `verbose` shows the messages of the kernel and llama.cpp. `sandbox`
    is a feature of QEMU on Linux only; `held` has the system hold QEMU to its files. `hot` is the host's folder of
    saved machines, None to boot each time.
    """

    arch: str
    board: Board
    accel: Accel
    cpu: str
    cpus: int
    memory: int
    kernel: Path
    initramfs: Path
    disk: Path | None
    bus: Bus = Bus.VIRTIO_BLK
    pmem: Pmem | None = None
    verity: Verity | None = None
    verbose: bool = False
    sandbox: bool = True
    held: bool = False
    hot: Path | None = None
    task: Task = field(default_factory=Task)

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Rows, columns and TERM of the console."""
        return self.task.terminal

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the virtio-serial ports of a supervised guest."""
        streams = self.task.mode in (Mode.SERVE, Mode.WORKER)
        return STATUS_PORT, STREAMS_PORT if streams else ANSWER_PORT

    def given(self, **fields: Any) -> Machine:
        """Return the same machine with other fields of its task."""
        return replace(self, task=replace(self.task, **fields))

    def argv(
        self,
        ports: Path | Mapping[str, int],
        *,
        texts: Path | None = None,
        monitor: int | None = None,
        incoming: bool = False,
    ) -> list[str]:
        """Return QEMU's command line.

        Args:
            ports: a file for the output of the guest's status port; or the numbers of inherited sockets, by the names
                of the ports: then the guest is supervised, and reads its status port.
            texts: a folder in which each text of the task is a file; None puts them into the command line, where other
                users see them and 128 KiB is the limit of each.
            monitor: inherited socket for QMP.
            incoming: the guest does not boot: its state will come by way of the monitor.
        """
        task_texts = self.task.texts(supervised=not isinstance(ports, Path))
        ends: Mapping[str, Path | int] = {STATUS_PORT: ports} if isinstance(ports, Path) else ports
        return [
            f"qemu-system-{self.arch}",
            # No default devices, no network, no monitor, no window: only what is named below.
            *("-nodefaults", "-no-user-config", "-nic", "none", "-monitor", "none", "-display", "none", "-no-reboot"),
            *(("-sandbox", SANDBOX) if self.sandbox else ()),
            *self.board.options,
            *("-accel", self._accel(), "-cpu", self._cpu()),
            *("-smp", str(self.cpus), *self._memory()),
            *(() if incoming and self.board.loads else self._kernel()),
            # signal=off: Ctrl+C is a key for the guest and not the end of QEMU.
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-device", self._virtio("serial"), *(word for name, end in ends.items() for word in _port(name, end))),
            *("-object", "rng-builtin,id=rng", "-device", f"{self._virtio('rng')},rng=rng"),
            *self._disk(),
            *(word for name, text in task_texts.items() for word in _fw_cfg(name, text, texts)),
            *(() if monitor is None else _monitor(monitor)),
            *(("-incoming", "defer") if incoming else ()),
        ]

    def fence(self, ports: Path | Mapping[str, int], *, texts: Path | None = None) -> Fence | None:
        """Return what the QEMU of such a command line may open; None for all that this user may."""
        if not self.held:
            return None
        task_texts = self.task.texts(supervised=not isinstance(ports, Path))
        named = () if texts is None else [texts / name for name in task_texts]
        trees = (self.pmem and self.pmem.tree, self.verity and self.verity.tree)
        files = (self.kernel, self.initramfs, self.disk, *trees, *named)
        return Fence(
            reads=tuple(path for path in files if path),
            writes=(ports,) if isinstance(ports, Path) else (),
            devices=(KVM,) if self.accel is Accel.KVM else (),
            filtered=self.sandbox,
        )

    def tree_argv(self, target: Path) -> list[str]:
        """Return the command line of a QEMU that writes its board's device tree to `target`, and ends."""
        board, value, *others = self.board.options
        return [
            *(f"qemu-system-{self.arch}", "-nodefaults", "-no-user-config", "-display", "none"),
            *(board, f"{value},dumpdtb={_escaped(str(target))}", *others),
            *("-accel", self._accel(), "-cpu", self._cpu(), "-smp", str(self.cpus), "-m", f"{self.memory}M"),
        ]

    def idle_argv(self) -> list[str]:
        """Return the command line of a QEMU with this board that waits for its monitor's user."""
        return [
            *(f"qemu-system-{self.arch}", "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio"),
            *("-S", *self.board.options, "-accel", self._accel(), "-cpu", self._cpu(), "-m", "64M"),
        ]

    @property
    def pmem_start(self) -> int:
        """Address in bytes of the model's disk in the memory of `virt`, behind the guest's own, at whole 2 MiB."""
        return RAM_START + (self.memory + self.memory % 2 << 20)

    def _memory(self) -> tuple[str, ...]:
        if self.pmem is None or self.disk is None:
            return ("-m", f"{self.memory}M")
        # Read-only memory, to the guest as to QEMU: what the guest writes there is dropped.
        shared = f"size={self.pmem.size},readonly=on,share=on,mem-path={_escaped(str(self.disk))}"
        image = ("-object", f"memory-backend-file,id=model,{shared}")
        if self.board.maps is Maps.VIRTIO_PMEM:
            most = (self.memory << 20) + self.pmem.size + PMEM_SPARE >> 20
            pmem = ("-device", "virtio-pmem-pci,memdev=model")
            return ("-m", f"{self.memory}M,maxmem={most}M", *image, *pmem)
        # `virt` has no device for it without firmware: there it is the memory of a second NUMA node.
        own = self.pmem_start - RAM_START
        ram = ("-object", f"memory-backend-ram,id=ram,size={own}", "-numa", "node,memdev=ram")
        tree = ("-dtb", str(self.pmem.tree)) if self.pmem.tree else ()
        whole = ("-m", f"{own + self.pmem.size >> 10}K")
        return (*whole, *ram, *image, "-numa", "node,memdev=model", *tree)

    def _virtio(self, kind: str) -> str:
        return f"virtio-{kind}-{self.board.transport}"

    def _accel(self) -> str:
        if self.accel is Accel.HVF and self.board.own_gic:
            return "hvf,kernel-irqchip=off"  # older ones than QEMU 11.1 have no other, and no such option
        return "tcg,thread=multi" if self.accel is Accel.TCG else self.accel.value

    def _cpu(self) -> str:
        if self.cpu:
            return self.cpu
        # Emulated, pointer authentication and SVE cost more than they bring: QEMU's "max" boots in a third of the time
        # without them. Under KVM and HVF the properties are errors, and "max" is the host's own processor.
        return "max,pauth=off,sve=off" if self.accel is Accel.TCG and self.arch == "aarch64" else "max"

    def _command_line(self) -> str:
        words = [f"console={self.board.console}", "panic=-1", *self.board.kernel]
        if self.pmem and self.board.maps is Maps.NUMA_NODE:
            words.append(f"mem={self.memory}M")  # QEMU calls the disk memory as any other: Linux is to keep off it
        if self.verity and not self.pmem:
            words.append(f'dm-mod.create="model,,,ro,{self.verity.table}"')
        if not self.verbose:
            words.append("loglevel=3")  # shows panics, but not ended programs: /init reports those
        return " ".join(words)

    def _kernel(self) -> tuple[str, ...]:
        return ("-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", self._command_line())

    def _disk(self) -> tuple[str, ...]:
        if self.disk is None or self.pmem:
            return ()
        disks = {"model": self.disk, **({"tree": self.verity.tree} if self.verity else {})}
        # The first one is to be /dev/vda: Linux finds the devices of a microvm from the last one on.
        return tuple(
            word
            for name, path in sorted(disks.items(), reverse=self.board.transport != "pci")
            for word in (
                *("-drive", f"if=none,id={name},format=raw,readonly=on,file={_escaped(str(path))}"),
                *("-device", f"{self._virtio('blk')},drive={name}"),
            )
        )


def _port(name: str, end: Path | int) -> tuple[str, ...]:
    short = name.removeprefix("zosia.")
    backend = f"socket,id={short},fd={end}" if isinstance(end, int) else f"file,id={short},path={_escaped(str(end))}"
    return ("-chardev", backend, "-device", f"virtserialport,chardev={short},name={name}")


def _monitor(end: int) -> tuple[str, ...]:
    return ("-chardev", f"socket,id=monitor,fd={end}", "-qmp", "chardev:monitor")


def _fw_cfg(name: str, text: str, folder: Path | None) -> tuple[str, ...]:
    value = f"string={_escaped(text)}" if folder is None else f"file={_escaped(str(folder / name))}"
    return ("-fw_cfg", f"name=opt/zosia/{name},{value}")


def _escaped(value: str) -> str:
    """Return a value for an option of QEMU, where a comma ends it unless it is doubled."""
    return value.replace(",", ",,")
