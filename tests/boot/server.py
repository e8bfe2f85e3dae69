"""A server as a process: `scons serve`, from where SCons ends; and fixtures of it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil
import pytest

from zosia.base.patience import patience
from zosia.machine.qemu import Machine
from zosia.serve import main
from zosia.serve.service import Service
from zosia.settings import machines
from zosia.settings.settings import Settings

from .conftest import LONGEST, environment, running


@dataclass
class Answer:
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, argv: Sequence[str], errors: Path, *, cwd: Path, env: Mapping[str, str]) -> None:
        """Start it; what it says goes to the file `errors`."""
        self.errors = errors
        self._file: IO[bytes] = errors.open("wb")
        self.process = subprocess.Popen(argv, cwd=cwd, env=env, stderr=self._file)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            left = self.machines()
            self.process.kill()
            psutil.wait_procs(left, 30 * patience())  # the system ends them
        self.process.wait()
        self._file.close()

    @property
    def said(self) -> str:
        """Text that it has said so far."""
        return self.errors.read_text(encoding="utf-8")

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it says something.

        Raises:
            AssertionError: it does not, or ends.
        """
        clock = time.monotonic
        until = clock() + LONGEST * patience()
        while not (found := re.search(pattern, self.said)):
            assert self.process.poll() is None and clock() < until, self.said
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        """Its address."""
        return self.says(r"http://127\.0\.0\.1:\d+")[0]

    def ready(self) -> Server:
        """Wait until the model is loaded."""
        self.says("ready after")
        return self

    def ask(self, path: str, body: object = None, **headers: str) -> Answer:
        """Return the answer to a GET, or a POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json", **headers})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=LONGEST * patience()) as reply:
                return Answer(reply.status, dict(reply.headers), reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def machines(self) -> list[psutil.Process]:
        """Its QEMU processes."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "qemu-system" in child.name()]

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(LONGEST * patience())


def serve(root: Path, folder: Path, machine: Machine, service: Service) -> Server:
    """Start the server that `scons serve` becomes."""
    file = folder / "serve.json"
    file.write_text(main.to_json(machine, service), encoding="utf-8")
    argv = [sys.executable, "-m", "zosia.serve.main", str(file)]
    return Server(argv, folder / "serve.err", cwd=root, env=environment(root))


QUESTION: Any = [{"role": "user", "content": "Who are you?"}]
STORY: Any = [{"role": "user", "content": "Tell me a story."}]
Start = Callable[..., Server]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def served(settings: Settings, folder: Path) -> Machine:
    """The machine of `scons serve`, which is saved in a folder of its own."""
    return replace(machines.serve_machine(settings), hot=folder / "states")


def service(**fields: Any) -> Service:
    return Service(model="parrot", port=0, **fields)


@pytest.fixture(scope="module")
def server(root: Path, served: Machine, folder: Path) -> Iterator[Server]:
    """A server that several tests ask; it is saved on its way, for the others to resume."""
    with serve(root, folder, served, service()) as running:
        yield running.ready()


@pytest.fixture
def start(root: Path, tmp_path: Path, served: Machine) -> Iterator[Start]:
    """Start a server of its own for a test; it resumes where an earlier one was saved."""
    before = running()
    with ExitStack() as stack:

        def started(machine: Machine = served, **fields: Any) -> Server:
            return stack.enter_context(serve(root, tmp_path, machine, service(**fields)))

        yield started
    assert running() <= before
