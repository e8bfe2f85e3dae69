"""The machines that the targets boot, built from the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.places import DISKS, SAVED, repair
from zosia.base.style import say_once
from zosia.chat.wish import ChatWish
from zosia.disk import record, verity
from zosia.machine.qemu import Bus, Machine, Verity
from zosia.machine.task import Mode, Task
from zosia.model import arguments, plan
from zosia.model.memory import guest_memory
from zosia.model.options import SERVER_ARGS
from zosia.model.plan import Plan, Wish
from zosia.serve.service import Service
from zosia.settings.hardware import INITRAMFS, Hardware, has_sandbox, sandboxed, trial, working, working_board
from zosia.settings.settings import Settings
from zosia.settings.settle import alike, settle, wish

if TYPE_CHECKING:
    from zosia.run.workers.wire import Order

# llama-cli's own defaults would be the model's longest context and 8 GiB of saved prompts. Loading measures what fits
# and warms up first, which an emulated machine pays for with a second of the user's time.
FIXED_ARGS = ("--cache-ram", "0", "-fit", "off", "--no-warmup")


def check_kernel(settings: Settings) -> None:
    """Check that the guest's kernel and its programs are there.

    Raises:
        ZosiaError: they are not.
    """
    for name in ("Image", INITRAMFS):
        path = settings.base_build / name
        if not path.is_file():
            built = repair(f"Build it first. Type: scons ARCH={settings.arch}")
            raise ZosiaError(f"A part of the guest is missing: {path}", built)


def run_machine(settings: Settings) -> Machine:
    """Return the machine that boots the model.

    Raises:
        ZosiaError: the model does not fit into this machine, or what was requested does not work.
    """
    return _settled(settings)[0]


def _settled(settings: Settings) -> tuple[Machine, int]:
    """Return the machine that boots the model, and its context; errors as `run_machine`."""
    settings = sandboxed(settings)
    hardware = _working(settings)
    if settings.workers.names:
        if settings.dry_run:
            raise ZosiaError("WORKERS= needs more than one command, which a dry run can't print", "Leave WORKERS= out")
        from zosia.settings import workers  # most runs do without

        settings, offers = workers.spread(settings, hardware)
    settled = settle(settings, hardware)
    machine = of(settings, settled, settled.wish, settled.plan)
    if settings.workers.names:
        machine = workers.given(machine, settings, settled, offers)
    return machine, settled.plan.context


def worker_machine(settings: Settings, order: Order) -> Machine:
    """Return the machine that computes for another one, with the model if its disk is there.

    Raises:
        ZosiaError: what was requested does not work.
    """
    settings = sandboxed(settings)
    accel, board = working_board(settings, INITRAMFS)
    machine = trial(settings, accel, board, INITRAMFS)
    disks = [
        image
        for image in DISKS.glob("*.img")
        if (made := record.read_current(image)) and made.sha256 and made.sha256 == order.sha256
    ]
    return replace(
        machine,
        cpu=settings.cpu,
        cpus=settings.cpus,
        memory=order.memory,
        verbose=settings.verbose,
        disk=next(iter(disks), None),
    ).given(mode=Mode.WORKER, has_weights=bool(disks))


def serving(settings: Settings) -> Settings:
    """Return the settings of a machine that serves, whose clients share its context.

    Raises:
        ZosiaError: a setting is for a chat, or is the gate's, or can't be served safely.
    """
    settings.service.check()
    _check_server(settings, "`scons serve`")
    for name, text in (("PROMPT", settings.prompt), ("SYSTEM", settings.system)):
        if text:
            raise ZosiaError(f"{name}= is not for `scons serve`, whose clients send their own", f"Leave {name}= out")
    if settings.service.guests > 1 and settings.workers.names:  # a worker is one machine's at a time
        raise ZosiaError("GUESTS= and WORKERS= are not for the same machines", "Leave one of them out")
    return replace(settings, parallel=settings.service.parallel, guests=settings.service.guests)


def _check_server(settings: Settings, target: str) -> None:
    for word in settings.llama_args:
        if word in SERVER_ARGS:
            raise ZosiaError(f"LLAMA_ARGS= has {word}, which is not for {target}", SERVER_ARGS[word])


def chatting(settings: Settings) -> Settings:
    """Return the settings of a machine whose one client is the chat program.

    Raises:
        ZosiaError: a setting is for a chat with llama-cli, or for one answer.
    """
    _check_server(settings, "`scons chat`")
    if settings.prompt is not None:
        raise ZosiaError("PROMPT= is not for `scons chat`", "Leave PROMPT= out")
    return replace(settings, parallel=1)


def chat(settings: Settings, again: Sequence[str]) -> tuple[Machine, ChatWish]:
    """Return the machine of the chat program, and what is chatted with; errors as `run_machine`, and `chatting`.

    Args:
        again: the words that start the program with other settings.
    """
    machine, context = _settled(chatting(settings))
    machine = machine.given(mode=Mode.SERVE, room=0, system="")
    made = record.read(settings.model.image)
    return machine, ChatWish(
        model=settings.model.title,
        sha256=made.sha256 if made else "",
        context=context,
        name=settings.chat.name,
        encrypt=settings.chat.encrypt,
        system=settings.system,
        launched=settings.launched,
        again=tuple(again),
    )


def serve_machine(settings: Settings) -> Machine:
    """Return the machine that serves the model to programs on this host; errors as `run_machine`, and `serving`."""
    return run_machine(serving(settings)).given(mode=Mode.SERVE, room=0)


def service(settings: Settings) -> Service:
    """Return what is served. KEY=auto becomes a key, which is shown."""
    if settings.service.key != "auto":
        return settings.service
    import secrets  # slow to import, and not on the way to a prompt

    key = secrets.token_urlsafe(24)
    style.say("KEY", key)
    return replace(settings.service, key=key)


def shell_machine(settings: Settings) -> Machine:
    """Return the machine that boots to a shell, with the model's disk and memory; errors as `run_machine`."""
    settings = sandboxed(settings)
    shell = "initramfs-shell.cpio.gz"
    settled = settle(settings, _working(settings, shell))
    machine = of(settings, settled, settled.wish, settled.plan)
    return replace(machine, initramfs=settings.base_build / shell, hot=None).given(prompt=None, room=0)


def diag_machine(settings: Settings) -> Machine:
    """Return the machine that reports what a bug report needs; `need` is that of a run, where it is known.

    Raises:
        ZosiaError: what was requested does not work.
    """
    settings = sandboxed(settings)
    hardware = _working(settings)
    try:
        need = settle(settings, hardware).plan.need
    except ZosiaError:  # a run is refused; this one works
        need = 0
    wanted = wish(settings, hardware.bus)
    least = max(plan.LEAST_MEMORY, guest_memory(0, heavy_kernel=True, pages=wanted.takes().pages))
    small = Plan(context=wanted.context, need=need, memory=settings.memory or least)
    return replace(of(settings, hardware, wanted, small), hot=None).given(prompt=None, room=0, mode=Mode.DIAG)


def stub_machine(settings: Settings) -> Machine:
    """Return the machine that boots without a model.

    Raises:
        ZosiaError: the requested accelerator or board does not work.
    """
    settings = sandboxed(settings)
    stub = "initramfs-stub.cpio.gz"
    accel, board = working_board(settings, stub)
    return replace(
        trial(settings, accel, board, stub),
        cpu=settings.cpu,
        cpus=settings.cpus,
        memory=settings.memory or plan.LEAST_MEMORY,
        verbose=settings.verbose,
    )


def of(settings: Settings, hardware: Hardware, wanted: Wish, given: Plan) -> Machine:
    """Return the machine of these settings with the memory and context of a plan."""
    words = llama_args(settings, wanted, given)
    root = checked_root(settings) if hardware.bus is Bus.VIRTIO_BLK else None
    checked = Verity(root=root.digest, size=root.size, tree=verity.path_of(settings.model.image)) if root else None
    return Machine(
        arch=settings.arch,
        board=hardware.board,
        accel=hardware.accel,
        cpu=settings.cpu,
        cpus=settings.cpus,
        memory=given.memory,
        kernel=settings.base_build / "Image",
        initramfs=settings.base_build / INITRAMFS,
        disk=settings.model.image,
        bus=hardware.bus,
        verbose=settings.verbose,
        sandbox=has_sandbox(settings),
        held=settings.held,
        hot=SAVED if settings.hot else None,
        verity=checked,
        task=Task(
            verity=f"{checked.root} {settings.model.image}" if checked else "",
            llama_args=words,
            system=settings.system,
            prompt=settings.prompt,
            files=settings.files,
            need=given.need,
            enough=given.enough,
            room=arguments.room(wanted.shape, words),
        ),
    )


def _working(settings: Settings, initramfs: str = INITRAMFS) -> Hardware:
    """Return hardware that works, and with VERITY=1 has somebody check each block of the disk; errors as `working`."""
    hardware = working(settings, initramfs)
    root = checked_root(settings)
    if root is None or hardware.bus is Bus.VIRTIO_BLK or verity.checked_here(settings.model.image, root):
        return hardware
    reason = f"the filesystem of {settings.model.image.parent} has no fs-verity"
    if settings.model_bus == Bus.DAX.value:
        raise _unchecked(f"MODEL_BUS=dax, and {reason}", "Leave MODEL_BUS= out")
    say_once("MODEL", f"on virtio-blk, where the guest checks each block: {reason}")
    return replace(hardware, bus=Bus.VIRTIO_BLK)


def checked_root(settings: Settings) -> verity.Root | None:
    """Return the root of the tree by which the disk is to be checked; None if it is not, or is not made yet.

    Raises:
        ZosiaError: it can't be checked.
    """
    image = settings.model.image
    if not settings.verity or not image.is_file():
        return None
    if settings.base == "distro":
        raise _unchecked("Debian's kernel lacks the drivers", "Leave BASE= or VERITY= out")
    made = record.read_current(image)
    if not made or not made.root or not verity.path_of(image).is_file():
        raise _unchecked(f"{image} has no hash tree", "Remove it: the next run makes it again")
    return verity.Root(made.root, made.size)


def _unchecked(reason: str, remedy: str) -> ZosiaError:
    return ZosiaError(f"VERITY=1 can't be used: {reason}", remedy)


def llama_args(settings: Settings, wanted: Wish, given: Plan) -> tuple[str, ...]:
    """Return the arguments that llama-cli gets beside those on the model's disk; the user's come last, and win."""
    like = alike(settings, wanted.shape)
    effort = settings.reasoning or next(iter(like.reasoning if like else ()), "")
    # Mapped and repacked, the weights would be in memory twice.
    weights = ("--no-repack",) if settings.weights == "map" else ("-lm", "none")
    # Templates take an effort, or a switch; where there is neither, a thought can still be cut to nothing.
    switches = {"": (), "on": ("--reasoning", "on"), "off": ("--reasoning", "off", "--reasoning-budget", "0")}
    reasoning = switches.get(effort, ("--reasoning-effort", effort))
    sampling = like.llama_args if like else ()
    return (*FIXED_ARGS, *weights, *reasoning, *sampling, *wanted.args(context=given.context))
