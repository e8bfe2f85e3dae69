"""The variables and targets of `scons`: what can be typed, its help, and what it means."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from SCons.Variables import Variables

from zosia import catalogue, host, settings, shape
from zosia.catalogue import Model
from zosia.errors import ZosiaError
from zosia.files import cache_root
from zosia.machine import BOARDS, Accel, Board
from zosia.plan import CACHE_TYPES
from zosia_settings import BASES, Settings

TARGETS = (
    *("diag", "import-model", "initramfs", "iso", "kernel", "llama", "model.img", "models", "remove-model", "run"),
    *("shell", "smoke"),
)
DEFAULT_MODEL = "smollm2-135m"
IMAGE_TOOLS = ("mke2fs", "genext2fs")
BASE = "distro" if sys.platform == "darwin" else BASES[0]  # macOS has no compiler for Linux

# name, help, default
OPTIONS = (
    ("MODEL", "a name (`scons models` lists them), or the path of a .gguf; of a split one, any part", DEFAULT_MODEL),
    ("MEM", "guest memory: a number and K, M or G; a bare number is MiB (default: what the model takes)", ""),
    ("SMP", "guest processors, no more than the host's (default: the host's, at most 8)", ""),
    ("CTX", "context in tokens (default: the model's, or what fits into this machine)", ""),
    ("KV", f"type of the cached context: {', '.join(CACHE_TYPES)}, each half of the one before", CACHE_TYPES[0]),
    ("REASONING", "how long the model thinks first: low, medium, high, on or off (default: the model's)", ""),
    ("ACCEL", "kvm, hvf or tcg; auto takes the fastest that works", "auto"),
    ("CPU", "QEMU's -cpu (default: max, trimmed for tcg)", ""),
    ("PROMPT", "what to ask once, without a chat: the answer alone goes to standard output", ""),
    ("SYSTEM", "the system prompt", ""),
    ("LLAMA_ARGS", "further arguments of llama-cli, quoted as in a shell; nothing is expanded", ""),
    ("IMAGE_TOOL", f"what makes the model's disk: {', '.join(IMAGE_TOOLS)}", IMAGE_TOOLS[0]),
    ("ISO_MODEL", "with iso: yes puts the model on it; no leaves it to the model's disk, attached beside it", "yes"),
    ("FILE", "with import-model: the .gguf to take into the cache", ""),
    ("KEEP", "with remove-model: what to keep of the model, disk or file", ""),
    ("ARCH", f"the guest's architecture: {', '.join(BOARDS)}", next(iter(BOARDS))),
    ("BASE", "where kernel and busybox are from: direct (built here), buildroot, or distro (Debian's)", BASE),
    ("BOARD", "what QEMU emulates: virt (aarch64); q35, or with KVM microvm (x86_64) (default: the fastest)", ""),
    ("BUILDROOT", "with BASE=buildroot: a Buildroot source folder, instead of the pinned one", ""),
    (
        "BUILDROOT_CONFIG",
        "with BASE=buildroot: a file of further BR2_ settings, such as for a toolchain",
        "",
    ),
    ("LLAMA_SRC", "a llama.cpp source folder to build instead of the pinned one", ""),
    ("KERNEL", "a kernel image to boot, or a Linux source folder to build, instead of the pinned one", ""),
    ("BUSYBOX", "a static busybox for the guest instead of the pinned one", ""),
    ("V", "1 shows commands", ""),
    ("VERBOSE", "1 shows the messages of the guest's kernel and of llama.cpp", ""),
)

DEFAULTS = {name: default for name, _, default in OPTIONS}

# What zosia gives llama-cli itself, and the variable that decides it.
OF_ZOSIA = {
    **dict.fromkeys(("-c", "--ctx-size"), "CTX"),
    **dict.fromkeys(("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"), "KV"),
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "MODEL"),
    **dict.fromkeys(("-p", "--prompt", "-f", "--file", "-st", "--single-turn"), "PROMPT"),
    **dict.fromkeys(("-sys", "--system-prompt", "-sysf", "--system-prompt-file"), "SYSTEM"),
}

_HELP = """
  scons run                             build what is missing, boot, and chat; /exit or Ctrl+C powers off
  scons run MODEL=/path/to/model.gguf MEM=4G CTX=4096
  scons run PROMPT="What is 2+2?"       one answer on standard output, and power off
  scons -n run                          print the QEMU command; after `scons` it can be pasted

Targets:
  (none)       everything for the model: kernel, initramfs, model disk
  kernel       build/ARCH/Image, Linux with zosia's own configuration (with another BASE: build/ARCH/BASE/Image)
  llama        build/ARCH/llama-cli-*, static, one for each level of CPU
  initramfs    build/ARCH/initramfs.cpio.gz: busybox, llama-cli and /init
  model.img    build/models/NAME.img, the disk with the model
  iso          build/ARCH/zosia-MODEL.iso, for other machines and hypervisors: a CD, or written to a stick or disk
  models       the models that have a name: size, licence, memory, whether they are here and fit this machine
  import-model take FILE= into the cache, if it is a model that has a name: without a network
  remove-model delete MODEL= from the cache, and its disk
  run          boot it on this terminal; the exit status is llama-cli's
  diag         boot, print what a bug report needs, and power off
  shell        boot to a shell with all of busybox, for those who develop zosia; in an image of its own
  smoke        boot without a model (a stub answers) and check it; with MODEL=, ask that model
  -c           remove what was built, disks too; downloads stay in the cache (ZOSIA_CACHE, default: {cache})

Variables:
{options}
"""


def help_text() -> str:
    """What `scons -h` shows."""
    width = max(map(len, DEFAULTS))
    options = "\n".join(
        f"  {name:{width}} {text}" + (f" (default: {default})" if default else "") for name, text, default in OPTIONS
    )
    return _HELP.format(cache=cache_root(), options=options)


def variables(arguments: Mapping[str, str]) -> Variables:
    """SCons' variables; their values stay text, and $ in them stays $."""
    known = Variables(None, dict(arguments))
    for name, text, default in OPTIONS:
        known.Add(name, text, default, subst=False)
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
    settings.check_known("a target", [name for name in targets if "/" not in name and name != "."], TARGETS)


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
    settings.check_known("a variable", unknown, [name for name, _, _ in OPTIONS])
    start = launched or root
    value = {name: str(env[name]) for name, _, _ in OPTIONS}
    settings.check_value("ARCH", value["ARCH"], BOARDS)
    settings.check_value("BASE", value["BASE"], BASES)
    settings.check_value("ACCEL", value["ACCEL"], ["auto", *(accel.value for accel in Accel)])
    settings.check_value("KV", value["KV"], CACHE_TYPES)
    settings.check_value("IMAGE_TOOL", value["IMAGE_TOOL"], IMAGE_TOOLS)
    settings.check_value("ISO_MODEL", value["ISO_MODEL"], ("yes", "no"))
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
        context=settings.count("CTX", value["CTX"], 128, 1 << 20) if value["CTX"] else 0,
        cache_type=value["KV"],
        memory=settings.memory(value["MEM"]) if value["MEM"] else 0,
        cpus=settings.count("SMP", value["SMP"], 1, host.processors()) if value["SMP"] else min(host.processors(), 8),
        accel=host.accelerator(value["ACCEL"], value["ARCH"]),
        accel_named=value["ACCEL"] != "auto",
        dry_run=dry_run,
        cpu=value["CPU"],
        reasoning=_reasoning(value["REASONING"], model),
        llama_args=_llama_args(value["LLAMA_ARGS"]),
        prompt=_prompt("PROMPT", value["PROMPT"]) if "PROMPT" in given else None,
        system=_prompt("SYSTEM", value["SYSTEM"]) if "SYSTEM" in given else "",
        llama_src=_path("LLAMA_SRC", value["LLAMA_SRC"], start, inside="CMakeLists.txt"),
        kernel=_kernel(value["KERNEL"], start, root / "build"),
        busybox=_path("BUSYBOX", value["BUSYBOX"], start),
        **_buildroot(value, start),
        file=_path("FILE", value["FILE"], start),
        keep=_keep(value["KEEP"], model),
        verbose=settings.flag("VERBOSE", value["VERBOSE"]),
        show_commands=settings.flag("V", value["V"]),
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
    settings.check_value("KEEP", text, ("disk", "file"))
    if model is None:
        raise ZosiaError("KEEP= is for models that have a name: a file of yours is never removed", "Leave KEEP= out")
    return text


def _llama_args(text: str) -> tuple[str, ...]:
    words = tuple(settings.words("LLAMA_ARGS", text))
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
