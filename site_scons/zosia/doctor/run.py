"""`scons doctor`: whether `scons run` with the same variables can work here, and what to type where it can't."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia.base.process import missing, run
from zosia.disk import ext4
from zosia.doctor import checks
from zosia.doctor.checks import Finding, Verdict, fail, look, ok, warn
from zosia.inputs import model_files
from zosia.inputs.catalogue import Pin
from zosia.machine import host
from zosia.machine.qemu import Accel
from zosia.model.plan import gib
from zosia.run import probe
from zosia.settings import boards, reading
from zosia.settings.settings import DISKS, Settings
from zosia.settings.variables import DEFAULTS
from zosia_build import buildroot, kernel, llama
from zosia_scons import read_record

WANTED = ("kernel", "initramfs", "model.img")  # what a run builds
# Bytes that a build writes, rounded up from what was measured (Buildroot's with a toolchain was not): by the label of
# its line, in build/ and in the cache.
BUILD_SIZES = {"LINUX": 200 << 20, "LLAMA": 150 << 20, "BUILDROOT": 8 << 30, "CPIO": 20 << 20}
CACHE_SIZES = {"LINUX": 100 << 20, "LLAMA": 1 << 30}
UNPACKED = 12  # times the size of a source's archive: what fetch.source_tree asks for
LABELS = {"LINUX": "linux", "LLAMA": "llama-cpp", "BUILDROOT": "buildroot"}  # which source a step unpacks


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What `scons run` would build: targets by the label of their line."""

    steps: Mapping[str, tuple[str, ...]]

    def __contains__(self, label: str) -> bool:
        return label in self.steps


def main(env: Any, unknown: Iterable[str], top: Path, *, given: Mapping[str, str], launched: Path) -> int:
    """Print a line for each thing that a run takes, and say whether it can work: 0, or 1 if it can't.

    Raises:
        ZosiaError: a variable is unknown, or a value is not what it should be.
    """
    values = {name: str(env[name]) for name in DEFAULTS}
    asked = values["ACCEL"]
    if asked in [accel.value for accel in Accel]:  # that it can't be used is a finding, and no misunderstanding
        values["ACCEL"] = "auto"
    settings = reading.read(values, unknown, top, given=given, launched=launched)
    counts = dict.fromkeys(Verdict, 0)
    for check in _checks(settings, asked, top, lambda: todo(top, given, launched)):
        for finding in look(check):
            counts[finding.verdict] += 1
            print(style.painted(style.line(finding.verdict.value, finding.text), sys.stdout), flush=True)
    failed, warned = counts[Verdict.FAIL], counts[Verdict.WARN]
    if failed:
        print(f"`scons run` can't work yet: {failed} of these lines begin{'s' * (failed == 1)} with fail.")
    else:
        print(f"`scons run` can work{', though not as well as it could' * bool(warned)}.")
    return 1 if failed else 0


def todo(top: Path, given: Mapping[str, str], launched: Path) -> Todo:
    """What SCons would do for a run, which it says itself, and starts nothing.

    Raises:
        ZosiaError: it refuses.
    """
    typed = [f"{name}={value}" for name, value in given.items() if name not in ("ACCEL", "BOARD")]  # may be refused
    argv = [sys.executable, "-m", "SCons", "-n", "-C", str(top), *WANTED, *typed]
    done = run(argv, cwd=launched, env={"PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    if done.returncode != 0:
        said = re.search("^(?:scons: .*)?zosia: error: (.*)$", done.stdout, re.MULTILINE)
        raise ZosiaError(said[1] if said else f"{shlex.join(argv)} ended with status {done.returncode}")
    steps: dict[str, tuple[str, ...]] = {}
    for label, target in re.findall(r"^  ([A-Z0-9]+) +(\S.*)$", done.stdout, re.MULTILINE):
        steps[label] = (*steps.get(label, ()), target)
    return Todo(steps=steps)


def _checks(
    settings: Settings, asked: str, top: Path, find_todo: Callable[[], Todo]
) -> Iterator[Callable[[], Iterable[Finding]]]:
    """What is looked at, one after the other."""
    yield lambda: checks.python(top / "requirements.lock")
    yield lambda: checks.qemu(settings.arch)
    if not missing([f"qemu-system-{settings.arch}"]):  # that is said, and nothing can be tried without
        yield lambda: _acceleration(settings, asked)
    yield lambda: memory(settings)
    yield checks.terminal
    yield lambda: checks.writable(top)
    found: list[Todo] = []

    def ask() -> Iterator[Finding]:
        found.append(find_todo())
        yield from ()

    yield ask
    yield lambda: checks.cache(settings.cache, needed=not found or bool(found[0].steps))
    if not found:  # and then nothing more is known
        return
    pins: list[Pin] = []

    def missing_here() -> Iterator[Finding]:
        pins.extend(to_fetch(settings, found[0]))
        yield from sources(pins)

    yield lambda: disk_tools(settings, found[0])
    yield lambda: compilers(settings, found[0])
    yield lambda: paths(settings, found[0], top)
    yield missing_here
    yield lambda: checks.room(sizes(settings, found[0], pins, top))


def _acceleration(settings: Settings, asked: str) -> Iterator[Finding]:
    """As `acceleration`, which remembers what it tried, in a cache that is there."""
    with nullcontext(settings.cache) if settings.cache.is_dir() else tempfile.TemporaryDirectory() as folder:
        yield from acceleration(replace(settings, cache=Path(folder)), asked)


def acceleration(settings: Settings, asked: str) -> Iterator[Finding]:
    """Which accelerator a run takes; tried with the kernel, where that is built."""
    named = asked != "auto"
    settings = replace(settings, accel=host.accelerator(asked, settings.arch), accel_named=named)
    machine = replace(settings.small_machine(), terminal=(24, 80, "dumb"))
    built = machine.kernel.is_file() and machine.initramfs.is_file()
    if settings.accel is not Accel.TCG:
        name = settings.accel.value
        if not built:
            yield ok(f"{name} can be opened; whether a guest runs is known when the kernel is built")
            return
        board, failure = boards.tried(settings, machine)
        if board:
            yield ok(f"{name}: a guest runs on {board.value}")
            return
        if named:
            raise host.accel_error(name, failure)
        refusal = f"{name} was tried, and {failure}"
    else:
        refusal = "" if asked == Accel.TCG.value else _refusal(settings.arch)
    if refusal:
        yield warn(f"the guest is emulated (tcg), which is slow: {refusal}{_remedy(settings.arch)}")
    if built:
        slow = replace(settings, accel=Accel.TCG, accel_named=True)
        yield emulation(slow)
    elif not refusal:
        yield ok("tcg, as typed")


def emulation(settings: Settings) -> Finding:
    """Whether QEMU, as it is here, boots the kernel at all."""
    least = replace(settings.small_machine(), disk=None, cpus=1, verbose=True)
    failure = probe.failure(least, settings.cache, tries=probe.TCG_TRIES)
    return fail(f"tcg: {failure}. Its command line is shown by: scons -n run") if failure else ok("tcg: a guest runs")


def _refusal(arch: str) -> str:
    return host.hvf_refusal(arch) if sys.platform == "darwin" else host.kvm_refusal(arch)


def _remedy(arch: str) -> str:
    """What to type to have a guest that is not emulated, where there is something."""
    if arch != host.arch():
        return f". Type ARCH={host.arch()}" if host.arch() in llama.LEVELS else ""
    if sys.platform.startswith("linux") and not host.KVM.exists():
        return ". Switch virtualization on in the firmware, or in the hypervisor around this machine"
    if sys.platform.startswith("linux") and not os.access(host.KVM, os.R_OK | os.W_OK):
        return ". Type: sudo usermod -aG kvm $USER, and log in again"
    return ""


def disk_tools(settings: Settings, steps: Todo) -> Iterator[Finding]:
    """What makes the model's disk."""
    needed = "EXT4" in steps
    if settings.image_tool == "genext2fs":
        yield from checks.tools("for the model's disk", ["genext2fs"], needed=needed)
        return
    found = list(checks.tools("for the model's disk", ["mke2fs", "debugfs", "e2fsck"], needed=needed))
    if found[0].verdict is Verdict.OK:
        found = [ok(f"e2fsprogs {ext4.check_version()} (for the model's disk)")]
    yield from found


def compilers(settings: Settings, steps: Todo) -> Iterator[Finding]:
    """What compiles that which is still to be compiled."""
    if "LINUX" in steps:
        yield from checks.kernel_tools(settings.arch)
    if "BUILDROOT" in steps:
        if settings.buildroot:
            buildroot.version(settings.buildroot)
        yield from checks.tools("for Buildroot", buildroot.HOST_TOOLS)
        buildroot.check_host()
    if "LLAMA" in steps:
        yield from checks.llama_tools()
    if not {"LINUX", "BUILDROOT", "LLAMA"} & set(steps.steps):
        yield ok("compilers: all is compiled, and none is needed")


def paths(settings: Settings, steps: Todo, top: Path) -> Iterator[Finding]:
    """Whether makefiles can name the folders."""
    if {"LINUX", "BUILDROOT"} & set(steps.steps):
        for folder in (top, settings.cache.resolve(), *filter(None, (settings.kernel, settings.buildroot))):
            kernel.check_path(folder, "The kernel")
    yield from ()


def to_fetch(settings: Settings, steps: Todo) -> Iterator[Pin]:
    """What is to be downloaded: pins of which nothing usable is in the cache."""
    from zosia.inputs import fetch

    recorded = {path.stem: read_record(path) for path in Path("build/sources").glob("*.json")}
    names = {Path(target).stem: True for target in steps.steps.get("INPUT", ())}  # True: the file itself is wanted
    for label, name in LABELS.items():
        own = {"LINUX": settings.kernel, "LLAMA": settings.llama_src, "BUILDROOT": settings.buildroot}[label]
        if label in steps and not own:
            names.setdefault(name, False)
    for target in steps.steps.get("TAKE", ()):
        if Path(target).name == "busybox":
            names.setdefault(f"busybox-{settings.arch}", True)
        elif not settings.kernel:
            names.setdefault(f"linux-distro-{settings.arch}", True)
    for name, archive in names.items():
        pin = recorded.get(name, settings.sources[name])
        unpacked = fetch.tree_of(pin, settings.cache).is_dir()
        if not fetch.place(pin, settings.cache).is_file() and (archive or not unpacked):
            yield pin
    if "EXT4" in steps and settings.model:
        model = model_files.pinned(settings.model, settings.cache)
        whole = [found for found in model_files.stored({model.name: model}, settings.cache) if found.state != "partial"]
        if not whole and not (model.member and model_files.wheel_of(model, settings.cache).is_file()):
            yield model


def sizes(settings: Settings, steps: Todo, pins: Iterable[Pin], top: Path) -> Iterator[tuple[Path, int]]:
    """Folders, and the bytes that are still to be written there."""
    from zosia.inputs import fetch

    build, cache = top / "build", settings.cache
    yield build, sum(size for label, size in BUILD_SIZES.items() if label in steps)
    yield cache, sum(size for label, size in CACHE_SIZES.items() if label in steps)
    yield cache, sum(pin.size for pin in pins)
    for label, name in LABELS.items():
        pin = settings.sources[name]
        if label in steps and not fetch.tree_of(pin, cache).is_dir():
            yield cache, UNPACKED * pin.size
    if "LLAMA" in steps and not llama.home_of(cache).exists():
        yield cache, llama.ZIG_SIZE
    if "EXT4" in steps:
        if settings.model:
            size = model_files.pinned(settings.model, cache).gguf_size
            if settings.model.member and not model_files.place_of(settings.model, cache).is_file():
                yield cache, size  # unpacked from the wheel
        else:
            size = sum(part.stat().st_size for part in settings.model_parts)
        yield top / DISKS, ext4.image_size([size])


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the model fits into this machine."""
    given, (total, _) = settings.plan(), host.memory()
    for note in settings.notes():
        yield warn(f"memory: {note[len(style.line('', '')) :]}")
    what = f"{settings.model_name} with a context of {given.context} tokens"
    if given.need:
        yield ok(f"memory: this machine has {gib(total)} GiB; {what} gets {gib(given.memory)} GiB")
    else:
        yield warn(f"memory: what {what} takes is known when it is here")


def sources(pins: list[Pin]) -> Iterator[Finding]:
    """Whether what is to be downloaded can be had."""
    if not pins:
        yield ok("network: all that is needed is here, and none is needed")
        return
    from zosia.doctor import reach

    failures = reach.failures(reach.questions(pins))
    for name, failure in failures.items():
        answers = "answer" if name == reach.APT else "answers"
        yield fail(f"network: {failure}") if failure else ok(f"network: {name} {answers}")
    if not any(failures.values()):
        yield ok(f"network: {size_text(sum(pin.size for pin in pins))} are to be downloaded")
