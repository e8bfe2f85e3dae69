"""A machine, and the QEMU command line that makes it. Pure: nothing here looks at the host."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

STATUS_PORT = "zosia.status"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Accel(Enum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    HVF = "hvf"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One guest.

    `memory` in MiB; `cpu` a QEMU CPU model, "" for the best that `accel` has; `llama_args` words for llama-cli;
    `terminal` rows, columns and TERM; `disk` None for none; `verbose` shows the kernel's messages; `sandbox` as QEMU
    has it on Linux only.
    """

    arch: str
    accel: Accel
    cpu: str
    cpus: int
    memory: int
    kernel: Path
    initramfs: Path
    disk: Path | None
    llama_args: tuple[str, ...] = ()
    terminal: tuple[int, int, str] = (24, 80, "linux")
    verbose: bool = False
    sandbox: bool = True

    def argv(self, status: Path) -> list[str]:
        """QEMU's command line; what the guest reports on its status port goes into the file `status`."""
        return [
            f"qemu-system-{self.arch}",
            # No default devices, no network, no monitor, no window: only what is named below.
            *("-nodefaults", "-no-user-config", "-nic", "none", "-monitor", "none", "-display", "none", "-no-reboot"),
            *(("-sandbox", SANDBOX) if self.sandbox else ()),
            *("-machine", "virt,gic-version=max", "-accel", self._accel(), "-cpu", self._cpu()),
            *("-smp", str(self.cpus), "-m", f"{self.memory}M"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", self._command_line()),
            # signal=off: Ctrl+C is a key for the guest and not the end of QEMU.
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-device", "virtio-serial-pci", "-chardev", f"file,id=status,path={_escaped(str(status))}"),
            *("-device", f"virtserialport,chardev=status,name={STATUS_PORT}"),
            *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
            *self._disk(),
            *self._fw_cfg("args", shlex.join(self.llama_args)),
            *self._fw_cfg("terminal", " ".join(map(str, self.terminal))),
        ]

    def _accel(self) -> str:
        return "tcg,thread=multi" if self.accel is Accel.TCG else self.accel.value

    def _cpu(self) -> str:
        if self.cpu:
            return self.cpu
        # Emulated, pointer authentication and SVE cost more than they bring: QEMU's "max" boots in a third of the time
        # without them. Under KVM and HVF the properties are errors, and "max" is the host's own processor.
        return "max,pauth=off,sve=off" if self.accel is Accel.TCG else "max"

    def _command_line(self) -> str:
        return "console=ttyAMA0 panic=-1" + ("" if self.verbose else " quiet")

    def _disk(self) -> tuple[str, ...]:
        if self.disk is None:
            return ()
        drive = f"if=none,id=model,format=raw,readonly=on,file={_escaped(str(self.disk))}"
        return ("-drive", drive, "-device", "virtio-blk-pci,drive=model")

    @staticmethod
    def _fw_cfg(name: str, text: str) -> tuple[str, ...]:
        # An empty string= is an error in QEMU, and no file says the same.
        return ("-fw_cfg", f"name=opt/zosia/{name},string={_escaped(text)}") if text else ()


def _escaped(value: str) -> str:
    """A value inside an option of QEMU, where a comma ends it unless it is doubled."""
    return value.replace(",", ",,")
