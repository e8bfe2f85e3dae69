"""The variables and targets of `scons`: what can be typed, its help, and what it means."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from SCons.Variables import Variables

from zosia import catalogue, host, settings
from zosia.catalogue import Model, Pin
from zosia.errors import ZosiaError
from zosia.files import cache_root
from zosia.fit import Needs
from zosia.machine import Accel, Machine, Mode

ARCHES = ("aarch64",)
TARGETS = ("diag", "initramfs", "kernel", "llama", "model.img", "run", "shell", "smoke")
DEFAULT_MODEL = "smollm2-135m"

# name, help, default
OPTIONS = (
    ("MODEL", "a name of models.toml, or the path of a .gguf", DEFAULT_MODEL),
    ("MEM", "guest memory: a number and K, M or G; a bare number is MiB (default: the model's)", ""),
    ("SMP", "guest processors, no more than the host's (default: the host's, at most 8)", ""),
    ("CTX", "context in tokens (default: the model's)", ""),
    ("ACCEL", "kvm, hvf or tcg; auto takes the fastest that works", "auto"),
    ("CPU", "QEMU's -cpu (default: max, trimmed for tcg)", ""),
    ("PROMPT", "what to ask once, without a chat: the answer alone goes to standard output", ""),
    ("SYSTEM", "the system prompt", ""),
    ("LLAMA_ARGS", "further arguments of llama-cli, quoted as in a shell; nothing is expanded", ""),
    ("ARCH", f"the guest's architecture: {', '.join(ARCHES)}", ARCHES[0]),
    ("LLAMA_SRC", "a llama.cpp source folder to build instead of the pinned one", ""),
    ("KERNEL", "a kernel image to boot, or a Linux source folder to build, instead of the pinned one", ""),
    ("BUSYBOX", "a static busybox for the guest instead of the pinned one", ""),
    ("V", "1 shows commands", ""),
    ("VERBOSE", "1 shows the messages of the guest's kernel and of llama.cpp", ""),
)

# What zosia gives llama-cli itself, and the variable that decides it.
OF_ZOSIA = {
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
  kernel       build/ARCH/Image, Linux with zosia's own configuration
  llama        build/ARCH/llama-cli-*, static, one for each level of CPU
  initramfs    build/ARCH/initramfs.cpio.gz: busybox, llama-cli and /init
  model.img    build/models/NAME.img, the disk with the model
  run          boot it on this terminal; the exit status is llama-cli's
  diag         boot, print what a bug report needs, and power off
  shell        boot to a shell with all of busybox, for those who develop zosia; in an image of its own
  smoke        boot without a model (a stub answers) and check it; with MODEL=, ask that model
  -c           remove what was built; downloads stay in the cache (ZOSIA_CACHE, default: {cache})

Variables:
{options}
"""


def help_text() -> str:
    """What `scons -h` shows."""
    options = "\n".join(
        f"  {name:12} {text}" + (f" (default: {default})" if default else "") for name, text, default in OPTIONS
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
        path = start / Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ZosiaError(
            f"{name}={text} can't be read: {error}", f"Type an existing path, or leave {name}= out"
        ) from error
    return path


def check_targets(targets: Iterable[str]) -> None:
    """Refuse a misspelt target; a path is SCons' own business."""
    settings.check_known("a target", [name for name in targets if "/" not in name and name != "."], TARGETS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was typed, checked. `model` is None when MODEL= is a file, `model_file` when it is a name."""

    arch: str
    cache: Path
    jobs: int
    sources: dict[str, Pin]
    model: Model | None
    model_file: Path | None
    model_named: bool
    context: int
    memory: int
    cpus: int
    accel: Accel
    cpu: str
    llama_args: tuple[str, ...]
    prompt: str | None
    system: str
    llama_src: Path | None
    kernel: Path | None
    busybox: Path | None
    verbose: bool
    show_commands: bool

    @property
    def model_name(self) -> str:
        """What its image is called."""
        if self.model:
            return self.model.name
        path = self.model_file or Path()
        safe = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)
        return f"{safe}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # other folders have files of this name

    def stub_machine(self) -> Machine:
        """The machine that boots without a model."""
        stub = Path(f"build/{self.arch}/initramfs-stub.cpio.gz")
        return replace(self.machine(), initramfs=stub, disk=None, need=0, prompt=None)

    def shell_machine(self) -> Machine:
        """The machine that boots to a shell."""
        return replace(self.machine(), initramfs=Path(f"build/{self.arch}/initramfs-shell.cpio.gz"), prompt=None)

    def diag_machine(self) -> Machine:
        """The machine that tells what a bug report needs."""
        return replace(self.machine(), mode=Mode.DIAG, prompt=None)

    def machine(self) -> Machine:
        """The machine that boots the model."""
        # llama-cli's own defaults would be the model's longest context and 8 GiB of saved prompts. Loading measures
        # what fits and warms up first, which an emulated machine pays for with a second of the user's time.
        args = ["-c", str(self.context), "--cache-ram", "0", "-fit", "off", "--no-warmup", "--no-repack"]
        args += [*(self.model.sampling if self.model else ()), *self.llama_args]
        disk = Path(f"build/models/{self.model_name}.img")
        return Machine(
            arch=self.arch,
            accel=self.accel,
            cpu=self.cpu,
            cpus=self.cpus,
            memory=self.memory,
            kernel=Path(f"build/{self.arch}/Image"),
            initramfs=Path(f"build/{self.arch}/initramfs.cpio.gz"),
            disk=disk,
            need=_need(disk, args),
            llama_args=tuple(args),
            system=self.system,
            prompt=self.prompt,
            verbose=self.verbose,
            sandbox=os.uname().sysname == "Linux",
        )


def _need(disk: Path, llama_args: Sequence[str]) -> int:
    """MiB that the model on a disk takes, by what was written down when the disk was made; 0 without that."""
    try:
        record = json.loads(disk.with_suffix(".img.json").read_text(encoding="utf-8"))
        return Needs(**record["needs"]).memory(llama_args)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def read(
    env: Any, unknown: Iterable[str], root: Path, *, given: Container[str] = (), launched: Path | None = None
) -> Settings:
    """The settings that the variables mean.

    Args:
        given: names of the variables that were typed; the others have their defaults.
        launched: where relative paths start, the folder that scons was started in.

    Raises:
        ZosiaError: a variable is unknown, or a value is not what it should be.
    """
    settings.check_known("a variable", unknown, [name for name, _, _ in OPTIONS])
    start = launched or root
    value = {name: str(env[name]) for name, _, _ in OPTIONS}
    settings.check_value("ARCH", value["ARCH"], ARCHES)
    settings.check_value("ACCEL", value["ACCEL"], ["auto", *(accel.value for accel in Accel)])
    models = catalogue.read_models(root / "models.toml")
    model, model_file = _model(value["MODEL"], models, start)
    return Settings(
        arch=value["ARCH"],
        cache=cache_root(),
        jobs=host.processors(),
        sources=catalogue.read_sources(root / "sources.toml"),
        model=model,
        model_file=model_file,
        model_named="MODEL" in given,
        context=settings.count("CTX", value["CTX"], 128, 1 << 20) if value["CTX"] else model.context if model else 2048,
        memory=settings.memory(value["MEM"]) if value["MEM"] else _memory(model, model_file),
        cpus=settings.count("SMP", value["SMP"], 1, host.processors()) if value["SMP"] else min(host.processors(), 8),
        accel=host.accelerator(value["ACCEL"], value["ARCH"]),
        cpu=value["CPU"],
        llama_args=_llama_args(value["LLAMA_ARGS"]),
        prompt=_prompt("PROMPT", value["PROMPT"]) if "PROMPT" in given else None,
        system=_prompt("SYSTEM", value["SYSTEM"]) if "SYSTEM" in given else "",
        llama_src=_path("LLAMA_SRC", value["LLAMA_SRC"], start, inside="CMakeLists.txt"),
        kernel=_kernel(value["KERNEL"], start, root / "build"),
        busybox=_path("BUSYBOX", value["BUSYBOX"], start),
        verbose=settings.flag("VERBOSE", value["VERBOSE"]),
        show_commands=settings.flag("V", value["V"]),
    )


def _model(text: str, models: dict[str, Model], start: Path) -> tuple[Model | None, Path | None]:
    if text in models:
        return models[text], None
    if text.endswith(".gguf") or "/" in text:
        path = absolute("MODEL", text, start)
        if not path.is_file():
            raise ZosiaError(
                f"MODEL={text} is no file in {path.parent}", "Type a path of a .gguf, or a name of models.toml"
            )
        return None, path
    raise ZosiaError(f"MODEL={text} is neither a name of models.toml nor a .gguf", catalogue.near(text, models))


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


def _memory(model: Model | None, file: Path | None) -> int:
    """MiB for a guest: what the catalogue says, or for a file its size, a fifth more and the guest's own 384."""
    return model.memory if model else 384 + (file.stat().st_size if file else 0) * 6 // 5 // (1 << 20)


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
