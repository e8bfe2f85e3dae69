"""What is started and measured: machines, the same program without one, and what is built for them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.base.process import run
from zosia.disk import ext4
from zosia.inputs import catalogue, fetch, model_files
from zosia.machine import host
from zosia.machine.qemu import Machine
from zosia.run import guest
from zosia.run.guest import PROMPT, Guest
from zosia.settings import reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS
from zosia_build import cpio, kernel, llama

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("build/bench")
QUESTION = "Count from 1 to 20."
LONGEST = 600  # seconds
READ = "virtio_blk_handle_read"  # an event of QEMU's, hw/block/trace-events


@dataclass(frozen=True)
class Program:
    """Something that is started as a machine is: `zosia.console.Guest` drives it."""

    words: tuple[str, ...]
    terminal: tuple[int, int, str] = (24, 80, "linux")

    def argv(self, status: Path) -> list[str]:
        """Its command line."""
        return list(self.words)


@dataclass(frozen=True)
class Counted:
    """A machine, or a program under QEMU's user emulation, with its instructions counted into a file."""

    inner: Machine | Program
    plugin: Path
    count: Path

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Of the inner one."""
        return self.inner.terminal

    def argv(self, status: Path) -> list[str]:
        """That of the inner one, the plugin, and a trace of what a machine's disk is asked for."""
        program, *words = self.inner.argv(status)
        traced = ("-trace", READ, "-D", str(self.trace)) if isinstance(self.inner, Machine) else ()
        return [program, "-plugin", f"{self.plugin},out={self.count}", *traced, *words]

    @property
    def trace(self) -> Path:
        """What QEMU writes: a line for each request to the disk."""
        return self.count.with_suffix(".trace")

    def reads(self) -> list[int]:
        """The bytes of each request."""
        asked = re.findall(rf"^{READ} .* nsectors (\d+)$", self.trace.read_text(), re.MULTILINE)
        return [512 * int(sectors) for sectors in asked]


@dataclass(frozen=True)
class Varied:
    """A machine whose command line, or whose kernel's, is another."""

    inner: Machine
    change: Callable[[list[str]], list[str]]

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Of the inner one."""
        return self.inner.terminal

    def argv(self, status: Path) -> list[str]:
        """That of the inner one, changed."""
        return self.change(self.inner.argv(status))


def appended(words: str) -> Callable[[list[str]], list[str]]:
    """The kernel's command line, with more words."""

    def change(argv: list[str]) -> list[str]:
        place = argv.index("-append") + 1
        return [*argv[:place], f"{argv[place]} {words}", *argv[place + 1 :]]

    return change


def iothread(argv: list[str]) -> list[str]:
    """The disk, served by a thread of its own."""
    served = [f"{word},iothread=io" if word.startswith("virtio-blk") else word for word in argv]
    return [*served, "-object", "iothread,id=io"]


def kernel_with(machine: Machine, *lines: str) -> Machine:
    """The machine with a kernel that has more lines in its configuration; it is built first."""
    output = (FOLDER / f"{machine.arch}-{hashlib.sha256(repr(lines).encode()).hexdigest()[:12]}").resolve()
    extra = output.with_suffix(".config")
    extra.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    fragments = [ROOT / f"buildroot/board/zosia/linux-{part}.config" for part in ("common", machine.arch)]
    source = fetch.source_tree(catalogue.read_record(ROOT / "build/sources/linux.json"), cache_root())
    options: dict[str, Any] = {
        "source": source,
        "output": output,
        "arch": machine.arch,
        "log": output.with_suffix(".log"),
    }
    kernel.configure(fragments=[*fragments, extra], **options)
    image = kernel.build(jobs=host.processors(), ccache_dir=cache_root() / "ccache", **options)
    return replace(machine, kernel=image)


def virtme(*words: str | Path) -> None:
    """Have virtme-ng, which is installed for it into a place of its own, boot and run one command.

    Raises:
        ZosiaError: it can't be installed, or the command did not run.
    """
    place = (FOLDER / "virtme").resolve()
    if not (place / "bin/vng").exists():
        run([sys.executable, "-m", "venv", place])
        run([place / "bin/pip", "install", "-q", "virtme-ng==1.42"])
    # The status of what it ran gets lost where the host has no udev, so its words have to be seen.
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = run([place / "bin/vng", "--verbose", *words, "--exec", "echo well"], env={"PATH": path}, check=False)
    shown = done.stdout + done.stderr
    if "\nwell" not in shown.replace("\r", ""):
        raise ZosiaError(f"virtme-ng ran nothing: {shown[-500:]}")


def other_init(machine: Machine, name: str, old: str, new: str) -> Machine:
    """The machine with a text in its /init replaced: an archive behind the first one wins."""
    text = (ROOT / "initramfs/init").read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ZosiaError(f"/init has {old!r} {text.count(old)} times, and one is wanted", "Correct the benchmark")
    target, own = FOLDER / f"initramfs-{name}.cpio.gz", FOLDER / "init.cpio.gz"
    cpio.write_gz([cpio.Entry(name="init", mode=stat.S_IFREG | 0o755, data=text.replace(old, new).encode())], own)
    target.write_bytes(machine.initramfs.read_bytes() + own.read_bytes())
    return replace(machine, initramfs=target)


def mke2fs_d(model: Path, target: Path) -> None:
    """Make a disk in the usual way."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        Path(folder, "model.gguf").hardlink_to(model)
        size = ext4.image_size([model.stat().st_size]) * 102 // 100 // 1024
        options = ("-q", "-F", "-t", "ext4", "-N", "16", "-m", "0", "-O", "^has_journal")
        run(["mke2fs", *options, "-d", folder, target, f"{size}k"])


def built(**typed: str) -> Settings:
    """The settings of a run, after all that it boots was built."""
    settings = reading.read(DEFAULTS | typed, [], ROOT, given=typed)
    build("kernel", "initramfs", "model.img", f"{settings.base_build}/initramfs-stub.cpio.gz", **typed)
    return settings


def build(*targets: str, **typed: str) -> None:
    """Have SCons build targets."""
    words = [*targets, *(f"{name}={value}" for name, value in typed.items())]
    run([sys.executable, "-m", "SCons", "-s", "-C", ROOT, *words], shown=True)


def plugin() -> Path:
    """bench/instructions.c, compiled for the QEMU that is here."""
    version = re.search(r"version (\d+)", run(["qemu-system-aarch64", "--version"]).stdout)
    interface = 2 if version and int(version[1]) >= 9 else 1
    target = (FOLDER / "instructions.so").resolve()
    run(["gcc", "-O2", "-shared", "-fPIC", f"-DVERSION={interface}", "-o", target, ROOT / "bench/instructions.c"])
    return target


def emulated(machine: Machine) -> Program:
    """The machine's llama-cli under qemu-user, with the default model's file and no machine around it."""
    return _alone(
        machine, "qemu-aarch64", "-cpu", "max,pauth=off,sve=off", _program("aarch64", llama.LEVELS["aarch64"][0])
    )


def native(machine: Machine) -> Program:
    """The same for this host's own processor."""
    here = host.arch()
    build("llama", ARCH=here)
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return _alone(machine, _program(here, next(one for one in llama.LEVELS[here] if flags >= set(one.features))))


def _program(arch: str, level: llama.Level) -> str:
    return f"build/{arch}/llama-cli-{level.name}"


def _alone(machine: Machine, *program: str) -> Program:
    model = model_files.model_file(catalogue.read_models(ROOT / "models.toml")["smollm2-135m"], cache_root())
    words = ("-m", str(model), "--log-colors", "off", "-t", str(machine.cpus))
    return Program((*program, *words, *machine.llama_args))


def chat(machine: guest.Bootable, question: str = QUESTION) -> tuple[str, dict[str, float]]:
    """Start, ask, leave: the answer; seconds to the prompt and the power-off, and llama-cli's own figures of speed."""
    start = time.monotonic()
    with Guest(machine, FOLDER / "chat.log") as guest:
        guest.expect(PROMPT, LONGEST)
        prompted = time.monotonic()
        guest.send(question)
        guest.expect(f"{question}\n", LONGEST)  # while it arrives, the editor may draw it more than once
        said = guest.expect("t/s ]", LONGEST)
        guest.expect(PROMPT, LONGEST)
        guest.send("/exit")
        ending = time.monotonic()
        guest.wait_end()
    speed = re.search(r"\[ Prompt: ([\d.]+) t/s \| Generation: ([\d.]+)", said + "t/s ]")
    if not speed:
        raise ZosiaError(f"The chat told no speed; its log: {FOLDER / 'chat.log'}")
    answer = said.rpartition("[")[0].strip()
    return answer, {
        "start to prompt, s": prompted - start,
        "prompt, tokens/s": float(speed[1]),
        "generation, tokens/s": float(speed[2]),
        "power-off, s": time.monotonic() - ending,
    }
