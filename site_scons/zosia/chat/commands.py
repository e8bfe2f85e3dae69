"""Commands of the chat program: their table, and which text is one."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from zosia.base.errors import ZosiaError, near


@dataclass(frozen=True)
class Command:
    """A command: what comes after it ("" if nothing may), and its meaning."""

    takes: str
    text: str


COMMANDS = {
    "/new": Command("", "begin a chat without a name, of which nothing is kept"),
    "/chats": Command("", "list the chats that are kept"),
    "/open": Command("NAME", "go on with a chat, or begin one that is kept"),
    "/rename": Command("NAME", "give this chat another name; one without a name is kept from then on"),
    "/delete": Command("", "delete this chat, after a question"),
    "/export": Command("FILE", "write this chat to FILE.md as Markdown, or to FILE.json as OpenAI's messages"),
    "/import": Command("FILE", "begin a chat with the messages in FILE.json"),
    "/file": Command(
        "[PATH…]", "attach text, PDF, Word or HTML files to the next question; alone, leave out what is attached"
    ),
    "/system": Command("[TEXT]", "set the system prompt; without a text, show it"),
    "/set": Command("[NAME VALUE]", "set how answers are chosen, as in /set temp 0.3; without a name, show all"),
    "/thoughts": Command("", "show or fold the model's thoughts"),
    "/retry": Command("", "answer the last question once more"),
    "/edit": Command("", "take the last question back, and change it"),
    "/undo": Command("", "take the last question back, and its answer"),
    "/compact": Command("", "replace the older part of the chat by a summary, to make room"),
    "/model": Command("NAME", "go on with another model"),
    "/help": Command("", "show this list"),
    "/exit": Command("", "power off; so do Ctrl+C and Ctrl+D on an empty line"),
}
ALONE = re.compile("/[a-z]+")


def parse(text: str) -> tuple[str, str] | None:
    """Return the command of a text and what comes after it, or None for a question.

    Only the bare word is a command where nothing comes after it: "/exit strategies?" is a question. Nor is a text of
    more than one line a command, but for a system prompt.

    Raises:
        ZosiaError: it is one word that looks like a command and is none, or lacks what comes after it.
    """
    word, _, rest = text.strip().partition(" ")
    command = COMMANDS.get(word)
    if command is None:
        if not ALONE.fullmatch(text.strip()):
            return None
        raise ZosiaError(f"{word} is not a command", near(word, COMMANDS))
    rest = rest.strip()
    if rest and not command.takes:
        return None
    if "\n" in text.strip() and word != "/system":
        return None
    if not rest and command.takes and not command.takes.startswith("["):
        raise ZosiaError(f"{word} needs more", f"Type: {word} {command.takes}")
    return word, rest


def help_lines(columns: int) -> list[str]:
    """Return the commands and the keys, for a terminal of so many columns."""
    usage = {f"{name} {one.takes}".strip(): one.text for name, one in COMMANDS.items()}
    keys = {
        "Enter": "send; Alt+Enter begins a new line, and so does Shift+Enter where the terminal tells it",
        "Ctrl+C": "stop an answer; clear the line; on an empty line, power off",
        "Ctrl+R": "search what was asked in this chat",
        "Tab": "complete a command, a path or a name",
    }
    rows = {**usage, **keys}
    width = max(map(len, rows))
    lines = []
    for name, text in rows.items():
        first = f"  {name:{width}}  "
        lines += textwrap.wrap(text, max(columns, 60), initial_indent=first, subsequent_indent=" " * len(first))
    return lines
