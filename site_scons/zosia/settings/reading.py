"""Reader of the variables and targets given to `scons`, and their help."""

from __future__ import annotations

import itertools
import os
import textwrap
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from SCons.Variables import Variables

from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.inputs import catalogue
from zosia.inputs.catalogue import Model
from zosia.machine import host
from zosia.machine.qemu import BOARDS, Board
from zosia.model import shape
from zosia.settings import values
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS, EXAMPLES, TARGETS, VARIABLES

# What zosia gives llama-cli itself, and the variable that decides it.
OF_ZOSIA = {
    **dict.fromkeys(("-lm", "--load-mode", "--repack", "-nr", "--no-repack"), "WEIGHTS"),
    **dict.fromkeys(("-c", "--ctx-size"), "CTX"),
    **dict.fromkeys(("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"), "KV"),
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "MODEL"),
    **dict.fromkeys(("-p", "--prompt", "-f", "--file", "-st", "--single-turn"), "PROMPT"),
    **dict.fromkeys(("-sys", "--system-prompt", "-sysf", "--system-prompt-file"), "SYSTEM"),
}

_HELP = """
{examples}

Targets (default: the kernel, the initramfs and the model disk)
{targets}
{clean}

Variables, set as NAME=value
{variables}
"""


def help_text(width: int = 100) -> str:
    """Return the text of `scons -h` for a terminal `width` columns wide."""
    column = 20

    def entry(name: str, text: str) -> str:
        lines = textwrap.wrap(text, max(width, 50) - column, break_on_hyphens=False)
        return f"  {name:{column - 2}}" + f"\n{' ' * column}".join(lines)

    variables = []
    for group, members in itertools.groupby(VARIABLES, lambda variable: variable.group):
        variables += [f"\n {group}", *(entry(variable.name, variable.summary) for variable in members)]
    return _HELP.format(
        examples="\n".join(f"  {typed}\n{' ' * column}{text}" for typed, text in EXAMPLES.items()),
        targets="\n".join(entry(name, text) for name, text in TARGETS.items()),
        clean=entry(
            "-c", f"remove everything built, including model disks; downloads stay in {cache_root()} (ZOSIA_CACHE)"
        ),
        variables="\n".join(variables),
    )


def variables(arguments: Mapping[str, str]) -> Variables:
    """SCons' variables; their values stay text, and $ in them stays $."""
    known = Variables(None, dict(arguments))
    for variable in VARIABLES:
        known.Add(variable.name, variable.text, variable.default, subst=False)
    return known


def absolute(name: str, text: str, start: Path) -> Path:
    """The path that a variable names.

    Raises:
        ZosiaError: nobody can say whether there is such a path.
    """
    try:
        path = Path(os.path.normpath(start / Path(text).expanduser()))  # and a link keeps its name
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ZosiaError(
            f"{name}={text} can't be read: {error}", f"Type an existing path, or leave {name}= out"
        ) from error
    return path


def check_targets(targets: Iterable[str]) -> None:
    """Refuse a misspelt target; a path is SCons' own business."""
    values.check_known("a target", [name for name in targets if "/" not in name and name != "."], TARGETS)


def read(
    env: Any,
    unknown: Iterable[str],
    root: Path,
    *,
    given: Container[str] = (),
    launched: Path | None = None,
    dry_run: bool = False,
) -> Settings:
    """The settings that the variables mean.

    Args:
        given: names of the variables that were typed; the others have their defaults.
        launched: where relative paths start, the folder that scons was started in.
        dry_run: nothing may be started.

    Raises:
        ZosiaError: a variable is unknown, or a value is not what it should be.
    """
    values.check_known("a variable", unknown, DEFAULTS)
    start = launched or root
    value = {name: str(env[name]) for name in DEFAULTS}
    for variable in VARIABLES:
        if variable.choices and variable.default:  # what has none depends on others, and is checked with them
            values.check_value(variable.name, value[variable.name], variable.choices)
    models = catalogue.read_models(root / "models.toml")
    model, model_parts = _model(value["MODEL"], models, start)
    return Settings(
        arch=value["ARCH"],
        base=value["BASE"],
        board=_board(value["BOARD"], value["ARCH"], value["BASE"]),
        cache=cache_root(),
        jobs=host.processors(),
        sources=catalogue.read_sources(root / "sources.toml"),
        models=models,
        model=model,
        model_parts=model_parts,
        model_named="MODEL" in given,
        image_tool=value["IMAGE_TOOL"],
        iso_model=value["ISO_MODEL"] == "yes",
        context=values.count("CTX", value["CTX"], 128, 1 << 20) if value["CTX"] else 0,
        cache_type=value["KV"],
        memory=values.memory(value["MEM"]) if value["MEM"] else 0,
        cpus=values.count("SMP", value["SMP"], 1, host.processors()) if value["SMP"] else min(host.processors(), 8),
        accel=host.accelerator(value["ACCEL"], value["ARCH"]),
        accel_named=value["ACCEL"] != "auto",
        dry_run=dry_run,
        cpu=value["CPU"],
        reasoning=_reasoning(value["REASONING"], model),
        model_bus=value["MODEL_BUS"],
        weights=value["WEIGHTS"],
        llama_args=_llama_args(value["LLAMA_ARGS"]),
        prompt=_prompt("PROMPT", value["PROMPT"]) if "PROMPT" in given else None,
        system=_prompt("SYSTEM", value["SYSTEM"]) if "SYSTEM" in given else "",
        llama_src=_path("LLAMA_SRC", value["LLAMA_SRC"], start, inside="CMakeLists.txt"),
        kernel=_kernel(value["KERNEL"], start, root / "build"),
        busybox=_path("BUSYBOX", value["BUSYBOX"], start),
        **_buildroot(value, start),
        file=_path("FILE", value["FILE"], start),
        keep=_keep(value["KEEP"], model),
        runs=values.count("RUNS", value["RUNS"], 1, 1000),
        hot=values.flag("HOT", value["HOT"]),
        verbose=values.flag("VERBOSE", value["VERBOSE"]),
        show_commands=values.flag("V", value["V"]),
    )


def _board(text: str, arch: str, base: str) -> Board | None:
    """The board that was typed."""
    known = [board for board in BOARDS[arch] if base != "distro" or board is not Board.MICROVM]
    if text and text not in [board.value for board in known]:
        names = " and ".join(board.value for board in known)
        raise ZosiaError(f"BOARD={text} is not for ARCH={arch} BASE={base}", f"It runs on {names}; leave BOARD= out")
    return Board(text) if text else None


def _buildroot(value: Mapping[str, str], start: Path) -> dict[str, Path | None]:
    for name in ("BUILDROOT", "BUILDROOT_CONFIG"):
        if value[name] and value["BASE"] != "buildroot":
            raise ZosiaError(f"{name}= is for BASE=buildroot, and this is BASE={value['BASE']}", "Type BASE=buildroot")
    return {
        "buildroot": _path("BUILDROOT", value["BUILDROOT"], start, inside="Makefile"),
        "buildroot_config": _path("BUILDROOT_CONFIG", value["BUILDROOT_CONFIG"], start),
    }


def _model(text: str, models: dict[str, Model], start: Path) -> tuple[Model | None, tuple[Path, ...]]:
    if text in models:
        return models[text], ()
    if text.endswith(".gguf") or "/" in text:
        path = absolute("MODEL", text, start)
        if not path.is_file():
            raise ZosiaError(
                f"MODEL={text} is no file in {path.parent}", "Type a path of a .gguf, or a name of models.toml"
            )
        return None, tuple(shape.split_parts(path))
    raise ZosiaError(f"MODEL={text} is neither a name of models.toml nor a .gguf", catalogue.near(text, models))


def _reasoning(text: str, model: Model | None) -> str:
    """What was typed, or the model's default; "" for a model that does not reason, or of which nobody knows."""
    known = model.reasoning if model else catalogue.REASONING
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
        if word in OF_ZOSIA:
            raise ZosiaError(f"LLAMA_ARGS= has {word}, which zosia sets itself", f"Type {OF_ZOSIA[word]}= instead")
    return words


def _prompt(name: str, text: str) -> str:
    if not text.strip():
        raise ZosiaError(f"{name}= is empty", f"Type some text, or leave {name}= out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ZosiaError(f"{name}= is no UTF-8 text", "Convert it first, with iconv for example") from error
    return text


def _path(name: str, text: str, start: Path, *, inside: str = "") -> Path | None:
    """The file that a variable names, or the folder, which must hold `inside`."""
    if not text:
        return None
    path = absolute(name, text, start)
    if inside and not (path / inside).is_file():
        raise ZosiaError(f"{name}={text} is no folder with a {inside}", "Type the path of a source folder")
    if not inside and not path.is_file():
        raise ZosiaError(f"{name}={text} is no file in {path.parent}", f"Type an existing path, or leave {name}= out")
    return path


def _kernel(text: str, start: Path, build: Path) -> Path | None:
    """The kernel image or the Linux source folder that KERNEL= names."""
    if text and absolute("KERNEL", text, start).is_dir():
        return _path("KERNEL", text, start, inside="Kconfig")
    path = _path("KERNEL", text, start)
    if path and path.resolve().is_relative_to(build.resolve()):
        raise ZosiaError(f"KERNEL={text} is where the build puts its own kernel", "Copy it to another place first")
    return path
