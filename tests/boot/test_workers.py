"""A model over several machines, each of them a real guest."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pexpect
import psutil
import pytest

from tests import gpt_oss, parrot
from tests.newc import archive
from zosia.base.patience import patience
from zosia.base.process import find
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run import supervisor
from zosia.run.workers import native
from zosia.settings import machines
from zosia.settings.choice import Choice
from zosia.settings.settings import Settings, Together

from .conftest import LONGEST, Chat, Supervise, environment, remove_disk
from .server import QUESTION, Start, folder, served, start
from .test_chat import LONG_QUESTION

__all__ = ["folder", "served", "start"]

Spread = Callable[..., Machine]


@pytest.fixture
def spread(settings: Settings) -> Spread:
    """Return the machine that boots the small model with its one layer on a worker; or another machine."""

    def machine(*names: str, split: Sequence[int] = (0, 1), model: Path | None = None, **fields: object) -> Machine:
        typed = replace(settings, workers=Together(names=names or ("local1",), split=tuple(split)))
        if model:
            typed = replace(typed, model=Choice(parts=(model,), cache=settings.cache))
        found = machines.run_machine(typed)
        return found.given(llama_args=(*found.task.llama_args, "--temp", "0"), **fields)

    return machine


@pytest.fixture
def thinker_disk(thinker: Path, root: Path, scons: Path) -> Path:
    """The .gguf of the small gpt-oss, with its disk."""
    subprocess.run([scons, "model.img", f"MODEL={thinker}", "-s"], cwd=root, check=True)
    return thinker


def test_three_machines_answer_as_one(spread: Spread, thinker_disk: Path, supervise: Supervise) -> None:
    machine = spread("local1", "local2", split=(1, 1, 2), model=thinker_disk, prompt="Hello")
    effort = ("--reasoning-effort", "low")
    done = supervise(machine.given(llama_args=(*machine.task.llama_args, *effort)))
    assert (done.stdout, done.returncode) == (gpt_oss.ANSWER + "\n", Status.OK), done.stderr
    assert re.search(r"local1: 1 layers, .*\n.*local2: 2 layers, ", done.stderr)


def guest_of_worker(run: pexpect.spawn[str]) -> psutil.Process:
    """Return the QEMU process that the one worker of a run has started."""
    assert run.pid
    found = psutil.Process(run.pid).children(recursive=True)
    (worker,) = [each for each in found if "zosia.run.workers.far" in each.cmdline()]
    (guest,) = [each for each in worker.children() if "qemu" in each.name()]
    return guest


def in_an_answer(child: pexpect.spawn[str]) -> None:
    child.expect_exact("> ")
    child.send(f"{LONG_QUESTION}\r")
    child.expect_exact(" the ")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            signal.SIGKILL,
            r"the worker local1 has gone\. Start again when it is there.*local1: QEMU was killed by signal 9",
        ),
        (signal.SIGSTOP, r"the worker local1 gave no sign of life for 3 s\."),
    ],
)
def test_a_worker_that_is_lost_ends_the_run(spread: Spread, chat: Chat, how: int, said: str) -> None:
    child = chat(spread(silence=3))
    in_an_answer(child)
    guest_of_worker(child).send_signal(how)
    child.expect(said)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == Status.NO_WORKER


LOOPBACK = "ifconfig lo 127.0.0.1 up\n"
STUCK = """\
{
  until [ -s /run/pulse ]; do sleep 0.1; done
  sleep 1
  for file in /proc/[0-9]*/comm; do
    read -r name <"$file" || continue
    case $name in rpc-server*) number=${file#/proc/} && kill -STOP "${number%/comm}" ;; esac
  done
} 2>/dev/null &
"""


def test_a_server_that_hangs_in_a_guest_that_lives_ends_the_run(
    spread: Spread, chat: Chat, root: Path, tmp_path: Path
) -> None:
    """The guest's relay is well, and still answers nothing for it."""
    machine = spread(silence=3)
    (worker,) = machine.task.workers
    text = (root / "initramfs" / "init").read_text()
    assert text.count(LOOPBACK) == 1
    changed = tmp_path / "initramfs"  # Linux unpacks one archive after the other
    init = gzip.compress(archive({"init": text.replace(LOOPBACK, LOOPBACK + STUCK).encode()}))
    changed.write_bytes(machine.initramfs.read_bytes() + init)
    own = replace(supervisor.from_json(worker.machine), initramfs=changed)
    child = chat(machine.given(workers=(replace(worker, machine=supervisor.to_json(own)),)))
    child.expect(r"the worker local1 gave no sign of life for 3 s\.")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == Status.NO_WORKER


@pytest.fixture
def host_programs(root: Path, scons: Path) -> None:
    """Programs that this host computes with."""
    if native.refusal(None):
        pytest.skip("nothing holds a program here")
    subprocess.run([scons, "rpc-server", "-s"], cwd=root, check=True)


@pytest.mark.usefixtures("host_programs")
def test_the_host_itself_computes(spread: Spread, supervise: Supervise) -> None:
    done = supervise(spread("host", prompt="Hello"))
    assert (done.stdout, done.returncode) == (parrot.ANSWER + "\n", Status.OK), done.stderr
    assert "NOTE  host computes outside of a guest" in done.stderr


@pytest.mark.usefixtures("host_programs")
def test_a_server_of_the_host_that_hangs_ends_the_run(spread: Spread, chat: Chat) -> None:
    child = chat(spread("host", silence=3))
    child.expect_exact("worker host: the host itself computes, outside of a guest")
    in_an_answer(child)
    assert child.pid
    (server,) = [one for one in psutil.Process(child.pid).children(recursive=True) if "rpc-server" in one.name()]
    server.send_signal(signal.SIGSTOP)
    child.expect(r"the worker host gave no sign of life for 3 s\.")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == Status.NO_WORKER


def test_a_worker_that_only_waits_is_not_lost(spread: Spread, chat: Chat) -> None:
    child = chat(spread(silence=2))
    child.expect_exact("> ")
    time.sleep(4)
    child.send("Hello\r")
    child.expect_exact(parrot.ANSWER)
    child.send("/exit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == Status.OK


def test_requests_are_answered_over_a_worker(start: Start, settings: Settings) -> None:
    machine = machines.serve_machine(replace(settings, workers=Together(names=("local1",), split=(0, 1))))
    answer = start(machine).ready().ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})
    assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER


@contextmanager
def started(argv: Sequence[str], root: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, cwd=root, env=environment(root, **env), stderr=subprocess.PIPE)
    try:
        yield child
    finally:
        child.terminate()
        child.communicate()


def test_a_worker_of_another_architecture(
    spread: Spread, settings: Settings, supervise: Supervise, root: Path, tmp_path: Path
) -> None:
    other = "x86_64" if settings.arch == "aarch64" else "aarch64"
    path = tmp_path / "socket"
    argv = [sys.executable, "-m", "zosia.cli", "worker", "--socket", str(path), "--arch", other, "--smp", "1"]
    with started(argv, root) as worker:
        assert worker.stderr and b"offered at" in worker.stderr.readline()
        for _ in range(2):  # one run after the other
            done = supervise(spread(f"unix:{path}", prompt="Hello"))
            assert (done.stdout, done.returncode) == (parrot.ANSWER + "\n", Status.OK), done.stderr


class Tap:
    """A socket that leads to another one, and counts the bytes that go there."""

    def __init__(self, path: Path, target: Path) -> None:
        self.there = 0
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._carry, args=(target,), daemon=True).start()

    def _carry(self, target: Path) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(target))
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
            threading.Thread(target=self._copy, args=(near, far, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, counts: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.there += len(data) * counts
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


FILLERS = 20_000  # whose output has 10.9 MB: llama.cpp asks for what has 10 MiB or more


def test_weights_that_a_worker_has_are_not_sent(
    spread: Spread, supervise: Supervise, root: Path, scons: Path, tmp_path: Path
) -> None:
    """The output is taken from the worker's own disk: wrong bytes of it would say something else."""
    large = parrot.write(tmp_path / "large.gguf", fillers=FILLERS)
    subprocess.run([scons, "model.img", f"MODEL={large}", "-s"], cwd=root, check=True)
    path = tmp_path / "socket"
    with started([sys.executable, "-m", "zosia.cli", "worker", "--socket", str(path), "--smp", "1"], root) as worker:
        assert worker.stderr and b"offered at" in worker.stderr.readline()
        tap = Tap(tmp_path / "tap", path)
        done = supervise(spread(f"unix:{tmp_path}/tap", model=large, prompt="Hello"))
        assert (done.stdout, done.returncode) == (parrot.ANSWER + "\n", Status.OK), done.stderr
        assert done.stderr.endswith("has the model\n")
        assert 500_000 < tap.there < 3_000_000
    remove_disk(root, large)


SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
ForceCommand PATH={folder}/bin:$PATH exec $SSH_ORIGINAL_COMMAND
"""
CLIENT = """\
Host tower
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  StrictHostKeyChecking accept-new
"""
# OpenSSH takes the home folder from the list of users, so its configuration is named here.
WRAPPER = '#!/bin/sh\nexec {program} -F {folder}/config "$@"\n'
ZOSIA = '#!/bin/sh\ncd {root} && PYTHONPATH={root}/site_scons exec {python} -m zosia.cli "$@" --smp 1\n'


@pytest.fixture
def tower(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A real SSH server, whose host is called tower, and where zosia is installed."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "sshd").write_text(SSHD.format(port=port, folder=tmp_path))
    (tmp_path / "config").write_text(CLIENT.format(port=port, folder=tmp_path))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "zosia").write_text(ZOSIA.format(root=shlex.quote(str(root)), python=shlex.quote(sys.executable)))
    (programs / "ssh").write_text(WRAPPER.format(program=shutil.which("ssh"), folder=tmp_path))
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which the package's service makes
    server = subprocess.Popen([find("sshd"), "-D", "-e", "-f", tmp_path / "sshd"], stderr=subprocess.PIPE)
    assert server.stderr and b"Server listening" in server.stderr.readline()
    yield server
    server.terminate()
    server.communicate()


def test_a_worker_over_ssh(spread: Spread, supervise: Supervise, tower: subprocess.Popen[bytes]) -> None:
    done = supervise(spread("ssh:tower", prompt="Hello"))
    assert (done.stdout, done.returncode) == (parrot.ANSWER + "\n", Status.OK), done.stderr


def test_a_line_that_is_cut(spread: Spread, chat: Chat, tower: subprocess.Popen[bytes], tmp_path: Path) -> None:
    child = chat(spread("ssh:tower"))
    in_an_answer(child)
    assert far_ends(tmp_path)
    for session in psutil.Process(tower.pid).children(recursive=True):
        if "sshd" in session.name():
            session.kill()
    child.expect(r"the worker ssh:tower has gone\. Start again when it is there.*ssh:tower: .")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == Status.NO_WORKER
    end = time.monotonic() + LONGEST * patience()
    while far_ends(tmp_path):
        assert time.monotonic() < end, "the worker at the far end goes on"
        time.sleep(0.1)


def far_ends(folder: Path) -> list[psutil.Process]:
    """Return what was started through the SSH server of a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended
            if process.environ().get("PATH", "").startswith(f"{folder}/bin:/"):
                found.append(process)
    return [process for process in found if "zosia.cli" in process.cmdline()]
