"""Probes: QEMU is started, and has to answer soon.

One finds out whether an accelerator that can be opened also runs a guest: inside another virtual machine, /dev/kvm may
open, make a guest, and then never bring a kernel through its first instructions. The other one finds out whether a
guest can map the model's disk. One needs no kernel: it runs a PC's firmware. And two, without a guest, find out
whether QEMU's sandbox works, which it does not in every container, and whether QEMU starts in a fence.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from zosia.base import style
from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, temporary_folder
from zosia.base.patience import patience
from zosia.base.process import find, missing, run
from zosia.disk import ext4
from zosia.machine import fence, pmem
from zosia.machine.boards import Accel
from zosia.machine.qemu import SANDBOX, Bus, Machine
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
ENDED = "QEMU ended at once"
PC = "qemu-system-x86_64"
# SeaBIOS writes its name to this port as soon as it runs; `-cpu max` is what a guest gets.
FIRMWARE = ("-nodefaults", "-no-user-config", "-machine", "q35", "-m", "64M", "-cpu", "max", "-display", "none")
FIRMWARE_PORT = ("-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402")
FIRMWARE_ANSWER = b"SeaBIOS"
TAIL = 1 << 12  # bytes of what it shows that are kept: a guest in a loop may show anything
EMPTY = ("-nodefaults", "-no-user-config", "-machine", "none", "-display", "none", "-monitor", "stdio")
MONITOR = b"(qemu)"  # its prompt
SANDBOX_TRY = 10.0
STATUS = Path("/proc/self/status")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of the host


def failure(machine: Machine, cache: Path, *, dry_run: bool = False, tries: Sequence[float] | None = None) -> str:
    """Return the reason why this machine's accelerator runs no guest here; "" when it does.

    Remembered for this QEMU and this kernel until the host starts again (macOS: until it is updated).

    Args:
        machine: one whose kernel shows its messages.
        dry_run: start nothing; an unknown accelerator counts as working.
        tries: seconds for each try, if not those of TRIES.
    """
    name = _name(machine)
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
        name = f"dax-{_name(machine)}"
        return _remembered(name, probing, cache, MOUNTED, tries)


def firmware_failure(accel: Accel, cache: Path, *, dry_run: bool = False) -> str:
    """Return the reason why this accelerator does not run a PC's firmware; "" when it does, or QEMU is not installed.

    Remembered as `failure` is. It needs no kernel, which may have to be built for minutes.
    """
    if missing([PC]):
        return ""
    argv = [PC, *FIRMWARE, "-accel", accel.value, *FIRMWARE_PORT]
    memory = cache / "probes" / f"firmware-{accel.value}.json"
    tries = () if dry_run else TRIES
    start = partial(_failed, argv, FIRMWARE_ANSWER)
    return _known_or_tried(memory, _host([Path(find(PC))], []), tries, start)


def _name(machine: Machine) -> str:
    """Return a name for what runs a guest."""
    return f"{machine.accel.value}-{machine.board.name}{'-own-gic' * machine.board.own_gic}"


def sandbox_failure(arch: str, cache: Path, *, dry_run: bool = False) -> str:
    """Return the reason why QEMU's sandbox can't be used here; "" when it can.

    QEMU has to end with its sandbox, and to start without: anything else is another fault, to be found by a run. What
    is remembered of a failure is for dry runs: others try again, so that none is without a sandbox for an old reason.
    """
    program = f"qemu-system-{arch}"
    memory = cache / "probes" / f"sandbox-{arch}.json"
    host = _host([Path(find(program))], _seccomp())
    known = _known(memory, host)
    if dry_run or known == "":
        return known or ""
    plain = [program, *EMPTY]
    what, said = _start([*plain, "-sandbox", SANDBOX], MONITOR, SANDBOX_TRY * patience())
    if what not in ("", ENDED) or (what and _start(plain, MONITOR, SANDBOX_TRY * patience()) != ("", "")):
        return ""
    _remember(memory, host, said or what)
    return said or what


def fence_failure(machine: Machine, cache: Path, *, dry_run: bool = False) -> str:
    """Return the reason why the QEMU of such a machine does not start in its fence; "" when it does.

    That is another kind of QEMU than zosia knows: a script that starts it, or one with its parts in unusual places.
    Remembered as by `sandbox_failure`.
    """
    around, argv = replace(machine, held=True).fence({}), machine.idle_argv()
    memory = cache / "probes" / f"fence-{machine.arch}-{machine.accel.value}-{machine.board.name}.json"
    host = _host([Path(find(argv[0]))], [*_seccomp(), f"Landlock {fence.abi()}", f"sandbox: {machine.sandbox}"])
    known = _known(memory, host)
    if dry_run or known == "":
        return known or ""
    what, said = _start(argv, MONITOR, SANDBOX_TRY * patience(), around)
    if what and _start(argv, MONITOR, SANDBOX_TRY * patience()) != ("", ""):
        return ""
    _remember(memory, host, said or what)
    return said or what


def _seccomp() -> list[str]:
    """Return the filters of system calls that this process is under: those of a container may refuse another."""
    with suppress(OSError):
        return [line for line in STATUS.read_text().splitlines() if line.startswith(("Seccomp", "NoNewPrivs"))]
    return []


def _remembered(name: str, machine: Machine, cache: Path, answer: bytes, tries: Sequence[float]) -> str:
    """Return the remembered failure, or else find out; without tries, an unknown one is none."""
    kernel = hashlib.sha256(os.fsencode(machine.kernel.absolute())).hexdigest()[:8]  # each base has its own
    memory = cache / "probes" / f"{name}-{kernel}.json"
    others = [f"sandbox: {machine.sandbox}"]
    if machine.bus is Bus.DAX and machine.disk:
        others.append(f"device: {_device(machine.disk.parent)}")  # another filesystem may map files, or not
    host = _host([Path(find(f"qemu-system-{machine.arch}")), machine.kernel], others)
    return _known_or_tried(memory, host, tries, partial(_boot, machine, answer))


def _known_or_tried(memory: Path, host: list[object], tries: Sequence[float], start: Callable[[float], str]) -> str:
    """Return the remembered failure, or that of the last try; each has so many seconds, times patience."""
    known = _known(memory, host)
    if known is not None:
        return known
    found = ""
    for seconds in tries:
        found = start(seconds * patience())
        if not found:
            break
    if tries:
        _remember(memory, host, found)
    return found


def _host(files: Sequence[Path], others: Sequence[str]) -> list[object]:
    """Return the state of this host, with which a memory counts."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    stats = [path.stat() for path in files]
    return [os.uname().release, boot, *(part for stat in stats for part in (stat.st_mtime_ns, stat.st_size)), *others]


def _device(folder: Path) -> int:
    """Return the number of the filesystem that a folder is on."""
    return folder.stat().st_dev


def _known(memory: Path, host: list[object]) -> str | None:
    """Return the failure that is remembered of this host, None if nothing is."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        return str(known["failure"]) if known["host"] == host else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the first time, or damaged


def _remember(memory: Path, host: list[object], failure: str) -> None:
    with suppress(OSError, ZosiaError), replacing(memory) as temporary:  # it can be tried again where none is kept
        temporary.write_text(json.dumps({"host": host, "failure": failure}) + "\n", encoding="utf-8")


def _boot(machine: Machine, answer: bytes, seconds: float) -> str:
    """Start the machine and wait for these words; return the reason when they don't come."""
    if machine.bus is Bus.DAX and machine.disk and not machine.pmem:
        machine.disk.write_bytes(bytes(ext4.image_size([0])))
        run([*ext4.MKE2FS, machine.disk], env=ext4.PLAIN)
        if refusal := pmem.map_refusal(machine.disk):
            return f"{refusal}; set TMPDIR= to a folder on another one"
        machine = pmem.attach(machine, machine.disk.parent)
    return _failed(machine.argv(Path(os.devnull)), answer, seconds)


def _failed(argv: Sequence[str], answer: bytes, seconds: float) -> str:
    """Start QEMU and wait for these words; return the reason when they don't come."""
    what, said = _start(argv, answer, seconds)
    if said.startswith(style.ERROR):
        return "the guest's kernel could not mount it"
    return f"{what} ({said})" if said else what


def _start(argv: Sequence[str], answer: bytes, seconds: float, around: fence.Fence | None = None) -> tuple[str, str]:
    """Start QEMU and wait for these words; when they don't come, return what it did instead, and its last line."""
    program, *arguments = argv
    shown, deadline = b"", time.monotonic() + seconds
    try:
        qemu = _child([find(program), *arguments], around)
    except (OSError, subprocess.SubprocessError) as error:
        if around is None:
            raise
        return ENDED, getattr(error, "strerror", "") or "Landlock refused"  # its program may not be started
    with qemu:
        assert qemu.stdout
        output, loop = qemu.stdout.fileno(), Loop()
        try:
            while (left := deadline - time.monotonic()) > 0 and loop.serve(left, read=output):
                part = os.read(output, 4096)
                shown = shown[-TAIL:] + part
                if answer in shown:
                    return "", ""
                if not part:
                    *_, last = ["", *shown.decode(errors="replace").strip().splitlines()]
                    last = "".join(filter(str.isprintable, last))
                    return ENDED, last.removeprefix(f"{program}: ").removeprefix(f"-sandbox {SANDBOX}: ").rstrip(".")
        finally:
            qemu.kill()
    return f"a guest was silent for {seconds:.0f} s", ""


def _child(argv: list[str], around: fence.Fence | None) -> Child:
    words = fence.command(argv, around)
    with fence.around(argv[0], around) as hold:
        return Child(words, hold=hold, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
