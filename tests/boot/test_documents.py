"""Every command of README and the manual is run as it stands there, by somebody who leaves at the prompt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from tests.documents import commands
from zosia.base.patience import patience

ROOT = Path(__file__).parents[2]
RUN = list(dict.fromkeys(command.text for command in commands(ROOT) if not command.reason))
# What comes, and what that person types then.
REACTIONS = {"\r\n> ": "/exit\r", "/ # ": "exit\r", "Serving on": "\x03"}
LONGEST = 900  # seconds, for what may have to be built first


@pytest.mark.parametrize("command", RUN)
def test_it_works(root: Path, tmp_path: Path, model_file: Path, command: str, no_machine_left: None) -> None:
    # Other files, and nothing thrown away; that `scons -c` cleans is tested in a tree of its own.
    for shown, used in {
        "/path/to/model.gguf": str(model_file),
        "/media/stick/model.gguf": str(model_file),
        ">answer.txt": f">{tmp_path}/answer.txt",
        "scons -c": "scons -n -c",
        # A small model may find no end.
        "scons run PROMPT": "scons run LLAMA_ARGS='-n 8' PROMPT",
        "scons run SYSTEM": "scons run LLAMA_ARGS='-n 8' SYSTEM",
        "| scons run": "| scons run LLAMA_ARGS='-n 8'",
    }.items():
        command = command.replace(shown, used)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = (root / "build" / "test-logs" / "documents.log").open("a", encoding="utf-8")
    with (
        log,
        pexpect.spawn(
            "/bin/bash",
            ["-c", command],
            cwd=str(root),
            env={**os.environ, "PATH": programs, "TERM": "xterm"},
            encoding="utf-8",
            codec_errors="replace",
            timeout=LONGEST * patience(),
            dimensions=(30, 100),
        ) as child,
    ):
        log.write(f"\n$ {command}\n")
        child.logfile_read = log
        while (came := child.expect_exact([pexpect.EOF, *REACTIONS])) != 0:
            child.send(list(REACTIONS.values())[came - 1])
    assert (child.exitstatus, child.signalstatus) == (0, None)
