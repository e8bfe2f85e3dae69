"""Machines that are saved and resumed: what differs between those of one state, and what does not."""

from __future__ import annotations

import calendar
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from tests import parrot
from zosia.base.files import sha256
from zosia.base.process import find
from zosia.machine.boards import Accel
from zosia.machine.qemu import Machine
from zosia.machine.status import Status

from .conftest import Chat, Supervise
from .screen import Screen

QUESTION = "What is 2+2?"
STORY = "Write a long story."
# A template that says what the guest's clock says, in place of an answer.
CLOCK = (
    "{% if messages[-1].content == 'time' %}"
    "{{ raise_exception('now ' + strftime_now('%Y-%m-%d %H:%M:%S')) }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hot") / "states"


@pytest.fixture
def machine(machine: Machine, folder: Path) -> Machine:
    return replace(machine, hot=folder).given(llama_args=(*machine.task.llama_args, "-n", "16"))


def states(machine: Machine) -> set[Path]:
    assert machine.hot
    return set(machine.hot.glob("*.state"))


@pytest.mark.parametrize(("system", "answer"), [("", parrot.ANSWER), ("You are a cat.", parrot.CAT)])
def test_an_answer_is_the_same_cold_saved_and_resumed(
    machine: Machine, supervise: Supervise, system: str, answer: str
) -> None:
    before = states(machine)
    asked = machine.given(system=system, prompt=QUESTION)
    cold = supervise(replace(asked, hot=None))
    assert (cold.returncode, cold.stdout, cold.stderr) == (0, f"{answer}\n", "")
    for _ in range(3):
        done = supervise(asked)
        assert (done.returncode, done.stdout, done.stderr) == (0, cold.stdout, "")
    (state,) = states(machine) - before
    assert state.stat().st_mode & 0o777 == 0o600
    piped = supervise(asked.given(prompt=None), stdin=QUESTION)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, cold.stdout, "")
    assert states(machine) - before == {state}


def test_how_is_sampled_can_change(machine: Machine, supervise: Supervise) -> None:
    def answer(*words: str, hot: Path | None = machine.hot) -> str:
        asked = replace(machine, hot=hot).given(llama_args=(*machine.task.llama_args, *words), prompt=STORY)
        return supervise(asked).stdout

    warm = ("--temp", "1.5", "--seed")
    cold = answer(*warm, "7", hot=None)
    assert answer(*warm, "7") == cold
    before = states(machine)
    assert answer(*warm, "8") == answer(*warm, "8", hot=None) != cold
    for count in (3, 5):
        assert answer("-n", str(count)).strip() == parrot.story(count)
    assert states(machine) == before


def test_no_two_machines_of_one_state_say_the_same(machine: Machine, supervise: Supervise) -> None:
    warm = machine.given(llama_args=(*machine.task.llama_args, "--temp", "1"), prompt=STORY)
    answers = [supervise(warm).stdout for _ in range(3)]
    assert len(set(answers)) == 3, answers


def test_the_clock_is_right(machine: Machine, chat: Chat) -> None:
    talker = machine.given(llama_args=(*machine.task.llama_args, "--chat-template", CLOCK))
    for zone, offset in (("<+0545>-5:45", 20_700), ("<-0330>3:30", -12_600)):  # and a date is the host's
        child = chat(talker, TZ=zone)
        child.expect_exact("\n> ")
        child.send("time\r")
        began = int(time.time())
        child.expect(
            r"Error: your chat template can't be applied: now (\d+-\d\d-\d\d \d\d:\d\d:\d\d)\. Change --chat-template "
        )
        assert isinstance(child.match, re.Match)
        shown = calendar.timegm(time.strptime(child.match[1], "%Y-%m-%d %H:%M:%S"))
        assert began <= shown - offset <= time.time()
        child.send("/exit\r")
        child.expect(pexpect.EOF)
        time.sleep(2)  # in which a clock that stood still would fall behind


def test_a_chat_is_the_same_and_has_the_terminals_size(machine: Machine, chat: Chat, supervise: Supervise) -> None:
    supervise(machine.given(prompt=QUESTION))  # which has a terminal of 24 rows and 80 columns
    shown = []
    for hot in (None, machine.hot):
        screen = Screen(chat(replace(machine, hot=hot)))
        screen.prompted()
        shown.append(screen.lines)
        long = "x" * 97
        screen.type(long, f"> {long}")
        screen.child.send("\x15/exit\r")
        screen.child.expect(pexpect.EOF)
        screen.child.wait()
        assert screen.child.exitstatus == Status.OK
    assert shown[0] == shown[1]


def test_ctrl_c_after_a_resume(machine: Machine, chat: Chat) -> None:
    screen = Screen(chat(machine))
    screen.prompted()
    screen.child.send(f"{STORY}\r")
    screen.wait(lambda screen: " the " in screen.lines[-1])
    screen.child.send("\x03")
    screen.prompted()
    screen.child.send("\x03")
    screen.child.expect(pexpect.EOF)
    screen.child.wait()
    assert screen.child.exitstatus == Status.OK


def test_a_state_is_not_touched_by_what_is_asked(machine: Machine, supervise: Supervise) -> None:
    supervise(machine.given(prompt=QUESTION))  # there is one now, whatever ran before in this worker
    before = {path: sha256(path) for path in states(machine)}
    assert before
    supervise(machine.given(prompt="What is my secret? It is xyzzy."))
    assert {path: sha256(path) for path in states(machine)} == before
    assert not any(b"xyzzy" in path.read_bytes() for path in before)


def test_a_damaged_state_costs_one_line(machine: Machine, supervise: Supervise) -> None:
    asked = machine.given(prompt=QUESTION)
    first = supervise(asked)
    (newest, *_) = sorted(states(machine), key=lambda path: path.stat().st_mtime, reverse=True)
    with newest.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"damage")
    done = supervise(asked)
    assert (done.returncode, done.stdout) == (0, first.stdout)
    assert done.stderr == "  HOT   the saved machine is not used: it is damaged. This one boots\n"
    assert newest in states(machine)


# Blocks of code that a resumed guest runs before its prompt: 4,600, and 12,200 when it was saved with a connection to
# close, a thread of the log to start again and a sign of life that was due, and read numbers by way of C++'s streams.
BLOCKS = 6_000
QEMU = """#!/bin/sh
case " $* " in *" -incoming "*) set -- "$@" -d in_asm -D {log} ;; esac
exec {qemu} "$@"
"""


def test_a_resumed_guest_has_little_to_do_before_its_prompt(machine: Machine, chat: Chat, tmp_path: Path) -> None:
    """An emulator translates each block of code when it first comes to it, which is most of the time to the prompt."""
    if machine.accel is not Accel.TCG or machine.arch != "aarch64":
        pytest.skip("blocks are counted of an emulated aarch64")
    name, log = f"qemu-system-{machine.arch}", tmp_path / "log"
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    program.write_text(QEMU.format(log=log, qemu=find(name)), encoding="utf-8")
    program.chmod(0o755)
    talker = replace(machine, sandbox=False, held=False)  # which would not let a script write a log
    for resumes in (False, True):
        child = chat(talker, PATH=f"{program.parent}:{os.environ['PATH']}")
        child.expect_exact("\n> ")
        assert log.exists() == resumes
        child.kill(signal.SIGTERM)
        child.expect(pexpect.EOF)
    assert 1_000 < log.read_text(encoding="utf-8").count("\nIN:") < BLOCKS
