"""The guest's contract: what /init does with what it is given, on a real kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from zosia import ext4
from zosia.console import PROMPT
from zosia.process import run
from zosia.status import Status
from zosia_options import Settings

from .conftest import Boot

AWKWARD = ('it\'s "quoted" $HOME `ls` \\', "two\nlines", "Zażółć gęślą jaźń 你好 🙂", "a, b,,c", "*", "")


def test_a_stub_says_so_and_gets_its_arguments_unharmed(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(settings.stub_machine(), llama_args=AWKWARD))
    guest.expect("This is a stub, not a language model")
    for argument in AWKWARD:
        guest.expect(f"argument: {argument}\n")
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


def test_the_terminal_has_the_size_that_the_host_names(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(settings.stub_machine(), terminal=(33, 111, "xterm-256color")))
    guest.expect("terminal: 33 111 xterm-256color")
    guest.expect(PROMPT)
    guest.control("d")
    assert guest.wait_end() == Status.OK


def test_a_missing_disk(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(settings.machine(), disk=None))
    guest.expect("zosia: error: no model disk is attached. Make one with: scons model.img")
    assert guest.wait_end() == Status.NO_DISK


def test_a_disk_without_a_filesystem(settings: Settings, boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "a disk, with commas.img"
    disk.write_bytes(bytes(1 << 20))
    guest = boot(replace(settings.machine(), disk=disk))
    guest.expect("zosia: error: the model disk holds no ext4 filesystem")
    assert guest.wait_end() == Status.BAD_DISK


def test_a_disk_without_a_model(settings: Settings, boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(ext4.image_size(0)))
    run([*ext4.MKE2FS, disk])
    guest = boot(replace(settings.machine(), disk=disk))
    guest.expect("zosia: error: the model disk holds no model.gguf but: lost+found")
    assert guest.wait_end() == Status.NO_MODEL


def test_a_processor_that_no_llama_cli_was_built_for(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(settings.machine(), cpu="cortex-a72"))
    guest.expect("zosia: error: this processor lacks asimddp")
    assert guest.wait_end() == Status.CPU_TOO_OLD


@pytest.mark.parametrize(("cpu", "level"), [("max", "i8mm"), ("neoverse-n1", "dotprod")])
def test_the_best_level_that_the_processor_has_is_used(settings: Settings, boot: Boot, cpu: str, level: str) -> None:
    guest = boot(replace(settings.stub_machine(), cpu=cpu))
    guest.expect(f"for {level}\n")
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


def test_arguments_that_llama_cli_refuses(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(settings.machine(), llama_args=("--no-such-option",)))
    guest.expect("--no-such-option")
    assert guest.wait_end() == 1
