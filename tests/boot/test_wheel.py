"""zosia as a package, installed from the wheel into an empty environment: all from outside, with real machines."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pexpect
import pytest
from openai import OpenAI

from tests import parrot
from zosia.base.files import locked
from zosia.base.patience import patience
from zosia.base.version import VERSION
from zosia.machine.status import Status

from .conftest import LONGEST, WORKER, running
from .server import Server

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
HARMLESS = ("PATH", "LANG", "TMPDIR", "PYTEST_XDIST_WORKER", "ZOSIA_TIMEOUT_FACTOR")


@dataclass(frozen=True)
class Installed:
    """An installed zosia, and the folder of someone who uses it.

    `program` is what is typed, `home` where everything is kept, and `work` the folder that it is typed in.
    """

    program: Path
    home: Path
    work: Path

    @property
    def package(self) -> Path:
        """Folder of the installed package."""
        (found,) = self.program.parents[1].glob("lib/python*/site-packages/zosia")
        return found

    @property
    def environment(self) -> dict[str, str]:
        """Environment of who uses it: nothing of the repository, and a home of its own."""
        kept = {name: os.environ[name] for name in HARMLESS if name in os.environ}
        return {**kept, "HOME": str(self.home), "TERM": "xterm"}

    @property
    def disks(self) -> Path:
        return self.home / ".local" / "share" / "zosia" / "models"

    @property
    def states(self) -> list[Path]:
        """Saved machines."""
        return sorted((self.home / ".cache" / "zosia" / "hot").glob("*.state"))

    def __call__(
        self, *words: str, stdin: str = "", before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, without a terminal."""
        return subprocess.run(
            [self.program, *words],
            cwd=self.work,
            env=self.environment,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST * patience(),
            preexec_fn=before,
            check=False,
        )

    def chat(self, *words: str) -> pexpect.spawn[str]:
        """Run it on a terminal, and wait for the prompt."""
        child = pexpect.spawn(
            str(self.program),
            list(words),
            cwd=str(self.work),
            env=self.environment,
            encoding="utf-8",
            timeout=LONGEST * patience(),
            dimensions=(30, 100),
            echo=False,
        )
        child.expect_exact("\n> ")
        return child


def answer(child: pexpect.spawn[str], question: str) -> None:
    """Ask, and wait for the answer and the next prompt."""
    child.send(f"{question}\r")
    child.expect_exact(parrot.ANSWER)
    child.expect_exact("\n> ")


def leave(child: pexpect.spawn[str]) -> int:
    """Type /exit, and return the exit status."""
    child.send("/exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None
    return child.exitstatus


@pytest.fixture(scope="session")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed by pip where there is nothing else: the folder, which all workers share."""
    top = tmp_path_factory.getbasetemp()
    folder = (top.parent if WORKER else top) / "installed"
    with locked(folder):
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "SCons", "-s", "wheel"], cwd=root, check=True)
            wheel = root / "build" / "dist" / f"zosia-{VERSION}-py3-none-any.whl"
            new = folder.with_name("installing")
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", new], check=True)
            into = ("--python", new / "bin" / "python")  # which has no pip, as with uv
            options = ("-q", "--disable-pip-version-check")
            subprocess.run([sys.executable, "-m", "pip", *into, "install", *options, wheel], check=True, cwd=new)
            new.rename(folder)
            for script in (folder / "bin").glob("zosia"):  # which names its folder
                script.write_text(script.read_text().replace(str(new), str(folder)))
    return folder


@pytest.fixture
def zosia(installed: Path, tmp_path: Path) -> Iterator[Installed]:
    """The package, for someone who has nothing yet; what is installed stays what it is, and no machine runs on."""
    made = Installed(installed / "bin" / "zosia", tmp_path, tmp_path / "work")
    made.work.mkdir(parents=True)
    parrot.write(made.work / "parrot.gguf")
    before = {path: path.stat().st_mtime_ns for path in made.package.rglob("*")}
    machines = running()
    yield made
    assert {path: path.stat().st_mtime_ns for path in made.package.rglob("*")} == before
    assert running() <= machines


def test_before_anything_is_downloaded(zosia: Installed) -> None:
    version, usage, models, doctor = (zosia(*words) for words in (["--version"], ["-h"], ["models"], ["doctor"]))
    assert (version.stdout, version.stderr, version.returncode) == (f"zosia {VERSION}\n", "", 0)
    assert usage.returncode == 0 and "zosia run qwen3-4b" in usage.stdout
    assert models.returncode == 0 and "gpt-oss-20b-Q4 " in models.stdout
    assert doctor.returncode == 0 and doctor.stdout.endswith(("can work.\n", "warning.\n", "warnings.\n")), doctor
    assert "scons" not in usage.stdout + models.stdout + doctor.stdout
    assert not zosia.disks.exists()


def test_a_model_that_was_imported(zosia: Installed, model_file: Path) -> None:
    """The real default model, from a file: the download of it is the inputs' to test."""
    done = zosia("import", str(model_file))
    assert done.returncode == 0, done
    asked = zosia("run", "smollm2-135m", "What is 2+2?", "--llama-args", "--temp 0 -n 16")
    assert asked.returncode == 0 and "4" in asked.stdout, asked
    assert zosia("models").stdout.splitlines()[1].endswith(" file, disk")
    gone = zosia("remove", "smollm2-135m")
    assert gone.returncode == 0 and re.search(r"smollm2-135m: (19\d|20\d)\.\d MB freed", gone.stdout), gone


def test_a_chat_that_is_resumed(zosia: Installed) -> None:
    first = zosia.chat("run", "./parrot.gguf", "--llama-args=--temp 0")
    answer(first, "Who are you?")
    assert leave(first) == 0
    (state,) = zosia.states
    assert len(list((zosia.home / ".cache/zosia/again").iterdir())) == 1, "it starts at once the next time"
    saved = state.stat()
    again = zosia.chat("run", "./parrot.gguf", "--llama-args=--temp 0")
    answer(again, "Who are you?")
    assert leave(again) == 0
    assert (state.stat().st_ino, state.stat().st_mtime_ns > saved.st_mtime_ns) == (saved.st_ino, True), "it was read"


def test_one_answer_of_a_pipe(zosia: Installed) -> None:
    done = zosia("run", "./parrot.gguf", stdin="Who are you?\n")
    assert (done.returncode, done.stdout) == (0, f"{parrot.ANSWER}\n"), done
    assert zosia("run", "parrot.gguf", "Is that a cat?").stdout == f"{parrot.CAT}\n"


def test_the_api_and_the_page(zosia: Installed, tmp_path: Path) -> None:
    argv = [str(zosia.program), "serve", "./parrot.gguf", "--port", "0"]
    with Server(argv, tmp_path / "err", cwd=zosia.work, env=zosia.environment) as server:
        server.ready()
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
        reply = client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": "Who are you?"}])
        assert reply.choices[0].message.content == parrot.ANSWER
        page = server.ask("/")
        assert page.status == 200 and b"<!doctype html>" in page.body.lower()
        assert server.end() == 0


def test_a_diagnosis(zosia: Installed) -> None:
    done = zosia("diag", "./parrot.gguf")
    assert done.returncode == 0, done
    assert done.stdout.startswith(f"zosia: {VERSION}, revision unknown") and "interfaces: lo\n" in done.stdout


def test_a_guest_that_fails(zosia: Installed) -> None:
    assert zosia("pull", "./parrot.gguf").returncode == 0
    (disk,) = zosia.disks.glob("parrot-*.img")
    good, times = disk.read_bytes(), (disk.stat().st_atime_ns, disk.stat().st_mtime_ns)
    disk.write_bytes(bytes(len(good)))
    os.utime(disk, ns=times)  # else it would be made again
    done = zosia("run", "./parrot.gguf", "Hello?")
    assert (done.returncode, done.stdout) == (Status.BAD_DISK, ""), done
    disk.unlink()
    assert zosia("run", "./parrot.gguf", "Who are you?").stdout == f"{parrot.ANSWER}\n", "a new disk"


def bound_by_modes() -> None:
    """Take from root, in a child, the right to write where modes forbid it (capabilities(7), prctl(2))."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError("prctl")


def test_for_one_who_may_only_read_the_package(zosia: Installed) -> None:
    folders = [path for path in (zosia.package, *zosia.package.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        touched = subprocess.run(["touch", zosia.package / "new"], preexec_fn=bound_by_modes, check=False)
        assert touched.returncode != 0, "nothing can be written there"
        done = zosia("run", "./parrot.gguf", "Who are you?", before=bound_by_modes)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert (done.returncode, done.stdout) == (0, f"{parrot.ANSWER}\n"), done
    assert list(zosia.disks.glob("*.img"))


@pytest.fixture
def newer(zosia: Installed, tmp_path: Path) -> Installed:
    """The same program of a later version, whose disks are other ones."""
    package = shutil.copytree(zosia.package, tmp_path / "zosia")
    for name, old, new in (
        ("base/version.py", f'VERSION = "{VERSION}"', 'VERSION = "9.0.0"'),
        ("disk/ext4.py", "FORMAT = 1 ", "FORMAT = 9 "),
    ):
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (package / name).write_text(text.replace(old, new), encoding="utf-8")
    program = tmp_path / "zosia9"
    text = zosia.program.read_text(encoding="utf-8")
    program.write_text(text.replace("import sys\n", f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n", 1))
    program.chmod(0o755)
    return replace(zosia, program=program)


def test_two_versions_over_one_cache(zosia: Installed, newer: Installed) -> None:
    """Each makes the disk that it needs, and a chat of the other one goes on with what it had."""
    assert newer("--version").stdout == "zosia 9.0.0\n"
    assert zosia("run", "./parrot.gguf", "Who are you?").stdout == f"{parrot.ANSWER}\n"
    chat = zosia.chat("run", "./parrot.gguf", "--llama-args=--temp 0")
    upgraded = newer("run", "./parrot.gguf", "Who are you?")
    assert (upgraded.returncode, upgraded.stdout) == (0, f"{parrot.ANSWER}\n"), upgraded
    assert "  EXT4  " in upgraded.stderr, "the disk of another version is made anew"
    (record,) = zosia.disks.glob("parrot-*.img.json")
    assert json.loads(record.read_text())["made_of"].endswith(" 9")
    answer(chat, "Who are you?")
    assert leave(chat) == 0
    back = zosia("run", "./parrot.gguf", "Who are you?")
    assert (back.returncode, back.stdout) == (0, f"{parrot.ANSWER}\n") and "  EXT4  " in back.stderr, back


def test_what_is_kept_can_be_removed(zosia: Installed) -> None:
    assert zosia("run", "./parrot.gguf", "Who are you?").returncode == 0
    assert zosia.states and list(zosia.disks.glob("*.img"))
    done = zosia("clean")
    assert done.returncode == 0 and done.stderr.count(" freed") == 2, done
    assert not zosia.states and not list(zosia.disks.glob("*.img"))
