"""The road's end: a real model answers on a real machine."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run.guest import PROMPT, Guest
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import Boot
from .test_guest import LEVELS

LOADING = 180  # seconds, as all that follow
ANSWERING = 180
LONG_QUESTION = "Write a long story about a lighthouse."


@pytest.fixture
def machine(settings: Settings) -> Machine:
    machine = machines.run_machine(settings)
    assert machine.memory == 512  # MiB: what the README promises to be enough
    return machine.given(llama_args=(*machine.task.llama_args, "--temp", "0"))


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


@pytest.mark.parametrize("newest", [True, False])
def test_it_knows_what_two_and_two_are(machine: Machine, boot: Boot, newest: bool) -> None:
    guest = boot(replace(machine, cpu="" if newest else LEVELS[machine.arch][1][0]))
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
    assert "4" in ask(guest, "What is 2+2?")
    leave(guest)


def test_ctrl_c_twice_ends_in_the_middle_of_an_answer(machine: Machine, boot: Boot) -> None:
    guest = boot(machine)
    answering(guest)
    guest.control("c")
    time.sleep(0.2)  # two at the same moment are one signal
    guest.control("c")
    assert guest.wait_end() == Status.OK
