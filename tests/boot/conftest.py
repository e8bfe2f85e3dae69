"""Real machines: QEMU, the kernel and the initramfs that `scons` builds."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pexpect
import psutil
import pytest

from tests import gguf_file, gpt_oss, parrot
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.base.places import SAVED
from zosia.disk import ext4
from zosia.machine.qemu import Machine
from zosia.machine.task import Mode
from zosia.model import shape
from zosia.run import hot, supervisor
from zosia.run.guest import Guest
from zosia.settings import machines, reading
from zosia.settings.choice import Choice
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS
from zosia_build import initramfs, llama


# What is booted: `test.sh --all` goes through all of them.
def _typed(*names: str) -> dict[str, str]:
    return {name: value for name in names if (value := os.environ.get(f"ZOSIA_TEST_{name}"))}


TYPED = _typed("ARCH", "BASE", "BOARD", "MODEL_BUS", "ACCEL")
BUILDROOT = _typed("BUILDROOT", "BUILDROOT_CONFIG")  # for BASE=buildroot; in no package registry, so not everywhere
if TYPED.get("BASE") == "buildroot":
    TYPED |= BUILDROOT
Boot = Callable[[Machine], Guest]
Supervise = Callable[..., "subprocess.CompletedProcess[str]"]
Chat = Callable[..., "pexpect.spawn[str]"]
HOT = os.environ.get("ZOSIA_TEST_HOT") == "1"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
STATES = SAVED.with_name(f"{SAVED.name}-test{WORKER}")  # only a few are kept, and each worker has its own
LONGEST = 180  # seconds


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what boots alike without ZOSIA_TEST_HOT, and beside other tests what computes on all processors."""
    marks = ["boots"] * HOT + ["alone"] * hasattr(config, "workerinput")
    left = [item for item in items if any(map(item.get_closest_marker, marks))]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def scons(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that is scons for what is booted, after it has built everything that boots."""
    program = tmp_path_factory.mktemp("bin") / "scons"
    typed = shlex.join(f"{name}={value}" for name, value in TYPED.items())
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m SCons "$@" {typed}\n', encoding="utf-8")
    program.chmod(0o755)
    subprocess.run([program, ".", "-s"], cwd=root, check=True)
    return program


@pytest.fixture(scope="session", autouse=True)
def no_state_left(root: Path) -> Iterator[None]:
    """Remove the states that the worker's machines were saved to."""
    yield
    shutil.rmtree(root / STATES, ignore_errors=True)


@pytest.fixture(scope="session")
def small(root: Path, scons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The .gguf of a small model of which the answers are known, with its disk."""
    path = parrot.write(tmp_path_factory.mktemp("parrot") / "parrot.gguf")
    subprocess.run([scons, "model.img", f"MODEL={path}", "-s"], cwd=root, check=True)
    yield path
    remove_disk(root, path)


def disk_of(model: Path) -> Path:
    """Return the path of the disk that scons makes for a .gguf, in the repository."""
    return Choice(parts=(model,), cache=model).image


def remove_disk(root: Path, model: Path) -> None:
    """Remove the disk of a .gguf that goes with the tests, its record and its lock."""
    disk = root / disk_of(model)
    for left in disk.parent.glob(f"{disk.stem}.*"):
        left.unlink()


def settings_of(root: Path, **typed: str) -> Settings:
    """Return the settings of a `scons run`; the machines name files relative to the repository."""
    os.chdir(root)
    return reading.read(DEFAULTS | TYPED | typed, [], root, given=TYPED | typed)


@pytest.fixture(scope="session")
def settings(root: Path, small: Path) -> Settings:
    """The settings that most tests boot: the small model, and one processor, for two machines run at a time."""
    return settings_of(root, MODEL=str(small), SMP="1")


@pytest.fixture(scope="session")
def smollm2(root: Path, scons: Path) -> Machine:
    """The machine of a plain `scons run`, with the real model: for tests that are about a real answer or its size."""
    return machines.run_machine(settings_of(root))


@pytest.fixture
def machine(settings: Settings) -> Machine:
    """The machine that most tests boot; it answers alike each time."""
    plain = machines.run_machine(settings)
    return plain.given(llama_args=(*plain.task.llama_args, "--temp", "0"))


@pytest.fixture(scope="session")
def thinker(root: Path, model_file: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small model of gpt-oss' architecture, of which thoughts and answer are known."""
    path = tmp_path_factory.mktemp("thinker") / "thinker.gguf"
    yield gpt_oss.write(path, gpt_oss.SMALL, tokenizer=model_file, template=template)
    remove_disk(root, path)


@pytest.fixture(scope="session")
def thinking(settings: Settings, thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Machine]:
    """The machine that `scons run MODEL=... REASONING=...` boots with that model, of which the disk has three parts."""
    folder = tmp_path_factory.mktemp("thinking")
    gguf_file.split(thinker, folder / "m.gguf", parts=3)
    parts = shape.split_parts(folder / "m-00002-of-00003.gguf")
    ext4.build(parts=parts, info={"name": "thinker", "args": "--temp 0"}, target=folder / "m.img")

    def machine(reasoning: str) -> Machine:
        typed = replace(settings, model=Choice(parts=tuple(parts), cache=settings.cache), reasoning=reasoning)
        return replace(machines.run_machine(typed), disk=folder / "m.img")

    return machine


@pytest.fixture
def boot(request: pytest.FixtureRequest, root: Path) -> Boot:
    """Start a machine; its console's log is kept in build/test-logs under the test's name."""

    def start(machine: Machine) -> Guest:
        log = root / "build" / "test-logs" / f"{request.node.name}.log"
        tested = prepared(machine)
        guest = Guest(tested, log, supervised=tested.hot is not None)
        request.addfinalizer(lambda: guest.__exit__(None, None, None))
        return guest

    return start


@pytest.fixture
def no_machine_left() -> Iterator[None]:
    """Check that no machine runs after the test that did not run before."""
    before = running()
    yield
    assert running() <= before


def running() -> set[int]:
    """Process ids of the machines that run, less those of another worker."""
    mine = (psutil.Process().cwd(), WORKER)
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended
            if "/qemu-system-" not in process.exe():
                continue
            if (process.cwd(), process.environ().get("PYTEST_XDIST_WORKER", "")) == mine:
                found.add(process.pid)
    return found


def prepared(machine: Machine) -> Machine:
    """The machine as it is tested: it boots, or with ZOSIA_TEST_HOT=1 it is one that can be saved, and was."""
    chats = machine.task.mode is Mode.CHAT and machine.disk and not machine.verbose
    if not HOT or not chats or machine.hot is None:
        return replace(machine, hot=machine.hot if machine.hot and machine.hot != SAVED else None)
    machine = replace(machine, hot=STATES if machine.hot == SAVED else machine.hot)
    assert machine.hot
    if not hot.store(machine, machine.hot).path.exists():
        with (
            tempfile.TemporaryDirectory() as folder,
            suppress(ZosiaError),
            Guest(
                machine.given(prompt=None, terminal=(24, 80, "xterm")), Path(folder, "log"), supervised=True
            ) as guest,
        ):
            guest.expect("\n> ", LONGEST)
    return machine


def command(machine: Machine, tmp_path: Path) -> list[str]:
    """The supervisor's command line for a machine."""
    file = tmp_path / "machine.json"
    file.write_text(supervisor.to_json(prepared(machine)), encoding="utf-8")
    return [sys.executable, "-m", "zosia.run.supervisor", str(file)]


def environment(root: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root / "site_scons"), **extra}


@pytest.fixture
def supervise(root: Path, tmp_path: Path, no_machine_left: None) -> Supervise:
    """Run a machine under the supervisor, without a terminal, to its end."""

    def run(machine: Machine, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(machine, tmp_path),
            cwd=root,
            env=environment(root, **extra),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST * patience(),
            check=False,
        )

    return run


@pytest.fixture
def chat(root: Path, tmp_path: Path, request: pytest.FixtureRequest, no_machine_left: None) -> Chat:
    """Run a machine under the supervisor on a terminal of 30 rows and 100 columns."""

    def start(machine: Machine, **extra: str) -> pexpect.spawn[str]:
        program, *arguments = command(machine, tmp_path)
        child = pexpect.spawn(
            program,
            arguments,
            cwd=str(root),
            env=environment(root, TERM="xterm", **extra),
            encoding="utf-8",
            timeout=LONGEST * patience(),
            dimensions=(30, 100),
            echo=False,
        )
        path = root / "build" / "test-logs" / f"{request.node.name}.log"
        path.parent.mkdir(exist_ok=True)
        log = path.open("w", encoding="utf-8")
        child.logfile_read = log

        def end() -> None:
            if child.isalive():
                child.kill(signal.SIGTERM)
                child.expect(pexpect.EOF)
            child.close()
            log.close()

        request.addfinalizer(end)
        return child

    return start


@pytest.fixture
def with_program(settings: Settings, root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make an initramfs that is zosia's own but for its llama-cli, which is the shell script given."""

    def make(script: str) -> Path:
        build = root / settings.base_build
        programs = [f"llama-cli-{level.name}" for level in llama.LEVELS[settings.arch]]
        contents = {
            "busybox": (build / "busybox").read_bytes(),
            "levels": f"{programs[0].removeprefix('llama-cli-')}\n".encode(),
            "llama-version": b"0.0.0\n",
            **dict.fromkeys(programs, f"#!/bin/sh\n{script}\n".encode()),
        }
        modules = build / "modules.cpio.gz"
        target, appended = tmp_path / "initramfs.cpio.gz", modules.read_bytes() if modules.exists() else b""
        initramfs.build(arch=settings.arch, contents=contents, target=target, appended=appended)
        return tmp_path / "initramfs.cpio.gz"

    return make


@pytest.fixture
def damaged(settings: Settings, tmp_path: Path) -> Callable[[Callable[[bytearray], None]], Path]:
    """Make a copy of the model's disk to which a function has done something."""

    def make(damage: Callable[[bytearray], None]) -> Path:
        disk = machines.run_machine(settings).disk
        assert disk
        data = bytearray(disk.read_bytes())
        damage(data)
        copy = tmp_path / "damaged.img"
        copy.write_bytes(data)
        return copy

    return make
