"""Chats that `scons run` and `zosia run` start: from the command to the prompt, and the part of it before QEMU."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from zosia.base.files import temporary_folder
from zosia.base.places import SAVED
from zosia.base.process import run
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


def now() -> float:
    """Return the seconds since the host's start, to 1/100 s."""
    return float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])


def started(program: str) -> float:
    """Return when the newest process of a program was started, as `now` has it."""
    ticks = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.exe()).name == program:
                fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks.append(int(fields[19]))  # proc(5): starttime, the 22nd, of which two are cut off
    return max(ticks) / os.sysconf("SC_CLK_TCK")


def prompted(words: Sequence[str], program: str) -> dict[str, float]:
    """Return the seconds from a command to QEMU's start, and to the prompt."""
    start = now()
    with Guest(Program(tuple(words)), FOLDER / "run.log") as guest:
        guest.expect(PROMPT, LONGEST)
        took = now() - start
        begun = started(program) - start
        guest.send("/exit")
        guest.wait_end()
    return {"to QEMU's start, s": begun, "to the prompt, s": took}


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
    program = f"qemu-system-{settings.arch}"
    for words in ((*scons, "HOT=1"), (*zosia, "--hot")):  # saved, unless they were before
        prompted(words, program)
    ways: dict[str, Way] = {
        "`scons run`, boots": partial(prompted, (*scons, "HOT=0"), program),
        "`zosia run`, boots": partial(prompted, (*zosia, "--no-hot"), program),
        "`scons run`, resumes": partial(prompted, scons, program),
        "`zosia run`, resumes": partial(prompted, zosia, program),
        "QEMU alone, until the saved machine runs": partial(restored, settings),
        "`zosia --version`": partial(seconds, sys.executable, "-m", "zosia.cli", "--version"),
        "Python, and the imports before QEMU starts": partial(seconds, sys.executable, "-c", IMPORTS),
        "Python": partial(seconds, sys.executable, "-c", "pass"),
    }
    return Section(
        what="From the command to QEMU's start, and to the prompt; for the last three to their end.",
        ways=compare(ways, rounds),
    )
