"""What can be typed after `scons`: targets and variables, as tables. Help, manual and completion are made of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from zosia.inputs.catalogue import REASONING
from zosia.machine.boards import BOARDS, Accel
from zosia.machine.qemu import Bus
from zosia.model.plan import CACHE_TYPES

BASES = ("direct", "buildroot", "distro")
IMAGE_TOOLS = ("mke2fs", "genext2fs")
SWITCH = ("0", "1")
BUSES = ("auto", *(bus.value for bus in Bus))
WEIGHTS = ("map", "repack")
ACCELERATORS = ("auto", *(accel.value for accel in Accel))


@dataclass(frozen=True, kw_only=True)
class Variable:
    """NAME=value on the command line.

    Attributes:
        group: what it has to do with; the help and the manual have a part for each.
        form: what a value looks like, with its unit.
        text: what it means.
        choices: all values there are; empty for a variable that takes others, too.
        default: the value that it has when nothing is typed.
        otherwise: what happens when there is no value, in words.
        path: it names a file or a folder.
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


# target: what it does
TARGETS = {
    "run": "build what is missing, boot, and chat on this terminal; the exit status is llama-cli's",
    "hot-clean": "remove the saved machines that `scons run` goes on from: the next start boots",
    "model.img": "build/models/NAME.img, the disk with the model",
    "models": "the models that have a name: size, licence, memory, whether they are here and fit this machine",
    "import-model": "take FILE= into the cache, if it is a model that has a name: without a network",
    "remove-model": "delete MODEL= from the cache, and its disk",
    "kernel": "build/ARCH/Image, Linux with zosia's own configuration (with another BASE: build/ARCH/BASE/Image)",
    "llama": "build/ARCH/llama-cli-*, static, one for each level of CPU",
    "initramfs": "build/ARCH/initramfs.cpio.gz: busybox, llama-cli and /init",
    "iso": "build/ARCH/zosia-MODEL.iso, for other machines and hypervisors: a CD, or written to a stick or disk",
    "doctor": "check that this machine has what a run takes; each line is ok, or what to type",
    "diag": "boot, print what a bug report needs, and power off",
    "smoke": "boot without a model (a stub answers) and check it; with MODEL=, ask that model",
    "shell": "boot to a shell with all of busybox, for those who develop zosia; in an image of its own",
    "bench": "measure starts, speed, memory and counters beside what else there is; tables go to docs/benchmarks.md",
    "docs": "build/site, the manual as a web site that needs no network",
    "docs-serve": "the same, on http://127.0.0.1:8000, made anew at each change",
}

MODEL, MACHINE, CHAT, BUILD, OUTPUT = "Model", "Machine", "Chat", "What it is built of", "Output"

VARIABLES = (
    Variable(
        name="MODEL",
        group=MODEL,
        form="NAME or FILE.gguf",
        text="the model: a name that `scons models` lists, or the path of a .gguf; of a split one, any part",
        default="smollm2-135m",
    ),
    Variable(
        name="CTX",
        group=MODEL,
        form="a number of tokens",
        text="how much of the chat the model sees at once",
        otherwise="the model's, or what fits into this machine",
    ),
    Variable(
        name="KV",
        group=MODEL,
        form=", ".join(CACHE_TYPES),
        text="type of the cached context, each half of the one before",
        choices=tuple(CACHE_TYPES),
        default=next(iter(CACHE_TYPES)),
    ),
    Variable(
        name="REASONING",
        group=MODEL,
        form=", ".join(REASONING),
        text="how long the model thinks first",
        choices=REASONING,
        otherwise="the model's",
    ),
    Variable(
        name="WEIGHTS",
        group=MODEL,
        form=", ".join(WEIGHTS),
        text="map uses the model's numbers where they lie; repack makes a copy that the processor reads faster",
        choices=WEIGHTS,
        default=WEIGHTS[0],
    ),
    Variable(
        name="LLAMA_ARGS",
        group=MODEL,
        form="arguments",
        text="further arguments of llama-cli, quoted as in a shell; nothing in them is expanded",
    ),
    Variable(
        name="IMAGE_TOOL",
        group=MODEL,
        form=", ".join(IMAGE_TOOLS),
        text="what makes the model's disk; genext2fs is for small ones",
        choices=IMAGE_TOOLS,
        default=IMAGE_TOOLS[0],
    ),
    Variable(
        name="ISO_MODEL",
        group=MODEL,
        form="yes, no",
        text="with iso: yes puts the model on it; no leaves it to the model's disk, attached beside it",
        choices=("yes", "no"),
        default="yes",
    ),
    Variable(name="FILE", group=MODEL, form="FILE.gguf", text="with import-model: what to take", path=True),
    Variable(
        name="KEEP",
        group=MODEL,
        form="disk, file",
        text="with remove-model: what to keep of the model",
        choices=("disk", "file"),
    ),
    Variable(
        name="MEM",
        group=MACHINE,
        form="a number and K, M or G; a bare number is MiB",
        text="memory of the guest",
        otherwise="what the model takes",
    ),
    Variable(
        name="SMP",
        group=MACHINE,
        form="a number of processors",
        text="processors of the guest, no more than the host's",
        otherwise="the host's, at most 8",
    ),
    Variable(
        name="ARCH",
        group=MACHINE,
        form=", ".join(BOARDS),
        text="the guest's architecture",
        choices=tuple(BOARDS),
        default=next(iter(BOARDS)),
    ),
    Variable(
        name="ACCEL",
        group=MACHINE,
        form=", ".join(ACCELERATORS),
        text="what runs the guest: auto takes the fastest that works; tcg emulates, and works everywhere",
        choices=ACCELERATORS,
        default="auto",
    ),
    Variable(
        name="CPU",
        group=MACHINE,
        form="a value of QEMU's -cpu",
        text="the guest's kind of processor",
        otherwise="max, trimmed for tcg",
    ),
    Variable(
        name="BOARD",
        group=MACHINE,
        form="virt (aarch64); q35, microvm (x86_64)",
        text="what QEMU emulates; microvm takes KVM",
        choices=tuple(board.name for boards in BOARDS.values() for board in boards),
        otherwise="the fastest",
    ),
    Variable(
        name="MODEL_BUS",
        group=MACHINE,
        form=", ".join(BUSES),
        text="how the guest gets at the model: dax maps the host's page cache, without a copy; virtio-blk reads a "
        "disk; auto takes dax where it works",
        choices=BUSES,
        default=BUSES[0],
    ),
    Variable(
        name="HOT",
        group=MACHINE,
        form=", ".join(SWITCH),
        text="1 goes on from a saved machine that is at its prompt, and saves one where there is none; 0 boots",
        choices=SWITCH,
        default="1",
    ),
    Variable(
        name="PROMPT",
        group=CHAT,
        form="text",
        text="what to ask once, without a chat: the answer alone goes to standard output",
    ),
    Variable(name="SYSTEM", group=CHAT, form="text", text="the system prompt"),
    Variable(
        name="BASE",
        group=BUILD,
        form=", ".join(BASES),
        text="where kernel and busybox are from: built here, by Buildroot, or Debian's ready made",
        choices=BASES,
        default="distro" if sys.platform == "darwin" else BASES[0],  # macOS has no compiler for Linux
    ),
    Variable(
        name="BUILDROOT",
        group=BUILD,
        form="a folder",
        text="with BASE=buildroot: a Buildroot source folder, instead of the pinned one",
        path=True,
    ),
    Variable(
        name="BUILDROOT_CONFIG",
        group=BUILD,
        form="a file",
        text="with BASE=buildroot: further BR2_ settings, such as for a toolchain",
        path=True,
    ),
    Variable(
        name="LLAMA_SRC",
        group=BUILD,
        form="a folder",
        text="a llama.cpp source folder to build instead of the pinned one",
        path=True,
    ),
    Variable(
        name="KERNEL",
        group=BUILD,
        form="a file or a folder",
        text="a kernel image to boot, or a Linux source folder to build, instead of the pinned one",
        path=True,
    ),
    Variable(
        name="BUSYBOX",
        group=BUILD,
        form="a file",
        text="a static busybox for the guest instead of the pinned one",
        path=True,
    ),
    Variable(
        name="VERBOSE",
        group=OUTPUT,
        form=", ".join(SWITCH),
        text="1 shows the messages of the guest's kernel and of llama.cpp",
        choices=SWITCH,
    ),
    Variable(
        name="RUNS",
        group=OUTPUT,
        form="a number of rounds",
        text="with bench: how often each thing is measured",
        default="5",
    ),
    Variable(name="V", group=OUTPUT, form=", ".join(SWITCH), text="1 shows the commands of the build", choices=SWITCH),
)

DEFAULTS = {variable.name: variable.default for variable in VARIABLES}
EXAMPLES = {
    "scons run": "build what is missing, boot, and chat; /exit or Ctrl+C powers off",
    "scons run MODEL=/path/to/model.gguf MEM=4G CTX=4096": "a model of your own",
    'scons run PROMPT="What is 2+2?"': "one answer on standard output, and power off",
    "scons -n run": "print the QEMU command; after `scons` it can be pasted",
}
