"""The supervisor as a program, over a stand-in for QEMU that does what a test says."""

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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pexpect
import psutil
import pytest

from zosia import supervisor
from zosia.machine import Accel, Machine, Mode
from zosia.status import Status

MACHINE = Machine(
    arch="aarch64",
    accel=Accel.TCG,
    cpu="",
    cpus=2,
    memory=512,
    kernel=Path("a kernel, with commas"),
    initramfs=Path("initramfs"),
    disk=Path("zażółć.img"),
    need=190,
    llama_args=("-p", 'it\'s\n"so"', "\udcff", ""),
    system="Be brief, zażółć",
    sandbox=False,
)
ASKED = replace(MACHINE, prompt="hello")
ASKED_ALOUD = replace(ASKED, verbose=True)
FAKE_QEMU = """#!{python} -SEs
import os, shutil, signal, socket, sys, time
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("QEMU emulator version 0")
    sys.exit()
record, ports = Path(os.environ["RECORD"]), {{}}
for word in sys.argv:
    if word.startswith("socket,id="):
        name, number = word.removeprefix("socket,id=").split(",fd=")
        ports[name] = socket.socket(fileno=int(number))
    elif word.startswith("name=opt/zosia/"):
        name, path = word.removeprefix("name=opt/zosia/").split(",file=")
        shutil.copyfile(path, record / name)

def note(name, data):
    (record / "new").write_bytes(data)
    (record / "new").rename(record / name)

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

note("argv", b"\\0".join(map(os.fsencode, sys.argv)))
note("pid", str(os.getpid()).encode())
exec(os.environ["FAKE_DOES"])
"""
WAIT = 20  # seconds for what should take none
SHORT = "0.02"  # of the seconds that the supervisor waits for a sign of life: 1.2
LONGER = "0.05"  # 3 seconds, for guests that are not to be ended
FOREVER = "time.sleep(1000)"


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
        return [sys.executable, "-m", "zosia.supervisor", str(file)]

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
        """What the fake has noted, or was told, as soon as it is there."""
        wait_until((self.folder / "record" / name).exists)
        return (self.folder / "record" / name).read_bytes()

    @property
    def qemu(self) -> int:
        return int(self.noted("pid"))

    @property
    def leftovers(self) -> list[str]:
        """What is still there of a run."""
        pid = self.folder / "record" / "pid"
        alive = pid.exists() and psutil.pid_exists(int(pid.read_text()))
        return [*os.listdir(self.folder / "tmp"), *(["QEMU"] if alive else [])]

    def clean(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / "record" / "pid").read_text()), signal.SIGKILL)


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


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE,
        replace(MACHINE, disk=None, accel=Accel.KVM, llama_args=(), mode=Mode.DIAG, terminal=(50, 132, "xterm")),
        replace(MACHINE, prompt="/exit\n\\ 'x' \udcff", verbose=True, kernel=Path("/a\udcff\nb")),
    ],
)
def test_json_and_back(machine: Machine) -> None:
    text = supervisor.to_json(machine)
    assert supervisor.from_json(text) == machine
    text.encode()


NO_REPORT = "zosia: error: The guest ended without saying how. Run it with VERBOSE=1 to see how far it comes\n"


@pytest.mark.parametrize(
    ("does", "status", "message"),
    [
        ('status("exit 0")', 0, ""),
        ('status("init 0.3", "loading 5 9", "prompt", "exit 3")', 3, ""),
        ('status("error it broke. Mend it", "exit 3")', 3, "zosia: error: it broke. Mend it\n"),
        ('status("error żółw \\udcff", "exit 66")', Status.NO_MODEL, "zosia: error: żółw \N{REPLACEMENT CHARACTER}\n"),
        *((f'status("error x", "exit {status:d}")', status, "zosia: error: x\n") for status in Status if status > 2),
        ('status("error x", "exit 139")', 139, "zosia: error: x\n"),
        ('ports["status"].sendall(b"exi"); time.sleep(0.1); ports["status"].sendall(b"t 5\\n")', 5, ""),
        ("pass", Status.NO_STATUS, NO_REPORT),
        ('status("exit x", "nonsense")', Status.NO_STATUS, NO_REPORT),
        (
            'status("exit 0"); sys.exit(1)',
            Status.QEMU_FAILED,
            "zosia: error: QEMU ended with status 1. Its own message",
        ),
        ("os.kill(os.getpid(), 9)", Status.QEMU_KILLED, "zosia: error: QEMU was killed by signal 9. If the host"),
        ("os.kill(os.getpid(), 11)", Status.QEMU_KILLED, "zosia: error: QEMU was killed by signal 11\n"),
    ],
)
def test_exit_status(place: Place, does: str, status: int, message: str) -> None:
    code, output, errors = place.run(does)
    assert (code, output) == (status, b"")
    assert errors.startswith(message) if message else not errors
    assert len(errors.splitlines()) <= 1
    assert place.leftovers == []


def test_what_qemu_is_given(place: Place) -> None:
    place.run('status("exit 0")')
    words = os.fsdecode(place.noted("argv")).split("\0")
    assert "chardev:console" in words
    assert not any("hello" in word or "brief" in word or "so" in word.split('"') for word in words)
    machine = replace(ASKED, terminal=(24, 80, "dumb"))
    assert {name: os.fsdecode(place.noted(name)) for name in machine.texts()} == machine.texts()


@pytest.mark.parametrize("machine", [ASKED, ASKED_ALOUD])
def test_the_answer_alone_is_on_stdout(place: Place, machine: Machine) -> None:
    does = """
console(b"from the kernel\\r\\n")
status("init 0.3", "loading 1", "prompt")
for part in (b"\\xc5", b"\\xbc one\\r\\ntwo\\r", b"\\n\\x00\\x1b[1m"): answer(part)
console(b"more\\r\\n")
answer(b"\\n" * 300_000)
status("exit 0")
"""
    code, output, errors = place.run(does, machine)
    assert (code, output) == (0, b"\xc5\xbc one\ntwo\n\x00\x1b[1m" + b"\n" * 300_000)
    assert errors == ("from the kernel\nmore\n" if machine.verbose else "")


def test_a_panic_is_known_by_the_console(place: Place) -> None:
    does = """
console(b"old\\r\\n" * 5000 + b"[ 0.5] \\x1b[31mKernel panic - not syncing: No init\\r\\n" + b"trace\\r\\n" * 3)
"""
    code, output, errors = place.run(does)
    assert (code, output) == (Status.PANIC, b"")
    first, second, *lines = errors.splitlines()
    assert first.startswith(
        "zosia: error: The guest's kernel panicked: No init. Too little memory? Give it more with MEM"
    )
    assert second == "The end of its console:"
    assert lines == ["    old"] * 6 + ["    [ 0.5] Kernel panic - not syncing: No init"] + ["    trace"] * 3


def test_the_end_of_the_console_when_nobody_knows_why(place: Place) -> None:
    _, _, errors = place.run(r"console(b'a\r\n\r\n  \nza\xff\r\nlast')")
    assert errors == f"{NO_REPORT}The end of its console:\n    a\n    za\N{REPLACEMENT CHARACTER}\n    last\n"


def test_a_guest_that_says_nothing_is_ended(place: Place) -> None:
    code, output, errors = place.run(f"console(b'stuck\\n'); {FOREVER}", factor=SHORT)
    assert (code, output) == (Status.SILENT, b"")
    assert errors.startswith("zosia: error: The guest gave no sign of life for 1 s. Run it with VERB")
    assert errors.endswith("console:\n    stuck\n")
    assert place.leftovers == []


def test_a_guest_that_falls_silent_is_ended(place: Place) -> None:
    assert place.run(f'status("init 0.3", "loading 3 9"); {FOREVER}', factor=SHORT)[0] == Status.SILENT
    assert place.leftovers == []


def test_a_guest_that_loads_and_then_thinks_is_left_alone(place: Place) -> None:
    does = """
for part in range(7):
    status(f"loading {part} 7")
    time.sleep(0.3)
status("prompt")
for part in range(7):
    status("working")
    time.sleep(0.3)
answer(b"42")
status("exit 0")
"""
    assert place.run(does, factor=LONGER) == (0, b"42", "")


def test_a_guest_that_hangs_at_a_single_prompt_is_ended(place: Place) -> None:
    assert place.run(f'status("init 0.3", "prompt"); {FOREVER}', factor=SHORT)[0] == Status.SILENT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("does", ["pass", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["willing", "deaf"])
def test_signals_end_it(place: Place, does: str, number: signal.Signals) -> None:
    child = place.start(f"{does}; note('ready', b''); {FOREVER}")
    place.noted("ready")
    child.send_signal(number)
    assert child.communicate(timeout=WAIT) == (b"", b"")
    assert child.returncode == 128 + number
    assert place.leftovers == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_a_qemu_that_was_stopped(place: Place, number: signal.Signals) -> None:
    child = place.start(FOREVER)
    assert os.getpgid(place.qemu) == place.qemu, "a terminal's signals are the supervisor's alone"
    os.kill(place.qemu, signal.SIGSTOP)
    child.send_signal(number)
    assert child.communicate(timeout=WAIT) == (b"", b"")
    assert child.returncode == 128 + number
    assert place.leftovers == []


def test_a_reader_that_has_had_enough(place: Place) -> None:
    child = place.start("while True: answer(b'x' * 1000)")
    assert child.stdout
    assert child.stdout.read(1) == b"x"
    child.stdout.close()
    assert child.wait(WAIT) == 128 + signal.SIGPIPE
    assert child.stderr
    assert child.stderr.read() == b""
    assert place.leftovers == []


def test_an_answer_that_can_not_be_written(place: Place) -> None:
    with Path("/dev/full").open("wb") as full:
        child = place.start(f"answer(b'42'); {FOREVER}", stdout=full.fileno())
        _, errors = child.communicate(timeout=WAIT)
    assert errors == b"zosia: error: The answer can't be written: No space left on device\n"
    assert child.returncode == Status.REFUSED
    assert place.leftovers == []


def test_a_reader_that_does_not_read(place: Place) -> None:
    child = place.start("note('ready', b''); answer(b'x' * 1_000_000)")
    place.noted("ready")
    time.sleep(0.3)
    child.terminate()
    assert child.wait(WAIT) == 128 + signal.SIGTERM
    assert place.leftovers == []


def test_a_reader_that_does_not_block(place: Place) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    child = place.start("answer(b'x' * 1_000_000); status('exit 0')", stdout=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        assert len(reader.read()) == 1_000_000
    assert child.wait(WAIT) == 0


@pytest.mark.parametrize(
    "prompt",
    ["hello", 'it\'s\n"two" lines, $HOME\n\n', "Zażółć gęślą jaźń", "/exit", "\r\n x", "x" * 300_000],
    ids=["plain", "quoted", "UTF-8", "slash", "carriage return", "long"],
)
def test_standard_input_is_the_prompt(place: Place, prompt: str) -> None:
    assert place.run('answer(b"42"); status("exit 0")', MACHINE, piped=prompt.encode()) == (0, b"42", "")
    assert place.noted("prompt").decode() == replace(MACHINE, prompt=prompt).texts()["prompt"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "There is no terminal to chat on and no prompt on standard input. Type: echo PROMPT | scons run"),
        (b"", "There is no terminal to chat on and no prompt"),
        (b" \n\t", "There is no terminal to chat on and no prompt"),
        (b"nul\0", "The prompt on standard input holds a NUL byte, so it is no text"),
        (b"za\xff", "The prompt on standard input is no UTF-8 text"),
    ],
    ids=["null", "empty", "blank", "binary", "no UTF-8"],
)
def test_a_prompt_that_is_none(place: Place, prompt: bytes | None, message: str) -> None:
    code, output, errors = place.run(FOREVER, MACHINE, piped=prompt)
    assert (code, output) == (Status.REFUSED, b"")
    assert errors.startswith(f"zosia: error: {message}")
    assert len(errors.splitlines()) == 1
    assert os.listdir(place.folder / "record") == []


def test_a_prompt_that_was_typed_needs_no_standard_input(place: Place) -> None:
    child = place.start("answer(b'42'); status('exit 0')", before=lambda: os.close(0))
    assert child.communicate(timeout=WAIT) == (b"42", b"")
    assert child.returncode == 0


def test_neither_standard_input_nor_a_prompt(place: Place) -> None:
    child = place.start(FOREVER, MACHINE, before=lambda: os.close(0))
    _, errors = child.communicate(timeout=WAIT)
    assert errors.startswith(b"zosia: error: There is no terminal to chat on and no prompt")
    assert child.returncode == Status.REFUSED


def test_interrupted_while_the_prompt_comes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "_piped_prompt", interrupted)
    monkeypatch.setattr(os, "isatty", lambda number: False)
    assert supervisor.main(place.command(MACHINE)[-1:]) == 130


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "qemu-system-aarch64 is needed and was not found on PATH. Type: "),
        ("#!/nowhere/at-all\n", "QEMU could not be started: No such file or directory"),
        ("no program", "QEMU could not be started: Exec format error"),
    ],
)
def test_without_qemu(place: Place, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str) -> None:
    program = place.folder / "bin" / "qemu-system-aarch64"
    if script is None:
        program.unlink()
    else:
        program.write_text(script)
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, errors = place.run("pass")
    assert code == Status.REFUSED
    assert errors.startswith(f"zosia: error: {message}")
    assert len(errors.splitlines()) == 1
    assert place.leftovers == []


def test_a_wrong_factor(place: Place) -> None:
    code, _, errors = place.run(FOREVER, factor="soon")
    assert (code, errors.splitlines()) == (
        Status.REFUSED,
        ["zosia: error: ZOSIA_TIMEOUT_FACTOR=soon is not a number above 0. Type for example ZOSIA_TIMEOUT_FACTOR=3"],
    )
    assert place.leftovers == []


@pytest.mark.parametrize("word", ["-n", "\udcff"])
def test_a_diagnosis_is_the_hosts_part_and_the_guests(place: Place, word: str) -> None:
    for name in ("kernel", "initramfs"):
        (place.folder / name).touch()
    place.disk.with_suffix(".img.json").write_text('{"sha256": "abc"}')
    files = {name: place.folder / name for name in ("kernel", "initramfs")}
    machine = replace(MACHINE, mode=Mode.DIAG, llama_args=(word,), **files)  # type: ignore[arg-type]
    code, output, errors = place.run("answer(b'guest: fine\\r\\n'); status('exit 0')", machine)
    assert (code, errors) == (0, "")
    assert output.startswith(b"zosia: ")
    assert output.endswith(b"\nguest: fine\n")
    assert b"\nQEMU: QEMU emulator version 0\n" in output
    assert place.noted("mode") == b"diag"


def test_progress_is_shown_in_place_and_taken_away(place: Place) -> None:
    ours, theirs = os.openpty()
    child = place.start('status("loading 5000000 10000000", "prompt"); answer(b"42"); status("exit 0")', stderr=theirs)
    output, _ = child.communicate(timeout=WAIT)
    assert (child.returncode, output) == (0, b"42")
    shown = os.read(ours, 4096)
    assert shown == b"\r\x1b[Kloading 10.0 MB: 50 %\r\x1b[K"
    os.close(ours)
    os.close(theirs)


def test_every_key_is_the_guests(place: Place, chat: Chat) -> None:
    typed = b"a\r\n\x03\x04\x7f\x1b[A\x11\x13\x15\x16\x17\x00" + "ż\xff".encode() + b"\x1a\x1c."
    terminal = chat(f"note('keys', keys({len(typed)})); status('exit 0')")
    terminal.type(typed)
    assert terminal.end() == 0
    assert place.noted("keys") == typed
    assert terminal.settings == terminal.before
    assert place.leftovers == []


@pytest.mark.parametrize("key", [b"\x03", b"\x04", b"\x13", b"\x11"], ids=["Ctrl+C", "Ctrl+D", "Ctrl+S", "Ctrl+Q"])
def test_a_single_key_is_the_guests(place: Place, chat: Chat, key: bytes) -> None:
    terminal = chat("status('prompt'); console(b'>'); note('key', keys(1)); status('exit 0')")
    terminal.until(b">")
    terminal.type(key)
    assert terminal.end() == 0
    assert place.noted("key") == key


@pytest.mark.parametrize("said", ["", "status('init 0.3'); "])
def test_ctrl_c_before_anybody_could_take_it_is_a_normal_end(place: Place, chat: Chat, said: str) -> None:
    terminal = chat(f"{said}console(b'...'); {FOREVER}")
    terminal.until(b"...")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert place.leftovers == []


def test_the_console_is_shown_as_it_is(place: Place, chat: Chat) -> None:
    data = b"one\r\ntwo\nthree\r\x1b[31mred\t\xff\xfe\x00\x07" + b"x" * 100_000 + b"end"
    terminal = chat(f"console({data!r}); status('exit 0')")
    assert terminal.end() == 0
    assert terminal.seen == b"ready\r\n" + data
    assert not any("id=answer" in word for word in os.fsdecode(place.noted("argv")).split("\0"))
    assert place.noted("terminal") == b"40 100 xterm"


@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_a_long_paste_arrives_whole(place: Place, chat: Chat, size: int) -> None:
    line = "Zażółć gęślą jaźń\r".encode()
    pasted = (line * (size // len(line) + 1))[:size]
    terminal = chat(
        f"""
data = b""
while len(data) < {size}:
    time.sleep(0.002)
    data += os.read(0, 1 + len(data) // 50)
note("keys", data)
status("exit 0")
"""
    )
    typist = threading.Thread(target=terminal.type, args=[pasted])
    typist.start()
    assert terminal.end() == 0
    typist.join()
    assert place.noted("keys") == pasted


@pytest.mark.parametrize("pasted", [b"a\x1cb", b"\x1c\x1c", b"\x1ab", b"a\x1a", b"\x1a\x1c"])
def test_a_paste_is_no_key(place: Place, chat: Chat, pasted: bytes) -> None:
    terminal = chat(f"note('keys', keys({len(pasted)})); status('exit 0')")
    terminal.type(pasted)
    assert terminal.end() == 0
    assert place.noted("keys") == pasted


def test_control_backslash_ends_it(place: Place, chat: Chat) -> None:
    terminal = chat(FOREVER)
    terminal.type(b"\x1c")
    assert terminal.end() == 128 + signal.SIGQUIT
    assert terminal.settings == terminal.before
    assert place.leftovers == []


def test_control_backslash_ends_a_qemu_that_hangs(place: Place, chat: Chat) -> None:
    terminal = chat(f"signal.signal(signal.SIGTERM, signal.SIG_IGN); console(b'deaf'); {FOREVER}")
    terminal.until(b"deaf")
    terminal.type(b"\x1c")
    assert terminal.end() == 128 + signal.SIGQUIT
    assert place.leftovers == []


def test_control_backslash_without_a_chat(place: Place, chat: Chat) -> None:
    terminal = chat(f"note('ready', b''); {FOREVER}", ASKED_ALOUD)
    place.noted("ready")
    terminal.type(b"\x1c")
    assert terminal.end() == 128 + signal.SIGQUIT
    assert place.leftovers == []


def test_the_guest_learns_the_size(place: Place, chat: Chat) -> None:
    terminal = chat(
        """
status("init 0.3")
note("first", told())
note("second", told())
status("exit 0")
"""
    )
    assert place.noted("first") == b"size 40 100\n"
    terminal.resize(25, 90)
    assert place.noted("second") == b"size 25 90\n"
    assert terminal.end() == 0


def test_a_guest_that_does_not_listen_learns_no_size(place: Place, chat: Chat) -> None:
    terminal = chat(FOREVER)
    for count in range(2000):
        terminal.resize(20 + count % 2, 80)
        time.sleep(0.0005)
    terminal.type(b"\x1c")
    assert terminal.end() == 128 + signal.SIGQUIT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_the_terminal_as_it_was(place: Place, chat: Chat, number: signal.Signals) -> None:
    terminal = chat(FOREVER)
    assert terminal.settings != terminal.before
    terminal.child.send_signal(number)
    assert terminal.end() == 128 + number
    assert terminal.settings == terminal.before
    assert place.leftovers == []


def test_a_terminal_that_is_closed_ends_it(place: Place, chat: Chat) -> None:
    terminal = chat("while True: console(b'.'); time.sleep(0.01)")
    terminal.close()
    assert terminal.child.wait(WAIT) == 128 + signal.SIGHUP
    assert place.leftovers == []


def test_a_terminal_that_is_closed_ends_a_quiet_guest(place: Place, chat: Chat) -> None:
    terminal = chat(f"status('prompt'); {FOREVER}")
    terminal.close()
    assert terminal.child.wait(WAIT) == 128 + signal.SIGHUP
    assert place.leftovers == []


@pytest.mark.parametrize(
    ("does", "status", "shown"),
    [
        ("console(b'zosia: error: x\\r\\n'); status('error x', 'exit 66')", Status.NO_MODEL, b"zosia: error: x\r\n"),
        ("sys.exit(1)", Status.QEMU_FAILED, b"zosia: error: QEMU ended with status 1. Its own message is above\r\n"),
        ("pass", Status.NO_STATUS, NO_REPORT.replace("\n", "\r\n").encode()),
    ],
)
def test_errors_are_said_once_on_a_terminal(chat: Chat, does: str, status: int, shown: bytes) -> None:
    terminal = chat(does)
    assert terminal.end() == status
    assert terminal.seen.count(shown) == 1
    assert terminal.seen.count(b"zosia: error: ") == 1
    assert terminal.settings == terminal.before


def test_a_guest_that_was_cut_off_leaves_no_colours(chat: Chat) -> None:
    terminal = chat("console(b'\\x1b[31m\\x1b[?2004hred'); time.sleep(1000)")
    terminal.until(b"red")
    terminal.child.terminate()
    assert terminal.end() == 143
    assert terminal.seen.endswith(b"red\x1b[0m\x1b[?2004l\r\n")


def test_a_chat_whose_output_is_a_file(place: Place) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    child = place.start("console(b'Hi\\r\\n'); console(keys(1)); status('exit 0')", MACHINE, stdin=theirs)
    assert place.noted("terminal") == b"24 80 dumb"
    wait_until(lambda: termios.tcgetattr(theirs) != before)
    os.write(ours, b"x")
    assert child.communicate(timeout=WAIT) == (b"Hi\nx", b"")
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_control_z_where_nobody_could_continue_it_does_nothing(place: Place, chat: Chat) -> None:
    terminal = chat("note('key', keys(1)); status('exit 0')")
    raw = terminal.settings
    terminal.type(b"\x1a")
    time.sleep(0.2)
    assert terminal.settings == raw
    terminal.type(b"x")
    assert terminal.end() == 0
    assert place.noted("key") == b"x"


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


def test_control_z(place: Place, shell: Shell) -> None:
    terminal = shell(
        """
status("init 0.3", "prompt")
told()
console(b"ready")
console(b"<" + keys(1) + b">")
note("size", told())
console(b"<" + keys(1) + b">")
status("exit 7")
""",
        script=True,
    )
    qemu = psutil.Process(place.qemu)
    parent = qemu.parent()
    assert parent
    terminal.send("\x1a")
    terminal.expect("Stopped.*shell\\$ ")
    assert [qemu.status(), parent.status()] == [psutil.STATUS_STOPPED] * 2
    terminal.sendline("stty -a | grep -o '.icanon'; echo typed")
    terminal.expect(" icanon\r.*typed\r.*shell\\$ ")
    terminal.setwinsize(30, 400)
    terminal.sendline("fg")
    terminal.expect_exact("machine.json")
    terminal.send("x")
    terminal.expect_exact("<x>")
    assert place.noted("size").startswith(b"size 30 400\n")
    terminal.send("\x03")
    terminal.expect_exact("<\x03>")
    terminal.expect_exact("shell$ ")
    terminal.sendline("echo status $?")
    terminal.expect_exact("status 7\r")
    assert place.leftovers == []


def test_a_guest_that_was_stopped_was_not_silent(place: Place, shell: Shell) -> None:
    terminal = shell("console(b'ready'); keys(1); status('prompt', 'exit 7')", factor=LONGER)
    terminal.send("\x1a")
    terminal.expect("Stopped.*shell\\$ ")
    time.sleep(3.5)
    terminal.sendline("fg")
    terminal.expect_exact("machine.json")
    terminal.send("x")
    terminal.expect_exact("shell$ ")
    terminal.sendline("echo status $?")
    terminal.expect_exact("status 7\r")


def test_a_job_that_was_stopped_can_be_killed(place: Place, shell: Shell) -> None:
    terminal = shell(f"console(b'ready'); {FOREVER}")
    terminal.send("\x1a")
    terminal.expect("Stopped.*shell\\$ ")
    terminal.sendline("kill %1")
    wait_until(lambda: place.leftovers == [])
    terminal.sendline("sleep 1")
    terminal.expect_exact("Exit 143")


def test_stopped_from_outside(place: Place, shell: Shell) -> None:
    terminal = shell("console(b'ready'); keys(1); status('exit 7')")
    qemu = psutil.Process(place.qemu)
    parent = qemu.parent()
    assert parent
    os.kill(parent.pid, signal.SIGTSTP)
    terminal.expect("Stopped.*shell\\$ ")
    assert qemu.status() == psutil.STATUS_STOPPED
    terminal.sendline("fg")
    terminal.expect_exact("machine.json")
    terminal.send("x")
    terminal.expect_exact("shell$ ")
    terminal.sendline("echo status $?")
    terminal.expect_exact("status 7\r")


def test_control_z_without_a_chat(place: Place, shell: Shell) -> None:
    terminal = shell("console(b'ready'); note('ready', b''); time.sleep(0.5); status('exit 7')", ASKED_ALOUD)
    qemu = psutil.Process(place.qemu)
    terminal.send("\x1a")
    terminal.expect("Stopped.*shell\\$ ")
    assert qemu.status() == psutil.STATUS_STOPPED
    terminal.sendline("fg; echo status $?")
    terminal.expect_exact("status 7\r")
