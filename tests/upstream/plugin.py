"""Plug-in of pytest for upstream's tests: their llama-server is a machine behind the gate, or one of this host."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.boot.conftest import environment, settings_of
from tests.upstream import model
from zosia.base.files import cache_root
from zosia.base.patience import patience
from zosia.disk import ext4
from zosia.inputs import catalogue, fetch
from zosia.machine.qemu import Machine
from zosia.model import shape
from zosia.serve import main
from zosia.serve.service import Service
from zosia.settings import machines
from zosia.settings.choice import Choice

ROOT = Path(__file__).parents[2]
LISTED = tomllib.loads(Path(__file__).with_name("left-out.toml").read_text(encoding="utf-8"))
NATIVE = os.environ.get("ZOSIA_UPSTREAM_NATIVE", "")  # path of a llama-server to compare with
FOLDER = "ZOSIA_UPSTREAM_FOLDER"  # of upstream's files, and of what is made for them
LONGEST = 120  # seconds until a server answers
# Of the arguments that upstream's tests give llama-server: those that the gate, or the machine, has itself
OWN = ("--offline", "--no-slots", "--slots", "--no-ui", "--metrics")
OWN_VALUES = (
    "--port",
    "--host",
    "--hf-repo",
    "--hf-file",
    "--model",
    "--alias",
    "--api-key",
    "--threads",
    "--parallel",
)


def options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of the options that the gate has itself, and the words that are llama-server's."""
    mine: dict[str, str] = {}
    left, rest = [], iter(words)
    for word in rest:
        if word in OWN_VALUES:
            mine[word] = next(rest)
        elif word == "--chat-template-file":  # the guest has no such file
            left += ["--chat-template", (templates() / Path(next(rest)).name).read_text(encoding="utf-8")]
        elif word not in OWN:
            left.append(word)
    return mine, left


@cache
def sources() -> Path:
    """The sources of llama.cpp."""
    pin = fetch.fetch(catalogue.read_sources(ROOT / "sources.toml")["llama-cpp"], cache_root()).pin
    return fetch.source_tree(pin, cache_root())


def templates() -> Path:
    """The folder of upstream's templates."""
    return sources() / "models" / "templates"


def folder() -> Path:
    """The folder of a run."""
    return Path(os.environ[FOLDER])


@cache
def machine(name: str) -> Machine:
    """The machine that serves the model under a name."""
    path = folder() / f"{name}.gguf"
    model.write(path)
    disk = path.with_suffix(".img")
    ext4.build(parts=(path,), info={"name": name, "args": ""}, target=disk)
    settings = settings_of(ROOT, SMP="1")
    chosen = replace(settings, model=Choice(parts=tuple(shape.split_parts(path)), cache=settings.cache))
    return replace(machines.serve_machine(chosen), disk=disk, hot=folder() / "states")


class Process:
    """A server in place of upstream's llama-server; what is called is what they call of a subprocess.Popen."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], **_: object) -> None:
        mine, words = options(argv[1:])
        name, port = mine.get("--alias", "tinyllama-2"), int(mine["--port"])
        slots, key = int(mine.get("--parallel", "4")), mine.get("--api-key", "")
        made = machine(name)
        words = [*machines.FIXED_ARGS, *words, "--parallel", str(slots)]
        if NATIVE:
            told = [NATIVE, "-m", str(folder() / f"{name}.gguf"), "--alias", name, "--host", "127.0.0.1"]
            told += ["--port", str(port), "--no-ui", "--no-slots", *(["--api-key", key] if key else []), *words]
        else:
            service = Service(model=name, port=port, key=key, parallel=slots)
            file = folder() / "serve.json"
            file.write_text(main.to_json(made.given(llama_args=tuple(words)), service), encoding="utf-8")
            told = [sys.executable, "-m", "zosia.serve.main", str(file)]
        self._process = subprocess.Popen(told, cwd=ROOT, env=environment(ROOT), stdout=sys.stdout, stderr=sys.stdout)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout * patience())

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def pytest_configure(config: pytest.Config) -> None:
    """Put our servers in the place of upstream's, before the tests import them."""
    sys.modules["wget"] = types.ModuleType("wget")  # which utils.py imports, for downloads
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ["PORT"] = str(free.getsockname()[1])
    utils: Any = importlib.import_module("utils")
    start = utils.ServerProcess.start
    utils.ServerProcess.start = lambda self, timeout_seconds=0: start(self, LONGEST * patience())
    utils.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Process})
    config.addinivalue_line("markers", "slow: upstream's, needs SLOW_TESTS")
    config.addinivalue_line("markers", "serial: upstream's")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out whole files."""
    return True if collection_path.name in LISTED["files"] else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out single tests."""
    patterns = (
        [] if os.environ.get("ZOSIA_UPSTREAM_ALL") else [name for names in LISTED["tests"].values() for name in names]
    )
    left = [item for item in items if any(fnmatchcase(named(item), pattern) for pattern in patterns)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def named(item: pytest.Item) -> str:
    """Return the name of a test: its file's, and its own."""
    return f"{item.path.stem}::{item.name}"


@pytest.fixture(autouse=True)
def words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't compare words that only upstream's model says."""
    if any(fnmatchcase(named(request.node), pattern) for pattern in LISTED["words"]):
        monkeypatch.setattr(request.module, "match_regex", lambda regex, text: isinstance(text, str))


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """End all servers after each test, as upstream's conftest.py does."""
    yield
    running = importlib.import_module("utils").server_instances
    for server in set(running):
        server.stop()
