"""Sections of `scons bench`: a function for each part of docs/benchmarks.md that every run measures."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil

from zosia.base.files import temporary_folder
from zosia.base.places import SAVED
from zosia.base.process import run
from zosia.machine import pmem
from zosia.machine.qemu import Bus, Machine
from zosia.run import hot
from zosia.run.guest import PROMPT, Bootable, Guest
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build.benchmarks.disks import disks
from zosia_build.benchmarks.measured import Section, Series, Way, compare
from zosia_build.benchmarks.ways import (
    FOLDER,
    LONGEST,
    QUESTION,
    Counted,
    Program,
    built,
    chat,
    emulated,
    native,
    plugin,
)

# Text that a verbose boot shows at the end of each stage.
STAGES = {
    "QEMU, firmware": "Booting Linux on physical CPU",
    "kernel": "Run /init as init process",
    "/init, disk mounted": "): mounted filesystem",
    "llama-cli started": "load_model: loading model",
    "weights read, context made": "llama_server: model loaded",
    "server listening": "listening on http",
    "prompt shown": PROMPT,
}


def asking(machine: Machine, tokens: int, *more: str) -> Machine:
    """Return the machine with arguments for reproducible answers of at most `tokens` tokens."""
    return machine.given(llama_args=(*machine.task.llama_args, "--temp", "0", "-n", str(tokens), *more))


def stages(settings: Settings, rounds: int) -> Section:
    """Measure the stages of one start."""
    machine = replace(asking(machines.run_machine(settings), 16), verbose=True)

    def boot() -> dict[str, float]:
        moments = [time.monotonic()]
        with Guest(machine, FOLDER / "stages.log") as guest:
            for mark in STAGES.values():
                guest.expect(mark, LONGEST)
                moments.append(time.monotonic())
            guest.send(QUESTION)
            guest.expect("is_child = 0", LONGEST)  # the end of the log before the answer
            moments.append(time.monotonic())
            guest.something(LONGEST)
            moments.append(time.monotonic())
            guest.expect(PROMPT, LONGEST)
            moments.append(time.monotonic())
            guest.send("/exit")
            guest.wait_end()
            moments.append(time.monotonic())
        names = [*STAGES, "question taken", "first token", "the other 15", "power-off"]
        took = {name: end - start for name, (start, end) in zip(names, pairwise(moments), strict=True)}
        return took | {"start to prompt, in all": moments[len(STAGES)] - moments[0]}

    seen = compare({"zosia": boot}, rounds)["zosia"]
    return Section(
        what="A boot with `VERBOSE=1`, so that each stage is visible, and an answer of 16 tokens.",
        plot="s: Seconds of each stage, emulated",
        ways={name: {"s": series} for name, series in seen.items()},
    )


def boot(machine: Machine, mark: str = "This is a stub") -> dict[str, float]:
    """Return the seconds until the console shows `mark`, and the guest's uptime when /init began."""
    start = time.monotonic()
    with Guest(machine, FOLDER / "boot.log") as guest:
        guest.expect(mark, LONGEST)
        took = time.monotonic() - start
        return {"start to stub, s": took, "uptime at /init, s": guest.report.uptime or 0.0}


def boots(settings: Settings, rounds: int) -> Section:
    """Compare kernels by their time to the stub, with the same files in the initramfs."""
    kernels = {"zosia's kernel": settings, "Debian's cloud kernel": built(BASE="distro")}
    ways = {name: partial(boot, machines.stub_machine(one)) for name, one in kernels.items()}
    return Section(
        what="From QEMU's start to the first output of the stub, with the same files in the initramfs.",
        plot="start to stub, s | uptime at /init, s: Seconds, emulated",
        ways=compare(ways, rounds),
    )


def speed(settings: Settings, rounds: int) -> Section:
    """Compare the speed in a machine with that under user-mode emulation, and with the host's own."""
    first = ""

    def ask(name: str, one: Bootable) -> dict[str, float]:
        nonlocal first
        answer, values = chat(one)
        first = first or answer
        return values | {"answer is zosia's": float(answer == first)}

    machine = asking(machines.run_machine(settings), 48)
    ways: dict[str, Bootable] = {
        "zosia": machine,
        "qemu-user, the same program": emulated(machine),
        "this host, natively": native(machine),
    }
    return Section(
        what="SmolLM2-135M, one question, 48 tokens at temperature 0. qemu-user runs the guest's llama-cli without a "
        "machine around it, which is the limit of emulation. The native run is the limit of the hardware.",
        ways=compare({name: partial(ask, name, one) for name, one in ways.items()}, rounds),
    )


def prompted(*variables: str) -> float:
    """Return the seconds from `scons run`, with variables such as HOT=1, to its prompt."""
    start = time.monotonic()
    with Guest(Program((sys.executable, "-m", "SCons", "run", *variables)), FOLDER / "run.log") as guest:
        guest.expect(PROMPT, LONGEST)
        took = time.monotonic() - start
        guest.send("/exit")
        guest.wait_end()
    return took


def answered(*variables: str) -> float:
    """Return the seconds from `scons run PROMPT="What is 2+2?"` to the first letter of the answer."""
    argv = [sys.executable, "-m", "SCons", "run", "PROMPT=What is 2+2?", "LLAMA_ARGS=--temp 0 -n 4", *variables]
    start = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as command:
        assert command.stdout
        command.stdout.read(1)
        took = time.monotonic() - start
        command.stdout.read()
    return took


def state(machine: Machine) -> dict[str, Series]:
    """Return the size of a machine's saved state, and the time that saving it took."""
    with hot.store(machine, SAVED).path.open("rb") as file:
        size, details = hot.about(file)
    return {"state, MB": Series((size / 1e6,)), "saved in, s": Series((details["seconds"],))}


def starts(settings: Settings, rounds: int) -> Section:
    """Compare a start that resumes a saved machine with one that boots."""

    def start(switch: str) -> dict[str, float]:
        return {"to the prompt, s": prompted(switch), "to an answer's first letter, s": answered(switch)}

    prompted("HOT=1")  # saves the machine, unless it was saved before
    seen = compare({"HOT=0, boots": partial(start, "HOT=0"), "HOT=1, resumes": partial(start, "HOT=1")}, rounds)
    resumed = {**seen["HOT=1, resumes"], **state(machines.run_machine(settings))}
    return Section(
        what='From `scons run` to the prompt, and from `scons run PROMPT="What is 2+2?"` to the first letter of the '
        "answer.",
        plot="to the prompt, s | to an answer's first letter, s: Seconds from the command, emulated",
        ways={**seen, "HOT=1, resumes": resumed},
    )


def memory(settings: Settings, rounds: int) -> Section:
    """Measure the memory that a run takes on the host."""
    machine = machines.run_machine(settings)
    assert machine.disk
    disk = machine.disk

    def boot() -> dict[str, float]:
        if sys.platform != "linux":
            raise AssertionError("main() refuses other systems")
        with Guest(machine, FOLDER / "memory.log") as guest:
            guest.expect(PROMPT, LONGEST)
            (qemu,) = (child for child in psutil.Process().children() if child.name().startswith("qemu"))
            status = Path(f"/proc/{qemu.pid}/status").read_text()
            touched = max(mapping.rss for mapping in qemu.memory_maps(grouped=False) if mapping.path == "[anon]")
            cached = run(["fincore", "-b", "-n", "-o", "RES", disk]).stdout
            guest.send("/exit")
            guest.wait_end()
        peak = next(int(kib) for kib in re.findall(r"VmHWM:\s+(\d+)", status))
        return {
            "peak of QEMU, MB": peak * 1024 / 1e6,
            "of it the guest's, MB": touched / 1e6,
            "page cache of the disk, MB": int(cached) / 1e6,
        }

    size = Series((disk.stat().st_size / 1e6,))
    return Section(
        what=f"Memory on the host when the prompt is shown. The guest has {machine.memory} MiB.",
        ways={"zosia": {"model's disk, MB": size, **compare({"zosia": boot}, rounds)["zosia"]}},
    )


def counters(settings: Settings, rounds: int) -> Section:
    """Count instructions, system calls, reads and bytes, which don't depend on the host's load."""
    counting = plugin()

    def count(machine: Machine | Program, question: str) -> dict[str, float]:
        with temporary_folder() as folder:
            attached = pmem.attach(machine, folder) if isinstance(machine, Machine) else machine
            counted = Counted(attached, counting, folder / "count")
            with Guest(counted, FOLDER / "counters.log") as guest:
                guest.expect(PROMPT, LONGEST)
                if question:
                    guest.send(question)
                    guest.expect("t/s ]", LONGEST)
                    guest.expect(PROMPT, LONGEST)
                guest.send("/exit")
                guest.wait_end(60)
            instructions, calls = map(int, counted.count.read_text().split())
            values = {"instructions, millions": instructions / 1e6}
            if isinstance(machine, Program):
                return values | {"system calls": float(calls)}
            reads = counted.reads()
        files = {"kernel, bytes": machine.kernel, "initramfs, bytes": machine.initramfs}
        values |= {name: float(file.stat().st_size) for name, file in files.items()}
        return values | {"read from the disk, bytes": float(sum(reads)), "in requests": float(len(reads))}

    stub = replace(machines.stub_machine(settings), cpus=1)
    single = replace(asking(machines.run_machine(settings), 4, "-t", "1"), cpus=1)
    ways: dict[str, Way] = {
        "the stub's prompt": partial(count, stub, ""),
        "SmolLM2's prompt": partial(count, single, ""),
        "and four tokens": partial(count, single, "What is 2+2?"),
        "SmolLM2's prompt on virtio-blk": partial(count, replace(single, bus=Bus.VIRTIO_BLK), ""),
        "llama-cli alone, to its prompt": partial(count, emulated(single), ""),
        "llama-cli alone, four tokens": partial(count, emulated(single), "What is 2+2?"),
    }
    return Section(
        what="Emulated instructions and system calls from start to end with one processor, counted through QEMU's "
        'plugin interface (`bench/instructions.c`), and file sizes. "Alone" is under qemu-user, where system calls are '
        "visible.",
        ways=compare(ways, rounds),
    )


SECTIONS: Mapping[str, Callable[[Settings, int], Section]] = {
    "stages": stages,
    "boot": boots,
    "hot": starts,
    "speed": speed,
    "memory": memory,
    "disk": disks,
    "counters": counters,
}
