"""Guest kernel: configured from fragments, checked for lines that Kconfig dropped, built reproducibly."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.packages import remedy
from zosia.base.process import find, run
from zosia.base.version import ROOT
from zosia_build import llama
from zosia_build.kernels import zboot

TREE = "tree"  # link to the source in the output folder, see _make
# Values that the kernel's build would otherwise take from the host, the clock and the environment
STAMP = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "zosia",
    "KBUILD_BUILD_HOST": "zosia",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
    "KCFLAGS": "",
    "KAFLAGS": "",
    "KCPPFLAGS": "",
}
CLANG = ROOT / "buildroot/toolchain/clang"  # the pinned compiler, whatever the host's is
HOST_TOOLS = ("make", "gcc", "flex", "bison", "bc")  # gcc is for the kernel's own tools
BINUTILS = ("nm", "objcopy", "objdump", "readelf", "strip")
HOST_HEADERS = {"aarch64": ("stdio.h",), "x86_64": ("stdio.h", "gelf.h")}  # for the kernel's own tools, and for objtool
AFTER_LINK = {"aarch64": 0, "x86_64": 84}  # make's lines behind the link, in Linux 6.1
OWN_TREE = ("x86_64",)  # objtool can't find the source by a link
OPTION = re.compile(r"(?P<set>(?:CONFIG|BR2)_\w+)=(?P<value>.*)|# (?P<unset>(?:CONFIG|BR2)_\w+) is not set")


@dataclass(frozen=True)
class Arch:
    """Architecture in the terms of the kernel's makefiles, and their results."""

    name: str
    machines: tuple[str, ...]  # names of a host whose own binutils will do
    cross: str
    goal: str
    image: str
    loaded: str  # for a boot loader
    magics: tuple[tuple[int, bytes], ...]  # offset and bytes: an image has one of these


ARCHES = {
    # Documentation/arm64/booting.rst, "Call the kernel image"; QEMU unpacks a gzipped one.
    "aarch64": Arch(
        "arm64",
        ("aarch64", "arm64"),
        "aarch64-linux-gnu-",
        "Image",
        "arch/arm64/boot/Image",
        "arch/arm64/boot/Image",
        ((56, b"ARM\x64"), (0, b"\x1f\x8b")),
    ),
    # The ELF file inside a bzImage: QEMU starts it at its PVH entry. A user's own kernel may be a bzImage as well
    # (Documentation/x86/boot.rst).
    "x86_64": Arch(
        "x86_64",
        ("x86_64", "amd64"),
        "x86_64-linux-gnu-",
        "bzImage",
        "arch/x86/boot/compressed/vmlinux.bin",
        "arch/x86/boot/bzImage",
        ((0, b"\x7fELF\x02\x01"), (0x202, b"HdrS")),
    ),
}


def dropped(requested: str, config: str) -> list[str]:
    """Return the lines of the fragments `requested` that the finished .config `config` dropped, in order.

    An option that .config does not mention is not set. Of several lines about an option the last one counts.
    """
    present = {name: value for name, value, _ in _options(config)}
    wanted = {name: (value, line) for name, value, line in _options(requested)}
    return [line for name, (value, line) in wanted.items() if present.get(name, "n") != value]


def configure(*, source: Path, output: Path, fragments: Sequence[Path], arch: str, log: Path, cache: Path) -> None:
    """Write output/.config: everything off, then the lines of the fragments; later fragments win.

    Args:
        cache: folder that zig is copied to.

    Raises:
        ZosiaError: a tool or fragment is missing, Kconfig failed, or it dropped a line of a fragment.
    """
    try:
        texts = {path: path.read_text(encoding="utf-8") for path in fragments}
    except OSError as error:
        raise ZosiaError(f"the kernel fragment {error.filename} cannot be read: {error.strerror}") from error
    requested = "\n".join(texts.values())
    merged = output / "zosia.config"  # KCONFIG_ALLCONFIG takes one file
    output.mkdir(parents=True, exist_ok=True)
    merged.write_text(requested, encoding="utf-8")
    env = STAMP | {"KCONFIG_ALLCONFIG": merged.name}
    _make(["allnoconfig"], source=source, output=output, arch=arch, log=log, env=env, cache=cache, ccache=False)
    lost = dropped(requested, (output / ".config").read_text(encoding="utf-8"))
    if lost:
        where = [path for path, text in texts.items() if set(lost) & {line for _, _, line in _options(text)}]
        raise ZosiaError(
            f"the kernel's configuration drops {'; '.join(lost)} (set in {', '.join(map(str, where))})",
            "Add its dependencies, or remove the line: `make menuconfig`, then / and its name, shows them",
        )


def build(*, source: Path, output: Path, arch: str, jobs: int, log: Path, cache: Path, loader: bool = False) -> Path:
    """Build the image that QEMU's -kernel takes, in a configured output folder, and return its path.

    The same source and .config give the same bytes on any host, at any time: the compiler and the linker are zig's.

    Args:
        cache: folder for zig, and for ccache if it is installed.
        loader: the image is for a boot loader, and not for QEMU.

    Raises:
        ZosiaError: a tool is missing, or the build failed; the error has the end of the log.
    """
    image = output / (_arch(arch).loaded if loader else _arch(arch).image)
    ccache = shutil.which("ccache") is not None
    options: dict[str, Any] = {"source": source, "output": output, "arch": arch, "env": STAMP, "cache": cache}
    options["ccache"] = ccache
    goals, total = [f"-j{jobs}", _arch(arch).goal], 0
    config = output / ".config"
    if not image.is_file() or config.stat().st_mtime > image.stat().st_mtime:  # otherwise the build is short
        _make([f"-j{jobs}", "prepare"], log=log, **options)  # make -n fails without it
        total = _steps(goals, **options)
    _make(goals, log=log, total=total, **options)
    if not image.is_file():
        raise ZosiaError(f"the kernel build succeeded without making {image}", f"See {log}")
    return image


def _steps(goals: Sequence[str], **options: Any) -> int:
    """Return the number of lines such as "  CC      init/main.o" that make will print; 0 if unknown.

    It takes 3 s, and the build minutes. Make ends early, at the link, whose inputs don't exist yet.
    """
    shown = _make([*goals, "-n"], log=None, **options).stdout
    counted = len(re.findall(r"^.*\becho '  [A-Z][A-Z0-9]+ ", shown, re.MULTILINE))
    return counted + AFTER_LINK[options["arch"]] if counted else 0


def read_image(path: Path, *, arch: str) -> bytes:
    """Return a kernel image that QEMU can start, out of its EFI zboot image if it is in one.

    Raises:
        ZosiaError: the file is not a kernel image for `arch`, is damaged, or can't be read.
    """
    target = _arch(arch)
    magics = (*target.magics, (zboot.MAGIC_AT, zboot.MAGIC))
    try:
        with path.open("rb") as file:
            image = file.read(1024)
            if _has(image, magics):  # other files may be larger than the memory
                image = zboot.unwrapped(image + file.read(), str(path))
    except OSError as error:
        raise ZosiaError(f"the kernel {path} can't be read: {error.strerror}") from error
    if not _has(image, target.magics):
        raise ZosiaError(f"{path} is not a kernel image for {arch}", f"Set KERNEL= to an image such as {target.image}")
    return image


def _has(image: bytes, magics: Sequence[tuple[int, bytes]]) -> bool:
    return any(image.startswith(magic, offset) for offset, magic in magics)


def check_path(folder: Path, what: str) -> None:
    """Refuse a folder whose path makefiles can't handle.

    Raises:
        ZosiaError: the path has blanks or colons.
    """
    if re.search(r"[\s:]", str(folder)):
        raise ZosiaError(
            f"{what} can't be built in {str(folder)!r}: its makefiles don't take blanks or colons in a path",
            "Move the clone, ZOSIA_CACHE or that folder to a path without them",
        )


def _arch(name: str) -> Arch:
    if name not in ARCHES:
        raise ZosiaError(f"there is no kernel build for {name}", f"Choose one of: {', '.join(ARCHES)}")
    return ARCHES[name]


def _options(text: str) -> list[tuple[str, str, str]]:
    """Return name, value ("n" for not set) and line of each option in a fragment or .config."""
    lines = (line.strip() for line in text.splitlines())
    found = (match for line in lines if (match := OPTION.fullmatch(line)))
    return [(match["set"] or match["unset"], match["value"] if match["set"] else "n", match[0]) for match in found]


def _cross(arch: str) -> str:
    """Return the prefix of the names of binutils."""
    native = sys.platform == "linux" and platform.machine() in _arch(arch).machines
    return "" if native else _arch(arch).cross


def tools(arch: str) -> tuple[str, ...]:
    """Return the programs that a kernel build needs."""
    return (*HOST_TOOLS, f"{_cross(arch)}objcopy")


def check_headers(arch: str) -> None:
    """Check that the headers for the kernel's own tools are installed.

    Raises:
        ZosiaError: a header is missing; the error names its package.
    """
    for header in HOST_HEADERS[arch]:
        if run(["gcc", "-E", "-include", header, "-x", "c", os.devnull], check=False).returncode != 0:
            raise ZosiaError(f"the C header {header} is needed and was not found", remedy([header]))


def _make(
    goals: Sequence[str],
    *,
    source: Path,
    output: Path,
    arch: str,
    log: Path | None,
    env: Mapping[str, str],
    cache: Path,
    ccache: bool,
    total: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run the kernel's make in `output`; without a log to capture its output.

    Kbuild refers to sources by the absolute path of their folder. Here `srctree` is a link of constant name instead, as
    the compiler is, so that no path reaches the image, and ccache sees the same commands in every checkout. Only x86_64
    has objtool, which runs in another folder and can't follow that link.
    """
    target, cross = _arch(arch), _cross(arch)
    for tool in tools(arch):
        find(tool)
    check_headers(arch)
    if not (source / "Kconfig").is_file():
        raise ZosiaError(f"{source} is not a kernel source tree: it has no Kconfig")
    for folder in (source, output.resolve()):
        check_path(folder, "The kernel")
    for name, to in ((TREE, source.resolve()), (CLANG.name, CLANG)):
        (output / name).unlink(missing_ok=True)
        (output / name).symlink_to(to)
    zig = llama.zig_home(cache.resolve())
    env = {**env, "ZIG": f"{zig}/zig", "CCACHE_DIR": f"{cache.resolve()}/ccache"}
    # ccache sees a script, which doesn't change with the compiler. The host's gcc is for tools that run here.
    known = f"env CCACHE_COMPILERTYPE=clang CCACHE_COMPILERCHECK=string:{zig.name} ccache " if ccache else ""
    compilers = [f"CC={known}./{CLANG.name}", f"HOSTCC={'ccache ' if ccache else ''}gcc", "HOSTCXX=g++"]
    linkers = [f"LD={zig}/zig ld.lld", f"AR={zig}/zig ar", "HOSTLD=ld", "HOSTAR=ar"]
    binutils = [f"{name.upper()}={cross}{name}" for name in BINUTILS]
    folders = [f"O={output.resolve()}", *([] if arch in OWN_TREE else [f"srctree={TREE}"])]
    words: list[str | Path] = ["make", "-C", source, *folders, f"ARCH={target.name}", "LLVM=1"]
    words += [*compilers, *linkers, *binutils, *goals]
    return run(words, env=env, log=log, check=log is not None, label="LINUX", total=total)
