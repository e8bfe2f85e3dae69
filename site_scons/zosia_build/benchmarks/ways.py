"""Subjects of the measurements: machines, the same program without one, and the builds that they need."""

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
READ = "virtio_blk_handle_read"  # a trace event of QEMU: hw/block/trace-events


@dataclass(frozen=True)
class Program:
    """A program that is started like a machine: `zosia.run.guest.Guest` drives it."""

    words: tuple[str, ...]
    terminal: tuple[int, int, str] = (24, 80, "linux")

    def argv(self, status: Path) -> list[str]:
        """Return the program's command line."""
        return list(self.words)


@dataclass(frozen=True)
class Counted:
    """A machine, or a program under QEMU's user-mode emulation, whose instructions are counted into a file."""

    inner: Machine | Program
    plugin: Path
    count: Path

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Return the terminal of the inner one."""
        return self.inner.terminal

    def argv(self, status: Path) -> list[str]:
        """Return the inner one's command line with the plugin.

        A machine's reads from the disk are traced. Its clock follows its instructions, and waiting takes no time: on a
        busy host it would count more ticks of the timer, and more looks at whether the model is loaded.
        """
        program, *words = self.inner.argv(status)
        plugin = ("-plugin", f"{self.plugin},out={self.count}")
        if not isinstance(self.inner, Machine):
            return [program, *plugin, *words]
        words = [word.replace("thread=multi", "thread=single") for word in words]
        return [program, *plugin, "-trace", READ, "-D", str(self.trace), *words, "-icount", "shift=1,sleep=off"]

    @property
    def trace(self) -> Path:
        """Return the file that QEMU writes a line to for each read from the disk."""
        return self.count.with_suffix(".trace")

    def reads(self) -> list[int]:
        """Return the size of each read from the disk, in bytes."""
        counts = re.findall(rf"^{READ} .* nsectors (\d+)$", self.trace.read_text(), re.MULTILINE)
        return [512 * int(sectors) for sectors in counts]


@dataclass(frozen=True)
class Varied:
    """A machine whose command line is changed by a function."""

    inner: Machine
    change: Callable[[list[str]], list[str]]

    @property
    def terminal(self) -> tuple[int, int, str]:
        """Return the terminal of the inner one."""
        return self.inner.terminal

    def argv(self, status: Path) -> list[str]:
        """Return the inner one's command line, changed."""
        return self.change(self.inner.argv(status))


def appended(words: str) -> Callable[[list[str]], list[str]]:
    """Return a change that appends words to the kernel's command line."""

    def change(argv: list[str]) -> list[str]:
        place = argv.index("-append") + 1
        return [*argv[:place], f"{argv[place]} {words}", *argv[place + 1 :]]

    return change


def iothread(argv: list[str]) -> list[str]:
    """Change a command line so that the disk is served by a thread of its own."""
    served = [f"{word},iothread=io" if word.startswith("virtio-blk") else word for word in argv]
    return [*served, "-object", "iothread,id=io"]


def kernel_with(machine: Machine, *lines: str) -> Machine:
    """Build a kernel with more lines in its configuration, and return the machine with it."""
    output = (FOLDER / f"{machine.arch}-{hashlib.sha256(repr(lines).encode()).hexdigest()[:12]}").resolve()
    extra = output.with_suffix(".config")
    extra.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    fragments = [ROOT / f"buildroot/board/zosia/linux-{part}.config" for part in ("common", machine.arch)]
    source = fetch.source_tree(catalogue.read_record(ROOT / "build/sources/linux.json"), cache_root())
    options: dict[str, Any] = {
        "source": source,
        "cache": cache_root(),
        "output": output,
        "arch": machine.arch,
        "log": output.with_suffix(".log"),
    }
    kernel.configure(fragments=[*fragments, extra], **options)
    image = kernel.build(jobs=host.processors(), **options)
    return replace(machine, kernel=image)


def virtme(*words: str | Path) -> None:
    """Boot virtme-ng and run one command in it; it is installed first, into a folder of its own.

    Raises:
        ZosiaError: it can't be installed, or the command did not run.
    """
    place = (FOLDER / "virtme").resolve()
    if not (place / "bin/vng").exists():
        run([sys.executable, "-m", "venv", place])
        run([place / "bin/pip", "install", "-q", "virtme-ng==1.42"])
    # virtme-ng loses the command's exit status on hosts without udev, so its output is checked instead.
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = run([place / "bin/vng", "--verbose", *words, "--exec", "echo well"], env={"PATH": path}, check=False)
    shown = done.stdout + done.stderr
    if "\nwell" not in shown.replace("\r", ""):
        raise ZosiaError(f"virtme-ng did not run the command: {shown[-500:]}")


def other_init(machine: Machine, name: str, old: str, new: str) -> Machine:
    """Return the machine with a text in its /init replaced, by appending an archive: the last one wins."""
    text = (ROOT / "initramfs/init").read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ZosiaError(f"/init contains {old!r} {text.count(old)} times, not once", "Correct the benchmark")
    target, own = FOLDER / f"initramfs-{name}.cpio.gz", FOLDER / "init.cpio.gz"
    cpio.write_gz([cpio.Entry(name="init", mode=stat.S_IFREG | 0o755, data=text.replace(old, new).encode())], own)
    target.write_bytes(machine.initramfs.read_bytes() + own.read_bytes())
    return replace(machine, initramfs=target)


def mke2fs_d(model: Path, target: Path) -> None:
    """Make a model's disk with `mke2fs -d`, the usual way."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        Path(folder, "model.gguf").hardlink_to(model)
        size = ext4.image_size([model.stat().st_size]) * 102 // 100 // 1024
        options = ("-q", "-F", "-t", "ext4", "-N", "16", "-m", "0", "-O", "^has_journal")
        run(["mke2fs", *options, "-d", folder, target, f"{size}k"])


def built(**variables: str) -> Settings:
    """Build everything that a run with these variables boots, and return its settings."""
    settings = reading.read(DEFAULTS | variables, [], ROOT, given=variables)
    build("kernel", "initramfs", "model.img", f"{settings.base_build}/initramfs-stub.cpio.gz", **variables)
    return settings


def build(*targets: str, **variables: str) -> None:
    """Build targets with SCons."""
    words = [*targets, *(f"{name}={value}" for name, value in variables.items())]
    run([sys.executable, "-m", "SCons", "-s", "-C", ROOT, *words], shown=True)


def plugin() -> Path:
    """Compile bench/instructions.c for the installed QEMU, and return the plugin."""
    version = re.search(r"version (\d+)", run(["qemu-system-aarch64", "--version"]).stdout)
    interface = 2 if version and int(version[1]) >= 9 else 1
    target = (FOLDER / "instructions.so").resolve()
    run(["gcc", "-O2", "-shared", "-fPIC", f"-DVERSION={interface}", "-o", target, ROOT / "bench/instructions.c"])
    return target


def emulated(machine: Machine) -> Program:
    """Return the machine's llama-cli under qemu-user, with the default model's file and no machine around it."""
    return _alone(
        machine, "qemu-aarch64", "-cpu", "max,pauth=off,sve=off", _program("aarch64", llama.LEVELS["aarch64"][0])
    )


def native(machine: Machine) -> Program:
    """Build llama-cli for the host's own processor, and return it with the default model's file."""
    here = host.arch()
    build("llama", ARCH=here)
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return _alone(machine, _program(here, next(one for one in llama.LEVELS[here] if flags >= set(one.features))))


def _program(arch: str, level: llama.Level) -> str:
    return f"build/{arch}/llama-cli-{level.name}"


def _alone(machine: Machine, *program: str) -> Program:
    model = model_files.model_file(catalogue.read_models(ROOT / "models.toml")["smollm2-135m"], cache_root())
    words = ("-m", str(model), "--log-colors", "off", "-t", str(machine.cpus))
    return Program((*program, *words, *machine.task.llama_args))


def chat(machine: guest.Bootable, question: str = QUESTION) -> tuple[str, dict[str, float]]:
    """Start, ask and leave; return the answer, the seconds to the prompt and to power-off, and llama-cli's speeds."""
    start = time.monotonic()
    with Guest(machine, FOLDER / "chat.log") as guest:
        guest.expect(PROMPT, LONGEST)
        prompted = time.monotonic()
        guest.send(question)
        guest.expect(f"{question}\n", LONGEST)  # not just the text: the editor may draw it again while it arrives
        output = guest.expect("t/s ]", LONGEST)
        guest.expect(PROMPT, LONGEST)
        guest.send("/exit")
        ending = time.monotonic()
        guest.wait_end()
    speed = re.search(r"\[ Prompt: ([\d.]+) t/s \| Generation: ([\d.]+)", output + "t/s ]")
    if not speed:
        raise ZosiaError(f"The chat showed no speed; its log: {FOLDER / 'chat.log'}")
    answer = output.rpartition("[")[0].strip()
    return answer, {
        "start to prompt, s": prompted - start,
        "prompt, tokens/s": float(speed[1]),
        "generation, tokens/s": float(speed[2]),
        "power-off, s": time.monotonic() - ending,
    }
