"""Reading of variables: NAME=value as text becomes validated settings."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import platformdirs

from zosia.base.errors import ZosiaError, near, shown
from zosia.base.files import cache_root
from zosia.base.places import PAGE
from zosia.inputs import catalogue, references
from zosia.inputs.catalogue import Model
from zosia.inputs.references import Reference
from zosia.machine import host
from zosia.machine.boards import BOARDS, Board
from zosia.model import shape
from zosia.model.options import REASONING, RESERVED_ARGS
from zosia.serve.service import Service
from zosia.settings import hardware, values
from zosia.settings.choice import Choice
from zosia.settings.settings import Kept, Settings, Together
from zosia.settings.variables import DEFAULTS, NATIVE, VARIABLES

# System prompt of an empty SYSTEM=: llama-cli takes an empty text, even an explicit one, for none, and the template's
# own prompt stays (tools/cli/cli-context.cpp, add_system_prompt).
EMPTY_TURN = " "
NAMED = ("", "chatml")  # templates in Jinja that llama.cpp has: the model's own, or its default


def absolute(name: str, text: str, start: Path) -> Path:
    """Return the absolute path that a variable names.

    Raises:
        ZosiaError: the path can't be looked up.
    """
    try:
        path = Path(os.path.normpath(start / Path(text).expanduser()))  # and a link keeps its name
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ZosiaError(
            f"{name}={text} can't be read: {error}", f"Give an existing path, or leave {name}= out"
        ) from error
    return path


def existing_file(name: str, text: str, start: Path, *, or_folder: bool = False) -> Path | None:
    """Return the file that a variable names, None for an empty value.

    Raises:
        ZosiaError: there is no such file.
    """
    path = absolute(name, text, start) if text else None
    if path and not (path.is_file() or (or_folder and path.is_dir())):
        raise ZosiaError(f"{name}={text} is no file in {path.parent}", f"Give an existing path, or leave {name}= out")
    return path


def source_folder(name: str, text: str, start: Path, *, inside: str) -> Path | None:
    """Return the folder that a variable names, None for an empty value.

    Raises:
        ZosiaError: there is no such folder, or no file `inside` it.
    """
    path = absolute(name, text, start) if text else None
    if path and not (path / inside).is_file():
        raise ZosiaError(f"{name}={text} is no folder with a {inside}", "Give the path of a source folder")
    return path


def read(
    env: Mapping[str, Any],
    unknown: Iterable[str],
    root: Path,
    *,
    given: Container[str] = (),
    launched: Path | None = None,
    dry_run: bool = False,
) -> Settings:
    """Return the settings that the variables mean.

    Args:
        env: value of each variable.
        root: folder of models.toml.
        given, unknown: names that were set, of variables and of none; the other variables have their defaults.
        launched: folder that relative paths start from, if not `root`.
        dry_run: no program may be started.

    Raises:
        ZosiaError: a variable is unknown, or a value is invalid.
    """
    value, start, cache = _checked({name: str(env[name]) for name in DEFAULTS}, unknown), launched or root, cache_root()
    value["ARCH"] = _arch(value, cache, dry_run=dry_run)
    models, title, first = _catalogue(value, root, start, cache, dry_run=dry_run)
    chosen = _model(value["MODEL"] if "MODEL" in given else first, models, start, cache, pin=not dry_run)
    return Settings(
        arch=value["ARCH"],
        base=value["BASE"],
        board=_board(value["BOARD"], value["ARCH"], value["BASE"]),
        cache=chosen.cache,
        models=models,
        catalogue=title,
        model=replace(chosen, named="MODEL" in given, own_engine=bool(value["LLAMA_SRC"])),
        image_tool=value["IMAGE_TOOL"],
        context=values.count("CTX", value["CTX"], 128, 1 << 20) if value["CTX"] else 0,
        cache_type=value["KV"],
        memory=values.memory(value["MEM"]) if value["MEM"] else 0,
        cpus=_cpus(value),
        accel=host.accelerator(value["ACCEL"], value["ARCH"]),
        accel_named=value["ACCEL"] != "auto",
        sandbox=values.flag("SANDBOX", value["SANDBOX"]) if value["SANDBOX"] else None,
        verity=values.flag("VERITY", value["VERITY"]),
        dry_run=dry_run,
        cpu=value["CPU"],
        reasoning=_reasoning(value["REASONING"], chosen.entry),
        model_bus=value["MODEL_BUS"],
        weights=value["WEIGHTS"],
        llama_args=_llama_args(value["LLAMA_ARGS"]),
        prompt=_prompt("PROMPT", value["PROMPT"]) if "PROMPT" in given else None,
        files=values.attached(value["ATTACH"], start, asked="PROMPT" in given) if "ATTACH" in given else (),
        system=_system(value["SYSTEM"]) if "SYSTEM" in given else "",
        launched=start,
        chat=_kept(value),
        file=existing_file("FILE", value["FILE"], start, or_folder=True),
        keep=_keep(value["KEEP"], chosen.entry),
        hot=values.flag("HOT", value["HOT"]),
        verbose=values.flag("VERBOSE", value["VERBOSE"]),
        service=_service(value, chosen, start, given),
        workers=_workers(value, start),
    )


def _arch(value: Mapping[str, str], cache: Path, *, dry_run: bool) -> str:
    native = value["ARCH"] == NATIVE
    return hardware.native_arch(value["ACCEL"], cache, dry_run=dry_run) if native else value["ARCH"]


def _catalogue(
    value: Mapping[str, str], root: Path, start: Path, cache: Path, *, dry_run: bool
) -> tuple[dict[str, Model], str, str]:
    """Return the models that have names, the title of a catalogue that is not zosia's own, and the default model."""
    if not value["CATALOGUE"]:
        return references.with_known(catalogue.read_models(root / "models.toml"), cache), "", value["MODEL"]
    from zosia.inputs.signed import elsewhere  # most runs do without

    found = elsewhere.read(value["CATALOGUE"], start, dry_run=dry_run)
    return references.with_known(found.models, cache), found.title, next(iter(found.models))


def _kept(value: Mapping[str, str]) -> Kept:
    encrypt = values.flag("ENCRYPT", value["ENCRYPT"]) if value["ENCRYPT"] else None
    return Kept(name=value["CHAT"], encrypt=encrypt, search=value["SEARCH"])


def _cpus(value: Mapping[str, str]) -> int:
    """Return the processors of a guest: of several that answer at a time, each has its part of the host's."""
    if value["SMP"]:
        return values.count("SMP", value["SMP"], 1, host.affinity())
    return max(1, min(host.processors() // _guests(value), 8))


def _guests(value: Mapping[str, str]) -> int:
    return values.count("GUESTS", value["GUESTS"], 1, 16)


def _service(value: Mapping[str, str], chosen: Choice, start: Path, given: Container[str]) -> Service:
    if "KEY" in given and not value["KEY"]:  # such as KEY=$UNSET
        raise ZosiaError("KEY= is empty", "Give a key, or auto, or leave KEY= out")
    port = values.count("PORT", value["PORT"], 0, 65535)
    return Service(
        model=chosen.title,
        host=value["HOST"],
        port=port,
        socket=platformdirs.user_state_path("zosia") / f"{port}.sock" if port else None,
        key=value["KEY"],
        page=PAGE if values.flag("UI", value["UI"]) else None,
        parallel=values.count("PARALLEL", value["PARALLEL"], 1, 64),
        guests=_guests(value),
        idle=values.duration("IDLE", value["IDLE"]) if value["IDLE"] else 0.0,
        log=absolute("LOG", value["LOG"], start) if value["LOG"] else None,
        verbose=values.flag("VERBOSE", value["VERBOSE"]),
    )


def _workers(value: Mapping[str, str], start: Path) -> Together:
    socket = absolute("SOCKET", value["SOCKET"], start) if value["SOCKET"] else None
    if not value["WORKERS"]:
        if value["SPLIT"]:
            raise ZosiaError("SPLIT= is for machines with workers", "Set WORKERS= as well, or leave SPLIT= out")
        if value["RPC_SERVER"]:
            raise ZosiaError("RPC_SERVER= is for WORKERS=host", "Set WORKERS=host as well, or leave RPC_SERVER= out")
        return Together(socket=socket)
    from zosia.settings import workers  # most runs do without

    split = [values.count("SPLIT", number, 0, shape.MOST_LAYERS) for number in value["SPLIT"].split(",") if number]
    server = existing_file("RPC_SERVER", value["RPC_SERVER"], start)
    return Together(names=workers.names(value["WORKERS"], start), split=tuple(split), socket=socket, server=server)


def _checked(value: dict[str, str], unknown: Iterable[str]) -> dict[str, str]:
    """Return the values; unknown names, and a value that is not allowed, whatever the others are, are refused."""
    values.check_known("a variable", unknown, DEFAULTS)
    for variable in VARIABLES:
        if variable.choices and variable.default:  # without a default it depends on others, and is checked with them
            values.check_value(variable.name, value[variable.name], variable.choices)
    return value


def _board(text: str, arch: str, base: str) -> Board | None:
    """Return the requested board, None for the fastest."""
    known = [board for board in BOARDS[arch] if base != "distro" or board.modules]
    found = [board for board in known if board.name == text]
    if text and not found:
        names = " and ".join(board.name for board in known)
        of_base = f" BASE={base}" if base == "distro" else ""
        raise ZosiaError(f"BOARD={text} is not for ARCH={arch}{of_base}", f"It runs on {names}; leave BOARD= out")
    return found[0] if found else None


def _model(text: str, models: dict[str, Model], start: Path, cache: Path, *, pin: bool) -> Choice:
    """Return the chosen model; with `pin`, the hub may be asked for one that is not in the catalogue."""
    if text in models:
        return Choice(entry=models[text], cache=cache)
    if references.is_reference(text):
        return Choice(entry=references.resolve(text, cache, pin=pin), cache=cache)
    if text.endswith(".gguf") or "/" in text:
        path = absolute("MODEL", text, start)
        if not path.is_file():
            raise ZosiaError(
                f"MODEL={text} is no file in {path.parent}",
                "Give a path of a .gguf, or a name that `scons models` lists; a repository of the hub is hf:OWNER/REPO",
            )
        return Choice(parts=tuple(shape.split_parts(path)), cache=cache)
    raise ZosiaError(f"MODEL={text} is neither a model that zosia knows by name nor a .gguf", near(text, models))


def _reasoning(text: str, model: Model | None) -> str:
    """Return the requested effort, or the model's default; "" for a model that does not reason, or may not."""
    if isinstance(model, Reference):
        model = None
    known = model.reasoning if model else REASONING
    if not text:
        return known[0] if model and known else ""
    if not known:
        raise ZosiaError(f"REASONING={text} is not for this model, which does not reason", "Leave REASONING= out")
    if text not in known:
        takes = f"{model.name} takes {', '.join(known)}" if model else f"Known are: {', '.join(known)}"
        raise ZosiaError(f"REASONING={text} is not for this model", takes)
    return text


def _keep(text: str, model: Model | None) -> str:
    if not text:
        return ""
    values.check_value("KEEP", text, ("disk", "file"))
    if model is None:
        raise ZosiaError("KEEP= is for models that have a name: a file of yours is never removed", "Leave KEEP= out")
    return text


def _llama_args(text: str) -> tuple[str, ...]:
    words = tuple(values.words("LLAMA_ARGS", text))
    for word in words:
        if word in RESERVED_ARGS:
            raise ZosiaError(f"LLAMA_ARGS= has {word}, which zosia sets itself", f"Set {RESERVED_ARGS[word]}= instead")
    for option, template in pairwise(words):
        # llama.cpp takes any other name for a template that has nothing of the question (common_chat_templates_init).
        if option == "--chat-template" and "{" not in template and template not in NAMED and "--no-jinja" not in words:
            raise ZosiaError(
                f"LLAMA_ARGS= has --chat-template {shown(template)}, which is no template: it has no {{{{ … }}}}",
                "Give a template in Jinja, or the name chatml; the other names of llama.cpp need --no-jinja",
            )
    return words


def _system(text: str) -> str:
    return _prompt("SYSTEM", text) if text.strip() else EMPTY_TURN


def _prompt(name: str, text: str) -> str:
    if not text.strip():
        raise ZosiaError(f"{name}= is empty", f"Give some text, or leave {name}= out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ZosiaError(f"{name}= is no UTF-8 text", "Convert it first, with iconv for example") from error
    return text
