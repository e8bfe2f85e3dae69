"""`scons bench`: measures starts, speed, memory, disks and counters, compared with the alternatives, in one run.

python -m zosia_build.benchmarks RUNS [SECTION...]   measure all sections, or these; print and update the manual
python -m zosia_build.benchmarks check               measure the sections that have a budget, and compare
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.base.process import run
from zosia.machine import host
from zosia_build.benchmarks import measured
from zosia_build.benchmarks.experiments import EXPERIMENTS
from zosia_build.benchmarks.measured import Section
from zosia_build.benchmarks.sections import SECTIONS
from zosia_build.benchmarks.ways import FOLDER, ROOT, built

PAGE, DATA, BUDGETS = Path("docs/benchmarks.md"), Path("docs/benchmarks.json"), Path(".ci/budgets.toml")


def here() -> str:
    """Return the host and the QEMU version of these measurements, as text."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    qemu = run(["qemu-system-aarch64", "--version"]).stdout.splitlines()[0].removeprefix("QEMU emulator version ")
    gib = psutil.virtual_memory().total / (1 << 30)
    return f"{host.processors()} cores of {names[0] if names else platform.machine()}, {gib:.0f} GiB, QEMU {qemu}"


def texts(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each measured part of the manual, by name."""
    return {name: one.text() for name, one in measured.from_json(data).items()}


def main(argv: list[str]) -> int:
    """Measure, then update the manual or compare with the budgets; return the exit status."""
    os.chdir(ROOT)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if sys.platform != "linux":
        raise ZosiaError("`scons bench` runs on Linux only", "Time a start by hand: time scons run")
    if argv[0] == "check":
        return check()
    rounds, known = int(argv[0]), {**SECTIONS, **EXPERIMENTS}
    if unknown := set(argv[1:]) - set(known):
        raise ZosiaError(f"No benchmark is named {', '.join(sorted(unknown))}", f"Choose from: {', '.join(known)}")
    settings = built()
    seen = f"{datetime.date.today()}, {rounds} rounds, {here()}"
    sections = measured.from_json(json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {})
    for name in argv[1:] or SECTIONS:
        sections[name] = replace(known[name](settings, rounds), seen=seen)
        print(f"\n{name}: {sections[name].text()}", flush=True)
        write(sections)
    return 0


def write(sections: Mapping[str, Section]) -> None:
    """Write the measurements to their JSON file, and their tables into the manual."""
    data = measured.to_json(sections)
    page = measured.tables(PAGE.read_text(encoding="utf-8"), texts(data))
    for path, text in ((DATA, json.dumps(data, indent=1) + "\n"), (PAGE, page)):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def check() -> int:
    """Measure the sections that have a budget; return 1 if one is exceeded, else 0."""
    budgets = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    settings = built()
    sections = {name: SECTIONS[name](settings, 1 if name == "counters" else 3) for name in budgets}
    worse = list(measured.over(budgets, sections))
    for line in worse:
        print(style.error(line), file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ZosiaError as error:
        sys.exit(style.error(error))
