"""The road's end: a model answers on a real machine, and stops when it is told to."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run.guest import PROMPT, Guest

from .conftest import Boot
from .test_guest import LEVELS

LOADING = 180  # seconds, as all that follow
ANSWERING = 180
LONG_QUESTION = "Write a long story about a lighthouse."
LONG = 300  # tokens


def answering(guest: Guest) -> None:
    """Have the guest in the middle of a long answer."""
    guest.expect(PROMPT, LOADING)
    guest.send(LONG_QUESTION)
    guest.expect(f"{LONG_QUESTION}\n")
    guest.expect(" the ", ANSWERING)


def ask(guest: Guest, question: str) -> str:
    """Ask and return the answer; the guest is at its prompt before and after."""
    guest.send(question)
    guest.expect(f"{question}\n")
    answer = guest.expect("[ Prompt:", ANSWERING)
    guest.expect(PROMPT)
    return answer


def leave(guest: Guest) -> None:
    guest.send("/exit")
    assert guest.wait_end() == Status.OK


@pytest.mark.parametrize("newest", [pytest.param(True, marks=pytest.mark.alone), False])
def test_it_knows_what_two_and_two_are(smollm2: Machine, boot: Boot, newest: bool) -> None:
    assert smollm2.memory == 512, "MiB: what the README promises to be enough"
    machine = smollm2.given(llama_args=(*smollm2.task.llama_args, "--temp", "0"))
    guest = boot(machine if newest else replace(machine, cpus=1, cpu=LEVELS[machine.arch][1][0]))
    banner = guest.expect(PROMPT, LOADING)
    assert "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in banner
    assert "4" in ask(guest, "What is 2+2?")
    leave(guest)
    assert "Power down" not in guest.remainder


def test_ctrl_c_at_the_prompt_powers_off(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    guest.expect(PROMPT, LOADING)
    guest.control("c")
    assert guest.wait_end() == Status.OK


def test_ctrl_c_stops_an_answer_and_nothing_else(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    answering(guest)
    guest.control("c")
    guest.expect(PROMPT)
    guest.send("/clear")  # or it would go on with the story
    guest.expect("Chat history cleared.")
    guest.expect(PROMPT)
    assert parrot.ANSWER in ask(guest, "What is 2+2?")
    leave(guest)


def test_the_answer_depends_on_all_that_was_said(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    guest.expect(PROMPT, LOADING)
    for question, answer in (("Hello", parrot.ANSWER), ("I am a cat", parrot.CAT), ("What am I?", parrot.CAT)):
        assert answer in ask(guest, question)
    leave(guest)


def test_only_the_bare_word_is_a_command(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    guest.expect(PROMPT, LOADING)
    assert parrot.ANSWER in ask(guest, "/exit strategies?")
    assert parrot.CAT in ask(guest, "I am a cat")
    for question in ("/clear the table", "/help me", "/regen?", "/usr/bin/env", " /clear"):
        assert parrot.CAT in ask(guest, question), "it is still known who asks"
    for line, hint in (
        ("/quit", "/quit is not a command; /help lists them. To ask it, put a blank before it.\n"),
        ("/read", "/read takes an argument: /read FILE\n"),
        ("/read /no such", "Error: file does not exist or cannot be opened: '/no such'\n"),
        ("/glob /etc/zosia-l*", "Loaded text from '/etc/zosia-levels'\nLoaded text from '/etc/zosia-llama'\n"),
        ("/glob /etc/none*", "Error: no file is like '/etc/none*'\n"),
        ("/clear ", "Chat history cleared.\n"),
        ("/regen", "Error: No message to regenerate.\n"),
    ):
        guest.send(line)
        guest.expect(f"{line}\n{hint}")
        guest.expect(PROMPT)
    guest.send("/help")
    guest.expect("/help\n")
    commands = re.findall("^/[a-z]+", guest.expect(PROMPT), re.M)
    assert commands == ["/clear", "/exit", "/glob", "/help", "/read", "/regen"]
    assert parrot.ANSWER in ask(guest, "Hello")
    guest.send("/regen")
    assert parrot.ANSWER in guest.expect("[ Prompt:", ANSWERING)
    guest.expect(PROMPT)
    leave(guest)


def test_a_context_that_is_full(machine: Machine, boot: Boot) -> None:
    guest = boot(machine.given(llama_args=(*machine.task.llama_args, "-c", "256", "-n", "60")))
    guest.expect(PROMPT, LOADING)
    size = Path("initramfs/functions").stat().st_size
    guest.send("/read /etc/zosia-functions")
    guest.expect("Loaded text from '/etc/zosia-functions'\n")
    guest.expect(PROMPT)
    guest.send("Hello")
    guest.expect("Error: the message is too long: with the chat before, it has ")
    tokens = int(guest.expect(" tokens, and the context has 256. It was dropped. CTX="))
    assert size < tokens < size + 100, "a token for each byte, and the template"
    assert tokens < int(guest.expect(" would have room for it, and so may /clear\n"))
    guest.expect(PROMPT)
    for question, note in (
        ("Tell me a story", r"\[ Cut off: -n allows 60 tokens \]"),
        ("x" * 180 + " story", r"\[ Cut off: the context of 256 tokens is full\. /clear begins anew \]"),
        ("x" * 100, ""),
        ("x" * 180, r"\[ 8\d % of the context is used: /clear begins anew \]"),
    ):
        guest.send(question)
        guest.expect("[ Prompt:", ANSWERING)
        *_, last = guest.expect(PROMPT).strip().splitlines()
        assert re.fullmatch(note or r".* t/s \]", last), last
        guest.send("/clear")
        guest.expect(PROMPT)
    leave(guest)


def test_a_question_that_was_stopped_is_not_part_of_the_chat(machine: Machine, boot: Boot) -> None:
    guest = boot(machine.given(llama_args=(*machine.task.llama_args, "-b", "8")))
    guest.expect(PROMPT, LOADING)
    guest.send("/read /etc/zosia-functions")  # thousands of tokens, eight at a time
    guest.expect(PROMPT)
    guest.send("I am a cat")
    guest.expect("I am a cat\n")
    time.sleep(0.5)  # by then it evaluates them
    guest.control("c")
    assert parrot.CAT not in guest.expect(PROMPT)
    assert parrot.ANSWER in ask(guest, "Hello")
    leave(guest)


@pytest.mark.alone
def test_two_processors_write_what_one_would(machine: Machine, boot: Boot) -> None:
    """QEMU's issue 4872: loads and stores that two emulated processors see in another order."""
    guest = boot(replace(machine, cpus=2).given(llama_args=(*machine.task.llama_args, "-n", str(LONG))))
    guest.expect(PROMPT, LOADING)
    for _ in range(2):
        assert ask(guest, LONG_QUESTION).split() == parrot.story(LONG).split()
        guest.send("/clear")
        guest.expect(PROMPT)
    leave(guest)


def test_ctrl_c_twice_ends_in_the_middle_of_an_answer(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    answering(guest)
    guest.control("c")
    time.sleep(0.2)  # two at the same moment are one signal
    guest.control("c")
    assert guest.wait_end() == Status.OK
