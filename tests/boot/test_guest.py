"""The guest's contract: what /init does with what it is given, on a real kernel."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from zosia.base.version import VERSION
from zosia.inputs.catalogue import read_sources
from zosia.machine.qemu import Bus
from zosia.machine.status import Status
from zosia.machine.task import Task
from zosia.run import supervisor
from zosia.run.guest import PROMPT
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import Boot, Chat, Supervise, settings_of

# An emulated processor, and the level for it
LEVELS = {
    "aarch64": (("max", "i8mm"), ("neoverse-n1", "dotprod")),
    "x86_64": (("max", "avx2"), ("Nehalem", "sse42")),
}
AWKWARD = ('it\'s "quoted" $HOME `ls` \\', "two\nlines", "Zażółć gęślą jaźń 你好 🙂", "a, b,,c", "*", "")


def test_a_stub_says_so_and_gets_its_arguments_unharmed(settings: Settings, boot: Boot) -> None:
    guest = boot(machines.stub_machine(settings).given(llama_args=AWKWARD))
    guest.expect("This is a stub, not a language model")
    for argument in AWKWARD:
        guest.expect(f"argument: {argument}\n")
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


def test_the_terminal_has_the_size_that_the_host_names(settings: Settings, boot: Boot) -> None:
    guest = boot(machines.stub_machine(settings).given(terminal=(33, 111, "xterm-256color")))
    guest.expect("terminal: 33 111 xterm-256color")
    guest.expect(PROMPT)
    guest.control("d")
    assert guest.wait_end() == Status.OK


@pytest.mark.parametrize("newest", [True, False])
def test_the_best_level_that_the_processor_has_is_used(settings: Settings, boot: Boot, newest: bool) -> None:
    cpu, level = LEVELS[settings.arch][0 if newest else 1]
    guest = boot(replace(machines.stub_machine(settings), cpu=cpu))
    guest.expect(f"for {level}\n")
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


LONG = ('it\'s "quoted", $HOME `ls` $(ls) \\n \\ /x\n\tZażółć gęślą jaźń 你好 🙂, a,,b\n' * 300)[:16384] + "."


@pytest.mark.parametrize("prompt", [LONG, "/exit", "x", "two\nlines"])
def test_prompt_and_system_arrive_unharmed(settings: Settings, supervise: Supervise, prompt: str) -> None:
    done = supervise(machines.stub_machine(settings).given(prompt=prompt, system=LONG))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"file -sysf: {LONG}.\n" in done.stdout
    assert f"asked: {prompt}.\n" in done.stdout


def test_what_the_host_sends_opens_no_shell(settings: Settings, boot: Boot) -> None:
    evil = "$(sh) `sh` ; sh & | sh\nsh\n"
    words = ("$(sh)", "`sh`", ";", "sh", "&", "\n", "sh", "|")
    machine = machines.stub_machine(settings).given(llama_args=words, system=evil, terminal=(24, 80, "linux; sh"))
    guest = boot(machine)
    for word in words:
        guest.expect(f"argument: {word}\n")
    guest.expect(PROMPT)
    guest.send("echo $((6 * 7))")
    guest.expect("stub heard: echo $((6 * 7))")
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


class Odd(Task):
    """A task of a mode that there is not."""

    def texts(self, *, supervised: bool = False) -> dict[str, str]:
        return {**super().texts(supervised=supervised), "mode": "shell"}


def test_no_mode_opens_a_shell(settings: Settings, boot: Boot) -> None:
    guest = boot(replace(machines.stub_machine(settings), task=Odd()))
    guest.expect("This is a stub")
    guest.expect(PROMPT)
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


def test_the_shell_has_an_image_of_its_own(settings: Settings, chat: Chat) -> None:
    child = chat(machines.shell_machine(settings))
    child.expect_exact("/ # ")
    child.send("stty size; echo $((6 * 7)); ls /models\r")
    child.expect_exact("30 100\r\n42\r\n")
    child.expect_exact("model.gguf")
    child.expect_exact("/ # ")
    child.setwinsize(41, 51)
    child.send("sleep 1; stty size\r")
    child.expect_exact("41 51")
    child.send("exit 7\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 7


def test_20000_bytes_arrive_whole(settings: Settings, chat: Chat) -> None:
    text = "".join(random.Random(1).choices("abcdefghij KLMNOP\t.,;", k=20_000))
    child = chat(machines.shell_machine(settings))
    child.expect_exact("/ # ")
    child.send("stty raw -echo; echo ready; head -c 20000 | md5sum; stty sane\r")
    child.expect("ready\\s")
    child.send(text)
    child.expect_exact(hashlib.md5(text.encode()).hexdigest())
    child.expect_exact("/ # ")
    child.send("exit\r")
    child.expect(pexpect.EOF)


def test_zombies_are_reaped(settings: Settings, chat: Chat) -> None:
    child = chat(machines.shell_machine(settings))
    child.expect_exact("/ # ")
    child.send("for i in 1 2 3 4 5; do sh -c 'sleep 0.1 &'; done; sleep 1; ps -o stat | grep -c Z; echo counted\r")
    child.expect_exact("\r\n0\r\ncounted")
    child.send("exit\r")
    child.expect(pexpect.EOF)


def test_diag(root: Path, settings: Settings, supervise: Supervise) -> None:
    machine = machines.diag_machine(settings_of(root))
    assert machine.disk
    version = read_sources(root / "sources.toml")["llama-cpp"].version
    device, level = "pmem0" if machine.bus is Bus.DAX else "vda", LEVELS[settings.arch][0][1]
    disk = f"disk: {device}, {machine.disk.stat().st_size >> 20} MiB"
    done = supervise(machine)
    assert (done.returncode, done.stderr) == (0, "")
    for fact in (
        *(
            f"zosia: {VERSION}, revision ",
            "host: ",
            "QEMU: QEMU emulator version ",
            f"command: qemu-system-{settings.arch} ",
            "Linux version ",
        ),
        *("memory: ", disk, f"zosia {VERSION} · Linux ", f"llama.cpp {version} for {level}", "version: "),
        f"initramfs: {machine.initramfs}, {machine.initramfs.stat().st_size} bytes, sha256 ",
        "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ):
        assert fact in done.stdout
    assert "\x1b" not in done.stdout
    assert "\nnetwork interfaces: lo\n" in done.stdout
    (addresses,) = re.findall("^network addresses: (.*)", done.stdout, re.M)
    assert all(ipaddress.ip_address(text if "." in text else int(text, 16)).is_loopback for text in addresses.split())
    (drivers,) = re.findall("^drivers: (.*)", done.stdout, re.M)
    assert "virtio_console" in drivers
    assert settings.base == "distro" or not re.search("net|eth|wlan|wifi|phy|802", drivers)


def test_a_copy_of_the_package_runs_a_machine(root: Path, settings: Settings, tmp_path: Path) -> None:
    """Nothing of the tree is beside it but what the machine names: a kernel and an initramfs."""
    shutil.copytree(root / "site_scons/zosia", tmp_path / "zosia")
    machine = machines.stub_machine(settings).given(prompt="hello")
    moved = replace(machine, kernel=machine.kernel.absolute(), initramfs=machine.initramfs.absolute())
    (tmp_path / "machine.json").write_text(supervisor.to_json(moved), encoding="utf-8")
    argv = [sys.executable, "-P", "-m", "zosia.run.supervisor", "machine.json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "asked: hello." in done.stdout
