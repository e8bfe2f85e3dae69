"""States of machines: their keys, their files, and the supervisor that saves and resumes, over a stand-in for QEMU."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from zosia.base.errors import ZosiaError
from zosia.machine import host
from zosia.machine.qemu import STATUS_PORT, Machine, Verity
from zosia.run import hot, resume
from zosia.run.hot import HotError, Store
from zosia.run.loop import Loop
from zosia.run.session import Session
from zosia.run.terminal import Terminal

from .fake_qemu import ASKED, MACHINE, Chat, Place

STATE = 3_000_000  # bytes of the stand-in's state

# A QEMU that can be saved and resumed, whose guest is at "loaded" when it is resumed, and answers what it is asked.
MONITOR = (
    f"STATE = bytes(range(250)) * {STATE // 250}"
    + r"""
import json, threading
def monitor():
    end, text, given = ports["monitor"], b"", []
    end.sendall(b'{"QMP": {}}\n')
    while True:
        while b"\n" not in text:
            data, descriptors, _, _ = socket.recv_fds(end, 65536, 4)
            if not data:
                return
            text, given = text + data, given + descriptors
        line, _, text = text.partition(b"\n")
        name = json.loads(line)["execute"]
        with open(record / "qmp", "a") as file:
            file.write(name + "\n")
        if name == os.environ.get("LOUD"):
            console(b"x" * 1_000_000)  # which waits until somebody reads
        reply = {"return": {"status": "completed"}}
        if name == REFUSED:
            reply = {"error": {"desc": "State blocked by a device"}}
        end.sendall(b'{"event": "STOP"}\n' + json.dumps(reply).encode() + b"\n")
        if name == "migrate" and "error" not in reply:
            with open(given.pop(), "wb") as stream:
                stream.write(STATE)
        elif name == "migrate-incoming":
            with open(given.pop(), "rb") as stream:
                if stream.read(len(STATE)) != STATE:
                    note("torn", b"")
                    print("load of migration failed", file=sys.stderr, flush=True)
                    os._exit(1)
        elif name == "cont":
            go_on.set()
REFUSED, go_on = os.environ.get("REFUSED"), threading.Event()
if "-incoming" in sys.argv and os.environ.get("DIES"):
    os._exit(1)  # before the monitor has said a word
threading.Thread(target=monitor, daemon=True).start()
if "-incoming" in sys.argv:
    go_on.wait()
else:
    console(b"banner\r\n\rloading: 5 %\x1b[K\r\x1b[K")
    status("init 0.1", "loaded 2000")
question = begun()
if "-incoming" in sys.argv and os.environ.get("ASLEEP"):
    threading.Event().wait()
status("prompt")
if question:
    answer(b"you asked " + question)
else:
    console(b"\r\n> ")
    typed = keys(1)
    while not typed.endswith(b"\r"):
        typed += keys(1)
    console(b"heard " + typed)
status("exit 0")
"""
)


@pytest.fixture
def machine(tmp_path: Path, place: Place) -> Machine:
    for name in ("kernel", "initramfs"):
        (tmp_path / name).write_bytes(name.encode())
    return replace(
        ASKED, kernel=tmp_path / "kernel", initramfs=tmp_path / "initramfs", disk=place.disk, hot=tmp_path / "hot"
    )


@pytest.fixture
def qmp(tmp_path: Path) -> Callable[[], list[str]]:
    """Return the QMP commands since the last call."""
    file = tmp_path / "record" / "qmp"

    def take() -> list[str]:
        names = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    return take


def states(machine: Machine) -> list[Path]:
    assert machine.hot
    return sorted(machine.hot.glob("*.state"))


# ---- Keys


@pytest.fixture
def on_path(machine: Machine, place: Place, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", str(place.folder / "bin"), prepend=os.pathsep)
    return machine


def test_a_key_is_the_same_for_what_a_resumed_machine_is_told(on_path: Machine) -> None:
    for other in (
        on_path.given(prompt=None),
        on_path.given(prompt="other"),
        on_path.given(terminal=(50, 132, "xterm")),
        replace(on_path, hot=Path("other")),
    ):
        assert hot.key(on_path) == hot.key(other)


def test_a_key_differs_by_all_else(on_path: Machine, place: Place) -> None:
    def touched(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"more")

    keys = [hot.key(on_path)]
    for other in (
        replace(on_path, memory=513),
        replace(on_path, cpus=1),
        replace(on_path, cpu="cortex-a72"),
        on_path.given(llama_args=("--temp", "1")),
        on_path.given(system=""),
        on_path.given(need=1),
        on_path.given(terminal=(24, 80, "dumb")),
    ):
        keys.append(hot.key(other))
    for path in (on_path.kernel, on_path.initramfs, place.disk, place.folder / "bin" / "qemu-system-aarch64"):
        touched(path)
        keys.append(hot.key(on_path))
    tree = place.folder / "tree"
    tree.touch()
    checked = replace(on_path, verity=Verity(root="", size=0, tree=tree))
    keys.append(hot.key(checked))
    touched(tree)
    keys.append(hot.key(checked))
    tree.unlink()
    with pytest.raises(FileNotFoundError):  # no run should try to resume it
        hot.store(checked, place.folder)
    place.disk.with_suffix(".img.json").write_text("{}", encoding="utf-8")
    keys.append(hot.key(on_path))
    assert len(set(keys)) == len(keys)


# ---- Files


def saved(store: Store, content: bytes = b"state", console: bytes = b"\xff banner") -> Path:
    store.write(lambda write: write(memoryview(content)), lambda: console)
    return store.path


def test_a_state_is_whole_private_and_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "hot", "key")
    assert store.worth(1)
    path = saved(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with path.open("rb") as file:
        assert hot.check(file, "key") == (5, b"\xff banner")


@pytest.mark.parametrize("at", [0, 4, 5, 20, -40, -33, -1])
def test_each_byte_counts(tmp_path: Path, at: int) -> None:
    path = saved(Store(tmp_path, "key"))
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(HotError, match="damaged"):
        hot.check(file, "key")


@pytest.mark.parametrize("size", [0, 1, 39, 40, 50, 80])
def test_a_state_that_was_cut_off(tmp_path: Path, size: int) -> None:
    path = saved(Store(tmp_path, "key"))
    path.write_bytes(path.read_bytes()[:size])
    with path.open("rb") as file, pytest.raises(HotError, match="damaged"):
        hot.check(file, "key")


def test_a_state_of_another_machine(tmp_path: Path) -> None:
    with saved(Store(tmp_path, "key")).open("rb") as file, pytest.raises(HotError, match="another machine"):
        hot.check(file, "other")


def test_the_states_used_last_are_kept(tmp_path: Path) -> None:
    stores = [Store(tmp_path, f"key{number}") for number in range(hot.KEPT + 1)]
    for age, store in enumerate(stores[:-1]):
        os.utime(saved(store), (age, age))
    first = stores[0].open()
    assert first
    first.close()
    saved(stores[-1])
    left = {path.name for path in tmp_path.glob("*.state")}
    assert left == {store.path.name for store in stores if store is not stores[1]}


def test_what_is_too_large_is_not_saved(tmp_path: Path) -> None:
    store = Store(tmp_path, "key", largest=100)
    assert not store.worth(101)
    with pytest.raises(HotError, match="larger"):
        saved(store, bytes(101))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "RESERVE", 1 << 60)
    assert not Store(tmp_path, "key").worth(1)


# ---- Runs


def test_the_first_run_saves_and_the_second_resumes(
    place: Place, machine: Machine, qmp: Callable[[], list[str]]
) -> None:
    assert place.run(MONITOR, machine) == (0, b"you asked hello", "")
    assert qmp()[-4:] == ["getfd", "migrate", "query-migrate", "cont"]
    (state,) = states(machine)
    assert state.stat().st_size > STATE
    assert b"-incoming" not in place.noted("argv")
    begun = place.noted("begun").split()
    assert place.run(MONITOR, machine.given(prompt="/other")) == (0, b"you asked /other", "")
    assert b"-incoming" in place.noted("argv")
    assert qmp()[-4:] == ["getfd", "migrate-incoming", "query-migrate", "cont"]
    again = place.noted("begun").split()
    assert float(again[1]) > float(begun[1])
    assert again[2] != begun[2]
    assert states(machine) == [state]
    assert place.leftovers == []


def test_a_long_question_reaches_a_resumed_machine(place: Place, machine: Machine) -> None:
    place.run(MONITOR, machine)
    question = "ż" * 500_000
    assert (
        place.run(MONITOR, machine.given(prompt=None), piped=question.encode())[1].decode() == f"you asked {question}"
    )


def test_a_chat_shows_the_same_after_a_resume(place: Place, machine: Machine, chat: Chat) -> None:
    talker = machine.given(prompt=None)
    seen = []
    for _ in range(2):
        pty = chat(MONITOR, talker)
        pty.until(b"\r\n> ")
        pty.type(b"hi\r")
        assert pty.end() == 0
        seen.append(pty.seen.replace(b"\rloading: 5 %\x1b[K\r\x1b[K", b"").replace(b"ready\r\n", b""))
    assert seen[0] == seen[1]
    assert b"-incoming" in place.noted("argv")
    assert place.noted("begun").split()[3:7] == [b"40", b"100", b"0", b"0"]


@pytest.mark.parametrize(("later", "told"), [((40, 100), b""), ((50, 132), b"size 50 132\n")])
def test_a_size_that_changes_while_the_port_is_waited_for_is_told(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: tuple[int, int], told: bytes
) -> None:
    size = (40, 100)

    def wait(end: socket.socket, *, write: bool) -> None:
        nonlocal size
        size = later

    monkeypatch.setattr(host, "terminal", lambda: (*size, "xterm"))
    session = Session(machine.given(prompt=None), Terminal(), tmp_path, Loop(), resume.Cold())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session.qemu = SimpleNamespace(ports={STATUS_PORT: ours}, wait=wait)  # type: ignore[assignment]
        session._keys = None
        session.begin()
        begin, _, rest = theirs.recv(4096).partition(b"\n")
    assert begin.split()[3:7] == [b"40", b"100", b"0", b"0"]
    assert rest == told


def test_a_guest_that_was_not_listened_to_was_not_silent(machine: Machine, tmp_path: Path) -> None:
    """While a machine that resumes waits for its confirmation."""
    loop = Loop()
    session = Session(machine, None, tmp_path, loop, resume.Cold())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session.qemu = SimpleNamespace(  # type: ignore[assignment]
            ports={STATUS_PORT: ours}, wait=lambda end, *, seconds: None
        )
        loop.deadline = 1  # long ago
        session.hear(5)
    assert loop.deadline > time.monotonic()


def test_a_machine_that_had_begun_learns_the_time_and_its_zone(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XYZ-5:30")
    time.tzset()
    try:
        session = Session(machine, None, tmp_path, Loop(), resume.Cold())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.qemu = SimpleNamespace(  # type: ignore[assignment]
                ports={STATUS_PORT: ours}, wait=lambda end, *, write: None
            )
            session.begin(begun=True)
            word, seconds, entropy, zone = theirs.recv(4096).decode().split()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (word, zone, len(entropy) > 32) == ("wake", "19800", True)
    assert abs(float(seconds) - time.time()) < 60


def test_how_is_sampled_is_told_and_is_no_other_machine(place: Place, machine: Machine) -> None:
    for words, told in (
        (("--temp", "0", "-n", "4"), b'"temperature":0,"n_predict":4,'),
        (("--temp", "1"), b'"temperature":1,'),
    ):
        sampled = machine.given(llama_args=("-c", "2048", *words))
        assert place.run(MONITOR, sampled) == (0, b"you asked hello", "")
        assert place.noted("fields") == told
    assert len(states(machine)) == 1
    assert b"-incoming" in place.noted("argv")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\1" + data[1:], lambda data: b""])
def test_a_damaged_state_costs_one_line(
    place: Place, machine: Machine, damage: Callable[[bytes], bytes], qmp: Callable[[], list[str]]
) -> None:
    place.run(MONITOR, machine)
    (state,) = states(machine)
    state.write_bytes(damage(state.read_bytes()))
    status, output, errors = place.run(MONITOR, machine)
    assert (status, output) == (0, b"you asked hello")
    assert errors == "  HOT   the saved machine is not used: it is damaged. This one boots\n"
    assert b"-incoming" not in place.noted("argv")
    assert place.run(MONITOR, machine) == (0, b"you asked hello", "")
    assert b"-incoming" in place.noted("argv")


def test_a_machine_that_cannot_be_saved_says_so_once(
    place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch, qmp: Callable[[], list[str]]
) -> None:
    monkeypatch.setenv("REFUSED", "migrate")
    status, output, errors = place.run(MONITOR, machine)
    assert (status, output) == (0, b"you asked hello")
    assert errors == "  HOT   this machine is not saved for the next start: State blocked by a device\n"
    assert qmp()[-1] == "cont"
    status, _, errors = place.run('answer(b"x"); status("exit 0")', machine)
    assert (status, errors) == (0, "")
    assert b"monitor,mode" not in place.noted("argv")


def test_a_large_model_is_saved_before_anything_is_evaluated(place: Place, machine: Machine) -> None:
    assert machine.disk
    os.truncate(machine.disk, hot.EMULATED)  # sparse
    assert place.run(MONITOR, machine) == (0, b"you asked hello", "")
    assert len(states(machine)) == 1
    assert not (place.folder / "record" / "warmed").exists()


def test_what_can_not_be_removed(tmp_path: Path) -> None:
    hot.clean(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ZosiaError, match=r"can't be removed: .*\. Remove it by hand"):
        hot.clean(tmp_path / "link")


def test_a_file_that_is_replaced_meanwhile(on_path: Machine) -> None:
    store = hot.store(on_path, Path("states"))
    store.check(on_path)
    on_path.kernel.rename(on_path.kernel.with_name("old"))
    on_path.kernel.write_bytes(b"kernel")
    with pytest.raises(HotError, match="was replaced meanwhile"):
        store.check(on_path)
    assert hot.key(on_path) != store.key, "though the bytes are the same: they are not read"


# A QEMU that resumes as above, and boots a machine that is not saved.
BOOTS = 'answer(b"x"); status("exit 0")'
RESUMES = f'if "-incoming" in sys.argv:\n    exec({MONITOR!r})\nelse:\n    {BOOTS}'


def test_a_guest_that_does_not_wake_up(place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(MONITOR, machine)
    monkeypatch.setenv("ASLEEP", "1")
    line = "  HOT   the saved machine is not used: the guest does not wake up. This one boots\n"
    assert place.run(RESUMES, machine, factor="0.1") == (0, b"x", line)
    assert states(machine) == []
    assert place.run(BOOTS, machine) == (0, b"x", ""), "and it is not tried again"


def test_a_qemu_that_dies_says_nothing_of_the_state(
    place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run(MONITOR, machine)
    monkeypatch.setenv("DIES", "1")
    status, output, errors = place.run(MONITOR, machine)
    assert (status, output) == (0, b"you asked hello")
    assert errors.startswith("  HOT   the saved machine is not used: QEMU has ended")
    monkeypatch.delenv("DIES")
    assert len(states(machine)) == 1
    assert place.run(MONITOR, machine) == (0, b"you asked hello", "")
    assert b"-incoming" in place.noted("argv")


def test_a_loud_console_does_not_keep_it_from_being_saved(
    place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOUD", "stop")
    assert place.run(MONITOR, machine) == (0, b"you asked hello", "")
    assert len(states(machine)) == 1


def test_a_state_that_qemu_does_not_take(place: Place, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(MONITOR, machine)
    monkeypatch.setenv("REFUSED", "migrate-incoming")
    line = "  HOT   the saved machine is not used: State blocked by a device. This one boots\n"
    assert place.run(RESUMES, machine) == (0, b"x", line)
    assert not states(machine)
    monkeypatch.delenv("REFUSED")
    assert place.run(BOOTS, machine) == (0, b"x", "")
    assert b"monitor,mode" not in place.noted("argv")


def test_keys_typed_while_it_loads_come_after_the_saving(place: Place, machine: Machine, chat: Chat) -> None:
    early = MONITOR.replace('status("init 0.1", "loaded 2000")', 'time.sleep(1); status("init 0.1", "loaded 2000")')
    look = 'note("early", os.read(0, 9) if select.select([0], [], [], 0)[0] else b"")'
    early = early.replace("begun()", f"begun(lambda: {look})")
    pty = chat("import select\n" + early, machine.given(prompt=None))
    pty.type(b"early\r")
    assert pty.end() == 0
    assert place.noted("early") == b""
    assert b"heard early" in pty.seen


@pytest.mark.parametrize("change", [{"verbose": True}, {"hot": None}])
def test_it_boots_where_that_is_wanted(place: Place, machine: Machine, change: dict[str, object]) -> None:
    plain = replace(machine, **change)  # type: ignore[arg-type]
    assert place.run('answer(b"x"); status("exit 0")', plain)[:2] == (0, b"x")
    assert b"monitor,mode" not in place.noted("argv")
    assert not (machine.hot and machine.hot.exists())


def test_the_machine_of_the_other_tests_boots() -> None:
    assert MACHINE.hot is None
