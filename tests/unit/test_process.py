"""Starting programs: what is missing is named with its package, and a failure shows why."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from zosia.base import packages, process
from zosia.base.errors import ZosiaError
from zosia.base.process import find, run


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    monkeypatch.setattr(packages, "manager", lambda: "dnf")
    with pytest.raises(ZosiaError) as caught:
        run(["qemu-system-aarch64"])
    said = "qemu-system-aarch64 is needed and was not found on PATH. Type: sudo dnf install qemu-system-aarch64-core"
    assert str(caught.value) == said


def test_a_missing_program_that_nobody_knows() -> None:
    with pytest.raises(ZosiaError, match=r"no-such-program is needed.*bootstrap\.sh"):
        find("no-such-program")


def test_programs_of_root_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zosia-program").write_text("#!/bin/sh\n")
    (tmp_path / "zosia-program").chmod(0o755)
    monkeypatch.setattr(process, "EXTRA_PATH", (str(tmp_path),))
    assert find("zosia-program") == str(tmp_path / "zosia-program")


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_both_streams_are_apart() -> None:
    done = run(sh("echo out; echo err >&2; exit 3"), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_output_that_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    run(["sh", "-c", "echo out; echo err >&2"], shown=True)
    assert capfd.readouterr() == ("", "out\nerr\n")


def test_what_the_program_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "kept")
    monkeypatch.setenv("CFLAGS", "dropped")
    monkeypatch.setenv("LANG", "pl_PL.UTF-8")
    words = ["sh", "-c", 'pwd; echo "$https_proxy $CFLAGS $LANG $ADDED $1"; cat', "sh", "two  words;"]
    done = run(words, cwd=tmp_path, env={"ADDED": "added"})
    assert done.stdout == f"{tmp_path}\nkept  C added two  words;\n"
    assert "ADDED" not in os.environ


def test_bytes_that_are_no_text() -> None:
    assert run(sh(r"printf '\377ok'")).stdout.endswith("ok")


def test_a_failure_shows_the_end_of_the_output() -> None:
    with pytest.raises(ZosiaError) as caught:
        run(sh("seq 100; echo the reason >&2; exit 7"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "sh ended with status 7"
    assert lines[1:] == [f"    {n}" for n in range(82, 101)] + ["    the reason"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo one; echo 'ld: cannot write x: No space left on device'; echo two; exit 1"]
    for log in (None, tmp_path / "log"):
        with pytest.raises(ZosiaError) as failure:
            run(argv, log=log)
        assert str(failure.value) == "The disk is full: sh could not write. Make room, then run it again"


def test_a_signal_is_a_failure() -> None:
    with pytest.raises(ZosiaError, match="sh ended with status -9"):
        run(sh("kill -9 $$"))


def test_a_log(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "build.log"
    assert run(sh("echo out; echo err >&2"), log=log).stdout == ""
    with pytest.raises(ZosiaError) as caught:
        run(sh("seq 30; printf '\\377the reason'; exit 2"), log=log)
    assert f"sh ended with status 2; whole log: {log}" in str(caught.value)
    assert "the reason" in str(caught.value)
    assert "    30\n" in str(caught.value)
    assert "err" not in str(caught.value).split("build.log")[1], "only the end is shown"
    text = log.read_text(errors="replace")
    assert text.startswith("$ /")
    assert "\nout\nerr\n$ /" in text, "a log is appended to"
    assert run(sh("exit 5"), log=log, check=False).returncode == 5


def test_an_interrupt_waits_until_the_program_has_ended(tmp_path: Path) -> None:
    """Popen itself would wait for a quarter of a second."""

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    ending = "trap 'kill $!; sleep 1; touch ended; exit' TERM; sleep 60 & touch begun; wait"
    with pytest.raises(KeyboardInterrupt):
        run(sh(ending), cwd=tmp_path, log=tmp_path / "log")
    assert (tmp_path / "ended").exists()
