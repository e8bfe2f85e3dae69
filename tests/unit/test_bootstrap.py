"""scripts/bootstrap.sh on other systems: stubs of their package managers, which note how they are called."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from zosia.base import packages

OS_RELEASES = {
    "apt": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "dnf": 'NAME="Fedora Linux"\nVERSION_ID=43\nID=fedora\n',
    "pacman": 'NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n',
    "zypper": 'NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n',
    "apk": 'NAME="Alpine Linux"\nID=alpine\n',
}
PROGRAMS = {"apt": "apt-get", "dnf": "dnf", "pacman": "pacman", "zypper": "zypper", "apk": "apk"}
TOOLS = ("cat", "chmod", "cmp", "cp", "dirname", "env", "mkdir", "rm", "tr")
INSTALLED = 'case " $(cat {installed}) " in *" {name} "*) exit 0 ;; *) exit 1 ;; esac'
NOTE = 'echo "{program} $*" >>{log}'
VENV = "mkdir -p .venv/bin .venv/lib/python3.12/site-packages; echo '#!/bin/sh' >.venv/bin/python; chmod +x .venv/bin/*"
INSTALL = {
    "apt": "env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends",
    "dnf": "dnf install -y",
    "pacman": "pacman -S --needed --noconfirm",
    "zypper": "zypper --non-interactive install",
    "apk": "apk add --update-cache",
}
# What a system without anything gets, and binutils for the guest, of those that have them
BARE = {
    "apt": "python3 python3-venv qemu-system-arm e2fsprogs ccache diffutils gcc binutils libc6-dev make flex"
    " bison bc perl-base mawk findutils sed gzip",
    "dnf": "python3 qemu-system-aarch64-core e2fsprogs ccache diffutils gcc binutils glibc-devel make flex bison"
    " bc perl-interpreter gawk findutils sed gzip",
    "pacman": "python qemu-system-aarch64 e2fsprogs ccache diffutils gcc binutils glibc make flex bison bc perl"
    " gawk findutils sed gzip",
    "zypper": "python3 qemu-arm e2fsprogs ccache diffutils gcc binutils glibc-devel make flex bison bc perl-base"
    " gawk findutils sed gzip",
    "apk": "python3 qemu-system-aarch64 e2fsprogs e2fsprogs-extra ccache diffutils gcc binutils musl-dev"
    " linux-headers make flex bison bc perl gawk findutils sed gzip",
}
CROSS = {
    "apt": " binutils-aarch64-linux-gnu",
    "dnf": " binutils-aarch64-linux-gnu",
    "pacman": " aarch64-linux-gnu-binutils",
}
FRESH = {manager: f"{INSTALL[manager]} {bare}{CROSS.get(manager, '')}" for manager, bare in BARE.items()}


@dataclass(frozen=True, kw_only=True)
class System:
    """A clone on a system of stubs: a PATH of its own, an os-release, and a log of what was called."""

    clone: Path
    bin: Path
    log: Path
    installed: Path

    def stub(self, name: str, *lines: str) -> None:
        """Make a program of these lines of shell."""
        (self.bin / name).write_text("\n".join(("#!/bin/sh", *lines, "")))
        (self.bin / name).chmod(0o755)

    def bootstrap(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        argv = [str(self.clone / "scripts" / "bootstrap.sh"), *arguments]
        env = {"PATH": str(self.bin)}
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    @property
    def called(self) -> list[str]:
        """The calls that change the system, in their order."""
        return self.log.read_text().splitlines()


Systems = Callable[..., System]


@pytest.fixture
def systems(root: Path, tmp_path: Path) -> Systems:
    """Make a system: the contents of os-release, its package managers, its user's number and its processor."""

    def make(text: str, *managers: str, uid: int = 1000, machine: str = "x86_64", kernel: str = "Linux") -> System:
        clone = tmp_path / "clone"
        made = System(clone=clone, bin=tmp_path / "bin", log=tmp_path / "log", installed=tmp_path / "installed")
        (clone / "scripts").mkdir(parents=True)
        made.bin.mkdir()
        made.log.touch()
        made.installed.touch()
        (tmp_path / "os-release").write_text(text)
        script = (root / "scripts" / "bootstrap.sh").read_text()
        assert script.count("/etc/os-release") == 2
        (clone / "scripts" / "bootstrap.sh").write_text(script.replace("/etc/os-release", f"{tmp_path}/os-release"))
        (clone / "scripts" / "bootstrap.sh").chmod(0o755)
        shutil.copy(root / "scripts" / "interrupt.pth", clone / "scripts")
        (clone / "site_scons").symlink_to(root / "site_scons")
        for lock in ("requirements.lock", "requirements-dev.lock"):
            (clone / lock).touch()
        for tool in TOOLS:
            (made.bin / tool).symlink_to(str(shutil.which(tool)))
        made.stub("id", f"echo {uid}")
        made.stub("uname", f'[ "$1" = -m ] && echo {machine} || echo {kernel}')
        made.stub("sudo", f"printf 'sudo ' >>{made.log}", 'exec "$@"')
        made.stub("python3", f'[ "$2" != venv ] || {{ {VENV}; }}')
        for manager in managers:
            note = NOTE.format(program=manager, log=made.log)
            queries = {"pacman": ("-T", "$2"), "apk": ("info", "$3"), "brew": ("list", "$3")}
            if manager in queries:
                word, name = queries[manager]
                answer = INSTALLED.format(installed=made.installed, name=name)
                made.stub(manager, f'if [ "$1" = {word} ]; then {answer}; fi', note)
            else:
                made.stub(manager, note)
        made.stub("rpm", INSTALLED.format(installed=made.installed, name="$3"))
        answer = INSTALLED.format(installed=made.installed, name="$4")
        made.stub("dpkg-query", f"({answer}) && echo installed")
        return made

    return make


def without_env(command: str) -> str:
    """The command as its last program sees it."""
    return command.removeprefix("env DEBIAN_FRONTEND=noninteractive ")


@pytest.mark.parametrize("manager", FRESH)
def test_a_fresh_system(systems: Systems, manager: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager])
    done = system.bootstrap()
    assert done.returncode == 0, done.stderr
    update = ["apt-get -q update"] if manager == "apt" else []
    assert system.called == [f"sudo {without_env(command)}" for command in (*update, FRESH[manager])]
    shown = " && ".join(f"sudo {command}" for command in (*update, FRESH[manager]))
    first, *notes, last = done.stderr.splitlines()
    assert first == f"  {manager.upper():5} {shown}"
    lacks = [
        f"  NOTE  {manager} has no package of aarch64-linux-gnu-objcopy",
        "  NOTE  set BASE=distro, which builds no kernel",
    ]
    assert notes == (lacks if manager in ("zypper", "apk") else [])
    assert last == "  PIP   .venv"


@pytest.mark.parametrize("manager", FRESH)
def test_a_second_run_does_nothing(systems: Systems, manager: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager])
    system.installed.write_text(FRESH[manager])
    done = system.bootstrap()
    assert (done.returncode, done.stderr) == (0, "  PIP   .venv\n")
    done = system.bootstrap()
    assert (done.returncode, done.stderr, system.called) == (0, "", [])


def test_only_what_is_missing(systems: Systems) -> None:
    system = systems(OS_RELEASES["dnf"], "dnf", uid=0)
    system.installed.write_text(FRESH["dnf"].replace(" bc ", " ").replace(" ccache ", " "))
    done = system.bootstrap()
    assert done.stderr.splitlines()[0] == "  DNF   dnf install -y ccache bc"
    assert system.called == ["dnf install -y ccache bc"]


def test_an_aarch64_needs_no_other_binutils(systems: Systems) -> None:
    system = systems(OS_RELEASES["dnf"], "dnf", machine="aarch64")
    system.bootstrap()
    assert system.called == [f"sudo dnf install -y {BARE['dnf']}"]


@pytest.mark.parametrize(
    ("manager", "asked"),
    [
        ("apt", "qemu-system-x86 libelf-dev binutils-x86-64-linux-gnu mtools valgrind"),
        ("dnf", "qemu-system-x86-core elfutils-libelf-devel binutils-x86_64-linux-gnu mtools valgrind"),
        ("pacman", "qemu-system-x86 libelf mtools valgrind"),
        ("zypper", "qemu-x86 qemu-seabios libelf-devel mtools valgrind"),
        ("apk", "qemu-system-x86_64 elfutils-dev mtools valgrind"),
    ],
)
def test_arguments_are_rows_or_packages(systems: Systems, manager: str, asked: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager], machine="aarch64")
    system.installed.write_text(FRESH[manager])
    done = system.bootstrap("qemu-system-x86_64", "gelf.h", "x86_64-linux-gnu-objcopy", "mformat", "mcopy", "valgrind")
    rows = packages.table()
    order = [package for row in rows.values() for package in row.packages[manager] if package in asked.split()]
    words = [*dict.fromkeys(order), "valgrind"]
    assert sorted(words) == sorted(asked.split())
    assert system.called[-1] == f"sudo {without_env(INSTALL[manager])} {' '.join(words)}"
    assert ("no package of x86_64-linux-gnu-objcopy" in done.stderr) == (manager in ("pacman", "zypper", "apk"))


def test_apt_takes_names_of_its_own_packages(systems: Systems) -> None:
    system = systems(OS_RELEASES["apt"], "apt-get", uid=0)
    system.installed.write_text(FRESH["apt"])
    system.bootstrap("qemu-system-x86", "libelf-dev")
    assert system.called[-1] == "apt-get -q install -y --no-install-recommends qemu-system-x86 libelf-dev"


@pytest.mark.parametrize(
    ("manager", "tools"),
    [
        ("apt", "graphviz fonts-dejavu-core git openssl"),
        ("dnf", "graphviz dejavu-sans-fonts git openssl"),
        ("pacman", "graphviz ttf-dejavu git openssl"),
        ("zypper", "graphviz dejavu-fonts git openssl"),
        ("apk", "graphviz font-dejavu git openssl"),
    ],
)
def test_developers_get_more(systems: Systems, manager: str, tools: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager])
    system.installed.write_text(FRESH[manager])
    system.bootstrap("--dev")
    assert system.called[-1].endswith(f" {tools}")
    assert " python" not in system.called[-1]


@pytest.mark.parametrize(("arguments", "more"), [((), ""), (("--dev", "gelf.h", "qemu-system-x86_64"), " graphviz")])
def test_a_mac(systems: Systems, arguments: tuple[str, ...], more: str) -> None:
    system = systems("", "brew", kernel="Darwin", machine="arm64")
    done = system.bootstrap(*arguments)
    command = f"brew install python@3.13 qemu e2fsprogs ccache{more}"
    assert (done.returncode, system.called) == (0, [command])
    assert done.stderr == f"  BREW  {command}\n  PIP   .venv\n"
    system.installed.write_text(command)
    assert (system.bootstrap(*arguments).stderr, system.called) == ("", [command])


def test_a_mac_without_homebrew(systems: Systems) -> None:
    done = systems("", kernel="Darwin").bootstrap()
    assert (done.returncode, done.stderr.startswith("zosia: error: Homebrew is needed. ")) == (1, True)


DERIVED = [
    *((text, manager) for manager, text in OS_RELEASES.items()),
    ("ID=ubuntu\nID_LIKE=debian\n", "apt"),
    ('ID_LIKE="ubuntu debian"\nID=linuxmint\n', "apt"),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
    ("ID='manjaro'\nID_LIKE='arch'\n", "pacman"),
    ('ID="sles"\nID_LIKE="suse"\n', "zypper"),
    ("ID=postmarketos\nID_LIKE=alpine\n", "apk"),
]


@pytest.mark.parametrize(("os_release", "manager"), DERIVED)
def test_the_system_decides_and_not_what_is_installed(
    systems: Systems, os_release: str, manager: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Fedora may have apt as well. The library, which names packages in errors, decides the same."""
    system = systems(os_release, *PROGRAMS.values())
    system.bootstrap()
    assert {line.split()[1] for line in system.called} == {PROGRAMS[manager]}
    monkeypatch.setattr(packages, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr("sys.platform", "linux")
    assert packages.manager() == manager


@pytest.mark.parametrize("os_release", ["", "ID=nixos\n", "ID=debian\n"])
@pytest.mark.parametrize("manager", ["dnf", "zypper"])
def test_else_what_is_installed(systems: Systems, os_release: str, manager: str) -> None:
    system = systems(os_release, manager)
    system.bootstrap()
    assert system.called == [f"sudo {FRESH[manager]}"]


def test_an_unknown_system(systems: Systems) -> None:
    done = systems("ID=slackware\n").bootstrap()
    said = (
        "zosia: error: this script knows only apt, dnf, pacman, zypper, apk and Homebrew, and found none."
        " docs/quickstart.md, 'By hand', lists what to install\n"
    )
    assert (done.returncode, done.stderr) == (1, said)


def test_no_way_to_become_root(systems: Systems) -> None:
    system = systems(OS_RELEASES["dnf"], "dnf")
    (system.bin / "sudo").unlink()
    done = system.bootstrap()
    said = f"zosia: error: installing packages needs root. Run as root: {FRESH['dnf']}\n"
    assert (done.returncode, done.stderr, system.called) == (1, said, [])
    system.stub("doas", f"printf 'doas ' >>{system.log}", 'exec "$@"')
    system.bootstrap()
    assert system.called == [f"doas {FRESH['dnf']}"]


@pytest.mark.parametrize(
    ("manager", "advice"),
    [
        ("apt", ""),
        ("dnf", ""),
        ("pacman", ". If its lists are old, type: sudo pacman -Syu"),
        ("apk", '. Is the repository "community" in /etc/apk/repositories?'),
    ],
)
def test_a_manager_that_fails(systems: Systems, manager: str, advice: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager])
    system.stub(PROGRAMS[manager], 'case "$*" in *update) ;; *) exit 7 ;; esac')
    done = system.bootstrap()
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"zosia: error: {manager} failed; see above{advice}")
    assert not (system.clone / ".venv").exists()


@pytest.mark.parametrize(
    ("manager", "newer"),
    [
        ("apt", "python3.11 python3.11-venv"),
        ("dnf", "python3.13"),
        ("pacman", "python"),
        ("zypper", "python313"),
        ("apk", "python3"),
    ],
)
def test_an_old_python(systems: Systems, manager: str, newer: str) -> None:
    system = systems(OS_RELEASES[manager], PROGRAMS[manager])
    system.installed.write_text(FRESH[manager])
    old = 'case $1 in --version) echo "Python 3.9.2" ;; *) exit 1 ;; esac'
    system.stub("python3", old)
    done = system.bootstrap()
    said = "zosia: error: Python 3.11 or later is needed, and python3 is Python 3.9.2."
    assert (done.returncode, done.stderr) == (1, f"{said} Type: sudo {INSTALL[manager]} {newer}\n")


@pytest.mark.parametrize("name", ["python3.14", "python3.13", "python3.12", "python3.11"])
def test_a_newer_python_beside_an_old_one(systems: Systems, name: str) -> None:
    system = systems(OS_RELEASES["dnf"], "dnf")
    system.installed.write_text(FRESH["dnf"])
    (system.bin / "python3").rename(system.bin / name)
    system.stub("python3", "exit 1")
    done = system.bootstrap()
    assert (done.returncode, done.stderr) == (0, "  PIP   .venv\n")
