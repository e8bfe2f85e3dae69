"""Parts that the SCons tools share: library functions as actions, dependencies, paths."""

from __future__ import annotations

import atexit
import functools
import json
import os
import posixpath
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import SCons.Action
import SCons.Errors
import SCons.Node.Alias
import SCons.Script.Main
from SCons.Variables import Variables

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import explained
from zosia.inputs.catalogue import read_record
from zosia.settings.variables import VARIABLES

IMPORT = re.compile(r"^ *from (zosia[\w.]*) import (\([^)]*\)|[^#\n]*)", re.MULTILINE)
DECIDE_NOTHING = ("zosia.base.", "zosia.channel.", "zosia.run.", "zosia.serve.")  # of what is built
STEPS = "ZOSIA_STEPS"  # in the environment: the file that a dry run lists its steps in, as JSON
until_the_end = ExitStack()  # what SConstruct itself holds is let go when it has been read
Build = Callable[[list[Path], list[Path], Any], None]


def action(function: Build, label: str, command: Callable[[Any], str] | None = None) -> Any:
    """Return an SCons action that calls function(targets, sources, env) and shows a line: label and first target.

    A ZosiaError ends the build with its one sentence, and so does an interrupt. `command`, of the environment, is shown
    instead of that line.
    """

    def act(target: list[Any], source: list[Any], env: Any) -> int | None:
        # Aliases and values are nodes, too, and no files.
        targets, sources = (
            [Path(node.abspath) for node in nodes if hasattr(node, "abspath")] for nodes in (target, source)
        )
        try:
            with interruptible():
                function(targets, sources, env)
        except ZosiaError as error:
            raise SCons.Errors.UserError(style.error(error)) from None
        except KeyboardInterrupt:
            raise SCons.Errors.UserError("zosia: interrupted; the next run carries on") from None
        except OSError as error:
            raise SCons.Errors.UserError(style.error(explained(error))) from None
        return None

    def show(target: list[Any], source: list[Any], env: Any) -> str:
        report_step(label=label, target=str(target[0]))
        try:
            return style.line(label, target[0]) if command is None else command(env)
        except ZosiaError as error:  # the action reports it, too, unless this is a dry run
            return f"{style.ERROR} {error}"

    made = SCons.Action.Action(act, strfunction=show)
    made.zosia_label = label
    return made


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl+C and SIGTERM end a Python action; SCons' own handlers wait until the action is done."""
    if threading.current_thread() is not threading.main_thread():  # scons -j: signals are the main thread's
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def become(module: str, argument: str) -> None:
    """Run a module of the library instead of this program, once SCons has written its database and is about to end.

    Its exit status is then ours, and so are the terminal and the signals.
    """
    argv = [sys.executable, str(Path(__file__).parent), module, argument]

    def now() -> None:
        if SCons.Script.Main.exit_status:  # another target that was asked for failed
            return
        if sys.stdout:  # it may be closed
            sys.stdout.flush()  # else piped output would be lost
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the module can take it
        os.execv(argv[0], argv)

    atexit.register(now)


def report_step(**fields: str) -> None:
    """Append a step of the build, or the error that refuses it, to the file that STEPS names: for `scons doctor`."""
    if path := os.environ.get(STEPS):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")


def first_steps(env: Any, requested: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """Return the steps that make what is requested or needed for it, and not there yet: a target each, by label."""
    lookup = SCons.Node.Alias.default_ans.lookup
    waiting = [lookup(name) or env.Entry(name) if isinstance(name, str) else name for name in requested]
    seen: set[Any] = set()
    steps: dict[str, tuple[str, ...]] = {}
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [*node.all_children(scan=False), *(node.prerequisites or ())]
        if not node.has_builder() or not hasattr(node, "abspath") or node.exists():
            continue
        executor = node.get_executor()  # one for all targets of a step
        label = next((act.zosia_label for act in executor.get_action_list() if hasattr(act, "zosia_label")), "")
        if label and executor not in seen:
            seen.add(executor)
            steps[label] = (*steps.get(label, ()), str(node))
    return steps


def variables(arguments: Mapping[str, str]) -> Variables:
    """Return SCons' variables; their values stay text, and $ in them stays $."""
    known = Variables(None, dict(arguments))
    for variable in VARIABLES:
        known.Add(variable.name, variable.text, variable.default, subst=False)
    return known


def show_line(line: str, targets: list[Any], sources: list[Any], env: Any) -> None:
    """Show the line of an action: SCons' PRINT_CMD_LINE_FUNC."""
    style.show(line, sys.stdout)


def literal(path: Path) -> str:
    """Return a path in which SCons substitutes nothing."""
    return str(path).replace("$", "$$")


def refuse(error: ZosiaError) -> None:
    """End SCons while it reads SConstruct, with one line and status 2."""
    report_step(error=str(error))
    print(style.error(error), file=sys.stderr)
    sys.exit(2)


def library(env: Any, *names: str) -> list[Any]:
    """Return the files of modules, and of all that they import of ours, to depend on: a signature does not see imports.

    Rooms that decide how a build reports and how a machine runs, not what is built, are left out.
    """
    return [env.File(f"#site_scons/{name.replace('.', '/')}.py") for name in sorted(_closure(names))]


def _closure(names: Iterable[str]) -> set[str]:
    """Return the dotted names of modules and of all that they import, in functions as well."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith(DECIDE_NOTHING):
            found.add(name)
            waiting += _imports(name)
    return found


@functools.cache
def _imports(name: str) -> list[str]:
    """Return the modules of ours that one imports."""
    text = (Path(__file__).parent / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    imported: list[str] = []
    for package, what in IMPORT.findall(text):
        parts = [f"{package}.{part.split()[0]}" for part in what.strip("()").split(",") if part.strip()]
        is_module = (Path(__file__).parent / f"{package.replace('.', '/')}.py").is_file()
        imported += [package] if is_module else parts
    return imported


def compiled(
    env: Any,
    name: str,
    targets: list[str],
    sources: list[Any],
    act: Any,
    *,
    tree: Path | None,
    depends: list[Any],
    follows: bool = True,
) -> Any:
    """Return targets made by another build system in the folder NAME beside them, from sources or the user's `tree`.

    `follows`: it notices when the user's files changed, better than SCons would, and is always asked.
    """
    nodes = env.Command(targets, sources, act, TREE=tree, FOLDER=name)
    env.Depends(nodes, [*depends, env.Value(str(tree))])
    env.SideEffect("#build/one-heavy-build", nodes)  # each takes all processors: one after the other
    folder = posixpath.dirname(targets[0])
    env.Clean(nodes, [f"{folder}/{name}{suffix}" for suffix in ("", ".log", ".lock")])
    if tree and follows:
        env.AlwaysBuild(nodes)
    return env.NoCache(env.Precious(nodes))


def source_tree(origin: Path | None, sources: list[Path], env: Any) -> tuple[Path, list[Path]]:
    """Return the folder of a source, the user's own or that of the first record, and the other sources."""
    if origin is not None:
        return origin, sources
    from zosia.inputs import fetch  # slow to import, and only needed here

    return fetch.source_tree(read_record(sources[0]), env["CACHE"]), sources[1:]
