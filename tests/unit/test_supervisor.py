"""The supervisor as a program, over a stand-in for QEMU: one question, its answer, and every end."""

from __future__ import annotations

import locale
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from zosia.machine.boards import Accel
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.machine.task import Attached, Mode
from zosia.run import supervisor
from zosia.run.loop import Loop
from zosia.run.resume import Cold
from zosia.run.session import Session

from .fake_qemu import (
    ASKED,
    ASKED_ALOUD,
    FOREVER,
    LONGER,
    MACHINE,
    NO_REPORT,
    SHORT,
    WAIT,
    Place,
)

FILES = (
    Attached(name="a.md", text="File: a.md", named=False),
    Attached(name="ż.md", text="File: ż.md", named=False),
    Attached(name="c.md", text="File: c.md"),
)


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE,
        replace(MACHINE, disk=None, accel=Accel.KVM).given(llama_args=(), mode=Mode.DIAG, terminal=(50, 132, "xterm")),
        replace(MACHINE, verbose=True, kernel=Path("/a\udcff\nb")).given(prompt="/exit\n\\ 'x' \udcff", files=FILES),
    ],
)
def test_json_and_back(machine: Machine) -> None:
    text = supervisor.to_json(machine)
    assert supervisor.from_json(text) == machine
    text.encode()


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
        (
            "os.kill(os.getpid(), 11)",
            Status.QEMU_KILLED,
            "zosia: error: QEMU was killed by signal 11. Start it again: scons run\n",
        ),
    ],
)
def test_exit_status(place: Place, does: str, status: int, message: str) -> None:
    code, output, errors = place.run(does)
    assert (code, output) == (status, b"")
    assert errors.startswith(message) if message else not errors
    assert len(errors.splitlines()) <= 1
    assert place.leftovers == []


TOO_LONG = (
    "zosia: error: the prompt is too long: without blanks it has {} bytes, and the context has room for 12 or fewer. "
    "Set about CTX={}, or shorten the prompt\n"
)


@pytest.mark.parametrize(
    ("system", "prompt", "size"),
    [("", "żółw" * 2, 14), ("x" * 13, "", 13), ("x" * 9, "hello", 14)],
    ids=["prompt", "system", "both"],
)
def test_a_prompt_that_can_not_fit_is_refused_before_qemu(place: Place, system: str, prompt: str, size: int) -> None:
    machine = MACHINE.given(system=system, prompt=prompt, room=12)
    assert place.run('status("exit 0")', machine) == (Status.REFUSED, b"", TOO_LONG.format(size, 1024))
    assert not (place.folder / "record" / "argv").exists()


def test_piped_input_that_can_not_fit_is_refused_before_qemu(place: Place) -> None:
    piped = b"x" * 5_000_000
    refused = (Status.REFUSED, b"", TOO_LONG.format(len(piped), 1_667_072))
    assert place.run('status("exit 0")', MACHINE.given(system="", room=12), piped=piped) == refused
    assert not (place.folder / "record" / "argv").exists()


@pytest.mark.parametrize(("prompt", "room"), [("x" * 12, 12), ("x y " * 6 + " \n\t" * 99, 12), ("x" * 5_000_000, 0)])
def test_a_prompt_that_might_fit_is_not_refused(place: Place, prompt: str, room: int) -> None:
    """Templates strip blanks. Without a known vocabulary anything might fit."""
    assert place.run('status("exit 0")', MACHINE.given(system="", prompt=prompt, room=room))[0] == 0


def test_what_qemu_is_given(place: Place) -> None:
    place.run('status("exit 0")')
    words = os.fsdecode(place.noted("argv")).split("\0")
    assert "chardev:console" in words
    assert not any("hello" in word or "brief" in word or "so" in word.split('"') for word in words)
    machine = ASKED.given(terminal=(24, 80, "dumb"))
    texts = machine.task.texts(supervised=True)
    assert {name: os.fsdecode(place.noted(name)) for name in texts} == texts


def test_a_machine_that_boots_begins_when_it_has_loaded(place: Place) -> None:
    sampled = ASKED.given(llama_args=("-c", "2048", "--temp", "0", "-n", "4"))
    does = 'status("init 0.1", "loaded 1"); begun(); status("exit 0")'
    assert place.run(does, sampled) == (0, b"", "")
    assert place.noted("begun").split()[3:5] == [b"24", b"80"]
    assert place.noted("begun").split()[7] == str(time.localtime().tm_gmtoff).encode()
    assert (place.noted("question"), place.noted("fields")) == (b"hello", b'"temperature":0,"n_predict":4,')
    assert (place.noted("args"), place.noted("begin")) == (b"-c 2048", b"1")
    assert not (place.folder / "record" / "warmed").exists()


def test_files_are_sent_one_by_one_and_the_guest_says_which_have_no_room(place: Place) -> None:
    """And a pipe can have the question that they are for."""
    does = 'status("loaded 1"); begun(); status("left 1 812", "left 9 1", "left x"); answer(b"42"); status("exit 0")'
    note = "  NOTE  ż.md takes 812 tokens, for which there is no room, and is left out\n"
    assert place.run(does, MACHINE.given(files=FILES), piped=b"Why?\n") == (0, b"42", note)
    assert place.noted("question").decode() == "File: c.md\n\nWhy?"
    assert place.noted("files").decode() == "File: a.md\0File: ż.md"


def test_files_that_can_not_fit_are_not_sent(place: Place) -> None:
    does = 'status("loaded 1"); begun(); answer(b"42"); status("exit 0")'
    large = replace(FILES[0], text="x" * 5_000_000)
    asked = MACHINE.given(system="", prompt="Why?", room=12, files=(large, replace(FILES[1], text="b")))
    note = "  NOTE  a.md has 5000000 bytes, for which there is no room, and is left out\n"
    assert place.run(does, asked) == (0, b"42", note)
    assert place.noted("files") == b"b"
    refused = (Status.REFUSED, b"", TOO_LONG.format(5_000_004, 1_667_072))
    assert place.run(does, asked.given(files=(large,))) == refused


def test_files_that_were_named_are_refused_if_they_can_not_fit(place: Place) -> None:
    asked = MACHINE.given(system="", prompt="Why?", room=12, files=(replace(FILES[2], text="x" * 5_000_000), FILES[0]))
    assert place.run('status("exit 0")', asked)[0] == Status.REFUSED


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


def test_another_port_is_one_line_in_the_table(place: Place) -> None:
    program = """
import sys
from zosia.machine.qemu import Machine
from zosia.run import session, supervisor
session.RECEIVERS["zosia.extra"] = lambda run, data: run.from_answer(b"<" + data + b">")
usual = Machine.ports.fget
Machine.ports = property(lambda machine: (*usual(machine), "zosia.extra"))
sys.exit(supervisor.main(sys.argv[1:]))
"""
    does = 'ports["extra"].sendall(b"hi"); time.sleep(0.2); status("exit 0")'
    argv = [sys.executable, "-c", program, *place.command(ASKED)[-1:]]
    done = subprocess.run(argv, env=place.environment(does), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"<hi>", b"")
    assert b"virtserialport,chardev=extra,name=zosia.extra" in place.noted("argv")


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
    assert (
        errors
        == b"zosia: error: The answer can't be written: No space left on device. Make room, or write it elsewhere\n"
    )
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


def test_a_slow_reader_is_no_silent_guest(place: Place) -> None:
    does = """
import threading
def live():
    while True:
        status("working")
        time.sleep(0.1)
threading.Thread(target=live, daemon=True).start()
answer(b"x" * 1_000_000)
status("exit 0")
"""
    ours, theirs = os.pipe()
    child = place.start(does, factor=SHORT, stdout=theirs)
    os.close(theirs)
    time.sleep(2.5)  # more than the guest may be silent
    with os.fdopen(ours, "rb") as reader:
        assert len(reader.read()) == 1_000_000
    assert child.wait(WAIT) == 0


@pytest.mark.parametrize(
    "prompt",
    ["hello", 'it\'s\n"two" lines, $HOME\n\n', "Zażółć gęślą jaźń", "/exit", "\r\n x", "x" * 300_000],
    ids=["plain", "quoted", "UTF-8", "slash", "carriage return", "long"],
)
def test_standard_input_is_the_prompt(place: Place, prompt: str) -> None:
    does = 'status("loaded 1"); question = begun(); answer(b"42"); status("exit 0")'
    assert place.run(does, MACHINE, piped=prompt.encode()) == (0, b"42", "")
    assert place.noted("question").decode() == MACHINE.given(prompt=prompt).task.question


def test_standard_input_that_does_not_block(place: Place) -> None:
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    child = place.start('status("loaded 1"); begun(); answer(b"42"); status("exit 0")', MACHINE, stdin=theirs)
    time.sleep(0.3)  # by then it has found nothing to read
    for part in (b"What is ", "2+2? Zażółć".encode()[:-1], "Zażółć".encode()[-1:]):
        os.write(ours, part)
        time.sleep(0.05)
    os.close(ours)
    os.close(theirs)
    assert child.communicate(timeout=WAIT) == (b"42", b"")
    assert place.noted("question").decode() == "What is 2+2? Zażółć"


def test_the_guest_gets_utf_8_whatever_the_locale(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    plain = place.disk.rename(place.folder / "disk.img")  # in this locale, its name can't be written
    monkeypatch.setattr(Place, "disk", plain)
    does = 'status("loaded 1"); question = begun(); answer(b"42"); status("exit 0")'
    machine = MACHINE.given(system="Gęślą")
    assert place.run(does, machine, piped="Zażółć".encode()) == (0, b"42", "")
    assert place.noted("question").decode() == "Zażółć"


def test_a_prompt_in_the_bytes_of_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locale, "getencoding", lambda: "ISO8859-1")
    assert supervisor._text("Grüße".encode("latin-1")) == "Grüße"
    assert supervisor._text("Grüße".encode()) == "Grüße"
    monkeypatch.setattr(locale, "getencoding", lambda: "UTF-8")
    with pytest.raises(UnicodeDecodeError):
        supervisor._text("Grüße".encode("latin-1"))


def test_a_folder_with_a_colon(place: Place, root: Path) -> None:
    copy = place.folder / "a:b" / "site_scons"
    shutil.copytree(root / "site_scons", copy, ignore=shutil.ignore_patterns("__pycache__"))
    machine = place.command(ASKED)[-1]
    environment = place.environment('answer(b"42"); status("exit 0")')
    del environment["PYTHONPATH"]
    argv = [sys.executable, str(copy), "zosia.run.supervisor", machine]
    done = subprocess.run(argv, env=environment, capture_output=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"42", b"")


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

    monkeypatch.setattr(supervisor, "piped_prompt", interrupted)
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
        ["zosia: error: ZOSIA_TIMEOUT_FACTOR=soon is not a number above 0. Set for example ZOSIA_TIMEOUT_FACTOR=3"],
    )
    assert place.leftovers == []


@pytest.mark.parametrize("word", ["-n", "\udcff"])
def test_a_diagnosis_is_the_hosts_part_and_the_guests(place: Place, word: str) -> None:
    for name in ("kernel", "initramfs"):
        (place.folder / name).touch()
    place.disk.with_suffix(".img.json").write_text('{"sha256": "abc", "size": 0, "mtime_ns": 0}')
    files = {name: place.folder / name for name in ("kernel", "initramfs")}
    machine = replace(MACHINE, **files).given(mode=Mode.DIAG, llama_args=(word,))  # type: ignore[arg-type]
    code, output, errors = place.run("answer(b'guest: fine\\r\\n'); status('exit 0')", machine)
    assert (code, errors) == (0, "")
    assert output.startswith(b"zosia: ")
    assert b", model sha256 abc\n" in output
    assert output.endswith(b"\nguest: fine\n")
    assert b"\nQEMU: QEMU emulator version 0\n" in output
    assert place.noted("mode") == b"diag"
    assert not (place.folder / "record" / "begin").exists()


@pytest.mark.parametrize(
    ("told", "progress"), [("5000000 10000000", b"loading 10.0 MB: 50 %"), ("0 0", b"loading")], ids=["disk", "memory"]
)
def test_progress_is_shown_in_place_and_taken_away(place: Place, told: str, progress: bytes) -> None:
    ours, theirs = os.openpty()
    child = place.start(f'status("loading {told}", "prompt"); answer(b"42"); status("exit 0")', stderr=theirs)
    output, _ = child.communicate(timeout=WAIT)
    assert (child.returncode, output) == (0, b"42")
    shown = os.read(ours, 4096)
    assert shown == b"\r\x1b[K" + progress + b"\r\x1b[K"
    os.close(ours)
    os.close(theirs)


def test_progress_is_not_shown_where_another_program_has_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    for progress in (True, False):
        session = Session(ASKED, None, tmp_path, Loop(), Cold(), progress=progress)
        shown: list[bytes] = []
        monkeypatch.setattr(session.output, "show", lambda descriptor, data, shown=shown: shown.append(data))
        session.output.progress("loading")
        session.output.progress("")
        assert shown == [b"\r\x1b[Kloading", b"\r\x1b[K"] * progress


def test_a_supervisor_that_is_killed_takes_qemu_along(place: Place) -> None:
    child = place.start(FOREVER)
    qemu = psutil.Process(place.qemu)
    child.kill()
    qemu.wait(WAIT)


def test_no_socket_stays_open(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.environment('status("exit 0")').items():
        monkeypatch.setenv(name, value)
    before = len(os.listdir("/dev/fd"))
    session = Session(replace(ASKED, disk=place.disk), None, tmp_path, Loop(), Cold())
    assert session.run().report.exit == 0
    assert len(os.listdir("/dev/fd")) == before
