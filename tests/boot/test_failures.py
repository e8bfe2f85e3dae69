"""Every way that a guest can fail ends in one clear line, a status of its own, and a machine that is off."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests import parrot
from zosia.base.patience import patience
from zosia.base.process import run
from zosia.disk import ext4
from zosia.machine.qemu import Bus, Machine
from zosia.machine.status import Status

from .conftest import Boot, Chat, Supervise, command, environment, running

Damage = Callable[[bytearray], None]
SHOWS_ALL = "Run it with VERBOSE=1 to see how far it gets"
SHOWS_WORDS = "Set VERBOSE=1 to see all of its output"


def flip(key: bytes, offset: int, bit: int) -> Damage:
    """Flip a bit of the byte `offset` bytes after the first place of `key`."""

    def damage(disk: bytearray) -> None:
        disk[disk.index(key) + offset] ^= 1 << bit

    return damage


def resize(size: int) -> Callable[[Path], None]:
    """Cut model.gguf in the disk."""

    def cut(disk: Path) -> None:
        run(["debugfs", "-w", "-R", f"sif model.gguf size {size}", disk])

    return cut


def ends_with(boot: Boot, machine: Machine, message: str, status: int) -> None:
    """Boot, and see the one line of error, the status, and nothing after it."""
    guest = boot(machine)
    guest.expect("zosia: error: ")
    assert guest.wait_end() == status
    (line,) = guest.remainder.splitlines()
    assert line.startswith(message)
    assert guest.supervised or guest.report.error == line


def test_no_disk(machine: Machine, boot: Boot) -> None:
    message = "no model disk is attached. Make one with: scons model.img"
    ends_with(boot, replace(machine, disk=None), message, Status.NO_DISK)


def zeros(disk: bytearray) -> None:
    disk[:] = bytes(len(disk))


def no_magic(disk: bytearray) -> None:
    disk[1024 + 56] ^= 1  # s_magic in the superblock


def wrong_size(disk: bytearray) -> None:
    disk[1024 + 4 : 1024 + 8] = b"\xff" * 4  # s_blocks_count_lo


def cut_off(disk: bytearray) -> None:
    del disk[1500:]


@pytest.mark.parametrize("damage", [zeros, no_magic, wrong_size, cut_off])
def test_a_disk_without_a_filesystem(
    machine: Machine, boot: Boot, damaged: Callable[[Damage], Path], damage: Damage
) -> None:
    disk = damaged(damage)
    message = "the model disk holds no ext4 filesystem that can be mounted. Make it again with: scons model.img"
    ends_with(boot, replace(machine, disk=disk), message, Status.BAD_DISK)


def test_a_disk_without_a_model(machine: Machine, boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "empty, with commas.img"
    disk.write_bytes(bytes(ext4.image_size([0])))
    run([*ext4.MKE2FS, disk])
    message = "the model disk holds no model.gguf but: lost+found. Make it again with: scons model.img"
    ends_with(boot, replace(machine, disk=disk), message, Status.NO_MODEL)


GGUF = b"GGUF\x03\0\0\0"
# What llama.cpp says of each, less the names of its functions.
DAMAGES = {
    "magic": (flip(GGUF, 0, 0), "invalid magic characters: 'FGUF', expected 'GGUF'"),
    "version": (flip(GGUF, 4, 2), "this GGUF file is version 7 but this software only supports up to version 3"),
    "old version": (flip(GGUF, 4, 1), "GGUFv1 is no longer supported, please use a more up-to-date version"),
    "tensor count": (flip(GGUF, 8, 0), "tensor '' has offset "),
    "huge tensor count": (flip(GGUF, 15, 6), "number of tensors is 4611686018427387916 but must be in [0, "),
    "architecture": (flip(b"general.architecture", 20 + 4 + 8, 1), "unknown model architecture: 'nlama'"),
    # After the name come the number of dimensions, one dimension and the type (4, 8 and 4 bytes): then the offset.
    "offset": (
        flip(b"blk.0.ffn_norm.weight", 21 + 16, 5),
        "tensor 'blk.0.ffn_norm.weight' has offset ",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_flipped_bit_in_the_model(machine: Machine, boot: Boot, damaged: Callable[[Damage], Path], name: str) -> None:
    damage, reason = DAMAGES[name]
    ends_with(
        boot, replace(machine, disk=damaged(damage)), f"llama.cpp can't load the model: {reason}", Status.BAD_MODEL
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (0, "failed to read magic"),
        (1000, "failed to read key-value pairs"),
        (1_000_000, "tensor 'blk.0.attn_v.weight' data is not within the file bounds, model is corrupted"),
    ],
)
def test_a_truncated_model(
    machine: Machine, boot: Boot, damaged: Callable[[Damage], Path], size: int, reason: str
) -> None:
    disk = damaged(lambda disk: None)
    resize(size)(disk)
    ends_with(boot, replace(machine, disk=disk), f"llama.cpp can't load the model: {reason}", Status.BAD_MODEL)


def test_too_little_memory_is_said_before_loading(smollm2: Machine, boot: Boot, supervise: Supervise) -> None:
    machine = replace(smollm2, cpus=1)
    small = replace(machine, memory=160 if machine.bus is Bus.VIRTIO_BLK else 112)
    message = f"the model and its context take {machine.task.need} MiB, and the guest has "
    ends_with(boot, small, message, Status.NO_MEMORY)
    done = supervise(small.given(prompt="hello"))
    advice = done.stderr.partition("Set MEM=")[2].partition("M,")[0]
    enough = replace(machine, memory=int(advice)).given(
        prompt="Say yes.", llama_args=(*machine.task.llama_args, "-n", "2")
    )
    assert supervise(enough).returncode in (Status.OK, Status.CUT_OFF), "what it says to type is enough"


def test_the_kernel_kills_it_for_want_of_memory(smollm2: Machine, boot: Boot) -> None:
    # Without an estimate, and with the weights in memory of their own, which can't be dropped as a file's pages can.
    unknown = replace(smollm2, memory=144).given(need=0, llama_args=(*smollm2.task.llama_args, "-lm", "none"))
    message = "the guest ran out of memory and its kernel killed llama-cli. Set a larger MEM=, or a smaller CTX="
    ends_with(boot, unknown, message, Status.NO_MEMORY)


@pytest.mark.parametrize(
    ("script", "message", "status"),
    [
        ("kill -SEGV $$", "llama-cli was ended by signal 11 (SEGV)", 139),
        ("echo GGML_ASSERT >&2; kill -ABRT $$", "llama-cli was ended by signal 6 (ABRT): GGML_ASSERT", 134),
        ("kill -KILL $$", "llama-cli was ended by signal 9 (KILL)", 137),
        ("exit 3", "llama-cli ended with status 3", 3),
        (
            "echo >&2; echo one reason >&2; for i in 1 2 3; do echo more >&2; done; exit 1",
            "llama-cli ended with status 1: one reason",
            1,
        ),
    ],
)
def test_llama_cli_fails(
    machine: Machine, boot: Boot, with_program: Callable[[str], Path], script: str, message: str, status: int
) -> None:
    ends_with(boot, replace(machine, initramfs=with_program(script)), message, status)


# A processor, and what the least demanding level wants of it in vain
TOO_OLD = {"aarch64": ("cortex-a72", "asimddp fphp asimdhp"), "x86_64": ("core2duo", "popcnt sse4_1 sse4_2")}


def test_a_processor_that_no_llama_cli_was_built_for(machine: Machine, boot: Boot) -> None:
    cpu, lacks = TOO_OLD[machine.arch]
    message = f"this processor lacks {lacks}, which llama-cli was built for. Set CPU=max, or use"
    ends_with(boot, replace(machine, cpu=cpu), message, Status.CPU_TOO_OLD)


def test_arguments_that_llama_cli_refuses(machine: Machine, boot: Boot) -> None:
    refused = machine.given(llama_args=(*machine.task.llama_args, "--no-such-option"))
    ends_with(boot, refused, "llama-cli ended with status 1: error: invalid argument: --no-such-option", 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [  # llama-cli may end before its log has the cause
        (("--chat-template", "{{ raise_exception('no\nwords') }}"), r"Unable to .*: no words|{{ raise.*no words.*"),
        (("--chat-template", "{% for x\nin %}"), r"Unexpected token: %} of type 9|{% for x in %}"),
        (("--no-jinja", "--chat-template", "nonesuch"), r"nonesuch note: llama\.cpp was started without --jinja, .*"),
    ],
    ids=["raise", "syntax", "name"],
)
def test_a_chat_template_that_llama_cpp_refuses(
    machine: Machine, supervise: Supervise, words: tuple[str, ...], why: str
) -> None:
    done = supervise(machine.given(llama_args=(*machine.task.llama_args, *words), prompt="hello"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    names = r"\. The names that it knows are bailing, .*, zephyr" if "--no-jinja" in words else ""
    remedy = rf"Change --chat-template in LLAMA_ARGS=, or leave it out{names}"
    assert re.fullmatch(rf"zosia: error: llama\.cpp can't use the chat template: ({why})\. {remedy}", line), line


@pytest.mark.parametrize("more", [(), ("-v",)], ids=["", "verbose"])
def test_a_prompt_longer_than_the_context(machine: Machine, supervise: Supervise, more: tuple[str, ...]) -> None:
    done = supervise(machine.given(llama_args=(*machine.task.llama_args, "-c", "256", *more), prompt="word " * 2000))
    assert done.returncode == Status.TOO_LONG
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"zosia: error: the prompt is too long: it has 100\d\d tokens, and the context has 256\. "
        r"Set CTX=12544, or shorten the prompt",
        line,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-c", "256"), "the answer is cut off: the context of 256 tokens is full. Set a larger CTX=, such as CTX=512"),
        (
            ("-n", "9"),
            "the answer is cut off: -n allows 9 tokens. Set a larger -n in LLAMA_ARGS=, or leave it out",
        ),
    ],
)
def test_an_answer_that_is_cut_off(
    machine: Machine, supervise: Supervise, words: tuple[str, ...], message: str
) -> None:
    done = supervise(machine.given(llama_args=(*machine.task.llama_args, *words), prompt="Write a story."))
    assert (done.returncode, done.stderr) == (Status.CUT_OFF, f"zosia: error: {message}\n")
    assert done.stdout.startswith(parrot.story(9))
    assert done.stdout.endswith("\n")


def test_a_panic(machine: Machine, supervise: Supervise, tmp_path: Path) -> None:
    (tmp_path / "nothing.cpio").write_bytes(bytes(512))
    done = supervise(replace(machine, initramfs=tmp_path / "nothing.cpio").given(prompt="hello"))
    assert done.returncode == Status.PANIC
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("zosia: error: The guest's kernel panicked: VFS: Unable to mount root fs")
    assert rest[0] == "The end of its console:"
    assert any("Kernel panic - not syncing" in line for line in rest)


def test_an_answer_that_is_empty(machine: Machine, supervise: Supervise) -> None:
    end = f"{parrot.vocabulary().index(parrot.END)}+100"
    done = supervise(machine.given(llama_args=(*machine.task.llama_args, "--logit-bias", end), prompt="Hello"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"zosia: error: llama-cli ended with status 1: the answer is empty. {SHOWS_WORDS}\n"


def test_no_sign_of_life(machine: Machine, supervise: Supervise, with_program: Callable[[str], Path]) -> None:
    mute = replace(machine, initramfs=with_program('echo I am here >"$ZOSIA_ANSWER"; sleep 1000'), hot=None)
    done = supervise(mute.given(prompt="hello"), ZOSIA_TIMEOUT_FACTOR="0.1")
    assert done.returncode == Status.SILENT
    assert done.stdout == "I am here\n"
    assert f"zosia: error: The guest gave no sign of life for 6 s. {SHOWS_ALL}\n" in done.stderr


def test_qemu_can_not_start(machine: Machine, supervise: Supervise) -> None:
    done = supervise(replace(machine, cpu="no-such-cpu").given(prompt="hello"))
    assert done.returncode == Status.QEMU_FAILED
    first, second = done.stderr.splitlines()
    assert "no-such-cpu" in first
    assert second.startswith("zosia: error: QEMU ended with status 1. Its own message is above. ")


def test_qemu_is_killed(machine: Machine, chat: Chat) -> None:
    before = running()
    child = chat(machine)
    child.expect_exact("\r\n> ")
    (qemu,) = running() - before
    os.kill(qemu, signal.SIGKILL)
    child.expect_exact("QEMU was killed by signal 9")
    child.expect_exact("The end of its console:")
    child.wait()
    assert child.exitstatus == Status.QEMU_KILLED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("moment", ["/exit or Ctrl+C powers off", "\r\n> "], ids=["loading", "prompt"])
def test_a_signal_ends_the_machine(machine: Machine, chat: Chat, number: int, moment: str) -> None:
    child = chat(machine)
    child.expect_exact(moment)
    child.kill(number)
    child.wait()
    assert child.exitstatus == 128 + number


def test_the_terminal_goes_away(machine: Machine, chat: Chat) -> None:
    child = chat(machine)
    child.expect_exact("\r\n> ")
    running = psutil.Process(child.pid)
    child.close(force=False)
    running.wait(20 * patience())  # and the fixture looks for machines


def test_the_supervisor_is_killed(machine: Machine, root: Path, tmp_path: Path, no_machine_left: None) -> None:
    before = running()
    argv = command(machine.given(prompt="Write a long story."), tmp_path)
    child = subprocess.Popen(argv, cwd=root, env=environment(root), stdout=subprocess.PIPE, stderr=sys.stderr)
    assert child.stdout
    assert child.stdout.read(1)
    (qemu,) = running() - before
    child.kill()
    psutil.Process(qemu).wait(30 * patience())  # /init sees that nobody is there any more
    child.wait()
    child.stdout.close()


def test_a_supervisor_killed_at_any_moment_leaves_nothing(
    machine: Machine, root: Path, tmp_path: Path, supervise: Supervise
) -> None:
    before, moments, temporary = running(), random.Random(20), tmp_path / "tmp"
    temporary.mkdir()
    variables = environment(root, TMPDIR=str(temporary))
    argv = command(machine.given(prompt="Write a long story."), tmp_path)
    for _ in range(20):
        with subprocess.Popen(argv, cwd=root, env=variables, stdout=subprocess.DEVNULL) as child:
            time.sleep(moments.uniform(0, 1.5))
            child.kill()
        for qemu in running() - before:
            psutil.Process(qemu).wait(5 * patience())
    assert os.listdir(temporary), "some were killed in the middle"
    assert supervise(machine.given(prompt="What is 2+2?"), TMPDIR=str(temporary)).returncode == 0
    assert not os.listdir(temporary)
