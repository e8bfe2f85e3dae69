"""Every command of README and the manual is run as it stands there, by somebody who leaves at the prompt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.documents import commands
from zosia.base.patience import patience
from zosia.machine.status import Status
from zosia.run.guest import ESCAPES

ROOT = Path(__file__).parents[2]
RUN = list(dict.fromkeys(command.text for command in commands(ROOT) if not command.reason))
# What comes, and what that person types then.
PROMPT, SHELL, SITE, READY = "\r\n> ", "/ # ", "Serving on", "ready after"
REACTIONS = {PROMPT: "/exit\r", SHELL: "exit\r", SITE: "\x03", READY: "\x03"}
LONGEST = 2400  # seconds: an ISO's kernel may have to be compiled first
BANNER = r"zosia \S+ · Linux \S+ · llama\.cpp"
# What a command has to show: the first pattern that matches the command counts.
SHOWS = {
    r"2\+2": r"\b4\b",
    r">answer\.txt": r"\S",
    r"import-model": r"smollm2-135m is imported",
    r"scons -n run": r"^qemu-system-aarch64 ",
    r"scons run|run-qemu|^qemu-system": BANNER,
    r"scons serve": r"^  SERVE http://127\.0\.0\.1:\d+/v1 is OpenAI's API to smollm2-135m",
    r"scons smoke (BASE|$)|scons smoke$": r"  SMOKE the stub booted",
    r"scons smoke MODEL": r"  SMOKE the model streamed an answer: \S",
    r"scons doctor": r"^  ok +qemu-system-aarch64 \d",
    r"scons diag": r"command: qemu-system-aarch64 ",
    r"scons models": r"^smollm2-135m ",
    r"scons -c": r"^Removed build/",
    r"scons$|scons kernel": r"is up to date",
    r"scons docs|scons iso|scons sbom": r"is up to date|^  \w+ +build/",
    r"bootstrap|activate": r"\A\Z",
}


@pytest.mark.parametrize("command", RUN)
def test_it_works(root: Path, tmp_path: Path, model_file: Path, command: str, no_machine_left: None) -> None:
    shown = next(shows for written, shows in SHOWS.items() if re.search(written, command))
    # Other files, and nothing thrown away; that `scons -c` cleans is tested in a tree of its own.
    for written, used in {
        "/path/to/model.gguf": str(model_file),
        "/media/stick/model.gguf": str(model_file),
        ">answer.txt": f">{tmp_path}/answer.txt",
        "scons -c": "scons -n -c",
        # To be saved, it would evaluate what all chats begin with, which takes a minute where AVX is emulated slowly.
        "scons run ARCH=x86_64": "scons run ARCH=x86_64 HOT=0",
        "run-qemu-x86_64.sh": "run-qemu-x86_64.sh HOT=0",
        # A small model may find no end.
        "scons run PROMPT": "scons run LLAMA_ARGS='--temp 0 -n 16' PROMPT",
        "scons run SYSTEM": "scons run LLAMA_ARGS='-n 8' SYSTEM",
        "| scons run": "| scons run LLAMA_ARGS='--temp 0 -n 16'",
        # Somebody else may listen on the usual port, such as another of these tests.
        "PORT=8081": "",
        "scons serve": "scons serve PORT=0",
    }.items():
        command = command.replace(written, used)
    # Of two guests that each compute on all processors, each would wait for the other.
    command = re.sub(r"scons run|scons serve|scons smoke MODEL=\S+|run-qemu-\w+\.sh", r"\g<0> SMP=1", command)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    logs = root / "build" / "test-logs"
    logs.mkdir(exist_ok=True)
    log = (logs / "documents.log").open("a", encoding="utf-8")
    for arch in re.findall(r"build/(\w+)/\S+\.iso", command):  # of a command before, which another worker may be at
        subprocess.run([sys.executable, "-m", "SCons", "iso", f"ARCH={arch}", "-s"], cwd=root, check=True)
    text, reactions = "", []
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
        while child.expect_exact([pexpect.EOF, *REACTIONS]) != 0:
            text += f"{child.before}{child.after}"
            reactions.append(child.after)
            child.send(REACTIONS[str(child.after)])
        text += str(child.before)
    normal = (Status.OK, Status.CUT_OFF) if "-n 8" in command else (Status.OK,)
    assert (child.exitstatus in normal, child.signalstatus) == (True, None), child.exitstatus
    if "answer.txt" in command:
        text = (tmp_path / "answer.txt").read_text(encoding="utf-8")
    assert re.search(shown, ESCAPES.sub("", text), re.MULTILINE), text
    assert (PROMPT in reactions) == (shown == BANNER), "a chat, and only that, comes to a prompt"
