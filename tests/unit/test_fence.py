"""A process in a fence tries what a program that was taken over would."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.machine import fence
from zosia.machine.boards import VIRT, Accel
from zosia.machine.fence import Fence
from zosia.machine.qemu import Machine, Pmem
from zosia.run import emulator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
landlock = pytest.mark.skipif(not fence.abi(), reason="this kernel has no Landlock")
ATTEMPTS = r"""
import ctypes, errno, fcntl, json, os, signal, socket, sys
home, port, shown = sys.argv[1], int(sys.argv[2]), {}

def attempt(name, action):
    try:
        shown[name] = str(action())[:40]
    except OSError as error:
        shown[name] = errno.errorcode[error.errno]

def connect(family, address):
    with socket.socket(family) as end:
        end.connect(address)

def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def ring():
    call(425, 1, ctypes.create_string_buffer(120))

KEYCTL, SHMGET, MSGGET, SEMGET = (219, 194, 186, 190) if os.uname().machine == "aarch64" else (250, 29, 68, 64)

def child(action):
    if (process := os.fork()) == 0:
        try:
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    if status := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise OSError(status, "")

attempt("named", lambda: open(f"{home}/image").read())
attempt("named, to write", lambda: open(f"{home}/image", "r+").close())
attempt("status", lambda: open(f"{home}/status", "w").write("x"))
attempt("key", lambda: open(f"{home}/.ssh/id").read())
attempt("list", lambda: os.listdir(home))
attempt("environment", lambda: open(f"/proc/{os.getppid()}/environ").read())
attempt("new", lambda: open(f"{home}/new", "w").close())
attempt("over", lambda: open(f"{home}/.ssh/id", "w").close())
attempt("truncate", lambda: os.truncate(f"{home}/.ssh/id", 0))
attempt("mode", lambda: os.chmod(f"{home}/.ssh/id", 0o777))
attempt("owner", lambda: os.lchown(f"{home}/.ssh/id", -1, -1))
attempt("attribute", lambda: os.setxattr(f"{home}/.ssh/id", "user.x", b"x"))
attempt("remove", lambda: os.unlink(f"{home}/image"))
attempt("rename", lambda: os.rename(f"{home}/image", f"{home}/.ssh/image"))
attempt("link", lambda: os.link(f"{home}/.ssh/id", f"{home}/link"))
attempt("folder", lambda: os.mkdir(f"{home}/folder"))
attempt("tcp", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
attempt("unix", lambda: connect(socket.AF_UNIX, f"{home}/socket"))
attempt("abstract", lambda: connect(socket.AF_UNIX, "\0" + home))
attempt("inherited", lambda: socket.socket(fileno=int(sys.argv[3])).connect(f"{home}/socket"))
attempt("pair", lambda: socket.socketpair())
attempt("ring", ring)
attempt("keyring", lambda: call(KEYCTL, 0, ctypes.c_long(-4), 1))
attempt("memory", lambda: call(SHMGET, 0x7A6F73, ctypes.c_size_t(4096), 0))
attempt("messages", lambda: call(MSGGET, 0x7A6F73, 0))
attempt("semaphores", lambda: call(SEMGET, 0x7A6F73, 1, 0))
attempt("signal", lambda: os.kill(os.getppid(), 0))
attempt("type", lambda: fcntl.ioctl(0, 0x5412, b"x"))
attempt("size", lambda: fcntl.ioctl(0, 0x5413, bytes(8)))
attempt("thread", lambda: __import__("threading").Thread(target=int).start())
attempt("shell", lambda: child(lambda: os.execv("/bin/sh", ["sh", "-c", "true"])))
attempt("env", lambda: child(lambda: os.execv("/usr/bin/env", ["env", "-u", "x", "true"])))
attempt("child", lambda: child(lambda: open(f"{home}/.ssh/id").read()))
print(json.dumps(shown))
"""
OPEN = {"named": "the image", "status": "1", "size": "ENOTTY", "thread": "None"}
FILES = ("key", "list", "environment", "new", "over", "remove", "link", "folder", "shell", "env", "child")
FILTERED = (
    "mode",
    "owner",
    "attribute",
    "truncate",
    "tcp",
    "udp",
    "unix",
    "abstract",
    "inherited",
    "pair",
    "ring",
    "keyring",
    "memory",
    "messages",
    "semaphores",
    "type",
)
Try = Callable[[Fence], dict[str, str]]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a key, an image, and somebody who listens at a socket."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        home = Path(folder)
        (home / ".ssh").mkdir()
        (home / ".ssh/id").write_text("the key")
        (home / "image").write_text("the image")
        (home / "status").touch()
        server.bind(str(home / "socket"))
        server.listen()
        yield home


@pytest.fixture
def attempts(home: Path) -> Iterator[Try]:
    """Return what came of each attempt in a fence."""
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as abstract:
        server.bind(("127.0.0.1", 0))
        server.listen()
        abstract.bind(f"\0{home}")
        abstract.listen()
        port = str(server.getsockname()[1])

        def run(around: Fence) -> dict[str, str]:
            with socket.socket(socket.AF_UNIX) as end, fence.around(sys.executable, around) as hold:
                argv = [sys.executable, "-ISEsc", ATTEMPTS, str(home), port, str(end.fileno())]
                streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
                child = Child(argv, hold=hold, pass_fds=[end.fileno()], **streams)
            shown: dict[str, str] = json.loads(child.communicate()[0])
            assert child.returncode == 0
            return shown

        yield run


def around(home: Path, *, filtered: bool = True) -> Fence:
    return Fence(reads=(home / "image", home / "none"), writes=(home / "status",), filtered=filtered)


@landlock
def test_what_a_program_tries_in_its_fence(home: Path, attempts: Try) -> None:
    shown = attempts(around(home))
    assert shown == {
        **OPEN,
        **dict.fromkeys(FILES, "EACCES"),
        **dict.fromkeys(FILTERED, "EPERM"),
        "named, to write": "EACCES",
        "rename": "EACCES",
        "signal": "EPERM" if fence.abi() >= fence.SIGNALS else "None",
    }
    assert (home / ".ssh/id").read_text() == "the key"


@landlock
def test_an_older_kernel(home: Path, attempts: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter refuses what an ABI does not know, but for signals."""
    newest = fence.abi()
    for version in range(newest, 0, -1):
        monkeypatch.setattr(fence, "abi", lambda version=version: version)
        shown = attempts(around(home))
        assert (shown["key"], shown["tcp"], shown["shell"]) == ("EACCES", "EPERM", "EACCES")
        assert [name for name in (*FILES, *FILTERED, "signal") if shown[name] == "None"] == (
            ["signal"] if version < fence.SIGNALS else []
        )
    assert version == 1


@landlock
def test_landlock_alone(home: Path, attempts: Try) -> None:
    """In a container that allows no filter of system calls, files are out of reach still."""
    shown = attempts(around(home, filtered=False))
    assert {name: shown[name] for name in FILES} == dict.fromkeys(FILES, "EACCES")
    assert shown["unix"] == "None", "Landlock knows no such sockets"
    assert shown["tcp"] == ("EACCES" if fence.abi() >= 4 else "None")


def test_the_filter_alone(home: Path, attempts: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without Landlock still has no sockets for it."""
    monkeypatch.setattr(fence, "abi", lambda: 0)
    shown = attempts(around(home))
    assert {name: shown[name] for name in FILTERED} == dict.fromkeys(FILTERED, "EPERM")
    assert shown["key"] == "the key"


def test_no_fence(home: Path, attempts: Try) -> None:
    """The attempts do work where nothing refuses them."""
    with fence.around(sys.executable, None) as hold:
        assert hold is None
    argv = [sys.executable, "-ISEsc", ATTEMPTS.replace("os.unlink", "os.stat"), str(home), "1", "0"]
    shown = json.loads(subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout)
    assert {shown[name] for name in ("new", "truncate", "rename", "folder", "signal", "unix")} == {"None"}
    assert shown["key"] == "the key"


@landlock
def test_a_script_is_not_started(tmp_path: Path) -> None:
    """It would need a shell, and that starts anything."""
    script = tmp_path / "qemu"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    with fence.around(str(script), Fence()) as hold, pytest.raises(PermissionError):
        Child([str(script)], hold=hold)


@pytest.mark.parametrize(("rules", "code"), [(-1, b""), (None, bytes(8))])
def test_a_fence_that_fails_ends_the_program(rules: int | None, code: bytes) -> None:
    """There are no such rules, and no such instruction."""
    with pytest.raises(subprocess.SubprocessError):
        Child(["/bin/true"], hold=partial(fence._enclose, rules, code))


def test_a_qemu_that_can_not_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rules: int | None, code: bytes) -> None:
        raise OSError

    monkeypatch.setattr(fence, "_enclose", refuse)
    message = r"^QEMU could not be started: it can't be held to its files\. To run it without that: SANDBOX=0$"
    with pytest.raises(ZosiaError, match=message):
        emulator._popen(["true"], Fence(), subprocess.DEVNULL, [], None)


def test_a_fence_leaves_no_file_open() -> None:
    before = os.listdir("/proc/self/fd")
    with fence.around(sys.executable, Fence()):
        pass
    assert os.listdir("/proc/self/fd") == before


def test_the_folders_of_libraries_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/my/lib")
    found = {str(path) for path, _ in fence._rights(Path(sys.executable), Fence())}
    assert "/my/lib" in found
    assert "." not in found, "nothing is set between the colon and what is before it"
    bare = {str(path) for path, _ in fence._rights(Path(sys.executable), Fence(bare=True))}
    assert "/my/lib" not in bare


def verdict(code: bytes, *data: int) -> int:
    """Return what a filter says of these 32-bit numbers: seccomp_data, of which ours reads the first seven."""
    steps, at, value = list(struct.iter_unpack("HBBI", code)), 0, 0
    while True:
        kind, yes, no, number = steps[at]
        at += 1
        match kind:
            case fence.RETURN:
                return int(number)
            case fence.LOAD:
                value = data[number // 4]
            case fence.EQUAL:
                at += yes if value == number else no
            case fence.AT_LEAST:
                at += yes if value >= number else no


@pytest.mark.parametrize("machine", fence.CALLS)
def test_the_filter_of_each_machine(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    code, (arch, ioctl, refused) = fence._filter(), fence.CALLS[machine]

    def says(number: int, arch: int = arch, request: int = 0) -> int:
        return verdict(code, number, arch, 0, 0, 0, 0, request)

    assert {says(number) for number in refused} == {fence.REFUSED}
    assert {says(number) for number in range(500) if number not in refused} == {fence.PERMITTED}
    assert {says(ioctl, request=request) for request in fence.TERMINAL} == {fence.REFUSED}
    assert says(0, arch=0x40000003) == fence.REFUSED, "of a 32-bit program, with other numbers"
    assert says(fence.X32) == (fence.REFUSED if machine == "x86_64" else fence.PERMITTED)


def test_a_machine_without_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    assert fence._filter() == b""


MACHINE = Machine(
    arch="aarch64",
    board=VIRT,
    accel=Accel.KVM,
    cpu="",
    cpus=1,
    memory=512,
    kernel=Path("Image"),
    initramfs=Path("initramfs"),
    disk=Path("m.img"),
    pmem=Pmem(size=1, tree=Path("tree")),
    held=True,
).given(prompt="hello")


def test_the_fence_of_a_machine() -> None:
    texts = Path("texts")
    found = MACHINE.fence({}, texts=texts)
    assert found
    named = {path for path in found.reads if path.parent == texts}
    assert set(found.reads) - named == {Path("Image"), Path("initramfs"), Path("m.img"), Path("tree")}
    words = MACHINE.argv({}, texts=texts)
    assert {f"file={path}" for path in named} == {word.split(",")[1] for word in words if "opt/zosia/" in word}
    assert (found.writes, found.devices, found.filtered) == ((), (Path("/dev/kvm"),), True)
    other = Machine(**{**vars(MACHINE), "accel": Accel.TCG, "sandbox": False}).fence(Path("status"))
    assert other
    assert (other.writes, other.devices, other.filtered) == ((Path("status"),), (), False)
    assert Machine(**{**vars(MACHINE), "held": False}).fence({}) is None


def test_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["/opt/homebrew/bin/qemu-system-aarch64", "-S"]
    assert fence.command(argv, Fence()) == argv
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fence.command(argv, None) == argv
    program, option, profile, *words = fence.command(argv, Fence(reads=(Path('/Users/me/a "b".img'),)))
    assert (program, option, words) == ("/usr/bin/sandbox-exec", "-p", argv)
    assert profile.startswith("(version 1)\n(allow default)\n(deny network*)\n")
    assert '(subpath "/Users/me/a \\"b\\".img")' in profile
    assert '(allow process-exec* (subpath "/opt/homebrew/bin/qemu-system-aarch64"))' in profile
    with fence.around(argv[0], Fence()) as hold:
        assert hold is None
