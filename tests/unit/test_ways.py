"""Chats as the benchmarks drive them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zosia_build.benchmarks import ways

# A terminal's line arrives in parts, and the editor draws what it has: the question stands there twice.
CHAT = r"""
import sys, time, tty
def say(text):
    sys.stdout.write(text); sys.stdout.flush()
def typed(end):
    text = ''
    while not text.endswith(end):
        text += sys.stdin.read(1)
    return text
tty.setraw(0)
say('\r\n> ')
say('\r\x1b[J> ' + typed('1 to 20.'))
typed('\r')
say('\r\x1b[J> Count from 1 to 20.\r\n')
time.sleep(0.1)
say('1, 2 [3]\r\n\r\n[ Prompt: 7.0 t/s | Generation: 3.5 t/s ]\r\n\r\n> ')
typed('/exit\r')
"""


def test_an_answer_is_told_from_the_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer, values = ways.chat(ways.Program((sys.executable, "-c", CHAT)))
    assert answer == "1, 2 [3]"
    assert (values["prompt, tokens/s"], values["generation, tokens/s"]) == (7.0, 3.5)
