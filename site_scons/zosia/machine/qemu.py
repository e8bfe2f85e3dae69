"""A machine, and the QEMU command line that makes it. Pure: nothing here looks at the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from zosia.model import memory

STATUS_PORT = "zosia.status"
ANSWER_PORT = "zosia.answer"
RAM_START = 1 << 30  # bytes: where the memory of `virt` begins (QEMU, hw/arm/virt.c, base_memmap)
PMEM_SPARE = 1 << 30  # bytes: QEMU puts memory devices at whole GiB
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Accel(Enum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    HVF = "hvf"
    TCG = "tcg"


class Board(Enum):
    """What QEMU emulates around the processor."""

    VIRT = "virt"  # aarch64
    MICROVM = "microvm"  # x86_64: no firmware to speak of, no PCI, and no timer chip: starts fastest, and with KVM only
    Q35 = "q35"  # x86_64: a PC


class Bus(Enum):
    """How the model's disk reaches the guest."""

    DAX = "dax"  # as memory that the guest maps: the host's page cache itself, and no copy of it
    VIRTIO_BLK = "virtio-blk"  # as a disk, which the guest reads into its own memory


CONSOLES = {"aarch64": "ttyAMA0", "x86_64": "ttyS0"}
BOARDS = {"aarch64": (Board.VIRT,), "x86_64": (Board.MICROVM, Board.Q35)}  # the fastest first


class Mode(Enum):
    """What the guest does; which it is, only the host says."""

    CHAT = "chat"
    DIAG = "diag"  # tell what a bug report needs
    PROBE = "probe"  # show how the disk was mounted


@dataclass(frozen=True, kw_only=True)
class Pmem:
    """The model's disk as memory: its size in bytes, and for a `virt` that boots the device tree that tells of it."""

    size: int
    tree: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One guest.

    `memory` in MiB; `need` MiB that the model and its context take, 0 where that does not matter; `cpu` a QEMU CPU
    model, "" for the best that `accel` has; `llama_args` words for llama-cli; `system` the system prompt, "" for none;
    `prompt` what is asked once, None for a chat; `terminal` rows, columns and TERM; `disk` None for none; `bus` what
    the disk is to be on, and `pmem` what pmem.attach() made of Bus.DAX, without which it is on virtio-blk; `verbose`
    shows the messages of the kernel and llama.cpp; `heavy_kernel` when the kernel keeps more memory, see
    guest_memory; `sandbox` as QEMU has it on Linux only; `hot` the folder of saved machines, None to boot each time.
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
    need: int = 0
    heavy_kernel: bool = False
    llama_args: tuple[str, ...] = ()
    system: str = ""
    prompt: str | None = None
    mode: Mode = Mode.CHAT
    terminal: tuple[int, int, str] = (24, 80, "linux")
    verbose: bool = False
    sandbox: bool = True
    hot: Path | None = None

    def argv(
        self,
        status: Path | int,
        *,
        answer: int | None = None,
        texts: Path | None = None,
        monitor: int | None = None,
        incoming: bool = False,
    ) -> list[str]:
        """QEMU's command line.

        Args:
            status: where the guest's status port leads: a file that it is written to, or the number of an inherited
                socket, over which the guest is also told what changes while it runs.
            answer: inherited socket for the answer alone, or what a diagnosis says; None leaves both to the console.
            texts: a folder in which each of `texts()` is a file; None puts them into the command line, where other
                users see them and 128 KiB is the limit of each.
            monitor: inherited socket for QMP; with it the guest waits for the host when the model is loaded, and can be
                saved there.
            incoming: the guest does not boot: its state will come by way of the monitor.
        """
        told = self.texts(hot=monitor is not None)
        return [
            f"qemu-system-{self.arch}",
            # No default devices, no network, no monitor, no window: only what is named below.
            *("-nodefaults", "-no-user-config", "-nic", "none", "-monitor", "none", "-display", "none", "-no-reboot"),
            *(("-sandbox", SANDBOX) if self.sandbox else ()),
            *self._board(),
            *("-accel", self._accel(), "-cpu", self._cpu()),
            *("-smp", str(self.cpus), *self._memory()),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", self._command_line()),
            # signal=off: Ctrl+C is a key for the guest and not the end of QEMU.
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-device", self._virtio("serial"), *_port("status", STATUS_PORT, status)),
            *(() if answer is None else _port("answer", ANSWER_PORT, answer)),
            *("-object", "rng-builtin,id=rng", "-device", f"{self._virtio('rng')},rng=rng"),
            *self._disk(),
            *(word for name, text in told.items() for word in _fw_cfg(name, text, texts)),
            *(() if monitor is None else _monitor(monitor)),
            *(("-incoming", "defer") if incoming else ()),
        ]

    def tree_argv(self, target: Path) -> list[str]:
        """A QEMU that writes the device tree of this machine's board to `target`, and ends."""
        board, value = self._board()
        return [
            *(f"qemu-system-{self.arch}", "-nodefaults", "-no-user-config", "-display", "none"),
            *(board, f"{value},dumpdtb={_escaped(str(target))}"),
            *("-accel", self._accel(), "-cpu", self._cpu(), "-smp", str(self.cpus), "-m", f"{self.memory}M"),
        ]

    def texts(self, *, hot: bool = False) -> Mapping[str, str]:
        """What the guest is told, as fw_cfg files opt/zosia/NAME; `hot` leaves what is asked for later."""
        pages = memory.pages(self.pmem.size) if self.pmem else 0
        enough = memory.guest_memory(self.need, heavy_kernel=self.heavy_kernel, pages=pages)
        texts = {
            "args": " ".join(map(word, self.llama_args)),
            "hot": "1" if hot else "",
            "mode": self.mode.value,
            "need": f"{self.need} {enough}" if self.need else "",
            "prompt": "" if hot else self.question,
            "system": self.system,
            "terminal": " ".join(map(str, self.terminal)),
        }
        return {name: text for name, text in texts.items() if text}  # an empty one is an error to QEMU

    @property
    def question(self) -> str:
        """What is asked once; llama-cli would take a slash at its beginning for a command of its own."""
        return "\n" * (self.prompt or "").startswith("/") + (self.prompt or "")

    def _board(self) -> tuple[str, ...]:
        match self.board:
            case Board.VIRT:
                return ("-machine", "virt,gic-version=max")
            case Board.Q35:
                return ("-machine", "q35,sata=off,smbus=off,usb=off,vmport=off")
            case Board.MICROVM:  # whose virtio is that of before 2016 unless told otherwise
                return ("-machine", "microvm", "-global", "virtio-mmio.force-legacy=false")

    @property
    def pmem_start(self) -> int:
        """Bytes: where in the memory of `virt` the model's disk begins, behind the guest's own, at whole 2 MiB."""
        return RAM_START + (self.memory + self.memory % 2 << 20)

    def _memory(self) -> tuple[str, ...]:
        if self.pmem is None or self.disk is None:
            return ("-m", f"{self.memory}M")
        # Read-only memory, to the guest as to QEMU: what the guest writes there is dropped.
        shared = f"size={self.pmem.size},readonly=on,share=on,mem-path={_escaped(str(self.disk))}"
        image = ("-object", f"memory-backend-file,id=model,{shared}")
        if self.board is not Board.VIRT:
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
        return f"virtio-{kind}-{'device' if self.board is Board.MICROVM else 'pci'}"

    def _accel(self) -> str:
        return "tcg,thread=multi" if self.accel is Accel.TCG else self.accel.value

    def _cpu(self) -> str:
        if self.cpu:
            return self.cpu
        # Emulated, pointer authentication and SVE cost more than they bring: QEMU's "max" boots in a third of the time
        # without them. Under KVM and HVF the properties are errors, and "max" is the host's own processor.
        return "max,pauth=off,sve=off" if self.accel is Accel.TCG and self.arch == "aarch64" else "max"

    def _command_line(self) -> str:
        words = [f"console={CONSOLES[self.arch]}", "panic=-1"]
        if self.arch == "x86_64":
            words.append("reboot=t")  # by a triple fault: QEMU ends at once, and microvm knows no other way
            words.append("swiotlb=noforce")  # no 64 MiB for devices that don't reach all memory: virtio does
        if self.pmem and self.board is Board.VIRT:
            words.append(f"mem={self.memory}M")  # QEMU calls the disk memory as any other: Linux is to keep off it
        if not self.verbose:
            words.append("loglevel=3")  # shows panics, and not that the kernel ended a program, which /init says itself
        return " ".join(words)

    def _disk(self) -> tuple[str, ...]:
        if self.disk is None or self.pmem:
            return ()
        drive = f"if=none,id=model,format=raw,readonly=on,file={_escaped(str(self.disk))}"
        return ("-drive", drive, "-device", f"{self._virtio('blk')},drive=model")


def word(text: str) -> str:
    """A word without blanks, which printf's %b takes apart again; \\c is nothing at all."""
    return text.translate({ord("\\"): r"\\", ord(" "): r"\0040", ord("\t"): r"\t", ord("\n"): r"\n"}) or r"\c"


def _port(name: str, port: str, end: Path | int) -> tuple[str, ...]:
    backend = f"socket,id={name},fd={end}" if isinstance(end, int) else f"file,id={name},path={_escaped(str(end))}"
    return ("-chardev", backend, "-device", f"virtserialport,chardev={name},name={port}")


def _monitor(end: int) -> tuple[str, ...]:
    return ("-chardev", f"socket,id=monitor,fd={end}", "-mon", "chardev=monitor,mode=control")


def _fw_cfg(name: str, text: str, folder: Path | None) -> tuple[str, ...]:
    value = f"string={_escaped(text)}" if folder is None else f"file={_escaped(str(folder / name))}"
    return ("-fw_cfg", f"name=opt/zosia/{name},{value}")


def _escaped(value: str) -> str:
    """A value inside an option of QEMU, where a comma ends it unless it is doubled."""
    return value.replace(",", ",,")
