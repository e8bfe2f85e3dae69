"""Chats that `scons run` and `zosia run` start: from the command to the prompt, and the part of it before QEMU."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from zosia.base.files import temporary_folder
from zosia.base.places import SAVED
from zosia.base.process import find, run
from zosia.run import hot
from zosia.run.emulator import Emulator
from zosia.run.guest import PROMPT, Guest
from zosia.run.loop import Loop
from zosia.run.monitor import Monitor
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER, LONGEST, ROOT, Program

IMPORTS = "import zosia.command.again, zosia.run.supervisor"


@contextmanager
def noting(arch: str) -> Iterator[Path]:
    """Put a QEMU on PATH that notes when it is started, and yield the file with the seconds, as of time.time()."""
    folder = (FOLDER / "noting").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    program, noted = folder / f"qemu-system-{arch}", folder / "noted"
    text = f'#!/bin/sh\ndate +%s.%N >{shlex.quote(str(noted))}\nexec {shlex.quote(find(program.name))} "$@"\n'
    if not program.exists() or program.read_text(encoding="utf-8") != text:  # saved machines depend on it
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
    try:
        yield noted
    finally:
        os.environ["PATH"] = path


def prompted(words: Sequence[str], noted: Path) -> dict[str, float]:
    """Return the seconds from a command to QEMU's start, and to the prompt."""
    start = time.time()
    with Guest(Program(tuple(words)), FOLDER / "run.log") as guest:
        guest.expect(PROMPT, LONGEST)
        took = time.time() - start
        guest.send("/exit")
        guest.wait_end()
    return {"to QEMU's start, s": float(noted.read_text()) - start, "to the prompt, s": took}


def seconds(*words: str) -> dict[str, float]:
    """Return the seconds that a command takes."""
    start = time.time()
    run(words, env={"PYTHONPATH": str(ROOT / "site_scons")})
    return {"to QEMU's start, s": time.time() - start}


def restored(settings: Settings) -> dict[str, float]:
    """Return the seconds that QEMU alone takes, from its start until the saved machine of a chat runs."""
    machine = machines.run_machine(settings)
    machine = replace(machine, task=machine.task.fitting()).given(terminal=(40, 100, "xterm"))
    store = hot.store(machine, machine.hot or SAVED)
    with temporary_folder() as folder, (folder / "errors").open("wb") as errors, store.path.open("rb") as state:
        start = time.time()
        qemu = Emulator(machine, folder, machine.ports, Loop(), monitored=True, incoming=True, errors=errors)
        try:
            monitor = Monitor(qemu)
            monitor.load(state.fileno(), hot.extent(state), bool)
            monitor.command("cont")
            return {"to the prompt, s": time.time() - start}
        finally:
            qemu.kill()
            qemu.close()


def commands(settings: Settings, rounds: int) -> Section:
    """Compare the two commands, and what is on the way of `zosia run`."""
    scons = (sys.executable, "-m", "SCons", "run")
    zosia = ("env", f"PYTHONPATH={ROOT / 'site_scons'}", sys.executable, "-m", "zosia.cli", "run")
    with noting(settings.arch) as noted:
        for words in ((*scons, "HOT=1"), (*zosia, "--hot")):  # saved, unless they were before
            prompted(words, noted)
        ways: dict[str, Way] = {
            "`scons run`, boots": partial(prompted, (*scons, "HOT=0"), noted),
            "`zosia run`, boots": partial(prompted, (*zosia, "--no-hot"), noted),
            "`scons run`, resumes": partial(prompted, scons, noted),
            "`zosia run`, resumes": partial(prompted, zosia, noted),
            "QEMU alone, until the saved machine runs": partial(restored, settings),
            "`zosia --version`": partial(seconds, sys.executable, "-m", "zosia.cli", "--version"),
            "Python, and the imports before QEMU starts": partial(seconds, sys.executable, "-c", IMPORTS),
            "Python": partial(seconds, sys.executable, "-c", "pass"),
        }
        return Section(
            what="From the command to QEMU's start, and to the prompt; for the last three to their end.",
            ways=compare(ways, rounds),
        )
