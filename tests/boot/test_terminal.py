"""The chat on a terminal: what a person sees and types, through the supervisor, QEMU and the real llama-cli."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pexpect
import psutil
import pytest

from tests import gpt_oss
from zosia.base.patience import patience
from zosia.base.version import VERSION
from zosia.machine.qemu import Bus, Machine
from zosia.machine.status import Status

from .conftest import LONGEST, Boot, Chat, command, environment, running
from .screen import Screen

PROMPT = "\n> "
LEFT, UP, DELETE = "\x1b[D", "\x1b[A", "\x1b[3~"


@pytest.fixture
def screen(machine: Machine, chat: Chat) -> Screen:
    """A terminal with the chat's first prompt."""
    screen = Screen(chat(machine))
    screen.prompted()
    return screen


def ends(child: pexpect.spawn[str]) -> int | None:
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def test_a_short_banner_and_nothing_else_before_the_prompt(smollm2: Machine, chat: Chat) -> None:
    screen = Screen(chat(smollm2))
    screen.prompted()
    first, second, third, *rest = screen.lines
    assert re.fullmatch(
        rf"zosia {re.escape(VERSION)} · Linux 6\.12\.\S+-zosia · llama.cpp 0\.3\.36 for (i8mm|dotprod)", first
    )
    assert second == "model smollm2-135m · SmolLM2 135M Instruct, Q4_1 · Apache-2.0 · --temp 0.2 --top-p 0.9"
    assert third == "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert rest == ["", "/exit or Ctrl+C powers off", "", ">"]


@pytest.mark.boots
def test_loading_shows_how_far_it_is(smollm2: Machine, chat: Chat) -> None:
    child = chat(replace(smollm2, bus=Bus.VIRTIO_BLK, hot=None))
    child.expect(r"loading 98 MB: \d+ %")
    child.expect_exact("\r\x1b[K")


def test_other_languages_are_typed_edited_and_remembered(screen: Screen) -> None:
    text = "Zażółć gęślą jaźń 你好 🙂"
    shown = "> Zażółć gęślą jaźń 你好 🙂"
    screen.type(text, shown)
    screen.type(LEFT * 2 + "\x7f", "> Zażółć gęślą jaźń 你 🙂")
    screen.type("好", shown)
    screen.type(LEFT * 11 + DELETE + "\x7f", "> Zażółć glą jaźń 你好 🙂")
    screen.child.send("\r")
    screen.prompted()
    screen.type(UP, "> Zażółć glą jaźń 你好 🙂")


def test_a_long_line_wraps_and_a_resize_is_followed(screen: Screen) -> None:
    words = " ".join(f"word{number:03}" for number in range(30))  # 239 columns
    screen.child.send(words)
    screen.wait(lambda screen: screen.lines[-1].endswith("word029"))
    whole = f"> {words}"
    assert screen.lines[-3:] == [whole[:100].rstrip(), whole[100:200].rstrip(), whole[200:]]
    screen.resize(30, 60)
    screen.wait(lambda screen: screen.lines[-1] == whole[240:])
    assert screen.lines[-5:] == [whole[i : i + 60].rstrip() for i in range(0, 241, 60)]
    screen.child.send("\x01first ")  # Ctrl+A: over all the wraps, back to the beginning
    edited = f"> first {words}"
    screen.wait(lambda screen: screen.lines[-1] == edited[240:] and "> first word000" in screen.lines[-5])
    screen.child.send("\x15")  # Ctrl+U takes away what is before the cursor
    screen.wait(lambda screen: "> word000" in screen.lines[-5])


def test_a_paste_of_20000_characters_arrives_whole(screen: Screen) -> None:
    screen.child.send("\x1b[200~" + "word word word word\n" * 1000 + "\x1b[201~\r")
    screen.wait(lambda screen: "would have room for it" in " ".join(screen.lines))
    tokens = re.search(r"it has (\d+) tokens", " ".join(screen.lines))
    assert tokens
    assert 20_000 <= int(tokens[1]) <= 20_100, "a token for each character, and the template"


def test_ctrl_c_and_ctrl_d_at_the_prompt_are_a_normal_end(machine: Machine, chat: Chat) -> None:
    for key in ("\x03", "\x04"):
        screen = Screen(chat(machine))
        screen.prompted()
        screen.child.send(key)
        assert ends(screen.child) == Status.OK


@pytest.mark.boots
@pytest.mark.parametrize("moment", [f"zosia {VERSION} ·", "loading", "100 %"])
def test_ctrl_c_before_the_prompt_is_one_too(smollm2: Machine, chat: Chat, moment: str) -> None:
    child = chat(replace(smollm2, bus=Bus.VIRTIO_BLK, hot=None))
    child.expect_exact(moment)
    child.send("\x03")
    assert ends(child) == Status.OK


def test_ctrl_d_within_a_line_deletes(screen: Screen) -> None:
    screen.type("abc\x01\x04", "> bc")


def test_ctrl_backslash_pulls_the_plug(machine: Machine, chat: Chat) -> None:
    child = chat(machine)
    child.expect_exact(f"zosia {VERSION} ·")
    child.send("\x1c")
    assert ends(child) == 128 + signal.SIGQUIT


def test_ctrl_s_does_not_freeze(screen: Screen) -> None:
    screen.type("a\x13b", "> ab")


def test_ctrl_z_suspends_and_fg_goes_on(machine: Machine, root: Path, tmp_path: Path, no_machine_left: None) -> None:
    before = running()
    shell = pexpect.spawn(
        "/bin/bash",
        ["--norc", "--noediting", "-i"],
        cwd=str(root),
        env=environment(root, PS1="shell$ ", TERM="xterm"),
        encoding="utf-8",
        timeout=LONGEST * patience(),
        dimensions=(30, 100),
    )
    shell.expect_exact("shell$ ")
    shell.sendline(" ".join(command(machine, tmp_path)))
    screen = Screen(shell)
    screen.prompted()
    (qemu,) = (psutil.Process(number) for number in running() - before)
    shell.send("abc")
    screen.wait(lambda screen: screen.lines[-1] == "> abc")
    shell.send("\x1a")
    shell.expect_exact("Stopped")
    shell.expect_exact("shell$ ")
    deadline = time.monotonic() + LONGEST * patience()
    while qemu.status() != psutil.STATUS_STOPPED:  # each of its threads stops when it is next scheduled
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shell.sendline("stty -a | grep -o ' icanon'; fg")
    shell.expect_exact(" icanon")
    shell.send("d")
    shell.expect_exact("> abcd")
    shell.send("\x15/exit\r")
    shell.expect_exact("shell$ ")
    shell.sendline("echo status $?; exit")
    shell.expect_exact("status 0")
    shell.close()


def test_output_into_a_file_has_no_escape_codes(thinking: Callable[[str], Machine], root: Path, tmp_path: Path) -> None:
    terminal = pexpect.spawn(
        "/bin/sh",
        ["-c", '"$@" >"$0"; echo status $?', str(tmp_path / "out"), *command(thinking("low"), tmp_path)],
        cwd=str(root),
        env=environment(root),
        encoding="utf-8",
        timeout=LONGEST * patience(),
    )
    deadline = time.monotonic() + LONGEST * patience()
    while not (tmp_path / "out").exists() or PROMPT not in (tmp_path / "out").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    terminal.send("What is 2+2?\r/exit\r")
    terminal.expect_exact("status 0")
    shown = (tmp_path / "out").read_text(encoding="utf-8")
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "What is 2+2?" in shown
    terminal.close()


@pytest.mark.boots
def test_verbose_shows_the_boot(thinking: Callable[[str], Machine], root: Path, tmp_path: Path) -> None:
    argv = command(replace(thinking("low"), verbose=True).given(prompt="Hello"), tmp_path)
    done = subprocess.run(argv, cwd=root, env=environment(root), capture_output=True, text=True, check=True)
    assert "Linux version 6.1" in done.stderr
    assert " I srv " in done.stderr
    assert done.stdout == f"{gpt_oss.ANSWER}\n", "the answer and nothing else"


@pytest.mark.boots
def test_a_prompt_reaches_llama_cli_as_it_was_typed(thinking: Callable[[str], Machine], boot: Boot) -> None:
    prompt = "C:\\new\\table\n\"two\" 'lines' $HOME Zażółć 你好 🙂"
    # Without a port for the answer the console shows all of it.
    guest = boot(replace(thinking("low"), hot=None).given(prompt=prompt))
    guest.expect(f"> {prompt}\n")
    assert guest.wait_end() == Status.OK
