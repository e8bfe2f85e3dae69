"""Checks of programs, folders and the terminal. A check yields findings and prints nothing; findings.py prints them."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from zosia.base.files import check_writable, ours, size_text
from zosia.base.packages import remedy
from zosia.base.places import repair
from zosia.base.process import missing, run
from zosia.doctor.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The oldest QEMU that accepts our command line: 4.2 added rng-builtin and microvm, 6.0 the property pauth of Arm's
# processors. TRIED_QEMU is the oldest that was tested.
LEAST_QEMU = {"aarch64": (6, 0), "x86_64": (4, 2)}
TRIED_QEMU = (7, 2)
LEAST_PYTHON = (3, 11)
LEAST_TERMINAL = (60, 10)  # columns and rows; in a smaller one lines wrap, but nothing fails
COUNTING = 2.0  # seconds at most for counting a folder's files


def python(needs: Iterable[Requirement], source: str) -> Iterator[Finding]:
    """Check Python's version, and the packages that a source names."""
    shown = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        yield fail(f"Python {shown}: zosia needs {'.'.join(map(str, LEAST_PYTHON))} or later. {repair()}")
        return
    wanted, absent, others = list(needs), [], []
    for need in wanted:
        try:
            found = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(need.name)
            continue
        if not need.specifier.contains(found, prereleases=True):
            others.append(f"{need.name} {found}, not {str(need.specifier).removeprefix('==')}")
    if absent:
        yield fail(f"Python {shown}: missing packages: {', '.join(absent)}. {repair()}")
    elif others:
        yield warn(f"Python {shown}: packages differ from {source} ({'; '.join(others)}). {repair()}")
    else:
        yield ok(f"Python {shown}" + (f" and the {len(wanted)} packages of {source}" if wanted else ""))


def locked(lock: Path) -> Iterator[Requirement]:
    """Yield the packages of a lock file that apply to this machine."""
    lines = re.findall(r"^([\w.-]+==.*?) \\$", lock.read_text(encoding="utf-8"), re.MULTILINE)
    yield from _applicable(lines)


def required(package: str) -> Iterator[Requirement]:
    """Yield what an installed package needs on this machine, but for its extras; nothing for a bare copy of it."""
    with suppress(importlib.metadata.PackageNotFoundError):
        yield from _applicable(importlib.metadata.requires(package) or ())


def _applicable(lines: Iterable[str]) -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    needs = map(Requirement, lines)
    return (need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""}))


def qemu(arch: str) -> Iterator[Finding]:
    """Check that QEMU is installed, starts, and is new enough."""
    program = f"qemu-system-{arch}"
    if missing([program]):
        yield fail(f"{program}: not found. {remedy([program])}")
        return
    done = run([program, "--version"], check=False)
    shown = done.stdout + done.stderr
    match = re.search(r"version (\d+)\.(\d+)(\.\d+)*", shown)
    if not match:
        output = (shown.strip().splitlines() or ["no output"])[-1]
        yield fail(f"{program} does not start ({output}). {remedy([program])}")
        return
    number, version = match[0].removeprefix("version "), (int(match[1]), int(match[2]))
    if version < LEAST_QEMU[arch]:
        least = ".".join(map(str, LEAST_QEMU[arch]))
        yield fail(f"{program} {number}: zosia needs {least} or later. Install a newer QEMU")
    elif version < TRIED_QEMU:
        tried = ".".join(map(str, TRIED_QEMU))
        yield warn(
            f"{program} {number}: may work; the oldest tested version is {tried}. Install a newer QEMU if it fails"
        )
    else:
        yield ok(f"{program} {number}")


def tools(purpose: str, programs: Sequence[str], *, needed: bool = True) -> Iterator[Finding]:
    """Check that programs are installed; a missing one stops a run only if it is `needed` now."""
    absent = missing(programs)
    if absent:
        verdict = fail if needed else warn
        later = "" if needed else ", but not needed now"
        yield verdict(f"{', '.join(absent)}: not found{later} ({purpose}). {remedy(absent)}")
    else:
        yield ok(f"{', '.join(programs)} ({purpose})")


def room(needs: Iterable[tuple[Path, int]]) -> Iterator[Finding]:
    """Check that the disks have room for the bytes still to be written to each folder."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needs:
        there = existing(folder)
        first, before = disks.get(there.stat().st_dev, (there, 0))
        disks[there.stat().st_dev] = first, before + size
    for folder, size in disks.values():
        system = os.statvfs(folder)
        free = system.f_bavail * system.f_frsize
        if free < size:
            needed = f"the disk of {folder}: {size_text(size)} needed, only {size_text(free)} free"
            yield fail(f"{needed}. Make room, or set another folder for downloads with ZOSIA_CACHE=")
        else:
            needed = f"{size_text(size)} needed" if size else "no room needed"
            yield ok(f"the disk of {folder}: {needed}, {size_text(free)} free")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def cache(folder: Path, *, needed: bool) -> Iterator[Finding]:
    """Check that the cache can be used; a read-only one stops a run only if writing to it is `needed`."""
    verdict = fail if needed else warn
    remedy = "Set ZOSIA_CACHE= to a folder of yours"
    if not folder.is_dir():
        if not _can_be_made(folder):
            yield verdict(f"the cache {folder} can't be created. {remedy}")
        else:
            yield ok(f"the cache {folder}: not created yet")
        return
    places = [folder, *folder.glob("*"), *folder.glob("downloads/*"), *folder.glob("models/*")]
    locks = [path for path in (*places, *folder.glob("*/*.lock")) if path.suffix == ".lock"]
    closed = [path for path in places if path.is_dir() and not os.access(path, os.W_OK | os.X_OK)]
    closed += [path for path in locks if not path.is_file() or not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        remedy += f", or take this one over: sudo chown -R $USER {folder}"
        yield verdict(f"the cache {folder}: {closed[0]} can't be written to. {remedy}")
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.") as probe:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails on network filesystems without locks
    yield ok(f"the cache {folder}: {_content(folder)}")


def _content(folder: Path) -> str:
    """Return the size of a folder's files, and their number, as text; counting stops after a moment."""
    size, files, end = 0, 0, time.monotonic() + COUNTING
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - fast, for 100,000 files
            except OSError:  # removed meanwhile
                continue
        files += len(names)
        if time.monotonic() > end:
            return f"more than {size_text(size)} in {files} files"
    return f"{size_text(size)} in {files} files"


def folder(path: Path, purpose: str, variable: str, *, needed: bool) -> Iterator[Finding]:
    """Check that a folder can be written to, or made; else a run stops if that is `needed`. `variable` moves it."""
    there = path.is_dir()
    if _can_be_made(path):
        yield ok(f"the folder of {purpose}, {path}: {'can be written to' if there else 'not created yet'}")
        return
    verdict = fail if needed else warn
    wanted = f"{path}, the folder of {purpose}, can't be {'written to' if there else 'created'}"
    own = f", or type: {ours(path).removeprefix('Type: ')}" if there else ""
    yield verdict(f"{wanted}. Set {variable}= to a folder of yours{own}")


def _can_be_made(path: Path) -> bool:
    """Return whether a folder can be written to, or made."""
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def terminal(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check that the terminal can show a chat."""
    if not (os.isatty(0) and os.isatty(1)):
        yield ok("no terminal: a run reads its prompt from PROMPT= or standard input")
        return
    size, term = os.get_terminal_size(1), environment.get("TERM", "")
    doubts = []
    if 0 < size.columns < LEAST_TERMINAL[0] or 0 < size.lines < LEAST_TERMINAL[1]:
        least = "x".join(map(str, LEAST_TERMINAL))
        doubts.append(f"terminal of {size.columns}x{size.lines}: enlarge it to {least} or more")
    if term in ("", "dumb", "unknown"):
        doubts.append(
            f"terminal: TERM={term} turns line editing and colour off. Type for example: export TERM=xterm-256color"
        )
    names = [environment.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    locale = next(filter(None, names), "") or "(none)"
    if not re.search("utf-?8", locale, re.IGNORECASE):
        doubts.append(f"terminal: its locale {locale} is not UTF-8. Type for example: export LANG=C.UTF-8")
    yield from map(warn, doubts)
    if not doubts:
        yield ok(f"terminal of {size.columns}x{size.lines}, {term}, UTF-8")


def writable(top: Path) -> Iterator[Finding]:
    """Check that the tree can be written to."""
    check_writable(top)
    yield ok(f"{top}: can be written to")
