"""One running machine on this terminal: `python -m zosia.run.supervisor MACHINE`, where `scons run` ends.

SCons turns into this program, so that its exit status is exact and the terminal and signals are its own. MACHINE is
a file with a `Machine` as JSON: prompts are long, and private. The exit status is llama-cli's own, or one of
zosia.machine.status, or 128 + n after signal n.
"""

from __future__ import annotations

import json
import locale
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path

import dacite

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.machine import host
from zosia.machine.qemu import Machine
from zosia.machine.report import ending
from zosia.machine.status import Status
from zosia.machine.task import Mode
from zosia.run import resume
from zosia.run.hot import RefutedError
from zosia.run.loop import Loop
from zosia.run.session import SIGNALS
from zosia.run.terminal import Terminal

CONSOLE_LINES = 10
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def to_json(machine: Machine) -> str:
    """Return a machine as text."""
    return json.dumps(asdict(machine), default=lambda value: value.value if isinstance(value, Enum) else str(value))


def from_json(text: str) -> Machine:
    """Return the machine that `to_json` wrote."""
    return dacite.from_dict(Machine, json.loads(text), dacite.Config(cast=[Enum, Path, tuple], strict=True))


def _piped() -> bytes:
    """Return the next part of standard input, b"" at its end; it may be a pipe that does not block."""
    select.select([0], [], [])
    return os.read(0, 1 << 16)


def _text(data: bytes) -> str:
    """Decode UTF-8, or what the locale has in its place."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(locale.getencoding())


def piped_prompt(remedy: str = "Type: echo PROMPT | scons run") -> str:
    """Return the prompt that standard input holds; `remedy` is said where there is none.

    Raises:
        ZosiaError: it is empty, or no text.
    """
    try:
        prompt = _text(b"".join(iter(_piped, b""))) if sys.stdin else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ZosiaError(f"The prompt on standard input is no UTF-8 text: {error}", remedy) from error
    if not prompt.strip():
        raise ZosiaError("There is no terminal to chat on and no prompt on standard input", remedy)
    if "\0" in prompt:
        raise ZosiaError("The prompt on standard input holds a NUL byte, so it is no text", remedy)
    return prompt


def _show_end(console: bytes) -> None:
    """Print the last lines of the guest's console."""
    text = ESCAPES.sub("", console.decode(errors="replace"))
    lines = [line for line in text.splitlines() if line.strip()][-CONSOLE_LINES:]
    if lines:
        print("The end of its console:", *(f"    {line}" for line in lines), sep="\n", file=sys.stderr)


def run(machine: Machine, confirm: Iterator[None] | None = None) -> int:
    """Boot the machine, wait for its end, and return the exit status for it.

    With a terminal and nothing to ask the person chats; otherwise standard output gets the answer and nothing else.
    `confirm` is that of resume.run.

    Raises:
        RefutedError: see there.
        ZosiaError: QEMU can't be started, there is neither a terminal nor a prompt, or the answer can't be written.
    """
    asks = machine.task.mode is Mode.CHAT and machine.task.prompt is None
    chat = asks and os.isatty(0)
    if asks and not chat:
        machine = machine.given(prompt=piped_prompt())
    machine = replace(machine, task=machine.task.fitting())
    if os.environ.get("NO_COLOR") and chat:  # an answer has none in any case
        machine = machine.given(llama_args=(*machine.task.llama_args, "--color", "off"))
    if machine.task.mode is Mode.DIAG:
        from zosia.run import diagnosis  # not on the way to a prompt

        for line in diagnosis.lines(machine):
            sys.stdout.buffer.write(os.fsencode(line) + b"\n")  # names of files are any bytes
        sys.stdout.flush()
    rows, columns, name = host.terminal()
    machine = machine.given(terminal=(rows, columns, name if chat else "dumb"))  # an answer is drawn nowhere
    loop = Loop()
    try:
        with temporary_folder() as folder, Terminal() if chat else nullcontext() as terminal:
            loop.catch(SIGNALS)
            outcome = resume.run(machine, terminal, folder, loop, confirm=confirm)
    except (RefutedError, ZosiaError, OSError):  # the process may go on, for example to a download
        loop.release()
        raise
    if outcome.replaced:
        style.say(
            "NOTE", "the model's disk was replaced or removed meanwhile; this machine kept the old one to its end"
        )
    status, error = ending(outcome)
    if error and not (outcome.explained and chat):  # then /init's own line is on the terminal already
        print(style.error(error), file=sys.stderr)
        if not (outcome.explained or outcome.disturbed):
            _show_end(outcome.console)
    return status


def main(argv: list[str]) -> int:
    """Run the machine that is described in the one file named."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which `scons run` blocks on its way here
        return run(from_json(Path(argv[0]).read_text(encoding="utf-8")))
    except KeyboardInterrupt:  # while the prompt was still being piped in
        return 128 + signal.SIGINT
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        return Status.REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
