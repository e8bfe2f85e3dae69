"""`scons bench`: starts, speed, memory, disks and counters, beside what people would otherwise use, in one run.

python -m zosia_build.benchmarks RUNS [SECTION...]   measure all, or these, print, and put the tables into the manual
python -m zosia_build.benchmarks check               measure what has a budget, and compare
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
from zosia_build.benchmarks.measured import Section

from .experiments import EXPERIMENTS
from .sections import SECTIONS
from .ways import FOLDER, ROOT, built

PAGE, DATA, BUDGETS = Path("docs/benchmarks.md"), Path("docs/benchmarks.json"), Path(".ci/budgets.toml")


def here() -> str:
    """The machine and the programs that the numbers are of."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    qemu = run(["qemu-system-aarch64", "--version"]).stdout.splitlines()[0].removeprefix("QEMU emulator version ")
    gib = psutil.virtual_memory().total / (1 << 30)
    return f"{host.processors()} cores of {names[0] if names else platform.machine()}, {gib:.0f} GiB, QEMU {qemu}"


def texts(data: Mapping[str, Any]) -> dict[str, str]:
    """What the measured parts of the manual say, by name."""
    return {name: one.text() for name, one in measured.from_json(data).items()}


def main(argv: list[str]) -> int:
    """Measure, and write or compare."""
    os.chdir(ROOT)
    FOLDER.mkdir(parents=True, exist_ok=True)
    if sys.platform != "linux":
        raise ZosiaError("What `scons bench` compares with runs on Linux only", "Time a start by hand: time scons run")
    if argv[0] == "check":
        return check()
    rounds, known = int(argv[0]), {**SECTIONS, **EXPERIMENTS}
    if unknown := set(argv[1:]) - set(known):
        raise ZosiaError(f"{', '.join(sorted(unknown))} can't be measured", f"Choose of: {', '.join(known)}")
    settings = built()
    seen = f"{datetime.date.today()}, {rounds} rounds, {here()}"
    sections = measured.from_json(json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {})
    for name in argv[1:] or SECTIONS:
        sections[name] = replace(known[name](settings, rounds), seen=seen)
        print(f"\n{name}: {sections[name].text()}", flush=True)
        write(sections)
    return 0


def write(sections: Mapping[str, Section]) -> None:
    """Put what was measured into the manual."""
    data = measured.to_json(sections)
    page = measured.tables(PAGE.read_text(encoding="utf-8"), texts(data))
    for path, text in ((DATA, json.dumps(data, indent=1) + "\n"), (PAGE, page)):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def check() -> int:
    """Compare what has a budget with it."""
    budgets = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    settings = built()
    sections = {name: SECTIONS[name](settings, 2 if name == "counters" else 3) for name in budgets}
    worse = list(measured.over(budgets, sections))
    for line in worse:
        print(style.error(line), file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ZosiaError as error:
        sys.exit(style.error(error))
