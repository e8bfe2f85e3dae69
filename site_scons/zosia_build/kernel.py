"""The guest kernel: configure it from fragments, check that Kconfig kept every line, build it reproducibly."""

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
from zosia.base.process import find, run

TREE = "tree"  # a link to the source inside the output folder, see _make
# What the kernel would otherwise take from the machine, the clock and the caller's environment
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
HOST_TOOLS = ("make", "gcc", "flex", "bison", "bc")
# header: its Debian package; of the kernel's own tools, and of objtool
HOST_HEADERS = {"aarch64": {"stdio.h": "libc6-dev"}, "x86_64": {"stdio.h": "libc6-dev", "gelf.h": "libelf-dev"}}
AFTER_LINK = {"aarch64": 0, "x86_64": 84}  # lines of make, with Linux 6.1
OWN_TREE = ("x86_64",)  # objtool would not find the source by a link
OPTION = re.compile(r"(?P<set>(?:CONFIG|BR2)_\w+)=(?P<value>.*)|# (?P<unset>(?:CONFIG|BR2)_\w+) is not set")


@dataclass(frozen=True)
class Arch:
    """How the kernel's own makefiles call an architecture, and where they put what QEMU loads."""

    name: str
    machines: tuple[str, ...]  # names of a host that compiles for itself
    cross: str
    goal: str
    image: str
    loaded: str  # what a boot loader takes
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
    # The ELF file that a bzImage has packed inside: QEMU starts it at its PVH entry. Of others a bzImage will do, too
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
    """Lines of the fragments `requested` that the finished .config `config` does not honour, in their order.

    An option that .config does not mention counts as not set. The last line about an option is the one that counts.
    """
    present = {name: value for name, value, _ in _options(config)}
    wanted = {name: (value, line) for name, value, line in _options(requested)}
    return [line for name, (value, line) in wanted.items() if present.get(name, "n") != value]


def configure(*, source: Path, output: Path, fragments: Sequence[Path], arch: str, log: Path) -> None:
    """Write output/.config: everything off, then what the fragments ask for; later fragments win.

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
    _make(["allnoconfig"], source=source, output=output, arch=arch, log=log, env=env, ccache=False)
    lost = dropped(requested, (output / ".config").read_text(encoding="utf-8"))
    if lost:
        where = [path for path, text in texts.items() if set(lost) & {line for _, _, line in _options(text)}]
        raise ZosiaError(
            f"the kernel's configuration drops {'; '.join(lost)} (asked for in {', '.join(map(str, where))})",
            "Add what it depends on, or remove the line: `make menuconfig`, then / and its name, shows what it needs",
        )


def build(
    *, source: Path, output: Path, arch: str, jobs: int, log: Path, ccache_dir: Path | None, loader: bool = False
) -> Path:
    """Build the image that QEMU's -kernel takes, in a configured output folder, and return its path.

    The same source, .config and compiler give the same bytes, whoever builds them, when and where.

    Args:
        ccache_dir: the cache to use where ccache is installed; None for ccache's own default.
        loader: the image is for a boot loader, and not for QEMU.

    Raises:
        ZosiaError: a tool is missing or the build failed; the end of the log is shown.
    """
    image = output / (_arch(arch).loaded if loader else _arch(arch).image)
    env = {"CCACHE_DIR": str(ccache_dir.resolve())} if ccache_dir else {}
    ccache = shutil.which("ccache") is not None
    options: dict[str, Any] = {"source": source, "output": output, "arch": arch, "env": STAMP | env, "ccache": ccache}
    goals, total = [f"-j{jobs}", _arch(arch).goal], 0
    config = output / ".config"
    if not image.is_file() or config.stat().st_mtime > image.stat().st_mtime:  # else little is to be done
        _make([f"-j{jobs}", "prepare"], log=log, **options)  # without which make -n gets nowhere
        total = _steps(goals, **options)
    _make(goals, log=log, total=total, **options)
    if not image.is_file():
        raise ZosiaError(f"the kernel build ended well and left no {image}", f"Read {log}")
    return image


def _steps(goals: Sequence[str], **options: Any) -> int:
    """How many lines such as "  CC      init/main.o" make will show; 0 if it can't be known.

    It takes 3 s where the build takes minutes. Make ends early, at the link, for which there is nothing yet.
    """
    shown = _make([*goals, "-n"], log=None, **options).stdout
    counted = len(re.findall(r"^.*\becho '  [A-Z][A-Z0-9]+ ", shown, re.MULTILINE))
    return counted + AFTER_LINK[options["arch"]] if counted else 0


def check_image(path: Path, *, arch: str) -> None:
    """Refuse a file that QEMU would start as a kernel and that is none.

    Raises:
        ZosiaError: it is none for `arch`, or can't be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise ZosiaError(f"the kernel {path} can't be read: {error.strerror}") from error
    target = _arch(arch)
    if not any(start.startswith(magic, offset) for offset, magic in target.magics):
        raise ZosiaError(f"{path} is no kernel image for {arch}", f"KERNEL= wants one as {target.image} is")


def check_path(folder: Path, what: str) -> None:
    """Refuse a folder that makefiles can't name.

    Raises:
        ZosiaError: its path has blanks or colons.
    """
    if re.search(r"[\s:]", str(folder)):
        raise ZosiaError(
            f"{what} can't be built in {str(folder)!r}: its makefiles don't take blanks or colons in a path",
            "Move the clone, ZOSIA_CACHE, or the folder that was named, to a path without them",
        )


def _arch(name: str) -> Arch:
    if name not in ARCHES:
        raise ZosiaError(f"there is no kernel build for {name}", f"Choose one of: {', '.join(ARCHES)}")
    return ARCHES[name]


def _options(text: str) -> list[tuple[str, str, str]]:
    """Name, value ("n" for not set) and line of each option in a fragment or .config."""
    lines = (line.strip() for line in text.splitlines())
    found = (match for line in lines if (match := OPTION.fullmatch(line)))
    return [(match["set"] or match["unset"], match["value"] if match["set"] else "n", match[0]) for match in found]


def _cross(arch: str) -> str:
    """What the names of the compiler and its tools begin with."""
    native = sys.platform == "linux" and platform.machine() in _arch(arch).machines
    return "" if native else _arch(arch).cross


def tools(arch: str) -> tuple[str, ...]:
    """The programs that compile a kernel."""
    return tuple(dict.fromkeys([*HOST_TOOLS, f"{_cross(arch)}gcc"]))


def check_headers(arch: str) -> None:
    """Refuse a host without what the kernel's own tools include.

    Raises:
        ZosiaError: a header is missing; its package is named.
    """
    for header, package in HOST_HEADERS[arch].items():
        if run(["gcc", "-E", "-include", header, "-x", "c", os.devnull], check=False).returncode != 0:
            raise ZosiaError(
                f"the C header {header} is needed and was not found", f"Type: sudo apt-get install {package}"
            )


def _make(
    goals: Sequence[str],
    *,
    source: Path,
    output: Path,
    arch: str,
    log: Path | None,
    env: Mapping[str, str],
    ccache: bool,
    total: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run the kernel's make in `output`; without a log only to see what it says.

    Kbuild names sources by the absolute path of their folder. Here it is told a link of constant name instead
    (`srctree`), so that no path reaches the image and ccache sees the same commands from every checkout. Objtool, which
    only x86_64 has, looks for that from another folder and would not find it.
    """
    target, cross = _arch(arch), _cross(arch)
    for tool in tools(arch):
        find(tool)
    check_headers(arch)
    if not (source / "Kconfig").is_file():
        raise ZosiaError(f"{source} is not a kernel source tree: it has no Kconfig")
    for folder in (source, output.resolve()):
        check_path(folder, "The kernel")
    link = output / TREE
    link.unlink(missing_ok=True)
    link.symlink_to(source.resolve(), target_is_directory=True)
    launcher = "ccache " if ccache else ""
    folders = [f"O={output.resolve()}", *([] if arch in OWN_TREE else [f"srctree={TREE}"])]
    compilers = [f"ARCH={target.name}", f"CROSS_COMPILE={cross}", f"CC={launcher}{cross}gcc", f"HOSTCC={launcher}gcc"]
    words: list[str | Path] = ["make", "-C", source, *folders, *compilers, *goals]
    return run(words, env=env, log=log, check=log is not None, label="LINUX", total=total)
