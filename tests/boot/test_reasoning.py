"""A small model of gpt-oss' architecture: its template, its thoughts, and its answer, from the real llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import gguf_file, gpt_oss
from tests.boot.conftest import Chat, Supervise
from zosia import ext4, shape
from zosia.machine import Machine
from zosia.status import Status
from zosia_settings import Settings

Thinking = Callable[[str], Machine]


@pytest.fixture(scope="module")
def thinking(
    settings: Settings, model_file: Path, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Thinking:
    """The machine that `scons run MODEL=... REASONING=...` boots with that model, of which the disk has three parts."""
    folder = tmp_path_factory.mktemp("thinking")
    whole = gpt_oss.write(folder / "whole.gguf", gpt_oss.SMALL, tokenizer=model_file, template=template)
    gguf_file.split(whole, folder / "m.gguf", parts=3)
    parts = shape.split_parts(folder / "m-00002-of-00003.gguf")
    ext4.build(parts=parts, info={"name": "thinker", "args": "--temp 0"}, target=folder / "m.img")

    def machine(reasoning: str) -> Machine:
        typed = replace(settings, model=None, model_parts=tuple(parts), reasoning=reasoning)
        return replace(typed.machine(), disk=folder / "m.img")

    return machine


def test_the_answer_alone_goes_into_a_pipe(thinking: Thinking, supervise: Supervise) -> None:
    done = supervise(replace(thinking("low"), prompt="Hello"))
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


def test_no_thought(thinking: Thinking, chat: Chat) -> None:
    child = chat(thinking("off"))
    child.expect_exact("\r\n> ")
    child.send("Hello\r")
    child.expect_exact("Hello from zosia")
    assert "thinking" not in str(child.before)
