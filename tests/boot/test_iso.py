"""An ISO on machines as others make them: with firmware, a CD or a disk, a screen and a keyboard."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.base.files import cache_root, sha256
from zosia.base.patience import patience
from zosia.disk import ext4
from zosia.inputs import fetch
from zosia.inputs.catalogue import read_sources
from zosia.machine.task import word
from zosia.model import reader
from zosia.run.guest import PROMPT, Guest
from zosia.settings.settings import Settings
from zosia_build import iso
from zosia_build.settings import iso_texts

from .elsewhere import MEDIA, Elsewhere, Qmp

LOADING = 240  # seconds, as the other one
ANSWERING = 240
QUESTION = "What is 2+2?"
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
        made = dict(iso_texts(typed, reader.read(parts), small.stat().st_size)) | texts
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
