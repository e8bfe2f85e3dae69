"""The commands that README and the manual show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Above a block that the tests can't run, with the reason.
BLOCK = re.compile(r"(?:^<!-- not run by the tests: (?P<reason>[^\n]+) -->\n)?^```sh\n(?P<text>.*?)^```$", re.M | re.S)
INLINE = re.compile(r"(?<!`)`((?:\./scripts/|scripts/|scons |zosia (?=[a-z-]))[^`\n]*)`(?!`)")
ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=")


@dataclass(frozen=True)
class Command:
    """A command line, the page that shows it, and why it is not run; "" when it is."""

    text: str
    page: str
    reason: str


def pages(root: Path) -> list[Path]:
    """README and the manual."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def commands(root: Path) -> Iterator[Command]:
    """Yield the commands of shell blocks, line by line, without comments."""
    for page in pages(root):
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            for line in block["text"].replace("\\\n", "").splitlines():
                if text := re.sub(r"\s+# .*", "", line).strip():
                    yield Command(text, page.name, block["reason"] or "")


def mentioned(root: Path) -> Iterator[Command]:
    """Yield the commands within sentences."""
    for page in pages(root):
        for text in INLINE.findall(page.read_text(encoding="utf-8")):
            yield Command(text, page.name, "in a sentence")


def zosia_words(text: str) -> Iterator[list[str]]:
    """Yield the words that a command line gives to zosia, each time that it starts it."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] | None = None
    for word in [*lexer, ";"]:
        if found is not None and re.fullmatch(r"[();<>|&]+", word):
            yield found
            found = None
        elif found is not None:
            found.append(word)
        elif word == "zosia":
            found = []


def scons_words(text: str) -> tuple[list[str], list[str]]:
    """Targets and names of variables of all that a command line gives to scons, or to a script that passes it on."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    targets: list[str] = []
    variables: list[str] = []
    inside = False
    for word in lexer:
        if Path(word).name == "scons" or re.fullmatch(r"(\./)?scripts/run-qemu-\w+\.sh", word):
            inside = True
        elif re.fullmatch(r"[();<>|&]+", word):
            inside = False
        elif inside and (assigned := ASSIGNMENT.match(word)):
            variables.append(assigned[1])
        elif inside and not word.startswith("-"):
            targets.append(word)
    return targets, variables
