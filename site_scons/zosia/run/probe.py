"""Probes: a guest is started, and has to answer soon.

One finds out whether an accelerator that can be opened also runs a guest: inside another virtual machine, /dev/kvm may
open, make a guest, and then never bring a kernel through its first instructions. The other one finds out whether a
guest can map the model's disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zosia.base import style
from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, temporary_folder
from zosia.base.patience import patience
from zosia.base.process import find, run
from zosia.disk import ext4
from zosia.machine import pmem
from zosia.machine.boards import Accel
from zosia.machine.qemu import Bus, Machine
from zosia.machine.task import Mode
from zosia.model.plan import LEAST_MEMORY
from zosia.run.loop import Loop

ANSWER = b"Linux version"
# Seconds (times patience) that a guest has. The second try is for what starts slowly for the first time, and for
# small computers: what they would lose by a mistake is a factor of ten or more.
TRIES = (1.0, 4.0)
TCG_TRIES = (30.0,)  # emulated; there is nothing else to fall back to
MOUNTED = b"/dev/pmem0 /models"
DAX_TRIES = (4.0, 10.0)  # to /init, with KVM or HVF
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of the host


def failure(machine: Machine, cache: Path, *, dry_run: bool = False, tries: Sequence[float] | None = None) -> str:
    """Return the reason why this machine's accelerator runs no guest here; "" when it does.

    Remembered for this QEMU and this kernel until the host starts again (macOS: until it is updated).

    Args:
        machine: one whose kernel shows its messages.
        dry_run: start nothing; an unknown accelerator counts as working.
        tries: seconds for each try, if not those of TRIES.
    """
    name = f"{machine.accel.value}-{machine.board.name}"
    return _remembered(name, machine, cache, ANSWER, () if dry_run else tries or TRIES)


def dax_failure(machine: Machine, cache: Path) -> str:
    """Return the reason why a guest like this machine can't map a disk from the host; "" when it can.

    Remembered as `failure` is. The disk is made for the probe: a fault of a model's own disk is another matter.

    Raises:
        ZosiaError: no disk can be made.
    """
    tries = TCG_TRIES if machine.accel is Accel.TCG else DAX_TRIES
    with temporary_folder() as folder:
        disk = folder / "disk"
        least = replace(machine, cpu="", cpus=1, memory=LEAST_MEMORY)
        probing = replace(least, disk=disk, bus=Bus.DAX).given(mode=Mode.PROBE)
        name = f"dax-{machine.accel.value}-{machine.board.name}"
        return _remembered(name, probing, cache, MOUNTED, tries)


def _remembered(name: str, machine: Machine, cache: Path, answer: bytes, tries: Sequence[float]) -> str:
    """Return the remembered failure, or else find out; without tries, an unknown one is none."""
    kernel = hashlib.sha256(os.fsencode(machine.kernel.absolute())).hexdigest()[:8]  # each base has its own
    memory = cache / "probes" / f"{name}-{kernel}.json"
    files = [path.stat() for path in (Path(find(f"qemu-system-{machine.arch}")), machine.kernel)]
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    host = [platform.release(), boot, *(part for file in files for part in (file.st_mtime_ns, file.st_size))]
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["host"] == host:
            return str(known["failure"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first time, or damaged
    found = ""
    for seconds in tries:
        found = _boot(machine, answer, seconds * patience())
        if not found:
            break
    if tries:
        with suppress(OSError, ZosiaError), replacing(memory) as temporary:  # it can be tried again where none is kept
            temporary.write_text(json.dumps({"host": host, "failure": found}) + "\n", encoding="utf-8")
    return found


def _boot(machine: Machine, answer: bytes, seconds: float) -> str:
    """Start the machine and wait for these words; return the reason when they don't come."""
    if machine.bus is Bus.DAX and machine.disk and not machine.pmem:
        machine.disk.write_bytes(bytes(ext4.image_size([0])))
        run([*ext4.MKE2FS, machine.disk], env=ext4.PLAIN)
        machine = pmem.attach(machine, machine.disk.parent)
    program, *arguments = machine.argv(Path(os.devnull))
    shown, deadline = b"", time.monotonic() + seconds
    argv = [find(program), *arguments]
    with Child(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        assert qemu.stdout
        output, loop = qemu.stdout.fileno(), Loop()
        try:
            while loop.serve(deadline - time.monotonic(), read=output):
                part = os.read(output, 4096)
                shown += part
                if answer in shown:
                    return ""
                if not part:
                    *_, last = ["", *shown.decode(errors="replace").strip().splitlines()]
                    reason = last.removeprefix(f"{program}: ").rstrip(".")
                    if last.startswith(style.ERROR):
                        return "the guest's kernel could not mount it"
                    return f"QEMU ended at once{f' ({reason})' if reason else ''}"
        finally:
            qemu.kill()
    return f"a guest was silent for {seconds:.0f} s"
