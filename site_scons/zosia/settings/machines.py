"""The machines that the targets boot, built from the settings."""

from __future__ import annotations

from dataclasses import replace

from zosia.base.errors import ZosiaError
from zosia.machine.qemu import Machine
from zosia.machine.task import Mode, Task
from zosia.model import arguments, plan
from zosia.model.memory import guest_memory
from zosia.model.plan import Plan, Wish
from zosia.run import hot
from zosia.settings.hardware import INITRAMFS, Hardware, has_sandbox, sandboxed, trial, working, working_board
from zosia.settings.settings import Settings
from zosia.settings.settle import alike, settle, wish

# llama-cli's own defaults would be the model's longest context and 8 GiB of saved prompts. Loading measures what fits
# and warms up first, which an emulated machine pays for with a second of the user's time.
FIXED_ARGS = ("--cache-ram", "0", "-fit", "off", "--no-warmup")


def run_machine(settings: Settings) -> Machine:
    """Return the machine that boots the model.

    Raises:
        ZosiaError: the model does not fit into this machine, or what was requested does not work.
    """
    settings = sandboxed(settings)
    settled = settle(settings, working(settings))
    return of(settings, settled, settled.wish, settled.plan)


def shell_machine(settings: Settings) -> Machine:
    """Return the machine that boots to a shell, with the model's disk and memory; errors as `run_machine`."""
    settings = sandboxed(settings)
    shell = "initramfs-shell.cpio.gz"
    settled = settle(settings, working(settings, shell))
    machine = of(settings, settled, settled.wish, settled.plan)
    return replace(machine, initramfs=settings.base_build / shell, hot=None).given(prompt=None, room=0)


def diag_machine(settings: Settings) -> Machine:
    """Return the machine that reports what a bug report needs; `need` is that of a run, where it is known.

    Raises:
        ZosiaError: what was requested does not work.
    """
    settings = sandboxed(settings)
    hardware = working(settings)
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
        hot=hot.FOLDER if settings.hot else None,
        task=Task(
            llama_args=words,
            system=settings.system,
            prompt=settings.prompt,
            need=given.need,
            enough=given.enough,
            room=arguments.room(wanted.shape, words),
        ),
    )


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
