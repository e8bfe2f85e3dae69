"""A stand-in for QEMU that does what a test says, and the supervisor that runs it."""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pexpect
import psutil
import pytest

from zosia.machine.boards import VIRT, Accel
from zosia.machine.qemu import Machine
from zosia.machine.task import Task
from zosia.run import supervisor

MACHINE = Machine(
    arch="aarch64",
    board=VIRT,
    accel=Accel.TCG,
    cpu="",
    cpus=2,
    memory=512,
    kernel=Path("a kernel, with commas"),
    initramfs=Path("initramfs"),
    disk=Path("zażółć.img"),
    sandbox=False,
    task=Task(need=190, llama_args=("-p", 'it\'s\n"so"', "\udcff", ""), system="Be brief, zażółć"),
)
ASKED = MACHINE.given(prompt="hello")
ASKED_ALOUD = replace(ASKED, verbose=True)
FAKE_QEMU = """#!{python} -SEs
import os, signal, socket, sys, time
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("QEMU emulator version 0")
    sys.exit()
record, ports = Path(os.environ["RECORD"]), {{}}

def note(name, data):
    (record / "new").write_bytes(data)
    (record / "new").rename(record / name)

for word in sys.argv:
    if word.startswith("socket,id="):
        name, number = word.removeprefix("socket,id=").split(",fd=")
        ports[name] = socket.socket(fileno=int(number))
    elif word.startswith("name=opt/zosia/"):
        name, path = word.removeprefix("name=opt/zosia/").split(",file=")
        note(name, Path(path).read_bytes())

def status(*lines):
    for line in lines:
        ports["status"].sendall(os.fsencode(line) + b"\\n")

def answer(data):
    ports["answer"].sendall(data)

def console(data):
    while data:
        data = data[os.write(1, data):]

def keys(count):
    data = b""
    while len(data) < count and (more := os.read(0, count - len(data))):
        data += more
    return data

def told():
    return ports["status"].recv(4096)

def line():
    text = b""
    while not text.endswith(b"\\n"):
        text += ports["status"].recv(1)
    return text.decode().split()

def begun(warm=lambda: note("warmed", b"")):
    while (words := line())[0] != "begin":
        if words[0] == "warm":
            warm()
            status("warmed 2000")
    note("begun", " ".join(words).encode())
    for name, size in zip(("fields", "question"), words[5:]):
        note(name, ports["status"].recv(int(size), socket.MSG_WAITALL) if size != "0" else b"")
    files = [ports["status"].recv(int(line()[0]), socket.MSG_WAITALL) for _ in range(int(words[8]))]
    note("files", b"\\0".join(files))
    return (record / "question").read_bytes()

note("argv", b"\\0".join(map(os.fsencode, sys.argv)))
note("pid", str(os.getpid()).encode())
exec(os.environ["FAKE_DOES"])
"""
WAIT = 20  # seconds for what should take none
SHORT = "0.02"  # of the seconds that the supervisor waits for a sign of life: 1.2
LONGER = "0.05"  # 3 seconds, for guests that are not to be ended
FOREVER = "time.sleep(1000)"
NO_REPORT = "zosia: error: The guest ended without reporting a status. Run it with VERBOSE=1 to see how far it gets\n"


@dataclass
class Place:
    """A folder with a fake QEMU in front of PATH."""

    folder: Path
    root: Path

    def __post_init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []
        for name in ("bin", "record", "tmp"):
            (self.folder / name).mkdir()
        program = self.folder / "bin" / "qemu-system-aarch64"
        program.write_text(FAKE_QEMU.format(python=sys.executable))
        program.chmod(0o755)
        self.disk.write_bytes(bytes(10 << 20))

    @property
    def disk(self) -> Path:
        return self.folder / "zażółć.img"

    def command(self, machine: Machine) -> list[str]:
        file = self.folder / "machine.json"
        file.write_text(supervisor.to_json(replace(machine, disk=self.disk)), encoding="utf-8")
        return [sys.executable, "-m", "zosia.run.supervisor", str(file)]

    def environment(self, does: str, factor: str = "1", term: str = "xterm") -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(self.root / "site_scons"),
            "PYTHONIOENCODING": "utf-8:strict",  # as in most locales, whatever the one here
            "RECORD": str(self.folder / "record"),
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_DOES": does,
            "ZOSIA_TIMEOUT_FACTOR": factor,
            "TERM": term,
        }

    def start(
        self,
        does: str,
        machine: Machine = ASKED,
        *,
        factor: str = "1",
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        before: Callable[[], object] | None = None,
    ) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            self.command(machine),
            env=self.environment(does, factor),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=before,  # noqa: PLW1509
        )
        self.children.append(child)
        return child

    def run(
        self, does: str, machine: Machine = ASKED, *, factor: str = "1", piped: bytes | None = None
    ) -> tuple[int, bytes, str]:
        """Exit status, standard output, standard error."""
        child = self.start(does, machine, factor=factor, stdin=subprocess.DEVNULL if piped is None else subprocess.PIPE)
        output, errors = child.communicate(piped, timeout=WAIT)
        return child.returncode, output, errors.decode(errors="replace")

    def noted(self, name: str) -> bytes:
        """Return what the fake has noted or read, as soon as it is there."""
        wait_until((self.folder / "record" / name).exists)
        return (self.folder / "record" / name).read_bytes()

    @property
    def qemu(self) -> int:
        return int(self.noted("pid"))

    @property
    def leftovers(self) -> list[str]:
        """Files that a run left behind."""
        pid = self.folder / "record" / "pid"
        alive = pid.exists() and psutil.pid_exists(int(pid.read_text()))
        return [*os.listdir(self.folder / "tmp"), *(["QEMU"] if alive else [])]

    def clean(self) -> None:
        for child in self.children:
            child.kill()
        with suppress(OSError, ValueError):  # one that is left holds the ends of their pipes
            os.kill(int((self.folder / "record" / "pid").read_text()), signal.SIGKILL)
        for child in self.children:
            child.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path, root: Path) -> Iterator[Place]:
    made = Place(tmp_path, root)
    yield made
    made.clean()


class Pty:
    """A pseudo-terminal that the supervisor runs on, as the leader of its session."""

    def __init__(self, place: Place, does: str, machine: Machine = MACHINE, *, factor: str = "1") -> None:
        self.ours, self.theirs = os.openpty()
        self.resize(40, 100)
        self.before = self.settings
        self.seen = b""
        self.child = place.start(
            does, machine, factor=factor, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, before=self._lead
        )

    @staticmethod
    def _lead() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self.theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.ours, data) :]

    def until(self, text: bytes) -> None:
        """Wait for what the terminal shows."""
        deadline = time.monotonic() + WAIT
        while text not in self.seen:
            assert select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self.ours, 1 << 16)

    def end(self) -> int:
        """Wait for the end, with all that is shown until then; the exit status."""
        deadline = time.monotonic() + WAIT
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.ours], [], [], 0.01)[0]:
                self.seen += os.read(self.ours, 1 << 16)
        while select.select([self.ours], [], [], 0)[0]:
            self.seen += os.read(self.ours, 1 << 16)
        return self.child.returncode

    def close(self) -> None:
        for end in (self.ours, self.theirs):
            with suppress(OSError):
                os.close(end)


Chat = Callable[..., Pty]


@pytest.fixture
def chat(place: Place) -> Iterator[Chat]:
    """Start the supervisor on a pseudo-terminal; the fake says "ready" on its console before it does what it should."""
    opened: list[Pty] = []

    def start(does: str, machine: Machine = MACHINE, *, factor: str = "1") -> Pty:
        pty = Pty(place, f"console(b'ready\\r\\n')\n{does}", machine, factor=factor)
        opened.append(pty)
        pty.until(b"ready")
        return pty

    yield start
    place.clean()
    for pty in opened:
        pty.close()


Shell = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def shell(place: Place) -> Iterator[Shell]:
    """A shell with job control, in which the supervisor was started on a fake that has said "ready"."""
    opened: list[pexpect.spawn[str]] = []

    def start(does: str, machine: Machine = MACHINE, *, factor: str = "1", script: bool = False) -> pexpect.spawn[str]:
        environment = {**place.environment(does, factor, term="dumb"), "PS1": "shell$ "}
        argv = ["--norc", "--noprofile", "-i"]
        child = pexpect.spawn("bash", argv, env=environment, timeout=WAIT, dimensions=(24, 500))
        opened.append(child)
        child.expect_exact("shell$ ")
        command = shlex.join(place.command(machine))
        child.sendline(f"sh -c {shlex.quote(f'{command}; exit $?')}" if script else command)
        child.expect_exact("ready")
        return child

    yield start
    for child in opened:
        child.close(force=True)
