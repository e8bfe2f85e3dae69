"""Tables of the targets and variables of `scons`. The help, the manual and the completion are generated from them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from zosia.inputs.catalogue import REASONING
from zosia.machine.boards import BOARDS, Accel
from zosia.machine.qemu import Bus
from zosia.model.plan import CACHE_TYPES

NATIVE = "native"
ARCHITECTURES = (*BOARDS, NATIVE)
BASES = ("direct", "buildroot", "distro")
IMAGE_TOOLS = ("mke2fs", "genext2fs")
SWITCH = ("0", "1")
BUSES = ("auto", *(bus.value for bus in Bus))
WEIGHTS = ("map", "repack")
ACCELERATORS = ("auto", *(accel.value for accel in Accel))


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable that is set as NAME=value on the command line.

    Attributes:
        group: section of the help and the manual that lists it.
        form, path: form of a value, with its unit; whether it is a path.
        text: meaning.
        choices: every possible value; empty if other values are possible too.
        default, otherwise: value of a variable that isn't set, or its description where it isn't a fixed one.
    """

    name: str
    group: str
    form: str
    text: str
    choices: tuple[str, ...] = ()
    default: str = ""
    otherwise: str = ""
    path: bool = False

    @property
    def summary(self) -> str:
        """Meaning, values and default in one line."""
        default = self.default or self.otherwise
        return f"{self.text} ({self.form}{f'; default: {default}' if default else ''})"


# target: description
TARGETS = {
    "run": "build anything missing, boot, and chat in this terminal; exits with llama-cli's status",
    "hot-clean": "delete the saved machines that `scons run` resumes; the next run boots",
    "model.img": "build the model disk, build/models/NAME.img",
    "models": "list the models known by name: size, licence, memory needed, whether each fits and is downloaded",
    "import-model": "add the model in FILE= to the cache without a network; it must be in the catalogue",
    "remove-model": "delete MODEL= from the cache, and its disk",
    "kernel": "build the kernel, build/ARCH/Image (build/ARCH/BASE/Image unless BASE=direct)",
    "llama": "build llama-cli, static, once per CPU feature level: build/ARCH/llama-cli-*",
    "initramfs": "build build/ARCH/initramfs.cpio.gz: busybox, llama-cli and /init",
    "iso": "build build/ARCH/zosia-MODEL.iso for other machines and hypervisors; boots as a CD, USB stick or disk",
    "doctor": "check that this machine can run zosia, and suggest a fix for each problem",
    "diag": "boot, print diagnostics for a bug report, and power off",
    "smoke": "boot with a stub instead of a model and check that it answers; with MODEL=, ask that model",
    "shell": "boot a development image to a shell with all of busybox",
    "bench": "measure start times, speed, memory and instruction counts; writes docs/benchmarks.md",
    "docs": "build the manual as a website that works offline, build/site",
    "docs-serve": "serve the manual on http://127.0.0.1:8000, and rebuild it after each change",
}

MODEL, MACHINE, CHAT, BUILD, OUTPUT = "Model", "Machine", "Chat", "Build", "Output"

VARIABLES = (
    Variable(
        name="MODEL",
        group=MODEL,
        form="NAME, FILE.gguf, hf:OWNER/REPO or hf:OWNER/REPO:QUANT",
        text="model to run: a name listed by `scons models`, the path of a .gguf file (any part of a split one), "
        "or a repository of the Hugging Face hub",
        default="smollm2-135m",
    ),
    Variable(
        name="CTX",
        group=MODEL,
        form="number of tokens",
        text="context size: how much of the chat the model sees at once",
        otherwise="the model's, or less if memory is short",
    ),
    Variable(
        name="KV",
        group=MODEL,
        form=", ".join(CACHE_TYPES),
        text="KV cache type; compared to f16, q8_0 takes about half the memory, and q4_0 a quarter",
        choices=tuple(CACHE_TYPES),
        default=next(iter(CACHE_TYPES)),
    ),
    Variable(
        name="REASONING",
        group=MODEL,
        form=", ".join(REASONING),
        text="how long the model thinks before it answers",
        choices=REASONING,
        otherwise="the model's",
    ),
    Variable(
        name="WEIGHTS",
        group=MODEL,
        form=", ".join(WEIGHTS),
        text="map uses the weights in place; repack makes a copy in a layout that the processor reads faster",
        choices=WEIGHTS,
        default=WEIGHTS[0],
    ),
    Variable(
        name="LLAMA_ARGS",
        group=MODEL,
        form="arguments",
        text="extra arguments for llama-cli, quoted as in a shell; nothing in them is expanded",
    ),
    Variable(
        name="IMAGE_TOOL",
        group=MODEL,
        form=", ".join(IMAGE_TOOLS),
        text="tool that makes the model disk; genext2fs is for models up to 2 GiB",
        choices=IMAGE_TOOLS,
        default=IMAGE_TOOLS[0],
    ),
    Variable(
        name="ISO_MODEL",
        group=MODEL,
        form="yes, no",
        text="with iso: yes includes the model; no leaves it out, for a model disk attached separately",
        choices=("yes", "no"),
        default="yes",
    ),
    Variable(
        name="FILE",
        group=MODEL,
        form="FILE.gguf",
        text="with import-model: the file to import, or a folder with the parts of a split model",
        path=True,
    ),
    Variable(
        name="KEEP",
        group=MODEL,
        form="disk, file",
        text="with remove-model: the part to keep, the model disk or the downloaded file",
        choices=("disk", "file"),
    ),
    Variable(
        name="MEM",
        group=MACHINE,
        form="number with K, M or G; MiB without a unit",
        text="guest memory",
        otherwise="what the model needs",
    ),
    Variable(
        name="SMP",
        group=MACHINE,
        form="number of processors",
        text="guest processors, at most as many as the host has",
        otherwise="the host's or the container's, at most 8",
    ),
    Variable(
        name="ARCH",
        group=MACHINE,
        form=", ".join(ARCHITECTURES),
        text="guest architecture; native is this machine's own where KVM or HVF runs it, and aarch64 elsewhere",
        choices=ARCHITECTURES,
        default=next(iter(BOARDS)),
    ),
    Variable(
        name="ACCEL",
        group=MACHINE,
        form=", ".join(ACCELERATORS),
        text="accelerator: auto picks the fastest that works; tcg emulates, and works everywhere",
        choices=ACCELERATORS,
        default="auto",
    ),
    Variable(
        name="CPU",
        group=MACHINE,
        form="value of QEMU's -cpu",
        text="guest CPU model",
        otherwise="max, but without slow features on emulated aarch64",
    ),
    Variable(
        name="BOARD",
        group=MACHINE,
        form="virt (aarch64); q35, microvm (x86_64)",
        text="QEMU machine type; microvm needs KVM",
        choices=tuple(board.name for boards in BOARDS.values() for board in boards),
        otherwise="the fastest available",
    ),
    Variable(
        name="MODEL_BUS",
        group=MACHINE,
        form=", ".join(BUSES),
        text="how the guest reads the model: dax maps the host's page cache, without a copy; virtio-blk reads a disk; "
        "auto uses dax where it works",
        choices=BUSES,
        default=BUSES[0],
    ),
    Variable(
        name="SANDBOX",
        group=MACHINE,
        form=", ".join(SWITCH),
        text="1 refuses to run without QEMU's sandbox (seccomp); 0 runs without it",
        choices=SWITCH,
        otherwise="used where it works",
    ),
    Variable(
        name="HOT",
        group=MACHINE,
        form=", ".join(SWITCH),
        text="1 resumes a saved machine (saving one first if needed); 0 always boots",
        choices=SWITCH,
        default="1",
    ),
    Variable(
        name="PROMPT",
        group=CHAT,
        form="text",
        text="ask one question and power off; only the answer goes to standard output",
    ),
    Variable(
        name="SYSTEM",
        group=CHAT,
        form="text",
        text="system prompt; SYSTEM= with no text replaces the model's own by an empty one",
        otherwise="the model's own, if it has one",
    ),
    Variable(
        name="BASE",
        group=BUILD,
        form=", ".join(BASES),
        text="kernel and busybox: direct builds the kernel, buildroot builds both, distro uses Debian's binaries",
        choices=BASES,
        default="distro" if sys.platform == "darwin" else BASES[0],  # macOS has no compiler for Linux
    ),
    Variable(
        name="BUILDROOT",
        group=BUILD,
        form="directory",
        text="with BASE=buildroot: Buildroot source tree to use instead of the pinned release",
        path=True,
    ),
    Variable(
        name="BUILDROOT_CONFIG",
        group=BUILD,
        form="file",
        text="with BASE=buildroot: extra BR2_ settings, for example for a toolchain",
        path=True,
    ),
    Variable(
        name="LLAMA_SRC",
        group=BUILD,
        form="directory",
        text="llama.cpp source tree to build instead of the pinned one",
        path=True,
    ),
    Variable(
        name="KERNEL",
        group=BUILD,
        form="file or directory",
        text="kernel image to boot, or Linux source tree to build, instead of the pinned one",
        path=True,
    ),
    Variable(
        name="BUSYBOX",
        group=BUILD,
        form="file",
        text="static busybox binary to use instead of the pinned one",
        path=True,
    ),
    Variable(
        name="VERBOSE",
        group=OUTPUT,
        form=", ".join(SWITCH),
        text="1 shows the messages of the guest's kernel and of llama.cpp",
        choices=SWITCH,
        otherwise="0",
    ),
    Variable(
        name="RUNS", group=OUTPUT, form="number of rounds", text="with bench: how many times to measure", default="5"
    ),
    Variable(
        name="V", group=OUTPUT, form=", ".join(SWITCH), text="1 shows the build commands", choices=SWITCH, otherwise="0"
    ),
)

DEFAULTS = {variable.name: variable.default for variable in VARIABLES}
EXAMPLES = {
    "scons run": "build anything missing, boot, and chat; /exit or Ctrl+C powers off",
    "scons run MODEL=/path/to/model.gguf MEM=4G CTX=4096": "run a model file of your own",
    'scons run PROMPT="What is 2+2?"': "print one answer on standard output, and power off",
    "scons -n run": "print what would be built, and the QEMU command; after `scons`, you can paste it into a shell",
}
