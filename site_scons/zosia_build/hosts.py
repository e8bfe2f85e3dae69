"""Hosts that zosia is tried on: `.ci/hosts.toml` has the plan for each, `docs/hosts.json` a line for each that ran it.

python -m zosia_build.hosts try HOST [COMMAND...]   run its commands, or these; write its line to build/host-HOST.json
python -m zosia_build.hosts merge FILE...           take the lines in these files over into docs/hosts.json

Standard library only: a workflow merges with a bare Python.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError, near
from zosia.base.files import replacing
from zosia.base.process import missing, run
from zosia.base.version import ROOT
from zosia.machine import host
from zosia.machine.boards import BOARDS

PLAN, DATA = ROOT / ".ci" / "hosts.toml", ROOT / "docs" / "hosts.json"
# The line of `scons smoke` for its guest: architecture, board, accelerator, and the bus of a model.
BOOT = re.compile(r"^  BOOT  (\w+ on \w+, (\w+)(?:, [\w-]+)?)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host to try: the commands, as a person types them, and the accelerator that every guest has to have, if any."""

    title: str
    commands: Sequence[str]
    accel: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A host as it was tried: its system, the guests that ran on it, and the commands that passed and failed."""

    host: str  # by its name in the plan
    date: str  # ISO 8601
    system: str
    processor: str
    qemu: str
    guests: Sequence[str]
    passed: Sequence[str]
    failed: Sequence[str]


def read_plan(path: Path) -> dict[str, Host]:
    """Return the hosts to try, by name."""
    return {name: Host(**entry) for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()}


def read_lines(path: Path) -> dict[str, Line]:
    """Return the lines of a file, by the name of the host."""
    return {entry["host"]: Line(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))}


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write lines to a file."""
    with replacing(path) as temporary:
        text = json.dumps([asdict(line) for line in lines], indent=1, ensure_ascii=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def tried(name: str, plan: Host, commands: Sequence[str]) -> Line:
    """Run the commands one after another, also when one fails, and return the line of this host."""
    passed: list[str] = []
    failed: list[str] = []
    guests: list[tuple[str, ...]] = []
    for command in commands:
        style.show(f"  $ {command}")
        status, output = _run(command)
        (failed if status else passed).append(command)
        if status:
            style.say("fail", f"status {status}: {command}")
        else:
            guests += [found.groups() for found in BOOT.finditer(output)]
    if plan.accel and {accel for _, accel in guests} != {plan.accel}:
        failed.append(f"every guest runs with {plan.accel}")
    return Line(
        host=name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        system=system(),
        processor=host.arch(),
        qemu=", ".join(sorted(set(_qemus()))),
        guests=list(dict.fromkeys(guest for guest, _ in guests)),
        passed=passed,
        failed=failed,
    )


def _run(command: str) -> tuple[int, str]:
    """Run a command in the tree with the programs of .venv, and pass its output on; return its status and output."""
    shown = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # this module's own
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ.get("PATH", os.defpath)])
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env={**environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            shown.append(line)
    return child.returncode, "".join(shown)


def system() -> str:
    """Return the name and the version of this operating system."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return platform.freedesktop_os_release()["PRETTY_NAME"]


def _qemus() -> Iterable[str]:
    """Yield the versions of the QEMUs that are installed."""
    for program in (f"qemu-system-{arch}" for arch in BOARDS):
        if not missing([program]):
            yield qemu_version(run([program, "--version"]).stdout)


def qemu_version(shown: str) -> str:
    """Return the version in the output of `qemu-system-… --version`, with the package's, where QEMU names it."""
    found = re.match(r"QEMU emulator version (.*)", shown)
    if not found:
        raise ZosiaError(f"QEMU's version was expected, and it shows {shown[:80]!r}", "Run scons doctor")
    return found[1].strip()


def merge(plan: Mapping[str, Host], lines: Mapping[str, Line], new: Mapping[str, Line]) -> list[Line]:
    """Return all lines in the order of the plan; a new one replaces the old one of its host.

    Raises:
        ZosiaError: a host is not in the plan.
    """
    both = {**lines, **new}
    for unknown in both.keys() - plan.keys():
        raise ZosiaError(f"{unknown!r} is no host of {PLAN.name}", near(unknown, plan))
    return [both[name] for name in plan if name in both]


def main(argv: list[str]) -> int:
    """Try this host, or merge lines; return 1 if a command failed."""
    try:
        plan = read_plan(PLAN)
        match argv:
            case ["try", name, *commands]:
                if name not in plan:
                    raise ZosiaError(f"{name!r} is no host of {PLAN.name}", near(name, plan))
                line = tried(name, plan[name], commands or plan[name].commands)
                write_lines(ROOT / "build" / f"host-{name}.json", [line])
                print(json.dumps(asdict(line), ensure_ascii=False))
                return 1 if line.failed else 0
            case ["merge", _, *_]:
                new = {name: line for file in argv[1:] for name, line in read_lines(Path(file)).items()}
                write_lines(DATA, merge(plan, read_lines(DATA), new))
                return 0
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        return 2
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
