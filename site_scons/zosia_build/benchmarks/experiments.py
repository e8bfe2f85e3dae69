"""Experiments: parts of docs/benchmarks.md that take long, so they are measured only when they are named."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from zosia.base.files import cache_root, sha256
from zosia.base.process import run
from zosia.disk import ext4
from zosia.inputs import catalogue, fetch, model_files
from zosia.machine.qemu import Bus
from zosia.run.guest import PROMPT, Bootable, Guest
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build.benchmarks.channel import channel
from zosia_build.benchmarks.chats import chats, many
from zosia_build.benchmarks.commands import commands
from zosia_build.benchmarks.crowd import clients, crowd, outside
from zosia_build.benchmarks.disks import disk_ways, made_disk
from zosia_build.benchmarks.measured import Section, Series, Way, compare
from zosia_build.benchmarks.sections import asking, boot, prompted, state
from zosia_build.benchmarks.serving import latency, serving
from zosia_build.benchmarks.ways import (
    FOLDER,
    LONGEST,
    QUESTION,
    ROOT,
    Varied,
    appended,
    built,
    chat,
    iothread,
    kernel_with,
    mke2fs_d,
    other_init,
    virtme,
)
from zosia_build.benchmarks.workers import workers

# Options that virtme-ng's guest needs in addition: its root is a shared folder of the host.
SHARING = (
    "NETWORK_FILESYSTEMS",
    "NET_9P",
    "NET_9P_VIRTIO",
    "9P_FS",
    "FUSE_FS",
    "VIRTIO_FS",
    "OVERLAY_FS",
    "UNIX98_PTYS",
)
FULL = 12_109_566_560  # bytes, the size of gpt-oss-20b
LONG_QUESTION = " ".join([QUESTION] * 60)  # about 500 tokens


def variants(settings: Settings, rounds: int) -> Section:
    """Compare options that might make a start or an answer faster."""
    # All use virtio-blk: a disk that is mapped is never read, and some of the options are about reading.
    machine = machines.run_machine(replace(settings, model_bus=Bus.VIRTIO_BLK.value))
    plain = asking(machine, 48)
    ahead = 'echo 4096 >"/sys/block/${1#/dev/}/queue/read_ahead_kb"'
    mounted = "folder=/models"
    usual = ("# CONFIG_ARM64_4K_PAGES is not set", "# CONFIG_ARM64_VA_BITS_39 is not set", "CONFIG_ARM64_VA_BITS_48=y")
    ways: dict[str, Bootable] = {
        "zosia": plain,
        "KV=q8_0": asking(machine, 48, "-ctk", "q8_0", "-ctv", "q8_0"),
        "flash attention off": asking(machine, 48, "-fa", "off"),
        "no huge pages": Varied(plain, appended("transparent_hugepage=never")),
        "pages of 16 KiB": kernel_with(plain, *usual, "CONFIG_ARM64_16K_PAGES=y"),
        "pages of 64 KiB": kernel_with(plain, *usual, "CONFIG_ARM64_64K_PAGES=y"),
        "iothread": Varied(plain, iothread),
        "read-ahead of 128 KiB": other_init(plain, "ahead", ahead, ahead.replace("4096", "128")),
        "read while llama-cli starts": other_init(
            plain, "early", mounted, f"{mounted}; cat /models/*.gguf >/dev/null &"
        ),
    }
    return Section(
        what="One question, 48 tokens at temperature 0.",
        ways=compare({name: partial(lambda one: chat(one)[1], one) for name, one in ways.items()}, rounds),
    )


def caches(settings: Settings, rounds: int) -> Section:
    """Compare types of the KV cache, with a context long enough for a difference."""
    machine = machines.run_machine(settings)
    answers: dict[str, str] = {}

    def ask(name: str, one: Bootable) -> dict[str, float]:
        answers[name], values = chat(one, LONG_QUESTION)
        return values | {"answer is that of f16": float(answers[name] == answers["f16"])}

    kinds = {
        "f16": (),
        "q8_0": ("-ctk", "q8_0", "-ctv", "q8_0"),
    }
    ways: dict[str, Way] = {name: partial(ask, name, asking(machine, 24, *args)) for name, args in kinds.items()}
    return Section(what="One question of some 500 tokens, 24 tokens at temperature 0.", ways=compare(ways, rounds))


def stability(settings: Settings, rounds: int) -> Section:
    """Count different answers to one question: two threads on two emulated processors (see QEMU's issue 4872)."""
    machine, answers = asking(machines.run_machine(settings), 200), set()

    def ask() -> dict[str, float]:
        answer, values = chat(machine)
        answers.add(answer)
        return {"generation, tokens/s": values["generation, tokens/s"]}

    seen = compare({"zosia": ask}, rounds)["zosia"]
    totals = {"answers": Series((float(rounds),)), "different ones": Series((float(len(answers)),))}
    return Section(
        what="One question, 200 tokens at temperature 0, repeatedly, with two threads.",
        ways={"zosia": {**totals, **seen}},
    )


def bases(settings: Settings, rounds: int) -> Section:
    """Compare architectures and kernels: times to the stub and to the default model's prompt, and sizes."""
    kinds = {
        f"{arch} {base}": built(ARCH=arch, BASE=base) for arch in ("aarch64", "x86_64") for base in ("direct", "distro")
    }

    def both(one: Settings) -> dict[str, float]:
        (prompted, _) = boot(machines.run_machine(one), PROMPT).values()
        files = {
            "kernel, bytes": machines.run_machine(one).kernel,
            "initramfs, bytes": machines.run_machine(one).initramfs,
        }
        sizes = {name: float(file.stat().st_size) for name, file in files.items()}
        return boot(machines.stub_machine(one)) | {"start to SmolLM2's prompt, s": prompted} | sizes

    return Section(
        what="From QEMU's start. x86_64 is `q35`; `microvm` needs KVM.",
        plot="start to stub, s | start to SmolLM2's prompt, s: Seconds from the start of QEMU, emulated",
        ways=compare({name: partial(both, one) for name, one in kinds.items()}, rounds),
    )


def emulators(settings: Settings, rounds: int) -> Section:
    """Compare versions of QEMU: the one on PATH, and those of the folders in ZOSIA_BENCH_QEMUS, by their names."""
    here = os.environ["PATH"]

    def start(path: str) -> dict[str, float]:
        os.environ["PATH"] = path
        cold = prompted("HOT=0")
        prompted("HOT=1")  # saves the machine, unless it was saved before
        _, values = chat(asking(machines.run_machine(settings), 48))
        resumed = prompted("HOT=1")
        os.environ["PATH"] = here
        return {"cold, s": cold, "resumed, s": resumed, **values}

    folders = os.environ.get("ZOSIA_BENCH_QEMUS", "").split()
    ways = {
        "this host's QEMU": partial(start, here),
        **{Path(folder).name: partial(start, f"{folder}:{here}") for folder in folders},
    }
    return Section(
        what="`scons run` to SmolLM2's prompt, cold and resumed, and one question with 48 tokens at temperature 0.",
        ways=compare(ways, rounds),
    )


def full_disk(settings: Settings, rounds: int) -> Section:
    """Compare making the disk of a model as large as gpt-oss-20b with a copy and with mke2fs."""
    file = FOLDER / "full.gguf"
    try:
        with file.open("wb") as made:
            for at in range(0, FULL, 1 << 24):
                made.write(os.urandom(min(1 << 24, FULL - at)))
        hashed = partial(made_disk, lambda target: ext4.build(parts=[file], info={"name": "m"}, target=target))
        once = {
            "zosia, of a file whose digest is not known": hashed,
            "mke2fs -d": partial(made_disk, partial(mke2fs_d, file)),
        }
        ways = {**compare(disk_ways(file, sha256(file)), rounds), **compare(once, 1)}
    finally:
        file.unlink(missing_ok=True)
    return Section(what=f"{FULL:,} bytes of random data, synced to the disk; the last two once.", ways=ways)


def large(settings: Settings, rounds: int) -> Section:
    """Measure a model as large as gpt-oss-20b: its starts, and three guests at once on one disk."""
    file = (FOLDER / "large.gguf").resolve()
    if not file.exists():
        tokens = model_files.model_file(catalogue.read_models(ROOT / "models.toml")["smollm2-135m"], cache_root())
        source = fetch.source_tree(catalogue.read_record(ROOT / "build/sources/llama-cpp.json"), cache_root())
        template = source / "models/templates/openai-gpt-oss-120b.jinja"
        run([sys.executable, ROOT / "tests/gpt_oss.py", "--full", file, "--tokenizer", tokens, "--template", template])
    variables = {"MODEL": str(file), "CTX": "8192"}
    machine = machines.run_machine(built(**variables))
    words = [f"{name}={value}" for name, value in variables.items()]
    prompted("HOT=1", *words)  # saves the machine, unless it was saved before
    kinds = {f"HOT={switch}": partial(prompted, f"HOT={switch}", *words) for switch in "01"}
    ways: dict[str, Way] = {name: partial(lambda one: {"to the prompt, s": one()}, one) for name, one in kinds.items()}
    seen = {name: dict(series) for name, series in compare(ways, rounds).items()}
    seen["HOT=1"] |= state(machine)
    with ExitStack() as guests:
        for name in ("one guest", "a second one", "a third one"):
            guest = guests.enter_context(Guest(machine, FOLDER / f"{name}.log"))
            guest.expect(PROMPT, LONGEST)
            newest = max(psutil.Process().children(), key=psutil.Process.create_time)
            if sys.platform != "linux":
                raise AssertionError("main() refuses other systems")
            pss = newest.memory_full_info().pss
            seen[name] = {"guest, MiB": Series((float(machine.memory),)), "on the host, MB": Series((pss / 1e6,))}
    return Section(
        what=f"A model of gpt-oss-20b's shape with made-up weights, {file.stat().st_size:,} bytes, with a context of "
        "8192 tokens. First, the time from `scons run` to the prompt; then three guests at once, with each QEMU's "
        "share of the host's memory (Pss).",
        ways=seen,
    )


def developers(settings: Settings, rounds: int) -> Section:
    """Compare with virtme-ng, which kernel developers use: from the start of a command to its end."""
    chosen = machines.stub_machine(built(ARCH="x86_64", BOARD="q35"))
    shared = kernel_with(chosen, *(f"CONFIG_{name}=y" for name in SHARING))
    command = ("--run", shared.kernel.parents[1] / "bzImage", "--disable-kvm", "--cpus", "2")

    def stub() -> dict[str, float]:
        start = time.monotonic()
        with Guest(chosen, FOLDER / "boot.log") as guest:
            guest.expect(PROMPT, LONGEST)
            guest.send("/exit")
            guest.wait_end()
        return {"start to end, s": time.monotonic() - start}

    def other() -> dict[str, float]:
        start = time.monotonic()
        virtme(*command)
        return {"start to end, s": time.monotonic() - start}

    return Section(
        what="x86_64, emulated; zosia on `q35`. zosia boots its stub and exits. virtme-ng boots the same kernel, with "
        "the drivers for a shared directory added, on the host's files, and runs `echo`.",
        ways=compare({"zosia": stub, "virtme-ng": other}, rounds),
    )


EXPERIMENTS: Mapping[str, Callable[[Settings, int], Section]] = {
    "commands": commands,
    "chats": chats,
    "long-chat": many,
    "variants": variants,
    "caches": caches,
    "stability": stability,
    "bases": bases,
    "emulators": emulators,
    "full-disk": full_disk,
    "developers": developers,
    "large": large,
    "serving": serving,
    "latency": latency,
    "channel": channel,
    "clients": clients,
    "workers": workers,
    "crowd": crowd,
    "outside": outside,
}
