"""Table of the targets of `scons`, and the help text of `scons -h`."""

from __future__ import annotations

from zosia.base.files import cache_root
from zosia.settings.variables import GROUPS

# target: description
TARGETS = {
    "run": "build anything missing, boot, and chat in this terminal; exits with llama-cli's status",
    "serve": "build anything missing, boot, and serve an OpenAI-compatible API and a web page on this machine",
    "chat": "build anything missing, boot, and chat in a program with Markdown, files, and chats that are kept by name",
    "chats": "list the chats that are kept: name, model, questions, size, last use",
    "hot-clean": "delete the saved machines that `scons run` and `serve` resume; the next one boots",
    "model.img": "build the model disk, build/models/NAME.img",
    "models": "list the models known by name: size, licence, memory needed, whether each fits and is downloaded",
    "import-model": "add the model in FILE= to the cache without a network; it must be in the catalogue",
    "remove-model": "delete MODEL= from the cache, and its disk",
    "trust": "trust catalogues that the owner of the public key in FILE= has signed; see CATALOGUE=",
    "kernel": "build the kernel, build/ARCH/Image (build/ARCH/BASE/Image unless BASE=direct)",
    "llama": "build llama-cli, static, once per CPU feature level: build/ARCH/llama-cli-*",
    "initramfs": "build build/ARCH/initramfs.cpio.gz: busybox, llama-cli and /init",
    "rpc-server": "build what WORKERS=host computes with: the programs of this machine's own architecture",
    "iso": "build build/ARCH/zosia-MODEL.iso for other machines and hypervisors; boots as a CD, USB stick or disk",
    "doctor": "check that this machine can run zosia, and suggest a fix for each problem",
    "diag": "boot, print diagnostics for a bug report, and power off",
    "smoke": "boot with a stub instead of a model and check that it answers; with MODEL=, ask that model",
    "shell": "boot a development image to a shell with all of busybox",
    "bench": "measure start times, speed, memory and instruction counts; writes docs/benchmarks.md",
    "ui": "build llama.cpp's own web page with npm, build/ui; `serve` does so as well",
    "wheel": "build the Python package, for both architectures: build/dist/zosia-VERSION-py3-none-any.whl",
    "sbom": "write bills of materials of the images, the ISO, the wheel and MODEL=, in CycloneDX and SPDX: build/sbom",
    "audit": "list which inputs are old, and which have known flaws, by what the package index and Debian have today",
    "repin": "with the NAME of an input: write today's version, size and digest of it to sources.toml or models.toml",
    "verify": "build a second time, elsewhere, without caches, and compare the bytes; also of iso, wheel, docs",
    "docs": "build the manual as a website that works offline, build/site",
    "docs-serve": "serve the manual on http://127.0.0.1:8000, and rebuild it after each change",
}

EXAMPLES = {
    "scons run": "build anything missing, boot, and chat; /exit or Ctrl+C powers off",
    "scons run MODEL=/path/to/model.gguf MEM=4G CTX=4096": "run a model file of your own",
    'scons run PROMPT="What is 2+2?"': "print one answer on standard output, and power off",
    "scons serve": "an OpenAI-compatible API and a web page, http://127.0.0.1:8080; Ctrl+C ends it",
    "scons -n run": "print what would be built, and the QEMU command; after `scons`, you can paste it into a shell",
}

COLUMN = 20  # where the texts of a help begin

_HELP = """
{examples}

Targets (default: the kernel, the initramfs and the model disk)
{targets}
{clean}

Variables, set as NAME=value
{variables}
"""


def entry(name: str, text: str, width: int) -> str:
    """Return an entry of a help text for a terminal of `width` columns."""
    import textwrap  # slow to import, and only needed here

    lines = textwrap.wrap(text, max(width, 50) - COLUMN, break_on_hyphens=False)
    first = [] if len(name) < COLUMN - 2 else [f"  {name}"]  # a long name has a line of its own
    start = " " * COLUMN if first else f"  {name:{COLUMN - 2}}"
    return "\n".join([*first, start + f"\n{' ' * COLUMN}".join(lines)])


def help_text(width: int = 100) -> str:
    """Return the help text for a terminal of `width` columns."""
    variables = []
    for group, members in GROUPS.items():
        variables += [f"\n {group}", *(entry(variable.name, variable.summary, width) for variable in members)]
    return _HELP.format(
        examples="\n".join(f"  {typed}\n{' ' * COLUMN}{text}" for typed, text in EXAMPLES.items()),
        targets="\n".join(entry(name, text, width) for name, text in TARGETS.items()),
        clean=entry(
            "-c",
            f"remove everything built, including model disks; downloads stay in {cache_root()} (ZOSIA_CACHE)",
            width,
        ),
        variables="\n".join(variables),
    )
