"""The hardware of a machine: the accelerator, the board and the bus of the model that work best on this host."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.process import missing
from zosia.base.style import say_once
from zosia.machine import fence, host, pmem
from zosia.machine.boards import BOARDS, Accel, Board
from zosia.machine.qemu import Bus, Machine
from zosia.model import plan
from zosia.run import probe
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS, NATIVE

INITRAMFS = "initramfs.cpio.gz"
SANDBOX = sys.platform == "linux"  # a feature of QEMU there only
REMEDY = "Set MODEL_BUS=virtio-blk, or leave MODEL_BUS= out"
FOR_ONE = {"ARCH", "ACCEL", "BOARD", "CPU", "KERNEL", "BUSYBOX"}  # who sets one of them has chosen an architecture


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The accelerator, the board, and the bus that the model is on."""

    accel: Accel
    board: Board
    bus: Bus


def expected(settings: Settings, *, checked: bool = True) -> Hardware:
    """Return the hardware as far as it can be known without starting a guest; unchecked, a bus that may not work.

    Raises:
        ZosiaError: the requested board or bus does not work with the other settings.
    """
    board = choose_board(settings, settings.accel)
    if checked:
        check_bus(settings, board)
    return Hardware(accel=settings.accel, board=board, bus=choose_bus(settings, board))


def working(settings: Settings, initramfs: str = INITRAMFS) -> Hardware:
    """Return hardware that is known to work: guests are started to find out, once per boot of the host.

    Raises:
        ZosiaError: what was requested does not work.
    """
    accel, board = working_board(settings, initramfs)
    return Hardware(accel=accel, board=board, bus=working_bus(settings, accel, board, initramfs))


def refusal(arch: str) -> str:
    """Return the reason why this host's accelerator can't be opened for a guest of this architecture, or ""."""
    return host.hvf_refusal(arch) if sys.platform == "darwin" else host.kvm_refusal(arch)


def native_failure(cache: Path, *, dry_run: bool = False) -> str:
    """Return the reason why no accelerator runs a guest of this host's own architecture; "" when one does.

    It needs no kernel. A PC's firmware is started to find out, once per boot of the host, and not by a dry run.
    """
    own = host.arch()
    if own not in BOARDS:
        return f"zosia has no guest for {own}"
    accel = host.accelerator("auto", own)
    if accel is Accel.TCG:
        return refusal(own)
    if own != "x86_64":  # Arm's board has no firmware that could answer
        return ""
    # Nothing is created while settings are read: without a cache, the result is forgotten.
    with nullcontext(cache) if cache.is_dir() else temporary_folder() as folder:
        failure = probe.firmware_failure(accel, folder, dry_run=dry_run)
    return f"{accel.value} was tried, and {failure}" if failure else ""


def native_arch(requested: str, cache: Path, *, dry_run: bool) -> str:
    """Return the architecture of ARCH=native with ACCEL=`requested`.

    It is the host's own where an accelerator runs its guests, or was requested by name: an error says what it lacks.
    Where only the QEMU for the other one is installed, it is that.
    """
    own, other = host.arch(), DEFAULTS["ARCH"]
    if requested in (Accel.KVM.value, Accel.HVF.value) and own in BOARDS:
        return own
    if native_failure(cache, dry_run=dry_run):
        return other
    programs = [f"qemu-system-{arch}" for arch in (own, other)]
    return other if missing(programs) == programs[:1] else own


def native_note(settings: Settings, given: Mapping[str, str]) -> str:
    """Return a line about an emulated guest: a faster one that this host runs, or what ARCH=native lacks; else ""."""
    native = given.get("ARCH") == NATIVE
    emulated = settings.accel is Accel.TCG and not settings.accel_named
    if not emulated or (not native and FOR_ONE & given.keys()):
        return ""
    if failure := native_failure(settings.cache):
        return style.line("NOTE", f"ARCH=native is {settings.arch} here, and emulated: {failure}") if native else ""
    own = host.arch()
    # SmolLM2 generates 4.6 tokens/s emulated, and 111 on the host itself (docs/benchmarks.md).
    slow = f"about 20 times slower than {own} with {host.accelerator('auto', own).value.upper()}"
    if native:  # nobody has tried, for want of a program
        from zosia.base.packages import remedy  # slow to import, and only needed here

        lacking = [f"qemu-system-{own}"]
        what = f"{slow}: {lacking[0]} was not found. {remedy(lacking)}"
        return style.line("NOTE", f"{settings.arch} is emulated here, {what}")
    typed = f"./scripts/run-qemu-{own}.sh" if missing([f"qemu-system-{own}"]) else f"scons run ARCH={NATIVE}"
    return style.line("NOTE", f"{settings.arch} is emulated here, {slow}. Type: {typed}")


def sandboxed(settings: Settings) -> Settings:
    """Return the settings, without a sandbox or a fence that can't be used; before the kernel is built none is tried.

    Raises:
        ZosiaError: SANDBOX=1 was set, and one of them can't be used.
    """
    built = (settings.base_build / "Image").is_file()
    wanted = settings.sandbox is not False if SANDBOX else bool(settings.sandbox)  # nobody has tried macOS' yet
    refused = sandbox_refusal(settings) if built or not SANDBOX else ""
    given = replace(settings, sandbox=False if refused else settings.sandbox)
    loose = fence_refusal(given) if built and wanted else ""
    for what, failure in (("QEMU's sandbox can't be used", refused), ("QEMU can't be held to its files", loose)):
        if failure and settings.sandbox:
            raise sandbox_error(failure)
        if failure:
            say_once("NOTE", f"{what} here ({failure}): this run is without it")
    return replace(given, held=built and wanted and not loose)


def sandbox_refusal(settings: Settings) -> str:
    """Return why a sandbox that is wanted can't be used here; "" when it can, or none is wanted."""
    if not SANDBOX:
        return "QEMU has one on Linux only" if settings.sandbox and sys.platform != "darwin" else ""
    wanted = settings.sandbox is not False
    return probe.sandbox_failure(settings.arch, settings.cache, dry_run=settings.dry_run) if wanted else ""


def fence_refusal(settings: Settings) -> str:
    """Return why QEMU can't be held to its files, if that was set, or why it does not start when it is; else ""."""
    if settings.sandbox and sys.platform == "linux" and not fence.abi():
        return "this kernel has no Landlock, or does not use it"
    machine = trial(settings, settings.accel, choose_board(settings, settings.accel))
    return probe.fence_failure(machine, settings.cache, dry_run=settings.dry_run)


def has_sandbox(settings: Settings) -> bool:
    """Return whether QEMU gets a sandbox, as far as that is known."""
    return SANDBOX and settings.sandbox is not False


def sandbox_error(reason: str) -> ZosiaError:
    """Return the error for a requested sandbox that can't be used."""
    return ZosiaError(f"SANDBOX=1 can't be used: {reason}", "To run without QEMU's sandbox, leave SANDBOX= out")


def choose_board(settings: Settings, accel: Accel) -> Board:
    """Return the requested board, or the fastest on which the kernel runs with this accelerator.

    Raises:
        ZosiaError: the kernel does not run on the requested board.
    """
    if settings.board and settings.board.kvm_only and accel is not Accel.KVM:
        raise ZosiaError(
            f"BOARD={settings.board.name} runs with KVM only, which can't be used here", "Leave BOARD= out"
        )
    # microvm has no PCI, and so no memory that holds a filesystem: a boot is faster there, but the weights are copied.
    fast = accel is Accel.KVM and settings.base != "distro" and settings.model_bus == Bus.VIRTIO_BLK.value
    return settings.board or (BOARDS[settings.arch][0] if fast else BOARDS[settings.arch][-1])


def working_board(settings: Settings, initramfs: str = INITRAMFS) -> tuple[Accel, Board]:
    """Return an accelerator that is known to run guests, and its board; each is tried once per boot of the host.

    TCG where the others fail. Nothing is tried before the kernel and the initramfs are built.

    Raises:
        ZosiaError: the requested accelerator runs no guest.
    """
    board = choose_board(settings, settings.accel)
    machine = trial(settings, settings.accel, board, initramfs)
    if settings.accel is Accel.TCG or not (machine.kernel.is_file() and machine.initramfs.is_file()):
        return settings.accel, board
    found, failure = tried(settings, machine)
    if found:
        if found.own_gic:
            say_once("ACCEL", f"hvf, with QEMU's interrupt controller: macOS' was tried, and {failure}")
        return settings.accel, found
    if settings.accel_named:
        raise host.accel_error(settings.accel.value, failure)
    again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
    tried_it = f"{settings.accel.value} was tried, and {failure}. To try it again, type: {again}"
    say_once("ACCEL", f"tcg, which is slow: {tried_it}")
    return Accel.TCG, choose_board(settings, Accel.TCG)


def tried(settings: Settings, machine: Machine) -> tuple[Board | None, str]:
    """Return the board on which the machine's accelerator runs its kernel, or None; and why the first ones do not."""
    boards = (settings.board,) if settings.board else (known := BOARDS[settings.arch])[known.index(machine.board) :]
    if machine.accel is Accel.HVF:  # from 11.1 on, QEMU takes macOS' interrupt controller, with which guests may hang
        boards += tuple(replace(board, own_gic=True) for board in boards)
    failure = ""
    for board in boards:
        candidate = trial(settings, machine.accel, board, machine.initramfs.name)
        found = probe.failure(candidate, settings.cache, dry_run=settings.dry_run)
        if not found:
            return board, failure
        if not board.own_gic:  # of which an older QEMU only says that it has no such option
            failure = found
    return None, failure


def trial(settings: Settings, accel: Accel, board: Board, initramfs: str = INITRAMFS) -> Machine:
    """Return the smallest machine that shows whether a guest runs: no disk, one processor, the kernel's messages."""
    return Machine(
        arch=settings.arch,
        board=board,
        accel=accel,
        cpu="",
        cpus=1,
        memory=plan.LEAST_MEMORY,
        kernel=settings.base_build / "Image",
        initramfs=settings.base_build / initramfs,
        disk=None,
        verbose=True,
        sandbox=has_sandbox(settings),
        held=settings.held,
    )


def bus_refusal(settings: Settings, board: Board) -> str:
    """Return why the disk can't be mapped as memory on this board; "" where that has to be tried."""
    if settings.base == "distro":
        return "Debian's kernel lacks the drivers"
    return f"BOARD={board.name} has no PCI" if board.maps is None else ""


def choose_bus(settings: Settings, board: Board) -> Bus:
    """Return the requested bus, or the one without a copy where nothing speaks against it; starts nothing.

    A dry run has virtio-blk: its command is to be pasted, and needs no files made for it.
    """
    if settings.dry_run or settings.model_bus == Bus.VIRTIO_BLK.value or bus_refusal(settings, board):
        return Bus.VIRTIO_BLK
    return Bus.DAX


def check_bus(settings: Settings, board: Board) -> None:
    """Refuse a requested bus that does not work with the other settings.

    Raises:
        ZosiaError: MODEL_BUS=dax does not work with them.
    """
    if settings.model_bus == Bus.DAX.value and (reason := bus_refusal(settings, board)):
        raise ZosiaError(f"MODEL_BUS=dax can't be used: {reason}", REMEDY)


def working_bus(settings: Settings, accel: Accel, board: Board, initramfs: str = INITRAMFS) -> Bus:
    """Return a bus that is known to work; dax is tried once per boot of the host, when all is built.

    The disk's filesystem is another matter, which is tried each time: it takes microseconds.

    Raises:
        ZosiaError: the requested bus does not work.
    """
    check_bus(settings, board)
    if choose_bus(settings, board) is Bus.VIRTIO_BLK:
        if not settings.dry_run and settings.model_bus != Bus.VIRTIO_BLK.value:
            _note(bus_refusal(settings, board))
        return Bus.VIRTIO_BLK
    machine = replace(trial(settings, accel, board, initramfs), disk=settings.model.image, verbose=settings.verbose)
    if not all(path and path.is_file() for path in (machine.kernel, machine.initramfs, machine.disk)):
        return Bus.DAX
    if refusal := pmem.map_refusal(settings.model.image):
        if settings.model_bus == Bus.DAX.value:
            raise ZosiaError(f"MODEL_BUS=dax can't be used: {refusal}", REMEDY)
        _note(refusal)
        return Bus.VIRTIO_BLK
    failure = probe.dax_failure(machine, settings.cache)
    if not failure:
        return Bus.DAX
    if settings.model_bus == Bus.DAX.value:
        raise ZosiaError(f"MODEL_BUS=dax can't be used: it was tried, and {failure}", REMEDY)
    again = f"rm -r {shlex.quote(str(settings.cache / 'probes'))}"
    _note(f"dax was tried, and {failure}. To try it again, type: {again}")
    return Bus.VIRTIO_BLK


def _note(reason: str) -> None:
    say_once("MODEL", f"on virtio-blk, with a copy in the guest's memory: {reason}")
