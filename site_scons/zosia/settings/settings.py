"""Validated settings of a run: a frozen value that nothing is computed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base.places import IMAGES
from zosia.inputs.catalogue import Model
from zosia.machine.boards import Accel, Board
from zosia.machine.task import Attached
from zosia.serve.service import Service
from zosia.settings.choice import Choice
from zosia.settings.variables import BASES


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Settings of chats that are kept: the `name` of one, whether new ones are encrypted, None for the
    user's environment, and a text to search for.
    """

    name: str
    encrypt: bool | None
    search: str


@dataclass(frozen=True, kw_only=True)
class Together:
    """Settings of a model over several machines: the `names` of workers, and `split`, the layers of this machine and of
    each of them, where they are known. A worker itself listens at the `socket`. `server` is the program of a worker
    that is this host, None for zosia's own.
    """

    names: tuple[str, ...] = ()
    split: tuple[int, ...] = ()
    socket: Path | None = None
    server: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Validated settings of a run; the table in variables.py explains them.

    `context` in tokens and `memory` in MiB are 0, and `reasoning` is "", where the model decides. `accel` can be
    opened; `accel_named`: ACCEL= was set. `board` is None for the fastest, and `sandbox` where one is used if it works;
    `held`: QEMU can be held to its files.
    `catalogue` is the name of the one that `models` are from, "" for zosia's own.
    `dry_run`: no program may be started. `launched` is the folder that relative paths start from. `service` is what a
    machine serves, if it does, `parallel` the number of chats that share its context, 0 for llama-cli, and `guests` the
    number of such machines.
    """

    arch: str
    base: str
    board: Board | None
    cache: Path
    models: dict[str, Model]
    catalogue: str
    model: Choice
    image_tool: str
    context: int
    cache_type: str
    memory: int
    cpus: int
    accel: Accel
    accel_named: bool
    sandbox: bool | None
    verity: bool
    dry_run: bool
    cpu: str
    reasoning: str
    model_bus: str
    weights: str
    llama_args: tuple[str, ...]
    prompt: str | None
    files: tuple[Attached, ...]
    system: str
    launched: Path
    chat: Kept
    file: Path | None
    keep: str
    hot: bool
    verbose: bool
    service: Service
    held: bool = False
    workers: Together = Together()
    parallel: int = 0
    guests: int = 1

    @property
    def base_build(self) -> Path:
        """Folder of the kernel, busybox and the initramfs; other bases have one below the default base's."""
        top = IMAGES / self.arch
        return top if self.base == BASES[0] else top / self.base

    @property
    def heavy_kernel(self) -> bool:
        """True if the kernel keeps more memory than zosia's for aarch64 does; see guest_memory."""
        return self.base == "distro" or self.arch == "x86_64"

    def of(self, model: Model) -> Settings:
        """Return the same settings for another model of the catalogue."""
        return replace(self, model=Choice(entry=model, cache=self.cache))
