"""Actions of the commands of `zosia`, made of the parts that `scons` uses."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import platformdirs

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root, size_text
from zosia.base.places import DISKS, ROOT, SAVED
from zosia.base.process import find
from zosia.base.version import VERSION
from zosia.command import again, spelling, table
from zosia.command.again import Starting
from zosia.disk import ext4
from zosia.machine import host
from zosia.model import plan
from zosia.settings import hardware, machines, reading, settle
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS, NATIVE


def do(
    name: str,
    given: Mapping[str, str],
    launched: Path,
    flags: Collection[str] = (),
    *,
    words: Sequence[str] | None = None,
    start: Starting | None = None,
) -> int:
    """Act on a command, and return the exit status.

    Args:
        given: values of variables, where they were given.
        launched: folder that relative paths start from.
        flags: see Command.flags.
        words: the words of a `run`, for which its machine is remembered.
        start: see zosia.command.line.main.

    Raises:
        ZosiaError: a value is invalid, or something can't be done.
    """
    values = {**{name: table.default(name) for name in DEFAULTS}, **given}
    if name == "doctor":
        from zosia.doctor import command  # before anything else can refuse

        return command.main(values, given, launched)
    if "uninstall" in flags:
        from zosia.serve import units

        units.uninstall()
        return 0
    dry_run = "dry-run" in flags
    if dry_run and values["ARCH"] == NATIVE:  # which only a trial finds out
        values["ARCH"] = hardware.native_arch(values["ACCEL"], cache_root(), dry_run=False)
    settings = reading.read(values, (), ROOT, given=given, launched=launched, dry_run=dry_run)
    if dry_run:
        return show_command(settings)
    if name == "worker":
        return worker(settings, given, stdio="stdio" in flags)
    if "install" in flags:
        return install(settings, given)
    return run(settings, given, words, start) if name == "run" else ACTIONS[name](settings, given)


def run(
    settings: Settings, given: Mapping[str, str], words: Sequence[str] | None = None, start: Starting | None = None
) -> int:
    """Chat, or ask one question."""
    from zosia.run import supervisor

    if start and not settings.model.is_made(settings.image_tool):
        return 0
    check_programs(settings)
    if settings.prompt is None and not os.isatty(0):  # what is missing is said before a download
        settings = replace(settings, prompt=supervisor.piped_prompt())
    prepare(settings)
    asked = {**table.OWN, **given}
    if os.isatty(1) and (note := hardware.native_note(settings, asked)):  # who keeps the output reads no advice
        style.show_once(note)  # a run may begin anew: zosia.command.again
    machine = machines.run_machine(settings)
    if start:
        return start(machine)
    status = supervisor.run(machine)
    if words is not None:
        again.remember(words, machine, settings.launched)
    return status


def serve(settings: Settings, given: Mapping[str, str]) -> int:
    """Serve the API and the web page."""
    prepare(machines.serving(settings))
    from zosia.serve import main

    return main.run(machines.serve_machine(settings), machines.service(settings))


def chat(settings: Settings, given: Mapping[str, str]) -> int:
    """Chat in the program of zosia."""
    prepare(machines.chatting(settings))
    from zosia.chat import main

    again = spelling.options({name: value for name, value in given.items() if name not in ("MODEL", "CHAT")})
    return main.run(*machines.chat(settings, [*program(), "chat", *again]))


def worker(settings: Settings, given: Mapping[str, str], *, stdio: bool) -> int:
    """Compute for another machine."""
    if stdio == (settings.workers.socket is not None):
        raise ZosiaError(
            "A worker needs one place for its requests: --stdio, or a socket",
            "Type: zosia worker --socket PATH; over ssh, --workers ssh:HOST of the other machine starts it",
        )
    check_programs(settings)
    machines.check_kernel(settings)
    from zosia.run.workers import far, speeds
    from zosia.run.workers.wire import Offer

    if settings.workers.socket:
        own = {name: value for name, value in given.items() if name != "SOCKET"}
        return far.listen(settings.workers.socket, [*program(), "worker", "--stdio", *spelling.options(own)])
    total, _ = host.memory()
    memory = settings.memory or plan.guest_share(total)
    speed = speeds.recall(speeds.key(settings.arch, settings.accel.value, settings.cpu, settings.cpus))
    return far.work(Offer(version=VERSION, memory=memory, speed=speed), partial(machines.worker_machine, settings))


def install(settings: Settings, given: Mapping[str, str]) -> int:
    """Install the server as a service of this user."""
    temporary = platformdirs.user_cache_path()
    if Path(sys.prefix).is_relative_to(temporary) or ".cache" in Path(sys.prefix).parts:  # pipx run, uvx
        raise ZosiaError(f"This zosia is a temporary one, in {sys.prefix}", "Install it first: pipx install zosia")
    service = machines.serving(settings).service
    if service.socket is None:
        raise ZosiaError("PORT=0 is not for a service, whose address stays", "Leave PORT= out")
    prepare(settings)
    from zosia.serve import units

    paths = {"MODEL": settings.model.parts[:1], "LOG": [service.log] if service.log else []}  # absolute
    fixed = {name: str(path) for name, found in paths.items() for path in found}
    catalogue = given.get("CATALOGUE", "")
    if catalogue and "://" not in catalogue:
        fixed["CATALOGUE"] = str(reading.absolute("CATALOGUE", catalogue, settings.launched))
    units.install(service, [*program(), "serve", *spelling.options({**given, **fixed})])
    return 0


def program() -> list[str]:
    """Return the words that start this program again, from anywhere."""
    own = Path(sys.argv[0]).absolute()
    return [str(own)] if own.name == "zosia" and os.access(own, os.X_OK) else [sys.executable, "-m", "zosia.cli"]


def diag(settings: Settings, given: Mapping[str, str]) -> int:
    """Boot, and print what a bug report needs."""
    check_programs(settings)
    make_disk(settings)
    from zosia.run import supervisor

    return supervisor.run(machines.diag_machine(settings))


def pull(settings: Settings, given: Mapping[str, str]) -> int:
    """Make the disk, for later."""
    make_disk(settings)
    style.say("MODEL", f"{settings.model.title} is here. To run it, type: scons run MODEL={_named(settings)}")
    return 0


def _named(settings: Settings) -> str:
    """Return the name or the path of the model, as one types it."""
    return shlex.quote(str(next(iter(settings.model.parts), settings.model.title)))


def clean(settings: Settings, given: Mapping[str, str]) -> int:
    """Delete saved machines, and the disks of models that have no name: their files are the user's."""
    from zosia.command import model_commands
    from zosia.run import hot

    again.forget()
    style.say("CLEAN", f"{SAVED}: saved machines, {size_text(hot.clean(SAVED))} freed")
    style.say("CLEAN", f"{DISKS}: disks of files, {size_text(model_commands.remove_disks(settings))} freed")
    return 0


def listing(name: str) -> Callable[[Settings, Mapping[str, str]], int]:
    """Return an action of zosia.command.model_commands, which prints its result."""

    def act(settings: Settings, given: Mapping[str, str]) -> int:
        from zosia.command import model_commands

        style.show(getattr(model_commands, name)(settings), sys.stdout)
        return 0

    return act


ACTIONS: Mapping[str, Callable[[Settings, Mapping[str, str]], int]] = {
    "serve": serve,
    "chat": chat,
    "chats": listing("chats"),
    "models": listing("listing"),
    "pull": pull,
    "import": listing("import_model"),
    "remove": listing("remove_model"),
    "trust": listing("trust"),
    "clean": clean,
    "diag": diag,
}


def prepare(settings: Settings) -> None:
    """Check the programs and the memory, and make the model's disk.

    Raises:
        ZosiaError: something is missing, or the model does not fit; nothing has been downloaded then.
    """
    check_programs(settings)
    for note in settle.notes(settle.settle(settings, hardware.expected(settings))):
        style.show_once(note)
    make_disk(settings)


def check_programs(settings: Settings) -> None:
    """Check that QEMU and the guest's programs are there.

    Raises:
        ZosiaError: they are not.
    """
    find(f"qemu-system-{settings.arch}")
    machines.check_kernel(settings)


def make_disk(settings: Settings) -> None:
    """Make the model's disk, unless it is there."""
    if not settings.model.is_made(settings.image_tool):
        from zosia.command import model_commands
        from zosia.settings import images  # slow to import, and most runs do without

        for program in ext4.TOOLS[settings.image_tool]:  # before a download
            find(program)
        images.make(settings, again=False)
        model_commands.remove_disks(settings, orphans=True)


def show_command(settings: Settings) -> int:
    """Print the QEMU command of a cold start."""
    check_programs(settings)
    if not settings.model.is_made(settings.image_tool):
        style.say("NOTE", f"the model's disk is not made yet. Type: scons model.img MODEL={_named(settings)}")
    print(shlex.join(machines.run_machine(settings).argv(Path("status"))))
    return 0
