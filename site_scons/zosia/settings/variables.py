"""Table of the variables of `scons`, which are the options of `zosia`. Help, manual and completion are made from it."""

from __future__ import annotations

import sys

from zosia.machine.boards import BOARDS, Accel
from zosia.machine.qemu import Bus
from zosia.model.options import CACHE_TYPES, REASONING
from zosia.settings.variable import Variable, switch

NATIVE = "native"
ARCHITECTURES = (*BOARDS, NATIVE)
BASES = ("direct", "buildroot", "distro")
IMAGE_TOOLS = ("mke2fs", "genext2fs")
BUSES = ("auto", *(bus.value for bus in Bus))
WEIGHTS = ("map", "repack")
SPREAD = ("run", "serve", "chat", "models")  # that know of workers
ACCELERATORS = ("auto", *(accel.value for accel in Accel))


# section of the help and the manual: its variables
GROUPS = {
    "Model": (
        Variable(
            name="MODEL",
            form="NAME, FILE.gguf, hf:OWNER/REPO or hf:OWNER/REPO:QUANT",
            text="model to run: a name listed by `scons models`, the path of a .gguf file (any part of a split one), "
            "or a repository of the Hugging Face hub",
            default="smollm2-135m",
        ),
        Variable(
            name="CATALOGUE",
            form="https address or file",
            text="catalogue of models in place of zosia's own, signed by a key that you trust (`scons trust`)",
            path=True,
            only=("run", "serve", "chat", "models", "pull", "import", "remove", "doctor", "diag"),
        ),
        Variable(
            name="CTX",
            form="number of tokens",
            text="context size: how much of the chat the model sees at once",
            otherwise="the model's, or less if memory is short",
        ),
        Variable(
            name="KV",
            form=", ".join(CACHE_TYPES),
            text="KV cache type; compared to f16, q8_0 takes about half the memory, and q4_0 a quarter",
            choices=tuple(CACHE_TYPES),
            default=next(iter(CACHE_TYPES)),
        ),
        Variable(
            name="REASONING",
            form=", ".join(REASONING),
            text="how long the model thinks before it answers",
            choices=REASONING,
            otherwise="the model's",
        ),
        Variable(
            name="WEIGHTS",
            form=", ".join(WEIGHTS),
            text="map uses the weights in place; repack makes a copy in a layout that the processor reads faster",
            choices=WEIGHTS,
            default=WEIGHTS[0],
        ),
        Variable(
            name="LLAMA_ARGS",
            form="arguments",
            text="extra arguments for llama.cpp, quoted as in a shell; nothing in them is expanded",
        ),
        Variable(
            name="IMAGE_TOOL",
            form=", ".join(IMAGE_TOOLS),
            text="tool that makes the model disk; genext2fs is for models up to 2 GiB",
            choices=IMAGE_TOOLS,
            default=IMAGE_TOOLS[0],
        ),
        Variable(
            name="ISO_MODEL",
            form="yes, no",
            text="with iso: yes includes the model; no leaves it out, for a model disk attached separately",
            choices=("yes", "no"),
            default="yes",
            only=("iso",),
        ),
        Variable(
            name="FILE",
            form="FILE",
            text="with import-model: a .gguf, or a folder with the parts of a split model; with trust: a public key",
            path=True,
            only=("import", "trust"),
        ),
        Variable(
            name="KEEP",
            form="disk, file",
            text="with remove-model: the part to keep, the model disk or the downloaded file",
            choices=("disk", "file"),
            only=("remove",),
        ),
    ),
    "Machine": (
        Variable(
            name="MEM",
            form="number with K, M or G; MiB without a unit",
            text="guest memory",
            otherwise="what the model needs",
        ),
        Variable(
            name="SMP",
            form="number of processors",
            text="guest processors, at most as many as the host has",
            otherwise="the host's or the container's, divided by GUESTS, at most 8",
        ),
        Variable(
            name="ARCH",
            form=", ".join(ARCHITECTURES),
            text="guest architecture; native is this machine's own where KVM or HVF runs it, and aarch64 elsewhere",
            choices=ARCHITECTURES,
            default=next(iter(BOARDS)),
        ),
        Variable(
            name="ACCEL",
            form=", ".join(ACCELERATORS),
            text="accelerator: auto picks the fastest that works; tcg emulates, and works everywhere",
            choices=ACCELERATORS,
            default="auto",
        ),
        Variable(
            name="CPU",
            form="value of QEMU's -cpu",
            text="guest CPU model",
            otherwise="max, but without slow features on emulated aarch64",
        ),
        Variable(
            name="BOARD",
            form="virt (aarch64); q35, microvm (x86_64)",
            text="QEMU machine type; microvm needs KVM",
            choices=tuple(board.name for boards in BOARDS.values() for board in boards),
            otherwise="the fastest available",
        ),
        Variable(
            name="MODEL_BUS",
            form=", ".join(BUSES),
            text="how the guest reads the model: dax maps the host's page cache, without a copy; virtio-blk reads a "
            "disk; auto uses dax where it works",
            choices=BUSES,
            default=BUSES[0],
        ),
        switch(
            name="SANDBOX",
            text="1 refuses to run without QEMU's sandbox (seccomp, Landlock); 0 runs without it",
            otherwise="used where it works",
        ),
        switch(
            name="VERITY",
            text="1 checks each block of the model's disk before it is used: in the guest, or by the host's filesystem",
            default="0",
        ),
        switch(name="HOT", text="1 resumes a saved machine (saving one first if needed); 0 always boots", default="1"),
        Variable(
            name="WORKERS",
            form="number, or ssh:HOST, unix:SOCKET, host with commas",
            text="more machines that compute layers of the model: so many on this host, or each by name; host: this "
            "host itself, outside of a guest",
            only=SPREAD,
        ),
        Variable(
            name="SPLIT",
            form="numbers with commas",
            text="with WORKERS: layers of this machine and of each worker",
            otherwise="by their memory and speed",
            only=SPREAD,
        ),
        Variable(
            name="RPC_SERVER",
            form="program",
            text="with WORKERS=host: your own llama.cpp's rpc-server, in place of zosia's",
            path=True,
            only=SPREAD,
        ),
        Variable(
            name="SOCKET",
            form="path",
            text="with worker: UNIX socket to listen at, in place of standard input and output",
            path=True,
            only=("worker",),
        ),
    ),
    "Chat": (
        Variable(
            name="PROMPT",
            form="text",
            text="ask one question and power off; only the answer goes to standard output",
            only=("run",),
        ),
        Variable(
            name="ATTACH",
            form="files, folders, globs",
            text="with PROMPT or a pipe: text, PDF, .docx and HTML files that the question is about",
            path=True,
            named="file",
            several=True,
            only=("run",),
        ),
        Variable(
            name="SYSTEM",
            form="text",
            text="system prompt; an empty text replaces the model's own by an empty one",
            otherwise="the model's own, if it has one",
        ),
        Variable(
            name="CHAT", form="NAME", text="with chat: name of a chat to keep; else nothing is kept", only=("chat",)
        ),
        switch(
            name="ENCRYPT",
            text="with chat: 1 encrypts a new chat that is kept, with a passphrase; 0 does not",
            otherwise="that of ZOSIA_ENCRYPT, or 0",
            only=("chat",),
        ),
        Variable(name="SEARCH", form="text", text="with chats: list where this text was said", only=("chats",)),
    ),
    "Serve": (
        Variable(name="PORT", form="number", text="with serve: TCP port; 0 takes a free one", default="8080"),
        Variable(
            name="HOST",
            form="IP address",
            text="with serve: address to listen on; one that others can reach needs a KEY",
            default="127.0.0.1",
        ),
        Variable(
            name="KEY",
            form="text, or auto",
            text="with serve: API key that requests must have; auto makes one and shows it",
            otherwise="none needed",
        ),
        Variable(
            name="IDLE",
            form="number with s, m or h",
            text="with serve: turn the machine off after so long without a request; the next one resumes it",
            otherwise="never",
        ),
        Variable(
            name="PARALLEL",
            form="number of requests",
            text="with serve: how many requests are answered at a time; together they have the context",
            default="4",
        ),
        Variable(name="GUESTS", form="number", text="with serve: how many machines share the requests", default="1"),
        switch(name="UI", text="with serve: 1 has the web page as well; 0 leaves it out", default="1"),
        Variable(
            name="LOG",
            form="file",
            text="with serve: append a line for each request to this file, not to standard error",
            path=True,
        ),
    ),
    "Build": (
        Variable(
            name="BASE",
            form=", ".join(BASES),
            text="kernel and busybox: direct builds the kernel, buildroot builds both, distro uses Debian's binaries",
            choices=BASES,
            default="distro" if sys.platform == "darwin" else BASES[0],  # macOS has no compiler for Linux
        ),
        *(
            Variable(name=name, form=form, text=text, path=True)
            for name, form, text in (
                ("BUILDROOT", "directory", "with BASE=buildroot: source tree to use instead of the pinned release"),
                ("BUILDROOT_CONFIG", "file", "with BASE=buildroot: extra BR2_ settings, for example a toolchain"),
                ("LLAMA_SRC", "directory", "llama.cpp source tree to build instead of the pinned one"),
                (
                    "KERNEL",
                    "file or directory",
                    "kernel to boot, or Linux source tree to build, in place of the pinned one",
                ),
                ("BUSYBOX", "file", "static busybox binary to use instead of the pinned one"),
            )
        ),
    ),
    "Output": (
        switch(name="VERBOSE", text="1 shows the messages of the guest's kernel and of llama.cpp", otherwise="0"),
        Variable(
            name="RUNS",
            form="number of rounds",
            text="with bench: how many times to measure",
            default="5",
            only=("bench",),
        ),
        switch(name="V", text="1 shows the build commands", otherwise="0", only=("build",)),
    ),
}

VARIABLES = tuple(variable for group in GROUPS.values() for variable in group)

DEFAULTS = {variable.name: variable.default for variable in VARIABLES}
