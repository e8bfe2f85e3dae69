"""An ISO on machines as others make them: with firmware, a CD or a disk, a screen and a keyboard."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from tests import parrot
from zosia.base.files import cache_root, sha256
from zosia.base.patience import patience
from zosia.disk import ext4
from zosia.inputs import fetch
from zosia.inputs.catalogue import read_sources
from zosia.machine.task import word
from zosia.model import shape
from zosia.run.guest import PROMPT, Guest
from zosia.settings.settings import Settings
from zosia_build import iso
from zosia_build.settings import iso_texts

LOADING = 240  # seconds, as the other one
ANSWERING = 240
QUESTION = "What is 2+2?"
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
QUICK = [("aarch64", "uefi", "scsi-cd"), ("x86_64", "bios", "usb-disk")]
FIRMWARE = {"aarch64": ("uefi",), "x86_64": ("bios", "uefi")}
# Debian's UEFI for aarch64 has no driver for AHCI: there the model's disk hangs on that.
ALL = [
    (arch, firmware, medium)
    for arch, firmwares in FIRMWARE.items()
    for firmware, medium in itertools.product(firmwares, MEDIA)
    if arch != "aarch64" or not medium.startswith("ahci")
]
CASES = ALL if os.environ.get("ZOSIA_ALL") == "1" else QUICK
ARCHES = list(FIRMWARE) if os.environ.get("ZOSIA_ALL") == "1" else ["aarch64"]


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


Make = Callable[..., Path]
Start = Callable[[Elsewhere], Guest]


@pytest.fixture(scope="module")
def make(root: Path, scons: Path, settings: Settings, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make an ISO as `scons iso` does, but for what is given; of the small model."""
    built = set()

    def run(arch: str, *, with_model: bool = True, **texts: str) -> Path:
        if arch not in built:
            subprocess.run([scons, "iso", f"ARCH={arch}", "-s"], cwd=root, check=True)
            built.add(arch)
        parts = [small]
        typed = replace(settings, arch=arch, llama_args=("--temp", "0"))
        made = dict(iso_texts(typed, shape.read(parts), small.stat().st_size)) | texts
        pins = read_sources(root / "sources.toml")
        bios = pins.get(f"grub-bios-{arch}")
        content = iso.Content(
            arch=arch,
            kernel=root / "build" / arch / "Image-iso",
            initramfs=root / "build" / arch / "initramfs-iso.cpio.gz",
            efi=root / "build" / arch / "grub.efi",
            bios=fetch.source_tree(fetch.fetch(bios, cache_root()).pin, cache_root()) if bios else None,
            texts=made,
            notice="Of this test\n",
            parts=parts if with_model else (),
            info={"name": "parrot", "sha256": sha256(small)},
        )
        target = tmp_path_factory.mktemp("iso") / "zosia.iso"
        iso.build(content, target)
        return target

    return run


@pytest.fixture
def start(request: pytest.FixtureRequest, root: Path) -> Start:
    """Start a machine; its serial console's log is kept in build/test-logs under the test's name."""

    def run(machine: Elsewhere) -> Guest:
        guest = Guest(machine, root / "build" / "test-logs" / f"{request.node.name}.log")
        request.addfinalizer(lambda: guest.__exit__(None, None, None))
        return guest

    return run


def test_its_licences_are_on_it(make: Make, root: Path, tmp_path: Path) -> None:
    make("aarch64")
    made, text = root / "build" / "aarch64" / "zosia-smollm2-135m.iso", tmp_path / "licences.txt"
    argv: list[str | Path] = ["xorriso", "-osirrox", "on", "-indev", made, "-extract", "/licences.txt", text]
    subprocess.run(argv, check=True, capture_output=True)
    for name in ("zosia: MIT", "Linux: GPL-2.0-only", "busybox: GPL-2.0-only", "GRUB: GPL", "the model smollm2-135m: "):
        assert f"- {name}" in text.read_text(encoding="utf-8")


@pytest.mark.parametrize(("arch", "firmware", "medium"), CASES)
def test_it_answers(make: Make, start: Start, tmp_path: Path, arch: str, firmware: str, medium: str) -> None:
    machine = Elsewhere(arch=arch, firmware=firmware, medium=medium, image=make(arch), variables=tmp_path / "vars")
    guest = start(machine)
    assert "model parrot" in guest.expect(PROMPT, LOADING)
    guest.send(QUESTION)
    guest.expect(f"{QUESTION}\n")
    answer, times = guest.arrivals("[ Prompt:", ANSWERING)
    assert parrot.ANSWER in answer
    assert len(times) > 5, "it streams"
    guest.expect(PROMPT)
    guest.send("/exit")
    guest.wait_end()


@pytest.mark.parametrize("arch", ARCHES)
def test_the_screen_and_its_keyboard(make: Make, start: Start, root: Path, tmp_path: Path, arch: str) -> None:
    machine = Elsewhere(
        arch=arch,
        firmware=FIRMWARE[arch][0],
        medium="virtio-disk",
        image=make(arch),
        variables=tmp_path / "vars",
        qmp=tmp_path / "qmp",
    )
    guest = start(machine)
    qmp = Qmp(tmp_path / "qmp")
    guest.expect(PROMPT, LOADING)
    answer, picture = parrot.ANSWER.partition(" Z")[0], root / "build" / "test-logs" / f"screen-{arch}.png"
    assert not qmp.shows(answer, picture)
    qmp.type("What is 2+2?\r")
    guest.expect(f"{QUESTION}\n")  # and the serial line shows what the keyboard types
    assert parrot.ANSWER in guest.expect("[ Prompt:", ANSWERING)
    guest.expect(PROMPT)
    deadline = time.monotonic() + 20 * patience()
    while not qmp.shows(answer, picture):  # it is drawn by and by
        assert time.monotonic() < deadline, f"{picture} does not show the answer"
        time.sleep(0.2)
    qmp.type("/exit\r")
    guest.wait_end()


@pytest.mark.parametrize("arch", ARCHES)
def test_a_model_disk_beside_it(make: Make, start: Start, tmp_path: Path, small: Path, arch: str) -> None:
    ext4.build(parts=[small], info={"name": "beside"}, target=tmp_path / "m.img")
    machine = Elsewhere(
        arch=arch,
        firmware=FIRMWARE[arch][0],
        medium="virtio-disk",
        image=make(arch, with_model=False),
        variables=tmp_path / "vars",
        disk=tmp_path / "m.img",
    )
    guest = start(machine)
    assert "model beside" in guest.expect(PROMPT, LOADING)
    guest.control("c")
    guest.wait_end()


@pytest.mark.parametrize(
    ("texts", "with_model", "message"),
    [
        ({}, False, "zosia: error: no CD or disk of this machine holds the model. Attach the ISO, or the model's disk"),
        ({"model": "0" * 64}, True, "zosia: error: no CD or disk of this machine holds the model."),
        (
            {"need": "9000 9500"},
            True,
            "zosia: error: the model and its context take 9000 MiB, and the guest has {} MiB free. "
            "Give the machine 9500 MiB of memory, or build the ISO with a smaller CTX=",
        ),
        ({"args": word("--no-such-option")}, True, "--no-such-option. Build the ISO with VERBOSE=1"),
    ],
    ids=["no model", "another model", "too little memory", "llama-cli fails"],
)
def test_what_goes_wrong_stays_on_the_screen(
    make: Make, start: Start, tmp_path: Path, texts: dict[str, str], with_model: bool, message: str
) -> None:
    image = make("x86_64", with_model=with_model, **texts)
    machine = Elsewhere(arch="x86_64", firmware="bios", medium="ahci-cd", image=image, variables=tmp_path / "vars")
    guest = start(machine)
    shown = ""
    for part in message.split("{}"):
        shown += guest.expect(part, LOADING)
    assert shown.count("zosia: error") == (0 if message.startswith("zosia") else 1)
    guest.expect("Press a key to power off.")
    guest.send("")
    guest.wait_end()
