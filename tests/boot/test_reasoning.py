"""A small model of gpt-oss' architecture: its template, its thoughts, and its answer, from the real llama.cpp."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import gpt_oss
from tests.boot.conftest import Chat, Supervise
from zosia.machine.qemu import Machine
from zosia.machine.status import Status

Thinking = Callable[[str], Machine]


def test_the_answer_alone_goes_into_a_pipe(thinking: Thinking, supervise: Supervise) -> None:
    done = supervise(thinking("low").given(prompt="Hello"))
    assert (done.stdout, done.returncode) == (gpt_oss.ANSWER + "\n", Status.OK), done.stderr


def test_a_thought_is_shown_apart_from_the_answer(thinking: Thinking, chat: Chat) -> None:
    child = chat(thinking("high"))
    child.expect_exact("\r\n> ")
    child.send("Hello\r")
    child.expect_exact("\x1b[90m\r\n[Start thinking]\r\n\r\n")
    child.expect_exact(gpt_oss.THOUGHT.format("high"))
    child.expect_exact("[End thinking]\r\n\r\n\x1b[0m")
    child.expect_exact(gpt_oss.ANSWER[:20])
    child.expect_exact(gpt_oss.ANSWER[-10:])
    child.expect_exact("\r\n> ")
    child.send("/exit\r")
    child.expect_exact("\r\n")
    child.wait()
    assert child.exitstatus == Status.OK


HEADERS = {  # of gpt-oss's at temperature 1: llama.cpp's issue 27720
    "<|channel|>??<|message|>Hello there.": "Hello there.\n",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary 2?": "commentary 2?\n",
}


@pytest.mark.parametrize("text", HEADERS)
def test_an_answer_without_its_header_is_shown(thinking: Thinking, supervise: Supervise, text: str) -> None:
    machine = thinking("low")
    machine = machine.given(llama_args=(*machine.task.llama_args, "--grammar", f'root ::= "{text}"'), prompt="Hello")
    done = supervise(machine)
    assert (done.stdout, done.stderr, done.returncode) == (HEADERS[text], "", Status.OK)


def test_no_thought(thinking: Thinking, chat: Chat) -> None:
    child = chat(thinking("off"))
    child.expect_exact("\r\n> ")
    child.send("Hello\r")
    child.expect_exact("Hello from zosia")
    assert "thinking" not in str(child.before)
