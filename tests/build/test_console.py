"""The rest of llama-cli's console: answers, colours, pipes, loading, and what the host learns."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from zosia.base.patience import patience

from .console import (
    ENTER,
    WAIT,
    Open,
    busy,
    ctrl,
)


def test_the_terminal_is_as_it_was(terminal: Open, tmp_path: Path) -> None:
    chat = terminal("colour")
    chat.type("/exit", ENTER)
    assert chat.ends() == 0
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
    assert chat.raw.count(b"\x1b[?2004h") == chat.raw.count(b"\x1b[?2004l") == 1
    assert b"\x1b[0m" in chat.raw[chat.raw.rindex(b"/exit") :]


def test_ctrl_c_in_an_answer_takes_what_was_typed_ahead(terminal: Open) -> None:
    chat = terminal("answer", "slow")
    chat.type("question\rnext\r")
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    chat.wait(lambda: chat.shown.count("\n>") == 2)
    chat.type("another", ENTER)
    chat.reads("question\n", "another\n")


def test_ctrl_c_twice_in_an_answer(terminal: Open, tmp_path: Path) -> None:
    chat = terminal("answer", "slow", "deaf")
    chat.type("question", ENTER)
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    time.sleep(0.2)  # two at the same moment are one signal
    chat.type(ctrl("c"))
    assert chat.ends() == 130
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()


@pytest.mark.parametrize("options", [["simple-io"], []])
def test_ctrl_c_again_between_an_answer_and_the_prompt(terminal: Open, options: list[str]) -> None:
    chat = terminal("answer", "slow", "late", *options)
    chat.type("question", ENTER)
    chat.wait(lambda: "a thought" in chat.shown)
    chat.type(ctrl("c"))
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    chat.type(ctrl("c"))
    assert chat.ends() == 0


def test_ctrl_c_just_behind_an_answer_is_for_the_answer(terminal: Open) -> None:
    chat = terminal("answer", "late")
    chat.type("question", ENTER)
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    chat.type("next", ctrl("c"))
    chat.wait(lambda: chat.shown.count("\n>") == 2)
    chat.type("another", ENTER)
    chat.reads("question\n", "another\n")


def test_colours(terminal: Open) -> None:
    chat = terminal("colour", "answer")
    chat.type("hi", ENTER)
    chat.wait(lambda: chat.cursor[0] > 8 and chat.cursor[1] == 2)
    colour = {chat.screen.display[y].strip(): chat.screen.buffer[y][0].fg for y in range(chat.cursor[0] + 1)}
    assert colour["> hi"] == "green"
    assert colour["a thought"] == "brightblack"
    assert colour["[ Prompt: 1.0 t/s ]"] == "magenta"
    assert next(colour[line] for line in colour if line.startswith("the answer")) == "default"


def test_the_model_does_not_drive_the_terminal(terminal: Open) -> None:
    chat = terminal("answer")
    chat.type("hi", ENTER)
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    assert "the answer[31m is 4\n" in chat.shown
    assert [part for part in (b"\x07", b"\x9b", b"\x7f", b"\x1b[31m") if part in chat.raw] == []


@pytest.mark.parametrize("options", [["simple-io"], []])
def test_a_plain_terminal(terminal: Open, options: list[str]) -> None:
    chat = terminal("colour", "answer", *options, TERM="xterm" if options else "dumb")
    chat.type("hello\\", ENTER, "there", ENTER)
    chat.reads("hello\nthere\n")
    chat.wait(lambda: "[ Prompt:" in chat.shown)
    chat.type(ctrl("d"))
    assert chat.ends() == 0
    assert chat.told[-1] == "<end>"
    assert b"\x1b" not in chat.raw


def test_the_host_learns_of_the_prompt(terminal: Open, tmp_path: Path) -> None:
    chat = terminal()
    chat.type("one", ENTER, "two", ENTER, "/exit", ENTER)
    chat.reads("one\n", "two\n", "/exit\n")
    assert re.fullmatch(r"(loading \d+ \d+\n)*prompt\n", (tmp_path / "status").read_text())


def test_a_chat_that_began_meanwhile_gives_no_sign_of_life(terminal: Open, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stat")  # whoever reads it waits for us
    chat = terminal(TERM="dumb", ZOSIA_DISK_STAT=str(tmp_path / "stat"))  # without a spinner, which reads it, too
    chat.wait(lambda: (tmp_path / "status").read_text() == "prompt\n")
    stat = os.open(tmp_path / "stat", os.O_RDWR)  # which waits for nobody
    os.write(stat, b"12 3 4 7\n")
    os.close(stat)
    chat.type("one", ENTER, "/exit", ENTER)
    chat.reads("one\n", "/exit\n")
    assert (tmp_path / "status").read_text() == "prompt\n"


@pytest.fixture
def loading(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has read 43 MB of a model whose two parts have 100."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.info").write_text("name=split\n")
    for number, size in ((1, 60_000_000), (2, 40_000_000)):
        with (tmp_path / "models" / f"model-0000{number}-of-00002.gguf").open("wb") as part:
            part.truncate(size)
    (tmp_path / "stat").write_text(f"   12 3 {43_000_000 // 512 + 1}   7 0 0\n")
    return {"ZOSIA_MODELS": str(tmp_path / "models"), "ZOSIA_DISK_STAT": str(tmp_path / "stat")}


def test_the_spinner(terminal: Open, tmp_path: Path, loading: dict[str, str]) -> None:
    chat = terminal("spin", **loading)
    chat.wait(lambda: chat.shown == "loading 100 MB: 43 %")
    (tmp_path / "stat").write_text("12 3 999999999 7\n")
    chat.wait(lambda: chat.shown == "loading 100 MB: 100 %")
    chat.wait(lambda: chat.shown == "\n>")


def test_the_host_hears_of_loading_only_while_it_goes_on(
    terminal: Open, tmp_path: Path, loading: dict[str, str]
) -> None:
    chat = terminal("spin", **loading, BUSY="4")
    chat.wait(lambda: chat.shown == "\n>")
    assert (tmp_path / "status").read_text() == "loading 43000320 100000000\nprompt\n"


def test_the_spinner_does_not_know_the_size(terminal: Open) -> None:
    chat = terminal("spin", ZOSIA_MODELS="/nowhere", ZOSIA_DISK_STAT="/nowhere")
    chat.wait(lambda: chat.shown == "loading: 1 s")
    assert b"loading: 0 s" in chat.raw
    chat.wait(lambda: chat.shown == "\n>")


def test_the_spinner_of_a_plain_terminal(terminal: Open, loading: dict[str, str]) -> None:
    chat = terminal(TERM="dumb", **loading)
    assert chat.shown == "loading 100 MB\n\n>"


def test_an_error_while_loading(terminal: Open, loading: dict[str, str]) -> None:
    chat = terminal("spin", "fail", **loading)
    assert chat.ends() == 1
    assert chat.shown == "Error: no model\ntry another"


def test_ctrl_c_while_loading(terminal: Open, tmp_path: Path, loading: dict[str, str]) -> None:
    chat = terminal("spin", **loading)
    chat.wait(lambda: "43 %" in chat.shown)
    chat.type(ctrl("c"))
    assert chat.ends() == 130
    assert "loading" not in chat.shown
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()


def piped(driver: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = shlex.join([str(driver), *options])
    argv = ["/bin/sh", "-c", f"{command} 3>/dev/null"]
    return subprocess.run(argv, capture_output=True, check=False, timeout=WAIT * patience())


def test_a_pipe_gets_the_answer_alone(driver: Path) -> None:
    done = piped(driver, "preset", "answer", "colour")
    assert done.stdout == b"the answer[31m is 4\n"
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_thought_that_no_answer_follows_is_none(driver: Path, tmp_path: Path) -> None:
    report, output = tmp_path / "report", tmp_path / "output"
    with report.open("wb") as told, output.open("wb") as answer:
        argv = ["/bin/sh", "-c", f"exec {shlex.quote(str(driver))} preset answer slow 3>&2"]
        child = subprocess.Popen(argv, env={**os.environ, "BUSY": busy()}, stdout=answer, stderr=told)
        deadline = time.monotonic() + WAIT * patience()
        while b"thinking" not in report.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        child.terminate()
        assert child.wait(WAIT * patience()) == 1
    assert b"the answer is empty\n" in report.read_bytes()
    assert output.read_bytes() == b""


def test_an_error_in_a_pipe(driver: Path) -> None:
    done = piped(driver, "preset", "error", "colour")
    assert done.stdout == b""
    assert done.returncode == 1
    assert b"Error: the context is full\n" in done.stderr
    assert b"\x1b" not in done.stderr


def test_a_pipe_has_no_prompt_to_read_from(driver: Path) -> None:
    done = piped(driver)
    assert done.stdout == b""
    assert done.returncode == 1
    assert done.stderr == b"the answer is empty\n"
