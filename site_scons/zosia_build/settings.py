"""Validated settings of a build: those of the run that it is for, and where its parts come from."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zosia.base import apt
from zosia.base.errors import ZosiaError
from zosia.inputs import catalogue
from zosia.inputs.catalogue import Pin
from zosia.machine import host
from zosia.machine.boards import BOARDS
from zosia.model import plan
from zosia.model.shape import Shape
from zosia.settings import hardware, machines, reading, settle, values
from zosia.settings.settings import Settings
from zosia.settings.variables import BASES, DEFAULTS

ANY_MEMORY = 1 << 20  # MiB: more than any machine has
GUEST_TEXTS = ("args", "need", "system")  # the part of a machine's texts that an ISO carries


@dataclass(frozen=True, kw_only=True)
class Build:
    """Validated settings of a build; the table in variables.py explains them.

    `sources` are the pins of sources.toml; `jobs` is the number of processes that compile.
    """

    run: Settings
    sources: dict[str, Pin]
    jobs: int
    llama_src: Path | None
    kernel: Path | None
    busybox: Path | None
    buildroot: Path | None
    buildroot_config: Path | None
    iso_model: bool
    rounds: int
    show_commands: bool

    @property
    def own(self) -> tuple[str, ...]:
        """Variables by which the user supplied a part."""
        given = {"KERNEL": self.kernel, "BUSYBOX": self.busybox, "LLAMA_SRC": self.llama_src}
        return tuple(name for name, path in given.items() if path)

    @property
    def makes_iso(self) -> bool:
        """Return True for the base that ISOs are made of: they have a kernel configuration of their own."""
        return self.run.base == BASES[0]

    @property
    def iso(self) -> Path:
        """Path of the ISO."""
        bare = "" if self.iso_model else "-bare"
        return Path(f"build/{self.run.arch}/zosia-{self.run.model.name}{bare}.iso")

    def check_iso(self) -> None:
        """Refuse settings that an ISO can't have, a model that llama.cpp can't load, and a host that lacks the tools.

        Raises:
            ZosiaError: such a setting or model, or a missing tool.
        """
        if self.run.prompt is not None:
            raise ZosiaError("PROMPT= is not for an ISO, which is for a chat", "Leave PROMPT= out, or set SYSTEM=")
        if not self.makes_iso:
            raise ZosiaError(
                f"BASE={self.run.base} makes no ISO, which has a kernel of its own", f"Set BASE={BASES[0]}, on Linux"
            )
        if self.kernel and not self.kernel.is_dir():
            raise ZosiaError(
                "KERNEL= is a kernel image, and an ISO has a kernel of its own",
                "Leave KERNEL= out, or name a Linux source folder",
            )
        self.run.model.measures()
        if not self.run.dry_run:
            from zosia_build import iso  # a build of anything else does without

            iso.check_tools(self.run.arch)

    def check_wheel(self) -> None:
        """Refuse settings that a wheel can't have, and a host that lacks hatchling.

        Raises:
            ZosiaError: such a setting, or no hatchling.
        """
        for name in self.own:
            raise ZosiaError(f"{name}= is a part of your own, and a wheel is for others", f"Leave {name}= out")
        if self.run.base != BASES[0]:
            raise ZosiaError(
                f"BASE={self.run.base} makes no wheel, which has zosia's own kernel", f"Set BASE={BASES[0]}, on Linux"
            )
        if not self.run.dry_run:
            from zosia_build.release import wheel  # a build of anything else does without

            wheel.check_host()

    def check_bill(self) -> None:
        """Refuse a base that has a bill of its own.

        Raises:
            ZosiaError: it is Buildroot.
        """
        if self.run.base == "buildroot":
            raise ZosiaError(
                "BASE=buildroot has a bill of materials of its own",
                f"Type: make -C {self.run.base_build}/buildroot legal-info",
            )

    @property
    def others(self) -> list[Build]:
        """The same settings for each other architecture."""
        return [replace(self, run=replace(self.run, arch=arch)) for arch in BOARDS if arch != self.run.arch]

    @property
    def places(self) -> dict[str, str]:
        """SCons' variables of the architecture: its name, the folder of its build, and the one of the base."""
        return {"ARCH": self.run.arch, "BUILD": f"#build/{self.run.arch}", "BASE_BUILD": f"#{self.run.base_build}"}

    def check_host(self) -> None:
        """Refuse a host that the base can't be built on.

        Raises:
            ZosiaError: Buildroot does not run here.
        """
        if self.run.base == "buildroot":
            from zosia_build import buildroot  # a build of another base does without

            buildroot.check_host()

    @property
    def iso_content(self) -> str:
        """Cache key of the ISO, apart from the programs on it."""
        run = self.run
        wanted = settle.wish(run, hardware.expected(run).bus)
        like = settle.alike(run, wanted.shape)
        taken = (like.llama_args, like.reasoning) if like else ()
        values = (self.iso_model, wanted.context, run.cache_type, run.memory, run.reasoning, run.llama_args, *taken)
        return str((run.model.content, run.model.info, *values, run.weights, run.system, run.verbose))


def iso_texts(run: Settings, found: Shape, weights: int) -> Mapping[str, str]:
    """Return what /init reads from the ISO, for a machine whose memory is unknown, unless MEM= is set.

    Raises:
        ZosiaError: the model does not fit into MEM=.
    """
    chosen = hardware.expected(run)
    # An ISO's kernel takes memory for devices of all kinds, like a distribution's.
    wanted = replace(
        settle.wish(run, chosen.bus), shape=found, weights=weights, heavy_kernel=True, mapped=False, dax=False
    )
    machine = machines.of(run, chosen, wanted, plan.plan(wanted, ANY_MEMORY))
    texts = machine.task.texts(supervised=False)
    return {name: text for name, text in texts.items() if name in GUEST_TEXTS}


def read(
    env: Mapping[str, Any],
    unknown: Iterable[str],
    root: Path,
    *,
    given: Container[str] = (),
    launched: Path | None = None,
    dry_run: bool = False,
) -> Build:
    """Return the settings that the variables mean; arguments and errors as those of reading.read."""
    run = reading.read(env, unknown, root, given=given, launched=launched, dry_run=dry_run)
    start = launched or root
    value = {name: str(env[name]) for name in DEFAULTS}
    return Build(
        run=run,
        sources=_sources(root / "sources.toml"),
        jobs=host.processors(),
        llama_src=reading.source_folder("LLAMA_SRC", value["LLAMA_SRC"], start, inside="CMakeLists.txt"),
        kernel=_kernel(value["KERNEL"], start, root / "build"),
        busybox=reading.existing_file("BUSYBOX", value["BUSYBOX"], start),
        **_buildroot(value, start),
        iso_model=value["ISO_MODEL"] == "yes",
        rounds=values.count("RUNS", value["RUNS"], 1, 1000),
        show_commands=values.flag("V", value["V"]),
    )


def _sources(path: Path) -> dict[str, Pin]:
    """Read the build's inputs; where there is no Debian, the kernel is upstream's release and not Debian's package."""
    sources = catalogue.read_sources(path)
    upstream = sources.pop("linux-upstream")
    return sources if apt.available() else sources | {"linux": replace(upstream, name="linux")}


def _buildroot(value: Mapping[str, str], start: Path) -> dict[str, Path | None]:
    for name in ("BUILDROOT", "BUILDROOT_CONFIG"):
        if value[name] and value["BASE"] != "buildroot":
            raise ZosiaError(f"{name}= is for BASE=buildroot, and this is BASE={value['BASE']}", "Set BASE=buildroot")
    return {
        "buildroot": reading.source_folder("BUILDROOT", value["BUILDROOT"], start, inside="Makefile"),
        "buildroot_config": reading.existing_file("BUILDROOT_CONFIG", value["BUILDROOT_CONFIG"], start),
    }


def _kernel(text: str, start: Path, build: Path) -> Path | None:
    """Return the kernel image or the Linux source folder that KERNEL= names."""
    if text and reading.absolute("KERNEL", text, start).is_dir():
        return reading.source_folder("KERNEL", text, start, inside="Kconfig")
    path = reading.existing_file("KERNEL", text, start)
    if path and path.resolve().is_relative_to(build.resolve()):
        raise ZosiaError(f"KERNEL={text} is where the build puts its own kernel", "Copy it to another place first")
    return path
