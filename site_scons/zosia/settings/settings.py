"""What was typed, checked, and the machines that follow from it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.inputs import catalogue, model_files
from zosia.inputs.catalogue import Model, Pin
from zosia.machine import host
from zosia.machine.qemu import Accel, Board, Bus, Machine, Mode, word
from zosia.model import memory, plan, shape
from zosia.model.plan import Plan, Wish
from zosia.model.shape import Shape
from zosia.run import hot
from zosia.settings import boards, bus
from zosia.settings.variables import BASES
from zosia_build import iso

DISKS = Path("build/models")  # disks, in the tree
ANY_MEMORY = 1 << 20  # MiB: more than any machine has
CONTEXT = 8192  # tokens, for a model of which nobody says more
UNKNOWN = Shape(architecture="unknown", block_count=1, embedding_length=1)


SANDBOX = os.uname().sysname == "Linux"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was typed, checked. A model has a name, `model`, or is a file, `model_parts`.

    `context` and `memory` are 0, and `reasoning` "", when nothing was typed and the model decides. `accel` can be
    opened; `dry_run`: nothing may be started to see whether it works. `board` None for the fastest; `model_bus` and
    `weights` as typed.
    """

    arch: str
    base: str
    board: Board | None
    cache: Path
    jobs: int
    sources: dict[str, Pin]
    models: dict[str, Model]
    model: Model | None
    model_parts: tuple[Path, ...]
    model_named: bool
    image_tool: str
    iso_model: bool
    context: int
    cache_type: str
    memory: int
    cpus: int
    accel: Accel
    accel_named: bool
    dry_run: bool
    cpu: str
    reasoning: str
    model_bus: str
    weights: str
    llama_args: tuple[str, ...]
    prompt: str | None
    system: str
    llama_src: Path | None
    kernel: Path | None
    busybox: Path | None
    buildroot: Path | None
    buildroot_config: Path | None
    file: Path | None
    keep: str
    runs: int
    hot: bool
    verbose: bool
    show_commands: bool

    @property
    def base_build(self) -> Path:
        """Where the kernel, busybox and the initramfs are: those of the default base beside what all bases share."""
        top = Path("build") / self.arch
        return top if self.base == BASES[0] else top / self.base

    @property
    def model_name(self) -> str:
        """What its disk is called."""
        if self.model:
            return self.model.name
        path = self.model_parts[0]
        safe = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)
        return f"{safe}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # other folders have files of this name

    @property
    def image(self) -> Path:
        """The disk of the model."""
        return DISKS / f"{self.model_name}.img"

    @property
    def content(self) -> str:
        """What its disk is made of: text that changes when that does."""
        if self.model:
            model = model_files.pinned(self.model, self.cache)
            return str((model.project, model.version, model.file, model.gguf_sha256))
        states = [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in self.model_parts]
        return str(states)

    @property
    def info(self) -> Mapping[str, str]:
        """What the model says of itself where it is stored: /init shows it, and gives `args` to llama-cli."""
        if self.model is None:
            return {"name": self.model_parts[0].name}
        args = " ".join(map(word, self.model.llama_args))
        return {"name": self.model.name, "title": self.model.title, "licence": self.model.licence, "args": args}

    @property
    def iso(self) -> Path:
        """The ISO."""
        return Path(f"build/{self.arch}/zosia-{self.model_name}{'' if self.iso_model else '-bare'}.iso")

    @property
    def iso_content(self) -> str:
        """What the ISO is made of besides programs: text that changes when that does."""
        typed = (self.iso_model, self.wish().context, self.cache_type, self.memory, self.reasoning, self.llama_args)
        return str((self.content, self.info, *typed, self.weights, self.system, self.verbose))

    def iso_texts(self, found: Shape, weights: int) -> Mapping[str, str]:
        """What /init is told on a machine of which nobody knows the memory, unless MEM= says it.

        Raises:
            ZosiaError: the model does not fit into MEM=.
        """
        # Its kernel keeps memory for devices of all kinds, as a distribution's does.
        wish = replace(self.wish(), shape=found, weights=weights, heavy_kernel=True, mapped=False)
        texts = replace(self._machine(plan.plan(wish, ANY_MEMORY)), heavy_kernel=True).texts()
        return {name: text for name, text in texts.items() if name in ("args", "need", "system")}

    @property
    def own(self) -> tuple[str, ...]:
        """The variables by which parts of one's own were given."""
        given = {"KERNEL": self.kernel, "BUSYBOX": self.busybox, "LLAMA_SRC": self.llama_src}
        return tuple(name for name, path in given.items() if path)

    @property
    def makes_iso(self) -> bool:
        """Whether the base is the one that ISOs are made of: their kernel is built with a configuration of its own."""
        return self.base == BASES[0]

    def check_iso(self) -> None:
        """Refuse what an ISO can't have, and a host that lacks the tools.

        Raises:
            ZosiaError: that was typed, or one is missing.
        """
        if self.prompt is not None:
            raise ZosiaError("PROMPT= is not for an ISO, which is for a chat", "Leave PROMPT= out, or type SYSTEM=")
        if not self.makes_iso:
            raise ZosiaError(
                f"BASE={self.base} makes no ISO, which has a kernel of its own", f"Type BASE={BASES[0]}, on Linux"
            )
        if self.kernel and not self.kernel.is_dir():
            raise ZosiaError(
                "KERNEL= is a kernel image, and an ISO has a kernel of its own",
                "Leave KERNEL= out, or name a Linux source folder",
            )
        if not self.dry_run:
            iso.check_tools(self.arch)

    @property
    def heavy_kernel(self) -> bool:
        """Whether the kernel keeps more memory than the lean one of aarch64: a distribution's, or one of two zones."""
        return self.base == "distro" or self.arch == "x86_64"

    def plan(self) -> Plan:
        """The context and the memory of a run. Before a model is here, they may rest on less than afterwards.

        Raises:
            ZosiaError: the model does not fit into this machine, or can't be read.
        """
        total, _ = host.memory()
        others = (self.of(model).wish() for model in self.models.values() if model != self.model)
        return plan.plan(self.wish(), total, others)

    def of(self, model: Model) -> Settings:
        """The same for another model."""
        return replace(self, model=model, model_parts=())

    def wish(self) -> Wish:
        """What is to be run.

        Raises:
            ZosiaError: the model can't be read.
        """
        found, weights = self._measures()
        wanted = self.model.context if self.model else min(CONTEXT, found.context_length or CONTEXT)
        return Wish(
            name=self.model.name if self.model else self.model_parts[0].name,
            shape=found,
            weights=weights,
            context=self.context or wanted,
            fixed=bool(self.context),
            cache_type=self.cache_type,
            llama_args=self.llama_args,
            memory=self.memory,
            heavy_kernel=self.heavy_kernel,
            mapped=self.weights == "map" and bus.choose(self) is Bus.DAX,
        )

    def _measures(self) -> tuple[Shape, int]:
        """The model's shape and bytes, as recorded with its disk; without that as the catalogue or the file says."""
        try:
            record = json.loads(self.image.with_suffix(".img.json").read_text(encoding="utf-8"))
            if record["content"] == self.content:
                return Shape(**catalogue.frozen(record["shape"])), int(record["weights"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not made yet, or by an older zosia
        if self.model:
            known = self.model.shape
            return known or UNKNOWN, model_files.pinned(self.model, self.cache).gguf_size if known else 0
        return shape.read(self.model_parts), sum(part.stat().st_size for part in self.model_parts)

    def loads_model(self, targets: Iterable[str]) -> bool:
        """Whether one of these targets boots the model."""
        return bool({"run", "shell", *(("smoke",) if self.model_named else ())} & set(targets))

    def doubt(self) -> str:
        """Why the model will not run on this machine; "" when it will."""
        try:
            self.plan()
        except ZosiaError as error:
            return str(error)
        return ""

    def notes(self) -> list[str]:
        """What a person should know before a run.

        Raises:
            ZosiaError: the model does not fit into this machine, or can't be read.
        """
        found, wish = self.plan(), self.wish()
        notes = []
        if found.context < wish.context:
            where = f"MEM={wish.memory}M" if wish.memory else "this machine"
            notes.append(style.line("CTX", f"{found.context} tokens: {wish.context} do not fit into {where}"))
        trained = wish.shape.context_length
        if 0 < trained < found.context:
            much = f"{wish.name} was trained for {trained} tokens: with more it may lose its way"
            notes.append(style.line("CTX", much))
        _, free = host.memory()
        whole = found.memory + wish.takes().on_host
        if whole > free:
            takes = f"the guest may take {plan.gib(whole)} GiB, and {plan.gib(free)} are free now"
            notes.append(style.line("MEM", f"{takes}: close other programs if it gets slow"))
        return notes

    def machine(self) -> Machine:
        """The machine that boots the model."""
        settled = self._working()
        return settled._machine(settled.plan())

    def _working(self, initramfs: str = "initramfs.cpio.gz") -> Settings:
        """The same with what is known to work here: accelerator, board, and the bus that the model is on."""
        archive = self.base_build / initramfs
        machine = boards.working(self, replace(self.small_machine(), initramfs=archive))
        settled = replace(self, accel=machine.accel, board=machine.board)
        return bus.working(settled, replace(settled.small_machine(), initramfs=archive))

    def _machine(self, given: Plan) -> Machine:
        # llama-cli's own defaults would be the model's longest context and 8 GiB of saved prompts. Loading measures
        # what fits and warms up first, which an emulated machine pays for with a second of the user's time.
        args = ["--cache-ram", "0", "-fit", "off", "--no-warmup", *self._weights_args(), *self._reasoning_args()]
        return Machine(
            arch=self.arch,
            board=boards.choose(self, self.accel),
            accel=self.accel,
            cpu=self.cpu,
            cpus=self.cpus,
            memory=given.memory,
            kernel=self.base_build / "Image",
            initramfs=self.base_build / "initramfs.cpio.gz",
            disk=self.image,
            bus=bus.choose(self),
            need=given.need,
            heavy_kernel=self.heavy_kernel,
            llama_args=(*args, *self.wish().args(context=given.context)),
            system=self.system,
            prompt=self.prompt,
            verbose=self.verbose,
            sandbox=SANDBOX,
            hot=hot.FOLDER if self.hot else None,
        )

    def check_machine(self) -> None:
        """Refuse a board or a bus that can't be, before anything is built.

        Raises:
            ZosiaError: the board does not run with the accelerator, or the bus with the rest.
        """
        boards.choose(self, self.accel)
        bus.check(self)

    def _weights_args(self) -> tuple[str, ...]:
        """Mapped and repacked they would be in memory twice."""
        return ("--no-repack",) if self.weights == "map" else ("-lm", "none")

    def _reasoning_args(self) -> tuple[str, ...]:
        """Templates take an effort, or a switch; where there is neither, a thought can still be cut to nothing."""
        switches = {"": (), "on": ("--reasoning", "on"), "off": ("--reasoning", "off", "--reasoning-budget", "0")}
        return switches.get(self.reasoning, ("--reasoning-effort", self.reasoning))

    def small_machine(self) -> Machine:
        """One in which no model is loaded, so that any host has enough for it."""
        wish = self.wish()
        least = max(plan.LEAST_MEMORY, memory.guest_memory(0, heavy_kernel=True, pages=wish.takes().pages))
        given = Plan(context=wish.context, need=0, memory=self.memory or least)
        return replace(self._machine(given), prompt=None, hot=None)

    def stub_machine(self) -> Machine:
        """The machine that boots without a model."""
        stub = self.base_build / "initramfs-stub.cpio.gz"
        return boards.working(self, replace(self.small_machine(), initramfs=stub, disk=None))

    def diag_machine(self) -> Machine:
        """The machine that tells what a bug report needs; `need` is that of a run, where it is known."""
        settled = self._working()
        try:
            need = settled.plan().need
        except ZosiaError:  # a run is refused; this one works
            need = 0
        return replace(settled.small_machine(), need=need, mode=Mode.DIAG)

    def shell_machine(self) -> Machine:
        """The machine that boots to a shell."""
        shell = "initramfs-shell.cpio.gz"
        settled = self._working(shell)
        return replace(settled._machine(settled.plan()), initramfs=self.base_build / shell, prompt=None, hot=None)
