"""One style for the lines of the build; colours on terminals only."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from zosia.base import style

ESCAPE = "\x1b"


class Screen(io.StringIO):
    """Stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("environment", "terminal", "coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_who_gets_colours(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], terminal: bool, coloured: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert style.coloured(Screen() if terminal else io.StringIO()) is coloured


@pytest.mark.parametrize(
    ("text", "painted"),
    [
        (style.line("LINUX", "build/Image"), f"  {style.CYAN}LINUX{style.RESET} build/Image"),
        (style.line("BAD", "x"), f"  {style.YELLOW}BAD{style.RESET}   x"),
        (style.line("EXT4", "x"), f"  {style.CYAN}EXT4{style.RESET}  x"),
        (style.line("fail", "x"), f"  {style.RED}fail{style.RESET}  x"),
        ("zosia: error: x\n    y", f"{style.RED}zosia: error:{style.RESET} x\n    y"),
        ("qemu-system-aarch64 -m 1G", "qemu-system-aarch64 -m 1G"),
        ("MODEL  SIZE", "MODEL  SIZE"),
        ("", ""),
    ],
)
def test_only_the_label_has_a_colour(text: str, painted: str) -> None:
    assert style.painted(text, Screen()) == painted
    assert style.painted(text, io.StringIO()) == text


def test_who_has_another_spelling(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is that of every line and error, and of what has a colour; nothing is spelt differently by itself."""
    assert style.spelling("MEM=4G, scons run") == "MEM=4G, scons run"
    monkeypatch.setattr(style, "spelling", str.swapcase)
    style.say("NOTE", "Abc")
    style.show("dEF", sys.stdout)
    assert capsys.readouterr() == ("Def\n", "  note  aBC\n")
    assert style.error("Abc").endswith("aBC")
    monkeypatch.setattr(style, "spelling", lambda text: text.replace("MEM=4G", "--mem 4G"))
    assert style.painted("  NOTE  MEM=4G", Screen()) == f"  {style.YELLOW}NOTE{style.RESET}  --mem 4G"


def test_each_line_of_the_build_is_said_by_style(root: Path) -> None:
    """Nobody else writes labels, or errors."""
    for path in [root / "SConstruct", *(root / "site_scons").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "style.py":
                assert not re.match(r"  [A-Z][A-Z0-9]+ |zosia: error:", node.value), f"{path}: {node.value}"


def scons(root: Path, *words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("scons")), "-C", str(root), *words]


def test_a_terminal_and_a_pipe(root: Path) -> None:
    """Standard error may be a terminal when standard output is none; the answer has no colours then."""
    environment = {**os.environ, "TERM": "xterm"}
    words = scons(root, "-n", "build/aarch64/Image", "KERNEL=/etc/hostname")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "  TAKE  build/aarch64/Image\n" in done.stdout
    for variables, shown in (
        ({}, f"  {style.CYAN}TAKE{style.RESET}  build/aarch64/Image"),
        ({"NO_COLOR": "1"}, "  TAKE  build/aarch64/Image"),
    ):
        child = pexpect.spawn(words[0], words[1:], env={**environment, **variables}, encoding="utf-8", timeout=60)
        assert shown in str(child.read())
    refused = scons(root, "MODL=x")
    child = pexpect.spawn(refused[0], refused[1:], env=environment, encoding="utf-8", timeout=60)
    assert f"{style.RED}zosia: error:{style.RESET} MODL is not a variable" in str(child.read())
    done = subprocess.run(refused, env=environment, capture_output=True, text=True, check=False)
    assert ESCAPE not in done.stdout + done.stderr


def test_the_scripts_look_the_same(root: Path, tmp_path: Path) -> None:
    """bootstrap.sh refuses a system that it does not know."""
    (tmp_path / "uname").write_text("#!/bin/sh\necho Plan9\n")
    (tmp_path / "uname").chmod(0o755)
    environment = {**os.environ, "TERM": "xterm", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    program = str(root / "scripts" / "bootstrap.sh")
    said = "zosia is built on Linux and macOS, not on Plan9"
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"zosia: error: {said}\n")
    child = pexpect.spawn(program, env=environment, encoding="utf-8", timeout=20)
    assert f"{style.RED}zosia: error:{style.RESET} {said}" in str(child.read())
    child = pexpect.spawn(program, env={**environment, "NO_COLOR": "1"}, encoding="utf-8", timeout=20)
    assert str(child.read()) == f"zosia: error: {said}\r\n"
