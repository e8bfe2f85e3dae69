"""The table of packages, and what errors say of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zosia.base import packages
from zosia.base.packages import INSTALL, remedy, table
from zosia_build import buildroot, kernel

KINDS = {"all", "kernel", "aarch64", "x86_64", "dev", "-"}
# Programs that are not in the table: part of every system (coreutils, util-linux), or called only on Debian (dpkg)
EVERYWHERE = {"cp", "fincore", "dpkg", "dpkg-deb"}
WITHOUT = "set BASE=distro, which builds no kernel"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A system with this package manager."""
    monkeypatch.setattr(packages, "manager", lambda: request.param)
    return str(request.param)


def test_every_row_has_every_column() -> None:
    lines = packages.TABLE.read_text(encoding="utf-8").splitlines()
    (head,) = (line for line in lines if line.startswith("# program"))
    assert head.split() == ["#", "program", "kind", *INSTALL]
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    assert [row for row in rows if len(row) != 2 + len(INSTALL)] == []
    assert {row[1] for row in rows} == KINDS
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)) > 50
    assert [row for row in rows if not all(re.fullmatch(r"-|[\w@.+-]+(,[\w@.+-]+)*", cell) for cell in row[2:])] == []
    assert [row for row in rows if row[2] == "-"] == [], "this was tried on Debian"
    assert max(map(len, lines)) <= 120


def test_only_binutils_of_another_machine_may_be_absent_where_a_kernel_is_built() -> None:
    """BASE=distro does without them."""
    needed = [row for row in table().values() if row.kind in ("all", "kernel")]
    assert [row.name for row in needed for name in INSTALL if name != "brew" and not row.packages[name]] == []
    assert [row.name for row in needed if row.kind == "all" and not row.packages["brew"]] == ["cmp"], "macOS has it"


def programs(root: Path) -> Iterator[str]:
    """The programs and headers that the library looks for: those of its lists, and those named in calls."""
    yield from buildroot.HOST_TOOLS
    for arch, headers in kernel.HOST_HEADERS.items():
        yield from kernel.tools(arch)
        yield f"{kernel.ARCHES[arch].cross}objcopy"
        yield f"qemu-system-{arch}"
        yield from headers
    for path in (root / "site_scons").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("find" | "run"), args=[ast.List([ast.Constant(str(name)), *_]), *_]):
                    yield name
                case ast.Call(func=ast.Name("find"), args=[ast.Constant(str(name))]):
                    yield name
                case ast.Call(func=ast.Name("tools" | "missing"), args=[*_, ast.List(names)]):
                    yield from (str(name.value) for name in names if isinstance(name, ast.Constant))
                case ast.Call(func=ast.Attribute(ast.Name("checks"), "tools"), args=[_, ast.List(names)]):
                    yield from (str(name.value) for name in names if isinstance(name, ast.Constant))


def test_every_program_is_in_the_table(root: Path) -> None:
    wanted = set(programs(root))
    assert {"git", "dot", "mke2fs", "genext2fs", "mcopy", "gelf.h", "make", "xz", "ccache", "e2fsck"} <= wanted
    assert wanted - EVERYWHERE - set(table()) == set()


def test_every_argument_of_the_scripts_is_in_the_table(root: Path) -> None:
    """A name that is not in the table would be passed on, and be right for one package manager at most."""
    found = []
    for path in (root / "scripts").glob("*.sh"):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        calls = re.findall(r'(?m)^"?(?:\.|\$top)/scripts/bootstrap\.sh"?(.*)$', text)
        found += [word for call in calls for word in call.split()] + re.findall(r"(?m)\bcross=(\S+)$", text)
    assert len(found) > 20
    assert set(found) - {"--dev", "$cross", '"$@"'} - set(table()) == set()


@pytest.mark.parametrize(
    ("on", "command"),
    [
        ("apt", "sudo apt-get install qemu-system-arm e2fsprogs"),
        ("brew", "brew install qemu e2fsprogs"),
        ("dnf", "sudo dnf install qemu-system-aarch64-core e2fsprogs"),
        ("pacman", "sudo pacman -S qemu-system-aarch64 e2fsprogs"),
        ("zypper", "sudo zypper install qemu-arm e2fsprogs"),
        ("apk", "sudo apk add qemu-system-aarch64 e2fsprogs e2fsprogs-extra"),
    ],
    indirect=["on"],
)
def test_the_command_that_installs(on: str, command: str) -> None:
    assert remedy(["qemu-system-aarch64", "mke2fs", "debugfs", "e2fsck"]) == f"Type: {command}"


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("apt", f"Type: sudo apt-get install binutils-aarch64-linux-gnu, or {WITHOUT}"),
        ("dnf", f"Type: sudo dnf install binutils-aarch64-linux-gnu, or {WITHOUT}"),
        ("pacman", f"Type: sudo pacman -S aarch64-linux-gnu-binutils, or {WITHOUT}"),
        *(
            (
                name,
                f"{name} has no package of aarch64-linux-gnu-objcopy: {WITHOUT},"
                " or build it on another machine and set KERNEL=",
            )
            for name in ("brew", "zypper", "apk")
        ),
        (None, f"Install it with this system's package manager, or {WITHOUT}"),
    ],
    indirect=["on"],
)
def test_missing_binutils_offer_the_base_that_needs_none(on: str, said: str) -> None:
    assert remedy(["aarch64-linux-gnu-objcopy"]) == said


@pytest.mark.parametrize("on", ["pacman"], indirect=True)
def test_a_program_without_a_package(on: str) -> None:
    assert remedy(["genext2fs"]) == "pacman has no package of genext2fs: install it by hand"
    assert remedy(["make", "genext2fs"]).startswith(f"pacman has no package of genext2fs: {WITHOUT}")


@pytest.mark.parametrize("on", [None], indirect=True)
def test_a_system_that_nobody_knows(on: str) -> None:
    assert remedy(["xorriso"]) == "Install it with this system's package manager"


@pytest.mark.parametrize("on", INSTALL, indirect=True)
def test_programs_that_nobody_knows(on: str) -> None:
    assert remedy(["no-such-program"]) == "Type: ./scripts/bootstrap.sh"
    assert remedy(["no-such-program", "make"]) == remedy(["make"])


def test_an_installed_zosia_has_no_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "INSTALLED", True)
    assert remedy(["no-such-program"]) == "Install it with this system's package manager"


def test_the_manager_of_a_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Most systems are tried in test_bootstrap.py, beside what bootstrap.sh decides."""
    monkeypatch.setattr(packages, "OS_RELEASE", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "darwin")
    assert packages.manager() == "brew"
    monkeypatch.setattr("sys.platform", "linux")
    assert packages.manager() is None
    for name, found in (("brew", None), ("apk", "apk"), ("zypper", "zypper"), ("apt-get", "apt")):
        (tmp_path / name).touch(mode=0o755)
        assert packages.manager() == found
    (tmp_path / "none").write_bytes(b"NAME=\xff\nID='alpine'\n")
    assert packages.manager() == "apk"
