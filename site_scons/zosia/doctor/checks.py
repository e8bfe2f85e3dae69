"""What `scons doctor` looks at on this machine. A check gives findings and prints nothing; run.py prints them."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import check_writable, size_text
from zosia.base.process import install, missing, run

BOOTSTRAP = "Type: ./scripts/bootstrap.sh"
# QEMU: what the command line of machine.py takes. 4.2 brought rng-builtin and microvm, 6.0 the property pauth of Arm's
# processors. Older than TRIED is what nobody started it with.
LEAST_QEMU = {"aarch64": (6, 0), "x86_64": (4, 2)}
TRIED_QEMU = (7, 2)
LEAST_PYTHON = (3, 11)
LEAST_TERMINAL = (60, 10)  # columns and rows; in a smaller one lines break, and nothing fails
COUNTING = 2.0  # seconds that may be spent on counting what is in a folder


class Verdict(Enum):
    """How a finding counts; its value is shown."""

    OK = "ok"
    WARN = "warn"  # a run works, though not as well
    FAIL = "fail"  # a run does not work


@dataclass(frozen=True)
class Finding:
    """One line: what was found, and what to type unless all is well."""

    verdict: Verdict
    text: str


def ok(text: str) -> Finding:
    """What is as it should be."""
    return Finding(Verdict.OK, text)


def warn(text: str) -> Finding:
    """What does not stop a run."""
    return Finding(Verdict.WARN, text)


def fail(text: str) -> Finding:
    """What stops a run."""
    return Finding(Verdict.FAIL, text)


def look(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error of it is one more."""
    try:
        yield from check()
    except ZosiaError as error:
        yield fail(str(error).splitlines()[0])
    except ImportError as error:
        yield fail(f"the Python package {error.name} is needed and was not found. {BOOTSTRAP}")
    except OSError as error:
        yield fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def python(lock: Path) -> Iterator[Finding]:
    """Python's version, and the packages that a lock file names."""
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        yield fail(f"Python {shown}: zosia needs {'.'.join(map(str, LEAST_PYTHON))} or later. {BOOTSTRAP}")
        return
    wanted, absent, others = _locked(lock), [], []
    for name, version in wanted.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
            continue
        if found != version:
            others.append(f"{name} {found}, not {version}")
    if absent:
        yield fail(f"Python {shown}: without the packages {', '.join(absent)}. {BOOTSTRAP}")
    elif others:
        yield warn(f"Python {shown}: other packages than {lock.name} names ({'; '.join(others)}). {BOOTSTRAP}")
    else:
        yield ok(f"Python {shown} and the {len(wanted)} packages of {lock.name}")


def _locked(lock: Path) -> Mapping[str, str]:
    """The packages of a lock file that this machine is to have, and their versions."""
    from packaging.requirements import Requirement

    lines = re.findall(r"^([\w.-]+==.*?) \\$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = (need for need in map(Requirement, lines) if need.marker is None or need.marker.evaluate())
    return {need.name: str(need.specifier).removeprefix("==") for need in wanted}


def qemu(arch: str) -> Iterator[Finding]:
    """QEMU, and whether it is new enough."""
    program = f"qemu-system-{arch}"
    if missing([program]):
        yield fail(f"{program}: not found. Type: {install([program])}")
        return
    done = run([program, "--version"], check=False)
    shown = done.stdout + done.stderr
    match = re.search(r"version (\d+)\.(\d+)(\.\d+)*", shown)
    if not match:
        said = (shown.strip().splitlines() or ["nothing"])[-1]
        yield fail(f"{program} does not start ({said}). Type: {install([program])}")
        return
    number, version = match[0].removeprefix("version "), (int(match[1]), int(match[2]))
    if version < LEAST_QEMU[arch]:
        least = ".".join(map(str, LEAST_QEMU[arch]))
        yield fail(f"{program} {number}: zosia needs {least} or later. Install a newer QEMU")
    elif version < TRIED_QEMU:
        tried = ".".join(map(str, TRIED_QEMU))
        yield warn(
            f"{program} {number}: may do; the oldest that was tried is {tried}. Install a newer QEMU if it fails"
        )
    else:
        yield ok(f"{program} {number}")


def tools(what: str, programs: Sequence[str], *, needed: bool = True) -> Iterator[Finding]:
    """Programs that are needed `what` for; without `needed`, those that may be later."""
    absent = missing(programs)
    if absent:
        verdict = fail if needed else warn
        later = "" if needed else ", and not needed now"
        yield verdict(f"{', '.join(absent)}: not found{later} ({what}). Type: {install(absent)}")
    else:
        yield ok(f"{', '.join(programs)} ({what})")


def room(needs: Iterable[tuple[Path, int]]) -> Iterator[Finding]:
    """Whether there is room for what is still to be written: bytes, by folder. Folders of one disk share its room."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needs:
        there = existing(folder)
        first, before = disks.get(there.stat().st_dev, (there, 0))
        disks[there.stat().st_dev] = first, before + size
    for folder, size in disks.values():
        system = os.statvfs(folder)
        free = system.f_bavail * system.f_frsize
        if free < size:
            place = f"the disk of {folder}: {size_text(size)} are still to be written, and {size_text(free)} are free"
            yield fail(f"{place}. Make room, or name another place for downloads with ZOSIA_CACHE=")
        else:
            written = f"{size_text(size)} are still to be written" if size else "nothing big is to be written"
            yield ok(f"the disk of {folder}: {written}, {size_text(free)} are free")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def cache(folder: Path, *, needed: bool) -> Iterator[Finding]:
    """Whether the cache can be used; `needed`, whether something is still to be written to it."""
    verdict = fail if needed else warn
    remedy = "Type ZOSIA_CACHE=FOLDER before the command, or make it yours"
    if not folder.is_dir():
        if folder.exists() or not os.access(existing(folder.parent), os.W_OK):
            yield verdict(f"the cache {folder} can't be made. {remedy}")
        else:
            yield ok(f"the cache {folder}: not there yet")
        return
    places = [folder, *folder.glob("*"), *folder.glob("downloads/*"), *folder.glob("models/*")]
    locks = [path for path in (*places, *folder.glob("*/*.lock")) if path.suffix == ".lock"]
    closed = [path for path in places if path.is_dir() and not os.access(path, os.W_OK | os.X_OK)]
    closed += [path for path in locks if not path.is_file() or not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        yield verdict(f"the cache {folder}: {closed[0]} can't be written to. {remedy}: sudo chown -R $USER {folder}")
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.") as probe:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)  # some network filesystems have no locks
    yield ok(f"the cache {folder}: {_content(folder)}")


def _content(folder: Path) -> str:
    """How much is in a folder, for a person; counted for a moment only."""
    size, files, end = 0, 0, time.monotonic() + COUNTING
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - there are 100,000 of them
            except OSError:  # gone meanwhile
                continue
        files += len(names)
        if time.monotonic() > end:
            return f"more than {size_text(size)} in {files} files"
    return f"{size_text(size)} in {files} files"


def terminal(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Whether a chat can be read on the terminal."""
    if not (os.isatty(0) and os.isatty(1)):
        yield ok("no terminal here: a run takes its prompt from PROMPT= or standard input")
        return
    size, term = os.get_terminal_size(1), environment.get("TERM", "")
    doubts = []
    if 0 < size.columns < LEAST_TERMINAL[0] or 0 < size.lines < LEAST_TERMINAL[1]:
        least = "x".join(map(str, LEAST_TERMINAL))
        doubts.append(f"terminal of {size.columns}x{size.lines}: make it larger, {least} or more")
    if term in ("", "dumb", "unknown"):
        doubts.append(
            f"terminal: TERM={term} says that it can do nothing. Type for example: export TERM=xterm-256color"
        )
    names = [environment.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    language = next(filter(None, names), "") or "(none)"
    if not re.search("utf-?8", language, re.IGNORECASE):
        doubts.append(f"terminal: its language {language} is not UTF-8. Type for example: export LANG=C.UTF-8")
    yield from map(warn, doubts)
    if not doubts:
        yield ok(f"terminal of {size.columns}x{size.lines}, {term}, UTF-8")


def writable(top: Path) -> Iterator[Finding]:
    """Whether the tree can be built in."""
    check_writable(top)
    build = top / "build"
    if build.is_dir():
        check_writable(build)
    yield ok(f"{top}: can be built in")
