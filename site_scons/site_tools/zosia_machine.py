"""BootMachine, ServeMachine, ChatMachine, SmokeMachine and HotClean: the aliases for `scons run`, `diag`, `shell`,
`serve`, `chat`, `smoke` and `hot-clean`.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.places import SAVED
from zosia.machine import pmem
from zosia.machine.qemu import Machine
from zosia.run import hot
from zosia_scons import action, become


def _build(env: Any) -> Path:
    return Path(env["BASE_BUILD"].removeprefix("#"))


def _command(env: Any) -> str:
    """Return the line to show: QEMU's command line with -n or V=1, otherwise nothing."""
    if not (env.GetOption("no_exec") or env["V"] == "1"):
        return ""
    machine = env["MACHINE"]()
    if not env.GetOption("no_exec"):  # this may write a file, which a dry run must not
        machine = pmem.attach(machine, _build(env))
    return shlex.join(machine.argv(_build(env) / "status"))


def _hand_over(targets: list[Path], sources: list[Path], env: Any) -> None:
    """Become the supervisor, once SCons has written its database and is about to end: its exit status is ours then."""
    from zosia.run import supervisor  # slow to import, and a build does without

    _become("zosia.run.supervisor", supervisor.to_json(env["MACHINE"]()))


def _serve(targets: list[Path], sources: list[Path], env: Any) -> None:
    """Become the server, in the same way."""
    from zosia.serve import main  # slow to import, and a build does without

    _become("zosia.serve.main", main.to_json(env["MACHINE"](), env["SERVICE"]()))


def _chat(targets: list[Path], sources: list[Path], env: Any) -> None:
    """Become the chat program, in the same way."""
    from zosia.chat import main  # slow to import, and a build does without

    _become("zosia.chat.main", main.to_json(*env["CHAT_MACHINE"]()))


def _become(module: str, text: str) -> None:
    # An open file without a name: prompts may be too long for an argument, and they and keys are private.
    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        file.write(text)
        descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    os.lseek(descriptor, 0, os.SEEK_SET)
    become(module, f"/dev/fd/{descriptor}")


def _smoke(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.run import guest  # slow to import, and `scons run` does without

    machine = env["MACHINE"]().given(prompt=None, terminal=(24, 80, "xterm"))
    log = _build(env) / "smoke.log"
    bus = f", {machine.bus.value}" if machine.disk else ""
    hardware = f"{machine.arch} on {machine.board.name}, {machine.accel.value}{bus}"  # zosia_build/hosts.py reads it
    style.show(style.line("BOOT", hardware), sys.stdout)
    if machine.disk is None:
        guest.smoke_without_model(machine, log)
        result = "the stub booted, answered and powered off"
    else:
        answer = guest.smoke_with_model(machine, log)
        result = f"the model streamed an answer: {answer.splitlines()[0]}"
    style.show(style.line("SMOKE", result), sys.stdout)


def _hot_clean(targets: list[Path], sources: list[Path], env: Any) -> None:
    hot.clean(SAVED)


def _alias(env: Any, name: str, needed: list[Any], act: Any, **variables: Any) -> Any:
    """Return an alias that acts each time it is requested; what it needs is built first, and never hashed for it."""
    alias = env.Alias(name, [], act, **variables)
    env.Requires(alias, needed)
    return env.AlwaysBuild(alias)


def boot_machine(env: Any, name: str, needed: list[Any], machine: Callable[[], Machine]) -> Any:
    """env.BootMachine(name, needed, machine): an alias that boots a machine; `machine` is called only then."""
    return _alias(env, name, needed, action(_hand_over, name.upper(), _command), MACHINE=machine)


def serve_machine(env: Any, needed: list[Any], machine: Callable[[], Machine], service: Callable[[], Any]) -> Any:
    """env.ServeMachine(needed, machine, service): the alias `serve`; `service` says what is served, and how."""
    # No command to show: QEMU's would have nobody on the other end of its port.
    act = action(_serve, "SERVE", lambda _: "")
    return _alias(env, "serve", needed, act, MACHINE=machine, SERVICE=service)


def chat_machine(env: Any, needed: list[Any], machine: Callable[[], tuple[Machine, Any]]) -> Any:
    """env.ChatMachine(needed, machine): the alias `chat`; `machine` returns one, and what is chatted with."""
    return _alias(env, "chat", needed, action(_chat, "CHAT", lambda _: ""), CHAT_MACHINE=machine)


def smoke_machine(env: Any, needed: list[Any], machine: Callable[[], Machine]) -> Any:
    """env.SmokeMachine(needed, machine): the alias `smoke`."""
    return _alias(env, "smoke", needed, action(_smoke, "SMOKE", _command), MACHINE=machine)


def hot_clean(env: Any) -> Any:
    """env.HotClean(): the alias `hot-clean`."""
    act = action(_hot_clean, "CLEAN", lambda _: style.line("CLEAN", SAVED))
    return env.AlwaysBuild(env.Alias("hot-clean", [], act))


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(hot_clean, "HotClean")
    env.AddMethod(boot_machine, "BootMachine")
    env.AddMethod(serve_machine, "ServeMachine")
    env.AddMethod(chat_machine, "ChatMachine")
    env.AddMethod(smoke_machine, "SmokeMachine")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
