"""Commands of the chat program, and questions that look like one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia.chat import actions
from zosia.chat.commands import COMMANDS, help_lines, parse


@pytest.mark.parametrize(
    "text",
    [
        "/exit strategies?",
        "/clear the table",
        "/new ideas for a garden",
        "/chats",
        "/help me",
        "/retry\nplease",
        "/etc/passwd",
        "/etc/passwd has which fields?",
        "/Exit",
        "/set\ntemp 0.3",
        "/open a\nb",
        "exit",
        "",
        "/",
        "/ exit",
        "//exit",
    ],
)
def test_only_the_bare_word_is_a_command(text: str) -> None:
    assert parse(text) == (("/chats", "") if text == "/chats" else None)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (" /exit ", ("/exit", "")),
        ("/set", ("/set", "")),
        ("/set temp 0.3", ("/set", "temp 0.3")),
        ("/system You are brief.\nAlways.", ("/system", "You are brief.\nAlways.")),
        ("/file a.txt 'b c.pdf'", ("/file", "a.txt 'b c.pdf'")),
        ("/open my work", ("/open", "my work")),
    ],
)
def test_commands(text: str, command: tuple[str, str]) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("/exti", "/exti is not a command. Did you mean /exit?"),
        ("/q", "/q is not a command. Choose one of: /chats, /compact, "),
        ("/open", "/open needs more. Type: /open NAME"),
        ("/import ", "/import needs more. Type: /import FILE"),
    ],
)
def test_a_slip_is_no_question(text: str, error: str) -> None:
    with pytest.raises(ZosiaError) as raised:
        parse(text)
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize("command", ["/export", "/import"])
def test_a_path_of_nobody_ends_no_chat(command: str, tmp_path: Path) -> None:
    """Only an error of ours does not."""
    program: Any = SimpleNamespace(wish=SimpleNamespace(launched=tmp_path), chat=None)

    async def act() -> None:
        await actions.ACTIONS[command](program, "~nobody-here/a.json")

    with pytest.raises(ZosiaError, match=r"~nobody-here/a\.json is no path: "):
        asyncio.run(act())


def test_each_command_has_an_action_and_a_line_of_help() -> None:
    assert list(actions.ACTIONS) == list(COMMANDS)
    text = "\n".join(help_lines(80))
    assert all(f"  {name}" in text for name in COMMANDS)
