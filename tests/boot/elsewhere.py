"""Machines that zosia did not make: with firmware, a CD or a disk, a screen and a keyboard."""

from __future__ import annotations

import json
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from zosia.base.patience import patience

# Firmware of Debian's packages qemu-efi-aarch64 and ovmf: code, and variables that it writes to.
UEFI = {
    "aarch64": ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    "x86_64": ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
}
BOARDS = {
    "aarch64": ("-machine", "virt", "-cpu", "max,pauth=off,sve=off"),
    "x86_64": ("-machine", "q35", "-cpu", "max"),
}
SCREENS = {"aarch64": "virtio-gpu-pci", "x86_64": "VGA"}
MEDIA = {
    "scsi-cd": ("-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=iso"),
    "ahci-cd": ("-device", "ich9-ahci,id=ahci", "-device", "ide-cd,drive=iso,bus=ahci.0"),
    "usb-cd": ("-device", "qemu-xhci", "-device", "usb-bot,id=bot", "-device", "scsi-cd,drive=iso,bus=bot.0"),
    "virtio-disk": ("-device", "virtio-blk-pci,drive=iso"),
    "ahci-disk": ("-device", "ich9-ahci,id=ahci", "-device", "ide-hd,drive=iso,bus=ahci.0"),
    "usb-disk": ("-device", "qemu-xhci", "-device", "usb-storage,drive=iso"),
    "nvme-disk": ("-device", "nvme,drive=iso,serial=zosia"),
}


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A machine that zosia did not make. `disk` is a second one; `qmp` a socket, for a machine with a screen."""

    arch: str
    firmware: str
    medium: str
    image: Path
    variables: Path
    memory: int = 768  # MiB
    disk: Path | None = None
    qmp: Path | None = None
    terminal: tuple[int, int, str] = (24, 80, "linux")

    def argv(self, status: Path) -> list[str]:
        return [
            f"qemu-system-{self.arch}",
            *("-nodefaults", "-no-user-config", "-nic", "none", "-monitor", "none", "-display", "none", "-no-reboot"),
            *(*BOARDS[self.arch], "-accel", "tcg,thread=multi", "-smp", "2", "-m", f"{self.memory}M"),
            *(self._uefi() if self.firmware == "uefi" else ()),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-drive", f"if=none,id=iso,format=raw,snapshot=on,file={self.image}", *self._medium()),
            *(() if self.disk is None else self._disk()),
            *(() if self.qmp is None else self._screen(self.qmp)),
        ]

    def _medium(self) -> list[str]:
        # With two disks a person has to say which is to be started: SeaBIOS tries one.
        first = "drive=iso" if self.disk is None else "drive=iso,bootindex=0"
        return [word.replace("drive=iso", first) for word in MEDIA[self.medium]]

    def _uefi(self) -> tuple[str, ...]:
        code, variables = UEFI[self.arch]
        if not self.variables.exists():
            shutil.copyfile(variables, self.variables)
        drive = "if=pflash,format=raw"
        return ("-drive", f"{drive},readonly=on,file={code}", "-drive", f"{drive},file={self.variables}")

    def _disk(self) -> tuple[str, ...]:
        drive = f"if=none,id=disk,format=raw,snapshot=on,file={self.disk}"
        return ("-drive", drive, "-device", "ich9-ahci,id=second", "-device", "ide-hd,drive=disk,bus=second.0")

    def _screen(self, qmp: Path) -> tuple[str, ...]:
        keyboard = ("-device", "qemu-xhci,id=xhci", "-device", "usb-kbd,bus=xhci.0")
        return ("-device", SCREENS[self.arch], *keyboard, "-qmp", f"unix:{qmp},server=on,wait=off")


class Qmp:
    """QEMU's own console: keys and screenshots."""

    KEYS: ClassVar = {" ": ["spc"], "?": ["shift", "slash"], "+": ["shift", "equal"], "/": ["slash"], "\r": ["ret"]}

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + 20 * patience()
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw", encoding="utf-8")
        self._file.readline()  # a greeting
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: Any) -> None:
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while "return" not in (reply := json.loads(self._file.readline())):
            assert "error" not in reply, reply

    def type(self, text: str) -> None:
        """Press and let go of the keys of a US keyboard."""
        for letter in text:
            capital = ["shift"] if letter.isupper() else []
            keys = self.KEYS.get(letter) or [*capital, letter.lower()]
            self.do("send-key", keys=[{"type": "qcode", "data": key} for key in keys])
            time.sleep(0.15)

    def shows(self, text: str, path: Path) -> bool:
        """Take a picture, and return whether it has cells of which the same are the same, as in the text."""
        self.do("screendump", filename=str(path), format="png")
        picture = Image.open(path).convert("L")
        wide, high = 9 if picture.width == 720 else 8, 16  # pixels of a letter; 9 in VGA's text mode
        for top in range(0, picture.height - high + 1, high):
            boxes = ((left, top, left + wide, top + high) for left in range(0, picture.width - wide + 1, wide))
            cells = [picture.crop(box).tobytes() for box in boxes]
            rows = (cells[first : first + len(text)] for first in range(len(cells) - len(text) + 1))
            if any([row.index(cell) for cell in row] == [text.index(letter) for letter in text] for row in rows):
                return True
        return False
