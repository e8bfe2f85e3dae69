"""`scons doctor`: all checks of `scons run` with the same variables, and the checks of its build."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.places import repair
from zosia.base.process import run
from zosia.doctor import checks, machine, model
from zosia.doctor.findings import Check, Finding, Verdict, examine, fail, ok
from zosia.inputs.catalogue import Pin, read_record
from zosia.settings.variables import DEFAULTS
from zosia_build import buildroot, kernel, llama, settings
from zosia_build.settings import Build

WANTED = ("kernel", "initramfs", "model.img")  # the targets that a run builds
# Bytes that a step writes to build/ and to the cache, by its label. They are measured and rounded up, except for a
# Buildroot that builds its own toolchain.
BUILD_SIZES = {"LINUX": 200 << 20, "LLAMA": 150 << 20, "BUILDROOT": 8 << 30, "CPIO": 20 << 20}
CACHE_SIZES = {"LINUX": 100 << 20, "LLAMA": 1 << 30}
UNPACKED = 12  # size of an unpacked source, in sizes of its archive; fetch.source_tree demands the same
LABELS = {"LINUX": "linux", "LLAMA": "llama-cpp", "BUILDROOT": "buildroot"}  # the source that a step unpacks


@dataclass(frozen=True, kw_only=True)
class Todo:
    """Steps that `scons run` would take: their targets, by label."""

    steps: Mapping[str, tuple[str, ...]]

    def __contains__(self, label: str) -> bool:
        return label in self.steps


def main(env: Mapping[str, Any], unknown: Iterable[str], top: Path, *, given: Mapping[str, str], launched: Path) -> int:
    """Print a line for each requirement of a run, and return 1 if a run can't work, else 0.

    Raises:
        ZosiaError: a variable is unknown, or a value is invalid.
    """
    values = {name: str(env[name]) for name in DEFAULTS}
    build = settings.read(machine.tolerant(values), unknown, top, given=given, launched=launched)
    known = {**given, "ARCH": build.run.arch}  # a dry run tries nothing, and might take another one for ARCH=native
    return examine(_checks(build, values["ACCEL"], top, lambda: todo(top, known, launched)))


def todo(top: Path, given: Mapping[str, str], launched: Path) -> Todo:
    """Return the steps of a run, as a dry run of SCons reports them.

    Raises:
        ZosiaError: SCons fails.
    """
    # SCons refuses an ACCEL or BOARD that does not work here, which is a finding of another check.
    variables = [f"{name}={value}" for name, value in given.items() if name not in ("ACCEL", "BOARD")]
    argv = [sys.executable, "-m", "SCons", "-n", "-C", str(top), *WANTED, *variables]
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", prefix="zosia.") as file:
        done = run(argv, cwd=launched, env={"PYTHONDONTWRITEBYTECODE": "1", "ZOSIA_STEPS": file.name}, check=False)
        reported = [json.loads(line) for line in file]
    steps: dict[str, tuple[str, ...]] = {}
    for step in reported:
        if "error" in step:
            raise ZosiaError(step["error"])
        steps[step["label"]] = (*steps.get(step["label"], ()), step["target"])
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ZosiaError(f"{shlex.join(argv)} failed: {reason}")
    return Todo(steps=steps)


def _checks(build: Build, requested: str, top: Path, find_todo: Callable[[], Todo]) -> Iterator[Check]:
    """Yield all checks, in the order in which their findings are shown."""
    run = build.run
    yield lambda: checks.python(checks.locked(top / "requirements.lock"), "requirements.lock")
    yield from machine.of_run(run, requested)
    yield lambda: checks.writable(top)
    found: list[Todo] = []

    def dry_run() -> Iterator[Finding]:
        found.append(find_todo())
        yield from ()

    yield dry_run
    yield lambda: checks.cache(run.cache, needed=not found or bool(found[0].steps))
    if not found:  # the dry run failed, so the steps are unknown
        return
    pins: list[Pin] = []

    def missing_here() -> Iterator[Finding]:
        pins.extend(to_fetch(build, found[0]))
        yield from model.network(pins)

    yield lambda: model.disk_tools(run.image_tool, needed="EXT4" in found[0])
    yield lambda: compilers(build, found[0])
    yield lambda: paths(build, found[0], top)
    yield missing_here
    yield lambda: checks.room(sizes(build, found[0], pins, top))


def kernel_tools(arch: str) -> Iterator[Finding]:
    """Check the tools that compile the kernel."""
    found = list(checks.tools("for the kernel", kernel.tools(arch)))
    yield from found
    if found[0].verdict is Verdict.OK:
        kernel.check_headers(arch)
        yield from checks.tools("to build the kernel faster the next time", ["ccache"], needed=False)


def llama_tools() -> Iterator[Finding]:
    """Check the tools that compile llama.cpp, which are all Python packages."""
    programs = [Path(sys.executable).with_name(name) for name in ("cmake", "ninja")]
    absent = [program.name for program in programs if not os.access(program, os.X_OK)]
    if absent:
        yield fail(f"{', '.join(absent)}: not found beside {sys.executable} (for llama.cpp). {repair()}")
    else:
        yield ok(f"cmake, ninja, zig {importlib.metadata.version('ziglang')} (for llama.cpp)")


def compilers(build: Build, steps: Todo) -> Iterator[Finding]:
    """Check the tools for everything that is still to be compiled."""
    if "LINUX" in steps:
        yield from kernel_tools(build.run.arch)
    if "BUILDROOT" in steps:
        if build.buildroot:
            buildroot.version(build.buildroot)
        yield from checks.tools("for Buildroot", buildroot.HOST_TOOLS)
        buildroot.check_host()
    if "LLAMA" in steps:
        yield from llama_tools()
    if not {"LINUX", "BUILDROOT", "LLAMA"} & set(steps.steps):
        yield ok("compilers: not needed: everything is built")


def paths(build: Build, steps: Todo, top: Path) -> Iterator[Finding]:
    """Check that makefiles can handle the names of the folders."""
    if {"LINUX", "BUILDROOT"} & set(steps.steps):
        for folder in (top, build.run.cache.resolve(), *filter(None, (build.kernel, build.buildroot))):
            kernel.check_path(folder, "The kernel")
    yield from ()


def to_fetch(build: Build, steps: Todo) -> Iterator[Pin]:
    """Yield the pins still to be downloaded: those with nothing usable in the cache."""
    from zosia.inputs import fetch

    recorded = {path.stem: read_record(path) for path in Path("build/sources").glob("*.json")}
    names = {Path(target).stem: True for target in steps.steps.get("INPUT", ())}  # True: the archive itself is needed
    for label, name in LABELS.items():
        own = {"LINUX": build.kernel, "LLAMA": build.llama_src, "BUILDROOT": build.buildroot}[label]
        if label in steps and not own:
            names.setdefault(name, False)
    for target in steps.steps.get("TAKE", ()):
        if Path(target).name == "busybox":
            names.setdefault(f"busybox-{build.run.arch}", True)
        elif not build.kernel:
            names.setdefault(f"linux-distro-{build.run.arch}", True)
    for name, archive in names.items():
        pin = recorded.get(name, build.sources[name])
        unpacked = fetch.tree_of(pin, build.run.cache).is_dir()
        if not fetch.place(pin, build.run.cache).is_file() and (archive or not unpacked):
            yield pin
    if "EXT4" in steps:
        yield from model.to_fetch(build.run)


def sizes(build: Build, steps: Todo, pins: Iterable[Pin], top: Path) -> Iterator[tuple[Path, int]]:
    """Yield folders, and the bytes that are still to be written there."""
    from zosia.inputs import fetch

    cache = build.run.cache
    yield top / "build", sum(size for label, size in BUILD_SIZES.items() if label in steps)
    yield cache, sum(size for label, size in CACHE_SIZES.items() if label in steps)
    yield cache, sum(pin.size for pin in pins)
    for label, name in LABELS.items():
        pin = build.sources[name]
        if label in steps and not fetch.tree_of(pin, cache).is_dir():
            yield cache, UNPACKED * pin.size
    if "LLAMA" in steps and not llama.home_of(cache).exists():
        yield cache, llama.ZIG_SIZE
    if "EXT4" in steps:
        yield from model.sizes(build.run)
