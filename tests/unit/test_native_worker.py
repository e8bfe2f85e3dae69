"""The worker that is this host itself: what the program that computes can do, and what it can't."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.channel import CLOSE, DATA, HELLO, LONGEST, OPEN, SHUT, Peer, frame, hello
from tests.newc import archive
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root
from zosia.machine import fence, host
from zosia.run.workers import calls, far, native, programs
from zosia.run.workers.native import Native
from zosia.run.workers.wire import Order
from zosia_build import llama, relay

PING = 7
HELD = sys.platform == "linux" and host.arch() in calls.ARCHES and fence.abi() > 0
pytestmark = pytest.mark.skipif(not HELD, reason="nothing holds a program here")


@pytest.fixture(scope="session")
def prison(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program `prisoner`, and an initramfs that has it in place of llama.cpp."""
    folder = tmp_path_factory.mktemp("prison")
    arch, cache = host.arch(), cache_root()
    relay.build(root / "tests" / "unit" / "prisoner.c", folder / "prisoner", arch=arch, cache=cache)
    relay.build(root / "initramfs" / "streams.c", folder / "streams", arch=arch, cache=cache)
    files = {
        "bin/llama-cli-best": (folder / "prisoner").read_bytes(),
        "bin/zosia-streams": (folder / "streams").read_bytes(),
        "etc/zosia-levels": b"none no_such_feature\nbest\n",
    }
    (folder / "initramfs").write_bytes(gzip.compress(archive(files)))
    return folder


class Worker:
    """The worker in a process, and the near end of its channel."""

    def __init__(self, root: Path, prison: Path, *, server: str = "", env: dict[str, str] | None = None) -> None:
        wanted = Native(memory=1000, initramfs=str(prison / "initramfs"), server=server).to_json()
        self.end, theirs = socket.socketpair()
        argv = [sys.executable, "-m", "zosia.run.workers.native"]
        own = {**os.environ, **(env or {}), "PYTHONPATH": str(root / "site_scons"), "ZOSIA_WORKER": wanted}
        self.child = subprocess.Popen(
            argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE, env=own
        )
        theirs.close()
        self.end.settimeout(LONGEST)
        self.offer = json.loads(self.line())
        self._stream = 0

    def line(self) -> bytes:
        said = b""
        while not said.endswith(b"\n") and (byte := self.end.recv(1)):
            said += byte
        return said

    def start(self, memory: int = 500) -> Worker:
        self.end.sendall(b'{"memory": %d}\n' % memory)
        ready = json.loads(self.line())
        assert ready == {"error": "", "weights": False}
        self.peer = Peer(self.end)
        self.peer.send(hello())
        self.peer.wait_for((HELLO, 0, hello()[8:]))
        return self

    def ask(self, *said: bytes) -> int:
        self._stream += 1
        self.peer.send(frame(OPEN, self._stream), *(frame(DATA, self._stream, part) for part in said))
        return self._stream

    def answer(self, stream: int, size: int = 0) -> bytes:
        """Wait for so many bytes, or the end."""

        def data(seen: list[tuple[int, int, bytes]]) -> bytes:
            return b"".join(payload for kind, number, payload in seen if (kind, number) == (DATA, stream))

        def enough(seen: list[tuple[int, int, bytes]]) -> bool:
            return any((kind, number) in ((SHUT, stream), (CLOSE, stream)) for kind, number, _ in seen) or (
                0 < size <= len(data(seen))
            )

        return data(self.peer.wait_until(enough))

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.child.pid).children()

    def ends(self) -> tuple[int, str]:
        self.end.close()
        status = self.child.wait(LONGEST)
        assert self.child.stderr
        return status, self.child.stderr.read().decode()


Start = Callable[..., Worker]


@pytest.fixture
def worker(root: Path, prison: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    started: list[Worker] = []

    def start(**options: str) -> Worker:
        started.append(Worker(root, prison, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.child.kill()
        each.child.communicate()


def attempts(one: Worker, folder: Path) -> set[str]:
    """Return what the program can do, with a file, a UNIX socket and a TCP port of this host to try it on."""
    secret, path = folder / "secret", folder / "listener"
    secret.write_text("secret")
    with socket.socket(socket.AF_UNIX) as there, socket.create_server(("127.0.0.1", 0)) as port:
        there.bind(str(path))
        there.listen()
        said = f"{secret} {path} {port.getsockname()[1]}".encode()
        return set(one.answer(one.ask(b"t", said)).decode().splitlines())


def test_our_own_program_can_do_nothing_but_compute(worker: Start, tmp_path: Path) -> None:
    assert attempts(worker().start(), tmp_path) == set()


def test_the_attempts_are_real(prison: Path, tmp_path: Path) -> None:
    """Without a fence, all of them succeed but those that this test's own surroundings forbid."""
    here, there = socket.socketpair()
    status, theirs = os.pipe()
    pulse = os.open(tmp_path / "pulse", os.O_RDWR | os.O_CREAT)
    child = subprocess.Popen(
        [prison / "prisoner", f"@{there.fileno()}"],
        env={"ZOSIA_STATUS": str(theirs), "ZOSIA_PULSE": str(pulse)},
        pass_fds=(there.fileno(), theirs, pulse),
    )
    ours, given = socket.socketpair()
    socket.send_fds(here, [b"x"], [given.fileno()])
    given.close()
    secret, path = tmp_path / "secret", tmp_path / "listener"
    secret.write_text("secret")
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as port:
        listener.bind(str(path))
        listener.listen()
        ours.sendall(b"t")
        ours.sendall(f"{secret} {path} {port.getsockname()[1]}".encode())
        found = set(b"".join(iter(lambda: ours.recv(1000), b"")).decode().splitlines())
    child.kill()
    child.wait()
    for end in (status, theirs, pulse):
        os.close(end)
    Path("/tmp/prisoner").unlink(missing_ok=True)
    assert found >= {"read", "write", "make", "chmod", "look", "passwd", "stat", "a UNIX socket", "a TCP port"}
    assert found >= {"any UNIX socket", "netlink", "TCP", "a signal", "memory", "a process", "a shell"}
    assert found >= {"shared memory", "the disk"}


def has_networks() -> bool:
    """Return whether this host lets a user make a network."""
    done = subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not has_networks(), reason="no network of one's own here")
def test_a_program_of_ones_own_reaches_neither_files_nor_sockets_of_others(
    worker: Start, prison: Path, tmp_path: Path
) -> None:
    found = attempts(worker(server=str(prison / "prisoner")).start(), tmp_path)
    own = {"TCP", "memory", "shared memory", "a process", "stat"}
    assert found <= own, "a network of its own, and names and sizes of files"
    assert "TCP" in found


@pytest.mark.skipif(not has_networks(), reason="no network of one's own here")
def test_a_program_of_ones_own_serves(worker: Start, prison: Path) -> None:
    one = worker(server=str(prison / "prisoner"), env={"HF_TOKEN": "secret", "CUDA_VISIBLE_DEVICES": "1"}).start()
    assert one.answer(one.ask(b"ehello"), 5) == b"hello"
    with pytest.raises(OSError, match="refused"):  # it listens elsewhere
        socket.create_connection(("127.0.0.1", native.PORT))
    (server,) = [each for each in one.processes() if each.cmdline()[1:2] == ["-H"]]
    environment = server.environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "HF_TOKEN" not in environment
    assert one.ends()[0] == 0


def test_many_connections_are_handed_over(worker: Start) -> None:
    one = worker().start()
    for number in range(1, 80):
        said = b"connection %d" % number
        stream = one.ask(b"e", said)
        assert one.answer(stream, len(said)) == said
        one.peer.send(frame(SHUT, stream))
        one.peer.wait_for((SHUT, stream, b""))


def test_a_server_that_waits_answers_each_ping(worker: Start) -> None:
    one = worker().start()
    for _ in range(4):
        time.sleep(0.3)
        one.peer.send(frame(PING))
        one.peer.wait_for((PING, 0, b""))


@pytest.mark.parametrize("how", ["hangs", "is stopped"])
def test_a_server_that_hangs_answers_no_ping(worker: Start, how: str) -> None:
    """The relay beside it is alive, so that only the pulse tells."""
    one = worker().start()

    def answers(number: int) -> bool:
        """Return whether a ping is answered before what is sent after it."""
        echo = b"%16d" % number
        one.peer.send(frame(PING), hello(echo))
        return (PING, 0, b"") in one.peer.wait_for((HELLO, 0, b"zos1" + echo))

    if how == "hangs":
        one.ask(b"h")
    else:
        (server,) = [each for each in one.processes() if "rpc-server" in each.name()]
        server.send_signal(signal.SIGSTOP)
    until = time.monotonic() + LONGEST
    while answers(1):  # it has not hung yet, or its last pulse is newer than any ping
        assert time.monotonic() < until
        time.sleep(0.3)
    for number in range(2, 5):
        time.sleep(0.1)  # two pulses
        assert not answers(number)


def test_a_server_that_ends_takes_the_worker_along_and_says_why(worker: Start) -> None:
    one = worker().start()
    one.ask(b"x")
    assert one.child.wait(LONGEST) == 2
    assert one.child.stderr
    said = one.child.stderr.read().decode()
    assert said.endswith("the prisoner is tired\nzosia: error: the RPC server ended with status 9\n")


def test_all_ends_with_the_other_end(worker: Start) -> None:
    one = worker().start()
    children = one.processes()
    assert len(children) == 2
    assert one.ends() == (0, "  WORK  ready\n")
    assert not any(child.is_running() for child in children)


def test_all_ends_with_the_worker(worker: Start) -> None:
    one = worker().start()
    children = one.processes()
    one.child.kill()
    psutil.wait_procs(children, timeout=LONGEST)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_an_order_that_makes_no_sense(worker: Start) -> None:
    one = worker()
    one.end.sendall(b"nonsense\n")
    status, said = one.ends()
    assert status == 2
    assert said.startswith("zosia: error: ") and said.count("\n") == 1


def test_only_the_offer_was_wanted(worker: Start) -> None:
    one = worker()
    assert one.offer["memory"] == 1000
    assert one.ends() == (0, "")


def test_what_a_program_can_use_up(worker: Start) -> None:
    """Neither leaves a core of what it computed; the server's one file has its pulse, and nothing else."""
    one = worker().start()
    linux: Any = psutil  # what it has on Linux only
    server, relayed = one.processes()

    def limits(number: int) -> list[int]:
        return [linux.Process(process.pid).rlimit(number)[1] for process in (server, relayed)]

    assert limits(linux.RLIMIT_CORE) == [0, 0]
    assert limits(linux.RLIMIT_FSIZE)[0] == native.PULSE
    assert limits(linux.RLIMIT_NOFILE)[0] == native.FILES


def test_its_speed_is_remembered(worker: Start) -> None:
    one = worker()
    assert one.offer["speed"] == 0
    one.start()
    assert worker().offer["speed"] == 12345


def test_no_program_for_this_processor(worker: Start, root: Path, tmp_path: Path) -> None:
    files = {"etc/zosia-levels": b"none no_such_feature\n", "bin/llama-cli-none": b"", "bin/zosia-streams": b""}
    (tmp_path / "initramfs").write_bytes(gzip.compress(archive(files)))
    one = Worker(root, tmp_path)
    one.end.sendall(b'{"memory": 1}\n')
    assert "has no RPC server for this processor" in json.loads(one.line())["error"]
    one.ends()


def test_no_room_for_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, object]] = []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")

    monkeypatch.setattr(far, "ordered", lambda offer: Order(memory=500))
    monkeypatch.setattr(far, "tell", said.append)
    monkeypatch.setattr(programs, "unpack", full)
    assert native.work(Native(memory=1000, initramfs="initramfs")) == 2
    assert str(said[0]["error"]).startswith("The disk is full: /tmp/x could not be written")


# The programs, and the filters


def test_the_archive_is_read_as_zosia_writes_it(tmp_path: Path) -> None:
    made = tmp_path / "initramfs.cpio.gz"
    cpio_entries = {"bin/llama-cli-a": b"abc", "bin/zosia-streams": b"relay!!", "etc/zosia-levels": b"z zz\na\n"}
    made.write_bytes(gzip.compress(archive(cpio_entries)))
    server, streams = programs.unpack(made, tmp_path)
    assert (server.name, server.read_bytes()) == ("rpc-server-a", b"abc")
    assert (streams.name, streams.read_bytes()) == ("zosia-streams", b"relay!!")
    assert os.access(server, os.X_OK)


@pytest.mark.parametrize("damage", [b"", b"no archive", gzip.compress(b"070701", mtime=0)])
def test_an_archive_that_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "damaged").write_bytes(damage)
    with pytest.raises(ZosiaError, match="can't be read"):
        programs.unpack(tmp_path / "damaged", tmp_path)


def test_levels_are_chosen_as_in_the_guest() -> None:
    for arch, levels in llama.LEVELS.items():
        table = llama.levels_table(arch)
        for level in levels:
            assert programs.best(table, {*level.features, "more"}) == level.name
        assert programs.best(table, set()) == ""


def run_filter(code: bytes, machine: int, number: int, *arguments: int) -> int:
    """Return what a filter answers to a system call: the few instructions of the kernel's that it uses."""
    data = struct.pack("=iIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    steps, at, value = list(struct.iter_unpack("=HBBI", code)), 0, 0
    while True:
        kind, yes, no, constant = steps[at]
        at += 1
        if kind == calls.LOAD:
            (value,) = struct.unpack_from("=I", data, constant)
        elif kind == calls.RETURN:
            return int(constant)
        else:
            at += yes if (value == constant if kind == calls.EQUAL else value & constant) else no


@pytest.mark.parametrize("arch", list(calls.ARCHES))
def test_what_the_filters_answer(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, machine = list(calls.ARCHES).index(arch), calls.ARCHES[arch]
    monkeypatch.setattr(host, "arch", lambda: arch)
    refused = calls.REFUSE | 1
    strict, connecting, lenient = calls.strict(), calls.strict(connects=True), calls.lenient()
    for numbers in calls.NEEDED.values():
        number = numbers[place]
        if number is not None:
            assert {run_filter(code, machine, number) for code in (strict, connecting, lenient)} == {calls.PERMIT}
    for numbers in calls.LEADING_OUT.values():
        number = numbers[place]
        if number is not None:
            assert {run_filter(code, machine, number) for code in (strict, connecting, lenient)} == {refused}
    socket_call, clone = calls.SOCKET[place], calls.CLONE[place]
    assert socket_call is not None and clone is not None
    for family, answers in {1: (refused, refused, refused), 2: (refused, calls.PERMIT, calls.PERMIT)}.items():
        assert (
            tuple(run_filter(code, machine, socket_call, family) for code in (strict, connecting, lenient)) == answers
        )
    assert run_filter(strict, machine, clone, 0x3D0F00) == calls.PERMIT  # a thread
    assert run_filter(strict, machine, clone, signal.SIGCHLD) == refused
    assert run_filter(lenient, machine, clone, signal.SIGCHLD) == calls.PERMIT
    assert run_filter(lenient, machine, clone, 0x10000000) == refused  # a user namespace
    ioctl = calls.IOCTL[place]
    assert ioctl is not None
    assert run_filter(lenient, machine, ioctl, 0, calls.TIOCSTI) == refused
    assert run_filter(lenient, machine, ioctl, 0, 0x5413) == calls.PERMIT
    other = next(value for value in calls.ARCHES.values() if value != machine)
    assert run_filter(lenient, other, 0) == calls.KILL
    if arch == "x86_64":
        assert run_filter(lenient, machine, calls.X32) == calls.KILL


# Hosts that can't


def test_hosts_that_hold_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert native.refusal(None) is None
    (tmp_path / "file").touch()
    assert "is no program" in str(native.refusal(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder, refused in ((tmp_path / "home", True), (tmp_path, True), (tmp_path / "home" / "llama", False)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rpc-server").touch(0o755)
        said = str(native.refusal(folder / "rpc-server") or "")
        assert (f"could read all that is in {folder}, as" in said) == refused
    monkeypatch.setattr(fence, "abi", lambda: 0)
    assert "needs Landlock" in str(native.refusal(None))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux" in str(native.refusal(None))
