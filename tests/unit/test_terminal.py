"""A chat on a terminal, over a stand-in for QEMU: keys, sizes, signals and jobs."""

from __future__ import annotations

import os
import re
import signal
import termios
import threading
import time

import psutil
import pytest

from zosia.machine.status import Status

from .fake_qemu import (
    ASKED_ALOUD,
    FOREVER,
    LONGER,
    MACHINE,
    NO_REPORT,
    SHORT,
    WAIT,
    Chat,
    Place,
    Shell,
    wait_until,
)


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


def test_a_guest_that_does_not_power_off_is_ended(place: Place, chat: Chat) -> None:
    terminal = chat(f"status('prompt', 'exit 0'); {FOREVER}", factor=SHORT)
    assert terminal.end() == Status.SILENT
    assert place.leftovers == []


@pytest.mark.parametrize(
    ("does", "status", "shown"),
    [
        ("console(b'zosia: error: x\\r\\n'); status('error x', 'exit 66')", Status.NO_MODEL, b"zosia: error: x\r\n"),
        ("sys.exit(1)", Status.QEMU_FAILED, b"zosia: error: QEMU ended with status 1. Its own message is above. "),
        ("pass", Status.NO_STATUS, NO_REPORT.replace("\n", "\r\n").encode()),
    ],
)
def test_errors_are_said_once_on_a_terminal(chat: Chat, does: str, status: int, shown: bytes) -> None:
    terminal = chat(does)
    assert terminal.end() == status
    seen = re.sub(rb"\x1b\[[0-9;]*m", b"", terminal.seen)
    assert seen.count(shown) == 1
    assert seen.count(b"zosia: error: ") == 1
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
