"""Runs on a macOS that is played (tests/darwin.py): what Linux alone has is missing, from the first import on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from zosia.machine.boards import Accel
from zosia.machine.qemu import Machine

from .fake_qemu import ASKED, Place
from .test_hot import MONITOR

EVERYTHING = """
import importlib, pkgutil
import zosia, zosia_build
for package in (zosia, zosia_build):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""
LACKING = """
import fcntl, os, platform, sys
from pathlib import Path
assert (sys.platform, platform.machine(), platform.system()) == ("darwin", "arm64", "Darwin")
assert not hasattr(os, "sched_getaffinity") and not hasattr(fcntl, "F_SETLEASE")
assert not Path("/proc/self/status").exists()
open("/proc/self/status")
"""
# What `scons doctor` and `scons diag` say of the host
CHECKS = """
import sys
from pathlib import Path
import zosia_build.settings
from zosia.doctor import checks, machine
from zosia.run import diagnosis
from zosia.settings import hardware, machines
from zosia.settings.variables import DEFAULTS
settings = zosia_build.settings.read(DEFAULTS, [], Path(sys.argv[2]), given={}, launched=Path.cwd()).run
found = [*machine.acceleration(settings, "auto"), *machine.processors(), *machine.memory(settings)]
for finding in found:
    print(finding.verdict.value, finding.text)
made = machines.run_machine(settings)
for path in (made.kernel, made.initramfs, made.disk):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
print(*diagnosis.lines(made), sep="\\n")
"""

# Programs around the scripts on a Mac without QEMU, which note what is asked of them
MAC = {
    "uname": "case $1 in -s) echo Darwin ;; -m) echo arm64 ;; esac",
    "brew": """[ "$1" != list ] || { [ "$3" != qemu ] && exit; exit 1; }; echo "brew $*" >>asked""",
    "python3": """[ "$1" != -m ] || { mkdir -p .venv/bin .venv/lib/python3.13/site-packages
        for name in python scons; do { echo '#!/bin/sh'; echo 'echo "${0##*/} $*" >>asked'; } >.venv/bin/$name; done
        chmod +x .venv/bin/*; }""",
}
# Forms that only GNU's programs have, or that BSD's take for something else
GNU = re.compile(
    r"(^|[|;&(`]|\$\(|\b(then|do|else|env|exec) )\s*"
    r"(sed (-[nE]+ )*(-i|--)|readlink -[fe]|stat |date -[dI]|cp -\w*[ad]|cp --|grep -\w*P|xargs -\w*[rd]|sort -\w*V|"
    r"ls --|mktemp -\w*[pt]|head -\w*c|head -n -|echo -[en]|ln -\w*[rT]|mv -\w*[tT]|rm --|du -\w*b|tar --|"
    r"install -\w*D|(tac|seq|nproc|timeout|realpath|sha\d+sum|md5sum|truncate|setsid|flock|numfmt|shuf)\b)|"
    r"find .* -printf|sed .*\{[^}]*[a-zA-Z]\}"
)


class Mac(Place):
    """A folder with a fake QEMU, and supervisors that see macOS."""

    def command(self, machine: Machine) -> list[str]:
        python, _, *words = super().command(machine)
        return [python, "-m", "tests.darwin", *words]

    def environment(self, does: str, factor: str = "1", term: str = "xterm") -> dict[str, str]:
        return {**super().environment(does, factor, term), "PYTHONPATH": f"{self.root}:{self.root / 'site_scons'}"}

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a module or a text, in the folder."""
        argv = [sys.executable, "-m", "tests.darwin", *words]
        environment = self.environment("") | {"ZOSIA_CACHE": str(self.folder / "cache")}
        return subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def mac(tmp_path: Path, root: Path) -> Mac:
    return Mac(tmp_path, root)


def test_it_is_played(mac: Mac) -> None:
    done = mac.python("-c", LACKING)
    assert done.stderr.splitlines()[-1] == "FileNotFoundError: [Errno 2] No such file or directory: '/proc/self/status'"


def test_everything_can_be_imported(mac: Mac) -> None:
    done = mac.python("-c", EVERYTHING)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) > 80


def test_a_machine_is_saved_and_resumed(mac: Mac) -> None:
    """Without sendfile, leases, a large buffer, a signal at a parent's death, or a list of processors in /proc."""
    for name in ("kernel", "initramfs"):
        (mac.folder / name).write_bytes(name.encode())
    kernel, initramfs = mac.folder / "kernel", mac.folder / "initramfs"
    machine = replace(ASKED, kernel=kernel, initramfs=initramfs, disk=mac.disk, hot=mac.folder / "hot", accel=Accel.HVF)
    try:
        assert mac.run(MONITOR, machine) == (0, b"you asked hello", "")
        assert b"-incoming" not in mac.noted("argv")
        assert mac.run(MONITOR, machine.given(prompt="again")) == (0, b"you asked again", "")
        assert b"-incoming" in mac.noted("argv")
        assert mac.leftovers == []
    finally:
        mac.clean()


def test_the_host_is_described(mac: Mac, root: Path) -> None:
    done = mac.python("-c", CHECKS, str(root))
    said = "  MODEL on virtio-blk, with a copy in the guest's memory: Debian's kernel lacks the drivers\n"
    assert (done.returncode, done.stderr) == (0, said)
    first, *found = done.stdout.splitlines()
    assert first == "ok hvf can be opened; it is tried once the kernel is there"
    assert found[0].startswith("ok memory: this machine has 16.0 GiB; ")
    assert "KVM: KVM is a part of Linux" in found
    assert "HVF: works" in found
    assert f"host processors: {os.cpu_count()}, memory: " in "\n".join(found)
    (command,) = [shlex.split(line) for line in found if line.startswith("command: ")]
    assert command[command.index("-accel") + 1] == "hvf"
    assert "-sandbox" not in command


def test_scons_reads_its_scripts(mac: Mac, root: Path) -> None:
    done = mac.python("SCons", "-C", str(root), "-n", "run")
    assert (done.returncode, done.stderr) == (0, "")
    *_, last = done.stdout.splitlines()
    assert "-accel hvf -cpu max " in last
    assert " -kernel build/aarch64/distro/Image " in last, "the default there"


@pytest.fixture
def other_userland(busybox: Path, tmp_path: Path) -> Path:
    """A folder with programs that have hardly more options than POSIX, and those of a Mac."""
    folder = tmp_path / "userland"
    folder.mkdir()
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        (folder / name).symlink_to(busybox)
    for name, text in MAC.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def test_scripts_install_what_is_missing_and_run(root: Path, tmp_path: Path, other_userland: Path) -> None:
    tree = tmp_path / "my tree"
    (tree / "scripts").mkdir(parents=True)
    for name in ("bootstrap.sh", "interrupt.pth", "run-qemu-aarch64.sh"):
        shutil.copy(root / "scripts" / name, tree / "scripts")
    table = Path("site_scons/zosia/base/packages.txt")
    (tree / table.parent).mkdir(parents=True)
    shutil.copy(root / table, tree / table)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (tree / lock).write_text(f"{lock}\n")
    argv = ["/bin/bash", "--posix", "scripts/run-qemu-aarch64.sh", "MEM=1G"]
    for _ in range(2):
        done = subprocess.run(
            argv,
            cwd=tree,
            env={"PATH": str(other_userland), "TERM": "dumb"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    asked = (tree / "asked").read_text().splitlines()
    assert asked[0] == "brew install qemu"
    assert asked[1].startswith("python -m zosia.base.pip_settings install ")
    assert asked.count(asked[1]) == 1, "the second time it is there"
    assert asked[-1] == f"scons -C {tree} run MEM=1G"


def test_the_compilers_wrapper(root: Path, tmp_path: Path, other_userland: Path) -> None:
    (tmp_path / "zig").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "zig").chmod(0o755)
    words = ["-march=armv8.6-a+i8mm+fp16", "-march=x86-64-v3", "-Ia/b/../c/d/..", "-DA=two words"]
    environment = {"PATH": str(other_userland), "ZIG": str(tmp_path / "zig"), "ZIG_TARGET": "aarch64-linux-musl"}
    shown = subprocess.check_output([root / "llama/toolchain/zig-cc", *words], env=environment, text=True)
    assert shown.splitlines() == [
        *("cc", "-target", "aarch64-linux-musl"),
        *("-mcpu=generic+v8_6a+i8mm+fullfp16", "-mcpu=x86_64_v3", "-Ia/c", "-DA=two words"),
    ]


@pytest.mark.parametrize(
    "name", ["bootstrap", "build", "make-model-disk", "run-qemu-aarch64", "run-qemu-x86_64", "test"]
)
def test_no_script_needs_gnu_programs(root: Path, name: str) -> None:
    lines = (root / "scripts" / f"{name}.sh").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if GNU.search(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        *("sed -i s/a/b/ file", "x=$(readlink -f a)", "a | xargs -r rm", "if a; then stat -c %s b; fi", "date -d now"),
        *("cp -a b c", "grep -oP x", "sort -V", "mktemp -p /tmp", "echo -n x", "head -c 4", "a | tac", "n=$(nproc)"),
        *("sed -n '/a/{/b/p}'", "timeout 5 make", "sed -n -i p a", "find . -printf %s", "env sha256sum a"),
    ],
)
def test_what_gnu_programs_alone_do_is_found(line: str) -> None:
    assert GNU.search(line)
