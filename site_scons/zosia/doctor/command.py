"""`zosia doctor`: the checks of a run with the same options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base.files import cache_root
from zosia.base.places import CLONE, DISKS, INSTALLED, ROOT, SAVED
from zosia.doctor import checks, machine, model
from zosia.doctor.findings import Check, Finding, examine, ok
from zosia.inputs.catalogue import Pin
from zosia.machine import host
from zosia.machine.boards import BOARDS
from zosia.settings import machines, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import NATIVE


@dataclass(frozen=True, kw_only=True)
class Todo:
    """Work of a run before its machine starts: the model's disk, and the downloads for it."""

    disk: bool
    pins: tuple[Pin, ...]


def main(values: Mapping[str, str], given: Mapping[str, str], launched: Path) -> int:
    """Print a line for each requirement of a run, and return 1 if a run can't work, else 0.

    An invalid value is a finding, too: what does not depend on it is still checked.
    """
    return examine(_checks(values, given, launched))


def _checks(values: Mapping[str, str], given: Mapping[str, str], launched: Path) -> Iterator[Check]:
    """Yield all checks, in the order in which their findings are shown."""
    run: list[Settings] = []
    todo: list[Todo] = []

    def read() -> Iterator[Finding]:
        run.append(reading.read(machine.tolerant(values), (), ROOT, given=given, launched=launched))
        yield from ()

    def look_ahead() -> Iterator[Finding]:
        todo.append(_todo(run[0]))
        yield from ()

    yield _packages
    yield read
    if run:
        yield lambda: _kernel(run[0])
        yield from machine.of_run(run[0], values["ACCEL"])
        yield look_ahead
    else:
        arch = host.arch() if values["ARCH"] == NATIVE else values["ARCH"]
        if arch in BOARDS:
            yield lambda: checks.qemu(arch)
        yield machine.processors
        yield checks.terminal
    needed = not todo or todo[0].disk
    yield lambda: _folders(disk=needed)
    yield lambda: checks.cache(cache_root(), needed=needed)
    if todo:
        yield lambda: model.disk_tools(run[0].image_tool, needed=needed)
        yield lambda: model.network(todo[0].pins)
        yield lambda: model.blocks(run[0])
        yield lambda: checks.room(_sizes(run[0], todo[0]))


def _packages() -> Iterator[Finding]:
    if INSTALLED:
        return checks.python(checks.required("zosia"), "zosia")
    lock = CLONE / "requirements.lock"
    return checks.python(checks.locked(lock), lock.name)


def _kernel(run: Settings) -> Iterator[Finding]:
    machines.check_kernel(run)
    yield ok(f"the guest's kernel and programs for {run.arch}")


def _todo(run: Settings) -> Todo:
    if run.model.is_made(run.image_tool):
        return Todo(disk=False, pins=())
    return Todo(disk=True, pins=tuple(model.to_fetch(run)))


def _folders(*, disk: bool) -> Iterator[Finding]:
    """Check the folders of model disks and of saved machines; without the latter, each run boots."""
    if not INSTALLED:
        yield from checks.writable(CLONE)
        return
    yield from checks.folder(DISKS, "model disks", "XDG_DATA_HOME", needed=disk)
    yield from checks.folder(SAVED, "saved machines", "ZOSIA_CACHE", needed=False)


def _sizes(run: Settings, todo: Todo) -> Iterator[tuple[Path, int]]:
    """Yield folders, and the bytes that are still to be written there."""
    yield run.cache, sum(pin.size for pin in todo.pins)
    yield DISKS.absolute(), 0
    if todo.disk:
        yield from model.sizes(run)
