"""Packages that install programs here: the table packages.txt, which scripts/bootstrap.sh reads, too.

Standard library only: Buildroot and bootstrap.sh run modules that import this one with a bare Python.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zosia.base.places import INSTALLED, repair

TABLE = Path(__file__).with_name("packages.txt")
# Package managers, in the order of the table's columns, and the commands that install
INSTALL = {
    "apt": "sudo apt-get install",
    "brew": "brew install",
    "dnf": "sudo dnf install",
    "pacman": "sudo pacman -S",
    "zypper": "sudo zypper install",
    "apk": "sudo apk add",
}
OS_RELEASE = Path("/etc/os-release")
# ID or a word of ID_LIKE in os-release(5): its manager. The same in bootstrap.sh.
SYSTEMS = {
    **dict.fromkeys(("debian", "ubuntu"), "apt"),
    **dict.fromkeys(("fedora", "rhel", "centos"), "dnf"),
    "arch": "pacman",
    **dict.fromkeys(("opensuse", "suse"), "zypper"),
    "alpine": "apk",
}
FOR_KERNEL = ("kernel", "aarch64", "x86_64")  # kinds of rows that only a build of the kernel needs
UNKNOWN = "Install it with this system's package manager"
WITHOUT = "set BASE=distro, which builds no kernel"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of the table: a program or header, and its packages by package manager."""

    name: str
    kind: str
    packages: Mapping[str, tuple[str, ...]]


@functools.cache
def table() -> Mapping[str, Row]:
    """Return the rows of the table, by name."""
    lines = (line.split() for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    rows: dict[str, Row] = {}
    for name, kind, *cells in filter(None, lines):
        packages = (() if cell == "-" else tuple(cell.split(",")) for cell in cells)
        rows[name] = Row(name=name, kind=kind, packages=dict(zip(INSTALL, packages, strict=True)))
    return rows


def manager() -> str | None:
    """Return the package manager of this system: as its os-release says, or else the first that is installed."""
    if sys.platform == "darwin":
        return "brew"
    fields: dict[str, str] = {}
    with suppress(OSError):
        lines = OS_RELEASE.read_text(encoding="utf-8", errors="replace").splitlines()
        fields = {name: value.strip("\"'") for name, equals, value in (line.partition("=") for line in lines)}
    names = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".split()
    known = (SYSTEMS[name] for name in names if name in SYSTEMS)
    there = (name for name, command in INSTALL.items() if name != "brew" and shutil.which(command.split()[1]))
    return next(known, None) or next(there, None)


def remedy(names: Sequence[str]) -> str:
    """Return what to do for someone who lacks these programs or headers: most often, the command that installs them."""
    rows = [table()[name] for name in names if name in table()]
    if not rows:
        return UNKNOWN if INSTALLED else repair()
    for_kernel = any(row.kind in FOR_KERNEL for row in rows)
    here = manager()
    if here is None:
        return UNKNOWN + (f", or {WITHOUT}" if for_kernel else "")
    lacking = [row.name for row in rows if not row.packages[here]]
    if lacking:
        otherwise = f"{WITHOUT}, or build it on another machine and set KERNEL=" if for_kernel else "install it by hand"
        return f"{here} has no package of {', '.join(lacking)}: {otherwise}"
    packages = dict.fromkeys(package for row in rows for package in row.packages[here])
    return f"Type: {INSTALL[here]} {' '.join(packages)}" + (f", or {WITHOUT}" if for_kernel else "")
