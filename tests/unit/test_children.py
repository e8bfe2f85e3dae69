"""Programs that end with the process that started them: on Linux through the kernel, elsewhere through a watcher."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from zosia.base.children import bound

WAIT = 20  # seconds for what should take none
PARENT = """
import subprocess, sys, time
from zosia.base import children
sys.platform = sys.argv[1]
child = children.Child(["/bin/sleep", sys.argv[2]])
print(child.pid, flush=True)
exec(sys.argv[3])
"""


@pytest.fixture(params=["linux", "darwin"])
def platform(request: pytest.FixtureRequest) -> str:
    """The platform that the parent takes this one for: a watcher works everywhere."""
    return str(request.param)


@pytest.fixture
def seconds() -> Iterator[str]:
    """An argument of sleep that nobody else has."""
    number = f"1000.{random.randrange(10**9)}"
    yield number
    for process in named(number):
        process.kill()


def named(word: str) -> list[psutil.Process]:
    """The processes of which this is the last argument."""
    return [process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [""])[-1] == word]


@contextmanager
def start(root: Path, platform: str, seconds: str, does: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", PARENT, platform, seconds, does]
    with subprocess.Popen(argv, env={"PYTHONPATH": str(root / "site_scons")}, stdout=subprocess.PIPE) as parent:
        try:
            yield parent
        finally:
            parent.kill()  # a test that fails must not wait for it


@pytest.mark.parametrize("stopped", [False, True])
def test_it_ends_when_its_parent_is_killed(root: Path, platform: str, seconds: str, stopped: bool) -> None:
    with start(root, platform, seconds, "time.sleep(1000)") as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        others = [process for process in psutil.Process(parent.pid).children() if process != child]
        assert len(others) == (platform != "linux")
        if stopped:
            child.suspend()
        parent.kill()
        for process in (child, *others):
            process.wait(WAIT)


def test_a_parent_that_is_killed_at_any_moment(root: Path, platform: str, seconds: str) -> None:
    moments = random.Random(platform)
    for _ in range(10):
        with start(root, platform, seconds, "time.sleep(1000)") as parent:
            time.sleep(moments.uniform(0, 0.15))
            parent.kill()
        for process in named(seconds):
            process.wait(WAIT)


def test_its_end_leaves_nothing(root: Path, platform: str, seconds: str) -> None:
    with start(root, platform, seconds, "child.kill(); print(child.wait(), flush=True); time.sleep(1000)") as parent:
        assert parent.stdout
        parent.stdout.readline()
        assert int(parent.stdout.readline()) == -signal.SIGKILL
        assert psutil.Process(parent.pid).children() == []
        parent.kill()


def test_a_program_that_is_not_there(root: Path) -> None:
    does = "children.Child(['/no/such/program'])"
    script = f"import sys; from zosia.base import children; sys.platform = 'darwin'; {does}"
    argv, environment = [sys.executable, "-c", script], {"PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run(argv, env=environment, stderr=subprocess.PIPE, text=True, timeout=WAIT, check=False)
    assert done.stderr.endswith("FileNotFoundError: [Errno 2] No such file or directory: '/no/such/program'\n")


def test_a_parent_that_has_ended_already() -> None:
    argv = [sys.executable, "-c", "print('ran')"]
    done = subprocess.run(argv, preexec_fn=bound(1), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
