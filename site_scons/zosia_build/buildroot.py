"""Kernel and busybox by Buildroot, with the external tree in buildroot/."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.packages import remedy
from zosia.base.process import find, run
from zosia_build import kernel

LEAST = (2026, 2)  # the long-term release that the defconfigs are written for
PINNED = "Leave BUILDROOT= out to use the pinned release"
ELSEWHERE = "Set BASE=distro, or build on Linux and set KERNEL= and BUSYBOX="
# Programs that support/dependencies/dependencies.sh requires, and a system may lack.
HOST_TOOLS = (
    *("make", "gcc", "g++", "bash", "patch", "perl", "tar", "wget", "cpio", "unzip", "rsync", "bc", "file", "which"),
    *("cmp", "find", "xargs", "awk", "sed", "gzip", "bzip2", "xz"),
)
GOALS = {"Image": "linux", "busybox": "busybox"}  # file of a base: its Buildroot package
IMAGES = {"aarch64": "images/Image", "x86_64": "images/vmlinux"}  # the latter has the PVH entry that QEMU starts
BUSYBOX = "target/bin/busybox"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Job for Buildroot.

    Attributes:
        source: Buildroot's tree.
        external: this repository's external tree.
        output: folder for all output.
        extra: file of further BR2_ settings, which override the defconfig's.
        cache: parent of the folders for downloads and Buildroot's ccache.
    """

    source: Path
    external: Path
    output: Path
    arch: str
    extra: Path | None
    cache: Path
    jobs: int
    log: Path


def version(source: Path) -> str:
    """Return the version of a Buildroot tree, such as 2026.02.3 or 2026.08-git.

    Raises:
        ZosiaError: the folder is no Buildroot, or too old.
    """
    try:
        text = (source / "Makefile").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ZosiaError(f"{source} is no Buildroot: its Makefile can't be read: {error.strerror}", PINNED) from error
    found = re.search(r"^export BR2_VERSION := ((\d{4})\.(\d{2})\S*)$", text, re.MULTILINE)
    if not found or not (source / "package" / "busybox").is_dir():
        raise ZosiaError(
            f"{source} is no Buildroot: it has no BR2_VERSION in its Makefile, or no package/busybox", PINNED
        )
    if (int(found[2]), int(found[3])) < LEAST:
        least = f"{LEAST[0]}.{LEAST[1]:02}"
        raise ZosiaError(f"{source} is Buildroot {found[1]}, and zosia needs {least} or later", PINNED)
    return found[1]


def check_host() -> None:
    """Refuse a host on which Buildroot does not run.

    Raises:
        ZosiaError: the host is not Linux, or lacks a program; the error names its package.
    """
    if sys.platform != "linux":
        raise ZosiaError("Buildroot runs on Linux only", ELSEWHERE)
    for tool in HOST_TOOLS:
        find(tool)
    if not Path("/usr/bin/file").is_file():  # libtool calls it by this path
        raise ZosiaError("/usr/bin/file is needed and was not found", remedy(["file"]))


def build(job: Job, wanted: Sequence[str]) -> list[Path]:
    """Build the `wanted` ones of GOALS, and return their paths. Results of earlier calls are kept, and builds resumed.

    Raises:
        ZosiaError: the host, the tree or a path is unsuitable; a setting or a kernel option is dropped; or the build
            failed, and the error has the end of its log.
    """
    check_host()
    release = version(job.source)
    for folder in (job.source, job.external, job.output.resolve(), job.cache.resolve()):
        kernel.check_path(folder, "Buildroot")
    _start_over_unless_same(job, release)
    _configure(job)
    if "Image" in wanted:
        _make(job, "linux-configure")  # quick, and fails before the long build
        _check_kernel(job)
    _make(job, *(GOALS[name] for name in wanted))
    made = {"Image": job.output / IMAGES[job.arch], "busybox": job.output / BUSYBOX}
    for name in wanted:
        if not made[name].is_file():
            raise ZosiaError(f"Buildroot succeeded without making {made[name]}", f"See {job.log}")
    return [made[name] for name in wanted]


def environment(job: Job, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables for Buildroot's make, to add to those that process.run passes on."""
    # Buildroot refuses a PATH with blanks (Windows' folders, under WSL) or the current folder.
    folders = [name for name in inherited.get("PATH", os.defpath).split(os.pathsep) if re.fullmatch(r"/\S*", name)]
    found = {
        "PATH": os.pathsep.join(folders),
        "TERM": "dumb",  # no escape sequences in the log
        "BR2_DL_DIR": str(job.cache.resolve() / "buildroot" / "downloads"),
        "BR2_CCACHE_DIR": str(job.cache.resolve() / "buildroot" / "ccache"),  # with BR2_CCACHE=y
    }
    if os.geteuid() == 0:  # in a container; the configure scripts of tar and others refuse root
        found["FORCE_UNSAFE_CONFIGURE"] = "1"
    return found


def _make(job: Job, *goals: str) -> None:
    folders = [f"O={job.output.resolve()}", f"BR2_EXTERNAL={job.external}"]
    run(["make", "-C", job.source, *folders, f"BR2_JLEVEL={job.jobs}", *goals], env=environment(job), log=job.log)


def _defconfig(job: Job) -> Path:
    return job.external / "configs" / f"zosia_{job.arch}_defconfig"


def _settings(job: Job) -> tuple[str, str]:
    """Return the texts of the defconfig and of the further settings."""
    try:
        return _defconfig(job).read_text(encoding="utf-8"), job.extra.read_text(encoding="utf-8") if job.extra else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ZosiaError(f"{job.extra or _defconfig(job)} can't be read: {error}") from error


def _start_over_unless_same(job: Job, release: str) -> None:
    """Remove the output of other settings: Buildroot does not rebuild a package when its settings change."""
    stamp = job.output / "zosia.json"
    places = [str(path.resolve()) for path in (job.source, job.external, job.output)]  # its output can't be moved
    recipe = json.dumps([*places, release, *_settings(job)], indent=1)
    if job.output.exists() and (not stamp.exists() or stamp.read_text(encoding="utf-8") != recipe):
        stamp.unlink(missing_ok=True)  # first, in case the removal is interrupted
        shutil.rmtree(job.output)
    job.output.mkdir(parents=True, exist_ok=True)
    stamp.write_text(recipe, encoding="utf-8")


def _configure(job: Job) -> None:
    """Write output/.config, unless it exists."""
    config = job.output / ".config"
    if config.exists():
        return
    defaults, extra = _settings(job)
    whole = job.output / "zosia_defconfig"
    whole.write_text(f"{defaults}\n{extra}", encoding="utf-8")
    try:
        _make(job, "defconfig", f"BR2_DEFCONFIG={whole.resolve()}")
        # Further settings may make some of the defconfig's void, such as those for a toolchain that is not built.
        lost = kernel.dropped(extra or defaults, config.read_text(encoding="utf-8"))
        if lost:
            raise ZosiaError(
                f"Buildroot drops {'; '.join(lost)} (set in {job.extra or _defconfig(job)})",
                "Add its dependencies, or remove the line: its `make menuconfig`, then / and the name, shows them",
            )
    except BaseException:
        config.unlink(missing_ok=True)
        raise


def _check_kernel(job: Job) -> None:
    """Refuse a kernel whose Kconfig dropped a line of the fragments, for example because it is too old."""
    folder = job.external / "board" / "zosia"
    fragments = [folder / f"linux-{part}.config" for part in ("common", job.arch)]
    (config,) = (path for path in (job.output / "build").glob("linux-*/.config") if "headers" not in path.parent.name)
    lost = kernel.dropped("\n".join(path.read_text(encoding="utf-8") for path in fragments), config.read_text())
    if lost:
        raise ZosiaError(
            f"Buildroot's kernel ({config.parent.name}) drops {'; '.join(lost)}, set in {folder}/linux-*.config",
            "Choose a kernel that has these options, or remove the lines",
        )
