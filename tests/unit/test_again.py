"""Chats that are started again: what is remembered, and what becomes of it while the settings are read."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from zosia import cli
from zosia.base import style
from zosia.base.places import CLONE
from zosia.command import actions, again, line
from zosia.machine.qemu import Machine
from zosia.machine.task import Attached
from zosia.run import hot, supervisor
from zosia.settings import hardware, machines, settle
from zosia.settings.settings import Settings

from .fake_qemu import Place, Pty
from .test_hot import MONITOR, machine

__all__ = ["machine"]

# What the settings come to, in place of reading them.
AGAIN = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from zosia.base.errors import ZosiaError
from zosia.command import again, line
from zosia.run import supervisor

machine = supervisor.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))

def act():
    def does(words, *, launched=None, start=None):
        print("READ", *words, "for long" if start is None else "", file=sys.stderr, flush=True)
        if CASE == "error":
            return 2
        if CASE in ("download", "slow") and start:
            return 0
        if CASE == "slow":
            time.sleep(1000)
        try:
            return (start or supervisor.run)(replace(machine, memory=999) if CASE == "other" else machine)
        except ZosiaError as error:
            return line.refused(error)
    return does

sys.exit(again.run(["run"], machine, act))
"""
Start = Callable[[str], Pty]


@pytest.fixture
def start(place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a chat with a machine that was saved, and is remembered."""
    opened: list[Pty] = []

    def chat(case: str) -> Pty:
        if case:
            file = place.command(talker)[-1]
            argv = [sys.executable, "-c", f"CASE = {case!r}\n{AGAIN}", file]
            monkeypatch.setattr(place, "command", lambda machine: argv)
        opened.append(Pty(place, MONITOR, talker))
        return opened[-1]

    talker = machine.given(prompt=None)
    pty = chat("")
    pty.until(b"> ")
    pty.type(b"hi\r")
    assert pty.end() == 0
    yield chat
    place.clean()
    for pty in opened:
        pty.close()


def test_the_machine_resumes_while_the_settings_are_read(place: Place, start: Start) -> None:
    pty = start("same")
    pty.until(b"> ")
    pty.type(b"hi\r")
    assert pty.end() == 0
    assert b"-incoming" in place.noted("argv")
    assert pty.seen.count(b"banner") == pty.seen.count(b"READ") == 1
    assert pty.seen.index(b"READ") < pty.seen.index(b"banner")  # nothing is shown before
    assert b"for long" not in pty.seen
    assert pty.settings == pty.before
    assert place.leftovers == []


@pytest.mark.parametrize("case", ["other", "download"])
def test_another_machine_is_run_from_its_beginning(place: Place, start: Start, case: str) -> None:
    pty = start(case)
    pty.until(b"> ")
    pty.type(b"hi\r")
    assert pty.end() == 0
    assert pty.seen.count(b"banner") == pty.seen.count(b"heard") == 1
    assert pty.seen.count(b"READ") == 2
    assert pty.seen.index(b"for long") < pty.seen.index(b"banner")
    assert (b"999" in place.noted("argv")) == (case == "other")
    assert place.leftovers == []


def test_ctrl_c_ends_what_comes_then(place: Place, start: Start) -> None:
    """Such as a download: its signals are no longer those of a run."""
    pty = start("slow")
    pty.until(b"for long")
    pty.type(b"\x03")
    assert pty.end() == -signal.SIGINT
    assert pty.settings == pty.before
    assert place.leftovers == []


def test_an_error_ends_it_unseen(place: Place, start: Start) -> None:
    pty = start("error")
    assert pty.end() == 2
    assert pty.seen == b"READ run \r\n"
    assert b"-incoming" in place.noted("argv")
    assert place.leftovers == []


@pytest.mark.parametrize("case", ["same", "error"])
def test_an_error_before_the_settings_are_read_says_nothing(place: Place, start: Start, case: str) -> None:
    """They find out what is wrong, in the words of who has typed them."""
    (place.folder / "bin" / "qemu-system-aarch64").write_text("no program")
    pty = start(case)
    assert pty.end() == 2
    assert pty.seen.count(b"READ") == 1
    assert pty.seen.count(b" QEMU could not be started: ") == (case == "same")
    assert b"Traceback" not in pty.seen
    assert b"banner" not in pty.seen


def test_a_file_that_has_gone_is_a_matter_of_the_settings(place: Place, machine: Machine, start: Start) -> None:
    """Such as the disk's hash tree: they have words for it, and QEMU is not started before."""
    machine.kernel.unlink()
    pty = start("error")
    assert pty.end() == 2
    assert pty.seen == b"READ run for long\r\n"
    assert b"-incoming" not in place.noted("argv")


def test_without_a_state_the_settings_come_first(place: Place, machine: Machine, start: Start) -> None:
    assert machine.hot
    for path in machine.hot.iterdir():
        path.unlink()
    pty = start("same")
    pty.until(b"> ")
    pty.type(b"hi\r")
    assert pty.end() == 0
    assert b"-incoming" not in place.noted("argv")
    assert pty.seen.count(b"READ") == 1
    assert pty.seen.index(b"for long") < pty.seen.index(b"banner")


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "isatty", lambda file: True)
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("in_terminal")
def test_what_is_remembered(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = machine.given(prompt=None)
    assert again.remembered(["run"]) is None
    again.remember(["run"], talker, Path.cwd())
    assert again.remembered(["run"]) == talker
    assert again.memory(["run"], Path.cwd()).stat().st_mode & 0o777 == 0o600
    assert again.remembered(["run", "--mem", "4G"]) is None
    again.remember(["run"], replace(talker, cpus=3), Path.cwd())
    assert again.remembered(["run"]) == replace(talker, cpus=3)
    monkeypatch.chdir(tmp_path)
    assert again.remembered(["run"]) is None  # a relative path is another file here


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("piped", [0, 1])
def test_what_is_piped_is_no_chat(machine: Machine, monkeypatch: pytest.MonkeyPatch, piped: int) -> None:
    again.remember(["run"], machine.given(prompt=None), Path.cwd())
    monkeypatch.setattr(os, "isatty", lambda file: file != piped)
    assert again.remembered(["run"]) is None


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"arch": 1}', "\xff"])
def test_a_damaged_memory_is_none(machine: Machine, text: str) -> None:
    talker = machine.given(prompt=None)
    again.remember([], talker, Path.cwd())
    again.memory([], Path.cwd()).write_bytes(text.encode("latin-1"))
    assert again.remembered([]) is None
    again.remember([], talker, Path.cwd())
    assert again.remembered([]) == talker


@pytest.mark.usefixtures("in_terminal")
def test_what_is_not_remembered(machine: Machine) -> None:
    talker = machine.given(prompt=None)
    private = talker.given(files=(Attached(name="a", text="b"),))
    for other in (machine, private, replace(talker, hot=None), replace(talker, verbose=True)):
        again.remember([], other, Path.cwd())
        assert again.remembered([]) is None


@pytest.mark.usefixtures("in_terminal")
def test_the_last_ones_are_kept(machine: Machine, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for number in range(again.KEPT + 3):
        again.remember([str(number)], machine.given(prompt=None), Path.cwd())
        os.utime(again.memory([str(number)], Path.cwd()), (number, number))
    assert len(list(again.memory([], Path.cwd()).parent.iterdir())) == again.KEPT
    assert again.remembered(["2"]) is None
    assert again.remembered(["3"]) is not None
    again.run(["3"], machine, lambda: lambda words, **options: 0)  # what is started again is no old one
    again.remember(["new"], machine.given(prompt=None), Path.cwd())
    assert again.remembered(["3"]) is not None
    assert again.remembered(["4"]) is None
    again.forget()
    assert again.remembered(["3"]) is None


@pytest.mark.usefixtures("in_terminal")
def test_notes_are_shown_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the settings are read twice, because the machine of the last run was not the one."""
    style.show_once.cache_clear()
    for name in ("check_programs", "make_disk"):
        monkeypatch.setattr(actions, name, lambda settings: None)
    monkeypatch.setattr(hardware, "expected", lambda settings: None)
    monkeypatch.setattr(settle, "settle", lambda settings, hardware: None)
    monkeypatch.setattr(settle, "notes", lambda settled: ["  MEM   is short"])
    monkeypatch.setattr(hardware, "native_note", lambda settings, given: "  NOTE  is emulated")
    monkeypatch.setattr(machines, "run_machine", lambda settings: machine)
    monkeypatch.setattr(supervisor, "run", lambda machine: 0)
    model = SimpleNamespace(is_made=lambda tool: True)
    settings = cast("Settings", SimpleNamespace(prompt=None, launched=Path.cwd(), model=model, image_tool=""))
    for start in (lambda machine: 0, None):
        actions.run(settings, {}, ["run"], start)
    assert capsys.readouterr().err == "  MEM   is short\n  NOTE  is emulated\n"


def test_a_disk_is_not_made_while_qemu_starts(machine: Machine) -> None:
    """Which may take a download: the run begins anew for it."""
    model = SimpleNamespace(is_made=lambda tool: False)
    settings = cast("Settings", SimpleNamespace(model=model, image_tool=""))
    assert actions.run(settings, {}, ["run"], lambda machine: pytest.fail("there is none yet")) == 0


@pytest.mark.usefixtures("in_terminal")
@pytest.mark.parametrize("error", [hot.RefutedError, BrokenPipeError])
def test_the_words_are_read_where_they_were_typed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A clone's machine has paths that start in the clone."""
    seen: list[object] = []

    def does(words: list[str], *, launched: Path, start: again.Starting | None = None) -> int:
        assert start or error is hot.RefutedError, "nobody reads the output: there is no other run"
        seen.append((words, launched, Path.cwd()))
        return start(machine) if start else 5

    def run(machine: Machine, confirm: Iterator[None]) -> int:
        next(confirm)
        next(confirm)
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "run", run)
    with pytest.raises(BrokenPipeError) if error is BrokenPipeError else nullcontext():
        assert again.run(["run"], machine, lambda: does) == 5
    assert seen == [(["run"], tmp_path, CLONE)] * (1 if error is BrokenPipeError else 2)


@pytest.mark.usefixtures("in_terminal")
def test_it_is_remembered_where_it_was_typed(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone's command works in the clone, wherever it was started."""
    talker = machine.given(prompt=None)
    for name in ("check_programs", "prepare"):
        monkeypatch.setattr(actions, name, lambda settings: None)
    monkeypatch.setattr(hardware, "native_note", lambda settings, given: "")
    monkeypatch.setattr(machines, "run_machine", lambda settings: talker)
    monkeypatch.setattr(supervisor, "run", lambda machine: 0)
    typed = tmp_path / "typed here"
    typed.mkdir()
    settings = cast("Settings", SimpleNamespace(prompt=None, launched=typed))
    assert actions.run(settings, {}, ["run"]) == 0
    assert again.remembered(["run"]) is None
    monkeypatch.chdir(typed)
    assert again.remembered(["run"]) == talker


def test_it_starts_without_the_settings(root: Path) -> None:
    code = "import sys; from zosia.command import again; from zosia.run import supervisor; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    folders = {name.split(".")[1] for name in done.stdout.split() if name.startswith("zosia.")}
    assert folders == {"base", "command", "machine", "model", "run"}
    own = {name for name in done.stdout.split() if name.startswith(("zosia.command", "zosia.model"))}
    assert own == {"zosia.command", "zosia.command.again", "zosia.model", "zosia.model.sampling"}
    assert "tomllib" not in done.stdout.split()


def test_the_command_looks_for_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], found: str, act: Callable[[], object]) -> int:
        assert (words, found, act()) == (["run", "--mem", "4G"], "the machine", line.main)
        return 7

    monkeypatch.setattr(gc, "disable", lambda: None)

    def remembered(words: list[str]) -> str | None:
        looked.append(words)
        return "the machine" if words[:1] == ["run"] else None

    looked: list[list[str]] = []
    monkeypatch.setattr(again, "remembered", remembered)
    monkeypatch.setattr(again, "run", run)
    monkeypatch.setattr(line, "main", lambda words: 8)
    assert [cli.main(words) for words in (["run", "--mem", "4G"], ["--cpu", "max"], [], ["models"])] == [7, 8, 8, 8]
    assert looked == [["run", "--mem", "4G"], ["--cpu", "max"], []]
