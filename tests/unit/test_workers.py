"""Workers: their names and settings, and the wires to them. tests/boot/test_workers.py has real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.channel import LONGEST
from zosia.base import files
from zosia.base.errors import ZosiaError
from zosia.base.places import DISKS
from zosia.base.version import VERSION
from zosia.command import model_commands
from zosia.disk import record
from zosia.machine import host
from zosia.machine.boards import VIRT, Accel
from zosia.machine.qemu import Bus
from zosia.machine.report import Outcome, Report, ending
from zosia.machine.status import Status
from zosia.machine.task import Mode, Worker
from zosia.run import supervisor
from zosia.run.loop import Loop
from zosia.run.session import Session
from zosia.run.workers import far, native, near, speeds, wire
from zosia.run.workers.near import Link
from zosia.run.workers.wire import Order, SilenceError
from zosia.serve import guest
from zosia.settings import machines, settle, workers
from zosia.settings.hardware import Hardware

from .test_reading import Typed, typed

__all__ = ["typed"]

NOISE = "\x1b]0;x\x07\r\nzosia: error: \u202e"
OFFER = {"version": VERSION, "memory": 1000}
Far = Callable[..., str]


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[Far]:
    """Start something behind a socket that says these lines, each after one that it heard but for the first."""
    servers = []

    def start(*lines: object, name: str = "w") -> str:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / name))
        server.listen()
        servers.append(server)

        def talk() -> None:
            connection, _ = server.accept()
            with suppress(OSError), connection, connection.makefile("rb") as heard:
                for place, line in enumerate(lines):
                    if place:
                        heard_lines.append(json.loads(heard.readline() or b"null"))
                    if line is None:
                        return
                    connection.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
                heard.read()

        threading.Thread(target=talk, daemon=True).start()
        return f"unix:{tmp_path / name}"

    heard_lines: list[Any] = []
    start.heard = heard_lines  # type: ignore[attr-defined]
    yield start
    for server in servers:
        server.close()


# Names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1", ("local1",)),
        ("3", ("local1", "local2", "local3")),
        ("ssh:tower", ("ssh:tower",)),
        ("host", ("host",)),
        ("ssh:tower,host", ("ssh:tower", "host")),
        ("ssh:me@tower,ssh:[::1],ssh:10.0.0.2", ("ssh:me@tower", "ssh:[::1]", "ssh:10.0.0.2")),
        ("unix:/run/w.sock,unix:w.sock", ("unix:/run/w.sock", "unix:/launched/w.sock")),
    ],
)
def test_names_of_workers(text: str, names: tuple[str, ...]) -> None:
    assert workers.names(text, Path("/launched")) == names


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "17",
        "-1",
        "x",
        "tower",
        "host:x",
        "hosts",
        "ssh:",
        "ssh:-oProxyCommand=x",
        "ssh:-v",
        "ssh:a b",
        "ssh:a;b",
        "unix:",
        "ssh:a,",
        ",",
    ],
)
def test_names_of_no_workers(text: str) -> None:
    with pytest.raises(ZosiaError, match=r"which is no worker\. Set a number from 1 to 15, or ssh:HOST"):
        workers.names(text, Path("/"))


def test_more_workers_than_llama_cpp_takes() -> None:
    with pytest.raises(ZosiaError, match=r"WORKERS= has 16 workers, and llama.cpp takes up to 15"):
        workers.names(",".join(f"ssh:host{number}" for number in range(16)), Path("/"))


@pytest.mark.parametrize(("text", "folder"), [("unix:w", "/my folder"), ("unix:a b", "/")])
def test_a_blank_in_the_path_of_a_socket(text: str, folder: str) -> None:
    with pytest.raises(ZosiaError, match=r"The socket /.* has a blank in its path\. Give it another place"):
        workers.names(text, Path(folder))


def test_a_worker_that_is_named_twice() -> None:
    with pytest.raises(ZosiaError, match="has a worker twice"):
        workers.names("ssh:a,ssh:a", Path("/"))


# The settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"SPLIT": "1,2"}, "SPLIT= is for machines with workers"),
        ({"WORKERS": "1", "SPLIT": "1,x"}, "SPLIT=x is not a whole number"),
        ({"WORKERS": "tower"}, "WORKERS= has 'tower', which is no worker"),
        ({"WORKERS": "1", "LLAMA_ARGS": "--rpc x"}, "which zosia sets itself. Set WORKERS= instead"),
    ],
)
def test_settings_that_make_no_sense(typed: Typed, values: dict[str, str], said: str) -> None:
    with pytest.raises(ZosiaError) as error:
        typed(**values)
    assert said in str(error.value)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have so many MiB on this host, and a guest's kernel that is built."""

    def have(total: int) -> None:
        monkeypatch.setattr(host, "memory", lambda: (total, total))
        monkeypatch.setattr(speeds, "recall", lambda name: 0)
        monkeypatch.setattr(
            machines, "working", lambda settings, initramfs: Hardware(accel=Accel.TCG, board=VIRT, bus=Bus.VIRTIO_BLK)
        )

    return have


def test_a_machine_with_workers(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    settings = typed(WORKERS="2", SPLIT="10,5,15")
    machine = machines.run_machine(settings)
    assert machine.hot is None
    assert [(worker.name, worker.layers) for worker in machine.task.workers] == [("local1", 5), ("local2", 15)]
    assert machine.task.workers[0].memory < machine.task.workers[1].memory < machines.run_machine(typed()).memory
    given = " ".join(machine.task.llama_args)
    assert "--rpc 127.0.0.1:50052,127.0.0.1:50053 -ngl 21 -ts 5,16 -sm layer" in given
    texts = machine.task.texts(supervised=True)
    assert (texts["workers"], texts["silence"]) == ("local1 local2", str(machine.task.silence))
    far = supervisor.from_json(machine.task.workers[0].machine)
    assert (far.task.mode, far.task.has_weights, far.disk, far.bus) == (Mode.WORKER, True, machine.disk, Bus.VIRTIO_BLK)
    assert far.memory == machine.task.workers[0].memory
    assert supervisor.from_json(supervisor.to_json(machine)) == machine
    with pytest.raises(ZosiaError, match="WORKERS= needs more than one command"):
        machines.run_machine(replace(settings, dry_run=True))


def test_a_small_machine_with_a_large_worker(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    """Nothing that would fit is refused before the worker was asked, and then this machine has as little as need be."""
    fits(8192)
    settings = typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS=far_end(OFFER | {"memory": 60000}))
    settle.settle(settings, Hardware(accel=Accel.TCG, board=VIRT, bus=Bus.VIRTIO_BLK))
    machine = machines.run_machine(settings)
    assert machine.task.workers[0].layers > 20
    assert machine.memory < 6800


def test_a_guest_elsewhere_may_have_a_kernel_that_takes_more(
    typed: Typed, fits: Callable[[int], None], far_end: Far
) -> None:
    fits(16384)
    sizes = []
    for names in ("1", far_end(OFFER)):
        machine = machines.run_machine(typed(WORKERS=names, SPLIT="15,15"))
        sizes.append(machine.task.workers[0].memory)
    assert sizes[0] < sizes[1]


def test_other_models_are_not_split_as_this_one(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    with pytest.raises(ZosiaError, match=r"MEM= gives the guest 64 MiB") as error:
        machines.run_machine(typed(WORKERS="1", SPLIT="15,15", MEM="64M"))
    assert "SPLIT=" not in str(error.value)


def test_workers_on_a_host_that_has_no_room_for_them(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    with pytest.raises(ZosiaError, match=r"and its workers on this host take [0-9]+ MiB, and guests can have 13824"):
        machines.run_machine(typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS="2", SPLIT="12,6,6"))


@pytest.mark.parametrize("word", ["-ngl", "-ts", "--override-tensor", "-nkvo"])
def test_the_split_is_not_for_llama_args(typed: Typed, fits: Callable[[int], None], word: str) -> None:
    fits(16384)
    with pytest.raises(ZosiaError, match=f"LLAMA_ARGS= has {word}, which is not for a machine with WORKERS="):
        machines.run_machine(typed(WORKERS="1", LLAMA_ARGS=f"{word} 1"))
    machines.run_machine(typed(LLAMA_ARGS=f"{word} 1"))


def test_several_guests_have_no_workers(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    with pytest.raises(ZosiaError, match="GUESTS= and WORKERS= are not for the same machines"):
        machines.serve_machine(typed(WORKERS="1", GUESTS="2"))


def test_a_model_too_large_for_one_machine_fits_into_two(
    typed: Typed, fits: Callable[[int], None], far_end: Far
) -> None:
    fits(12288)
    alone = {"MODEL": "gpt-oss-20b-Q4", "CTX": "4096"}
    with pytest.raises(ZosiaError, match=r"takes 1[0-9]+ MiB"):
        machines.run_machine(typed(**alone))
    machine = machines.run_machine(typed(**alone, WORKERS=far_end(OFFER | {"memory": 10000})))
    (worker,) = machine.task.workers
    assert (worker.layers, worker.machine) == (12, "")
    assert machine.memory + worker.memory > 14000


def test_a_worker_that_is_too_small(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    fits(16384)
    name = far_end(OFFER | {"memory": 4000})
    with pytest.raises(ZosiaError) as error:
        machines.run_machine(typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS=name, SPLIT="4,20"))
    assert f"does not fit into its workers: {name} takes " in str(error.value)
    assert "for 20 layers and has 3.9" in str(error.value)


def test_a_refusal_has_the_sum(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    fits(16384)
    name = far_end(OFFER | {"memory": 4000})
    with pytest.raises(ZosiaError, match=r"; all together take 1[0-9]\.[0-9] GiB, and these machines have 17\.4\. Set"):
        machines.run_machine(typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS=name, SPLIT="4,20"))


def test_layers_go_to_a_fast_worker(
    typed: Typed, fits: Callable[[int], None], far_end: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(16384)
    asked = []

    def recall(name: str) -> int:
        asked.append(name)
        return 100

    monkeypatch.setattr(speeds, "recall", recall)
    machine = machines.run_machine(typed(WORKERS=far_end(OFFER | {"speed": 5000}), SMP="1"))
    assert [worker.layers for worker in machine.task.workers] == [30]
    assert asked == [f"{socket.gethostname()} aarch64 tcg max 1"]
    asked.clear()
    emulated = Hardware(accel=Accel.TCG, board=VIRT, bus=Bus.VIRTIO_BLK)
    workers.spread(replace(typed(WORKERS="1", SMP="1"), accel=Accel.KVM), emulated)
    assert set(asked) == {f"{socket.gethostname()} aarch64 tcg max 1"}, "a worker here is what this machine is"
    machine = machines.run_machine(typed(WORKERS=far_end(OFFER | {"speed": 5}, name="slow")))
    assert [worker.layers for worker in machine.task.workers] == [1]
    machine = machines.run_machine(typed(WORKERS=far_end(OFFER, name="unknown"), MEM="1000M"))
    assert [worker.layers for worker in machine.task.workers] == [15]


def test_mapped_weights_count_as_what_this_machine_takes(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    settings = typed(WORKERS="1", SPLIT="23,1", MODEL="gpt-oss-20b-Q4", WEIGHTS="map", CTX="4096")
    wanted = settle.wish(settings, Bus.DAX)
    part, _ = wanted.parts(context=4096)
    assert part.on_host > 1000
    offer = wire.Offer(version=VERSION, memory=9000)
    mine, _ = workers.shares(settings, wanted, 4096, [offer])
    assert mine.takes == workers._size(settings, "", part) + part.on_host


def test_the_table_of_the_machines(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    fits(16384)
    name = far_end(OFFER | {"speed": 5000})
    shown = workers.table(typed(WORKERS=name, SPLIT="10,20", CTX="2048")).splitlines()
    rows = [re.split("  +", line) for line in shown]
    assert rows[0] == ["MACHINE", "LAYERS", "TAKES", "HAS", "SPEED"]
    assert (rows[1][0], rows[1][1], rows[1][4]) == ("this one", "1 to 10", "?")
    assert (rows[2][0], rows[2][1], rows[2][4]) == (name, "11 to 30", "5000 million/s")
    assert rows[2][3] == "0.98 GiB"
    assert shown[-2].startswith("smollm2-135m with a context of 2048 tokens: 30 layers.")
    assert shown[-1] == "It fits."


def test_the_table_says_what_does_not_fit(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    fits(16384)
    name = far_end(OFFER | {"memory": 4000})
    shown = workers.table(typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS=name, SPLIT="0,24")).splitlines()
    assert re.match(r"this one +none ", shown[1])
    assert "does not fit into its workers" in shown[-1]
    assert "all together take " in shown[-1]


def test_models_with_workers_is_that_table(typed: Typed, fits: Callable[[int], None], far_end: Far) -> None:
    fits(16384)
    assert model_commands.listing(typed(WORKERS=far_end(OFFER))).startswith("MACHINE ")
    assert model_commands.listing(typed()).startswith("MODEL ")


# The host itself as a worker


@pytest.fixture
def built(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the programs of this host's architecture, and something that holds them."""
    monkeypatch.setattr(native, "refusal", lambda server: None)
    path = Path("build").absolute() / host.arch() / "initramfs.cpio.gz"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_the_host_itself_is_a_worker(typed: Typed, fits: Callable[[int], None], built: Path) -> None:
    fits(16384)
    (worker,) = machines.run_machine(typed(WORKERS="host", SPLIT="10,20")).task.workers
    assert json.loads(worker.machine) == {"memory": worker.memory, "initramfs": str(built), "server": ""}
    (guest_of_it,) = machines.run_machine(typed(WORKERS="1", SPLIT="10,20")).task.workers
    assert 0 < worker.memory < guest_of_it.memory, "there is no kernel"


def test_the_hosts_worker_counts_as_memory_of_this_host(
    typed: Typed, fits: Callable[[int], None], built: Path, far_end: Far
) -> None:
    fits(12288)
    with pytest.raises(ZosiaError, match="and its workers on this host take"):
        machines.run_machine(typed(MODEL="gpt-oss-20b-Q4", CTX="4096", WORKERS="host", SPLIT="12,12"))


def test_a_server_of_ones_own(typed: Typed, fits: Callable[[int], None], built: Path, tmp_path: Path) -> None:
    fits(16384)
    (tmp_path / "server").touch()
    (worker,) = machines.run_machine(typed(WORKERS="host", SPLIT="10,20", RPC_SERVER="server")).task.workers
    assert json.loads(worker.machine)["server"] == str(tmp_path / "server")
    with pytest.raises(ZosiaError, match=r"RPC_SERVER= is for WORKERS=host\. Add host"):
        machines.run_machine(typed(WORKERS="1", SPLIT="10,20", RPC_SERVER="server"))
    with pytest.raises(ZosiaError, match=r"RPC_SERVER= is for WORKERS=host\. Set"):
        typed(RPC_SERVER="server")
    with pytest.raises(ZosiaError, match="RPC_SERVER=none is no file"):
        typed(WORKERS="host", RPC_SERVER="none")


def test_what_the_host_lacks(typed: Typed, fits: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fits(16384)
    monkeypatch.setattr(native, "refusal", lambda server: ZosiaError("no Landlock"))
    with pytest.raises(ZosiaError, match="no Landlock"):
        machines.run_machine(typed(WORKERS="host", SPLIT="10,20"))
    monkeypatch.setattr(native, "refusal", lambda server: None)
    with pytest.raises(
        ZosiaError, match=r"needs the programs in .*initramfs.cpio.gz\. Build them\. Type: scons rpc-server"
    ):
        machines.run_machine(typed(WORKERS="host", SPLIT="10,20"))


# Speeds


def test_speeds_are_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    assert speeds.recall("a") == 0
    for noted in (50, 70, 60, 0, -1, 1 << 50):  # other programs only make it slower
        speeds.note("a", noted)
    speeds.note("b", 5)
    assert (speeds.recall("a"), speeds.recall("b"), speeds.recall("c")) == (70, 5, 0)
    speeds.note("huge", 1 << 30)  # by a guest that is out of its mind
    wire.Offer(version=VERSION, memory=1, speed=speeds.recall("huge"))
    for damaged in ("[]", "{", '{"a": "x"}', '{"a": true}', '{"a": -5}'):
        (tmp_path / speeds.FILE).write_text(damaged)
        assert speeds.recall("a") == 0
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / speeds.FILE))
    speeds.note("a", 5)


def test_no_speed_is_kept_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that was measured while the clock jumped is too high for all later ones."""
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    speeds.note("a", 1 << 29)
    speeds.note("a", 50)
    for days, known in ((29, 1 << 29), (31, 0)):
        changed = time.time() - days * 86400
        os.utime(tmp_path / speeds.FILE, (changed, changed))
        assert speeds.recall("a") == known
    speeds.note("a", 50)
    assert speeds.recall("a") == 50


@pytest.mark.parametrize(("meanwhile", "speed"), [('{"b": 8}', 7), ('{"a": 9, "b": 8}', 9)])
def test_speeds_that_are_noted_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meanwhile: str, speed: int
) -> None:
    """A machine and its workers end together: none of them forgets what another one has noted."""
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    program = "from zosia.run.workers import speeds; speeds.note('a', 7)"
    environment = {**os.environ, "PYTHONPATH": str(Path(speeds.__file__).parents[3])}
    with files.locked(tmp_path / speeds.FILE):
        child = subprocess.Popen([sys.executable, "-c", program], env=environment)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
        (tmp_path / speeds.FILE).write_text(meanwhile)
    assert child.wait(LONGEST) == 0
    assert (speeds.recall("a"), speeds.recall("b")) == (speed, 8)


@pytest.mark.parametrize("speed", ["1", True, -1, None, 1 << 40])
def test_a_speed_that_is_none(speed: object) -> None:
    with pytest.raises(ZosiaError, match="is no offer"):
        wire.read(wire.Offer, json.dumps(OFFER | {"speed": speed}).encode())


def test_the_guest_of_a_worker_has_the_model_if_it_is_there(typed: Typed, fits: Callable[[int], None]) -> None:
    fits(16384)
    settings, disk = typed(), DISKS / "other.img"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(b"disk")
    record.write(disk, sha256="a" * 64)
    (DISKS / "none.img").touch()
    record.write(DISKS / "none.img")  # without a digest, as that of an ISO
    machine = machines.worker_machine(settings, Order(memory=700, sha256="a" * 64))
    assert (machine.memory, machine.disk, machine.task.mode, machine.task.has_weights) == (700, disk, Mode.WORKER, True)
    for other in ("b" * 64, ""):
        machine = machines.worker_machine(settings, Order(memory=700, sha256=other))
        assert (machine.disk, machine.task.has_weights) == (None, False)


# The wire


def test_a_line_is_read_and_nothing_after_it() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"memory": 512}\nthe channel')
    assert wire.read(Order, wire.hear(ours.recv, partial(near.waits, ours), 1)) == Order(memory=512)
    assert ours.recv(100) == b"the channel"


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"", "it hung up"), (b"x", "does not speak"), (b"x" * 9000 + b"\n", "does not speak")],
)
def test_no_line(said: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.close()
    with pytest.raises(SilenceError, match=why):
        wire.hear(ours.recv, partial(near.waits, ours), 5)


def test_an_end_that_says_nothing() -> None:
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    with pytest.raises(SilenceError, match="said nothing"):
        wire.hear(ours.recv, partial(near.waits, ours), 0.2)
    assert time.monotonic() - began >= 0.2
    theirs.close()


@pytest.mark.parametrize(
    "said",
    [
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"\xff",
        b'{"memory": "1"}',
        b'{"memory": null}',
        b'{"memory": true}',
        b'{"memory": 0}',
        b'{"memory": -2000}',
        b"[" * 3000,
        b'{"memory": 1, "x": 2}',
    ],
)
def test_a_line_that_says_something_else(said: bytes) -> None:
    with pytest.raises(ZosiaError, match="is no order"):
        wire.read(Order, said + b"\n")


# The near end, with a far one that is made up


def test_offers(far_end: Far) -> None:
    names = [far_end(OFFER | {"memory": 100 * number}, name=str(number)) for number in (1, 2)]
    assert [offer.memory for offer in near.offers(names)] == [100, 200]


def test_workers_are_started_with_their_memory(
    far_end: Far, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = far_end(OFFER, {"error": "", "weights": True})
    with near.start([Worker(name=name, layers=7, memory=900, sha256="abc")]) as links:
        assert list(links.wires) == ["zosia.worker0"]
        assert links.wires["zosia.worker0"].fileno() >= 0
    assert far_end.heard == [{"memory": 900, "sha256": "abc"}]  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert f"{name}: 7 layers, 943.7 MB; has the model" in said
    assert near.OUTSIDE not in said
    name = far_end(OFFER, {"error": ""}, name="this")
    monkeypatch.setattr(near, "HOST", name)
    near.start([Worker(name=name, layers=7, memory=900)])
    assert near.OUTSIDE in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([None], "can't be reached: it hung up"),
        ([b"Welcome to tower\n"], "does not answer as zosia does: Welcome to tower is no offer"),
        ([OFFER | {"version": "9.9"}], f"has zosia 9.9, and this is {VERSION}. Install the same version on both"),
        (
            [OFFER | {"memory": 899}],
            "is to have 900 MiB, and has 899 MiB for a guest. Give it fewer layers with SPLIT=",
        ),
        ([OFFER, {"error": "no kernel"}], "can't be started: no kernel"),
        ([OFFER, {"error": f"{NOISE}no{'!' * 999}"}], "can't be started: ]0;x zosia: error: no!!"),
        ([OFFER | {"version": "\x1b[2J9"}], "has zosia [2J9, and"),
        ([OFFER, b"x" * 5000], "can't be reached: it does not speak"),
        ([OFFER, b'{"ready": 1}\n'], "does not answer as zosia does"),
    ],
)
def test_a_worker_that_can_not_be_started(far_end: Far, lines: list[Any], said: str) -> None:
    name = far_end(*lines)
    with pytest.raises(ZosiaError) as error:
        near.start([Worker(name=name, layers=7, memory=900)])
    assert str(error.value).startswith(f"The worker {name} {said}")
    assert len(str(error.value)) < 700
    assert str(error.value).isprintable()


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match=r"can't be reached: No such file.*started by: zosia worker --socket"):
        Link(f"unix:{tmp_path}/none")


def test_ctrl_c_while_a_worker_is_waited_for(far_end: Far) -> None:
    loop = Loop()
    waker = loop.inbox()
    name = far_end(OFFER)  # and nothing more
    wait = near.waits_in(loop)
    waker.send(bytes([signal.SIGWINCH]))
    threading.Timer(0.3, waker.send, [bytes([signal.SIGINT])]).start()
    began = time.monotonic()
    with pytest.raises(near.StoppedError) as stopped:
        near.start([Worker(name=name, layers=7, memory=900)], wait)
    assert stopped.value.args == (signal.SIGINT,)
    assert 0.2 < time.monotonic() - began < LONGEST


def test_a_worker_that_is_not_there_is_no_reason_to_give_up_for_good(far_end: Far) -> None:
    def session(wires: object) -> Session:
        raise AssertionError

    task = SimpleNamespace(workers=[Worker(name=far_end(None), layers=7, memory=900)])
    outcome = near.run(SimpleNamespace(task=task), None, Loop(), session)  # type: ignore[arg-type]
    status, error = ending(outcome)
    assert status == Status.NO_WORKER
    assert status not in guest.FINAL
    assert "can't be reached: it hung up" in str(error)


def test_the_speed_that_a_machine_reports_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    for reported, known in ((0, 0), (7, 7)):
        session = SimpleNamespace(run=lambda reported=reported: Outcome(Report(speed=reported)))
        machine: Any = SimpleNamespace(
            task=SimpleNamespace(workers=[]), arch="aarch64", accel=Accel.TCG, cpu="", cpus=3
        )
        near.run(machine, None, Loop(), lambda wires, session=session: session)  # type: ignore[misc]
        assert speeds.recall(speeds.key("aarch64", "tcg", "max", 3)) == known


def test_what_a_program_says_without_end_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nyes | head -c 5000000 >&2\nprintf 'the \\033[31mend\\n' >&2\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    link = Link("ssh:tower")
    with pytest.raises(ZosiaError, match=r"can't be reached: the \[31mend\. Try"):
        link.offer()
    assert len(link._said) <= near.KEPT
    link.close()


def test_a_worker_on_this_host_needs_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ZosiaError, match=r"The worker local1 can't be reached: .*JSON"):
        near.start([Worker(name="local1", layers=7, memory=900, machine="no machine")])


SSH = """#!/bin/sh
printf '%s\\n' "$@" >"$0.words"
echo "ssh: connect to host tower port 22: No route to host" >&2
exit 255
"""


def test_ssh_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ZosiaError) as error:
        near.offers(["ssh:tower"])
    assert str(error.value) == (
        "The worker ssh:tower can't be reached: ssh: connect to host tower port 22: No route to host. "
        "Try it by hand: ssh tower zosia --version"
    )
    words = (tmp_path / "ssh.words").read_text().split("\n")
    assert words[-6:] == ["--", "tower", "zosia", "worker", "--stdio", ""]
    assert "BatchMode=yes" in words


def test_a_lost_worker_says_why_itself() -> None:
    outcome = Outcome(Report(exit=Status.NO_WORKER, error="the worker local2 has gone. Start again when it is there"))
    said = {"local1": "nothing of it", "local2": "QEMU was killed by signal 9"}
    links = [SimpleNamespace(name=name, end=None, last_words=lambda name=name: said[name]) for name in said]
    assert near.Links(links).lost(outcome) == "local2: QEMU was killed by signal 9"  # type: ignore[arg-type]
    outcome.report.exit = Status.OK
    assert near.Links(links).lost(outcome) == ""  # type: ignore[arg-type]


# The far end

WORK = """
import sys
from zosia.machine.boards import Accel
from zosia.machine.report import Outcome, Report
from zosia.run import resume
from zosia.run.workers import far
from zosia.run.workers.wire import Offer

class Machine:
    arch, accel, cpu, cpus = "aarch64", Accel.TCG, "", 3

    class task:
        has_weights = True

def run(machine, terminal, folder, loop, ready):
    {run}

resume.run = run
sys.exit(far.work(Offer(version="1", memory=900), lambda order: Machine()))
"""
ECHO = """
    import socket, threading
    ours, theirs = socket.socketpair()
    def echo():
        while data := theirs.recv(1 << 16):
            theirs.sendall(data)
    threading.Thread(target=echo, daemon=True).start()
    outcome = Outcome(Report())
    def signalled(number):
        outcome.signal = number
        ours.close()
    loop.signals(signalled)
    ours.setblocking(False)
    ready(ours)
    while not outcome.signal:
        loop.serve(None)
    return outcome
"""


class Working:
    """far.work() in a process, with a made up run."""

    def __init__(self, root: Path, run: str) -> None:
        argv = [sys.executable, "-c", WORK.format(run=run)]
        env = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env)
        assert self.child.stdin and self.child.stdout
        self.stdin, self.stdout = self.child.stdin, self.child.stdout
        self.offer = json.loads(self.stdout.readline())

    def say(self, said: bytes) -> None:
        self.stdin.write(said)
        self.stdin.flush()

    def ends(self) -> tuple[int, str]:
        self.stdin.close()
        status = self.child.wait(LONGEST)
        assert self.child.stderr
        return status, self.child.stderr.read().decode()


def test_bytes_are_carried_until_the_other_end_hangs_up(root: Path) -> None:
    worker = Working(root, ECHO.strip())
    assert worker.offer == {"version": "1", "memory": 900, "speed": 0}
    worker.say(b'{"memory": 900}\n')
    assert json.loads(worker.stdout.readline()) == {"error": "", "weights": True}
    sent = os.urandom(1 << 20)
    threading.Thread(target=worker.say, args=(sent,), daemon=True).start()
    assert worker.stdout.read(len(sent)) == sent
    assert worker.ends()[0] == 0


@pytest.mark.parametrize(
    ("run", "order", "said"),
    [
        ("raise AssertionError", 901, "901 MiB were ordered, and it has 900 MiB for a guest"),
        (
            "from zosia.base.errors import ZosiaError; raise ZosiaError('no QEMU', 'Install it')",
            900,
            "no QEMU. Install it",
        ),
        (
            "from zosia.machine.report import Outcome, Report; return Outcome(Report(exit=70, error='it panicked'))",
            900,
            "it panicked",
        ),
    ],
)
def test_a_worker_that_fails_says_so_on_the_wire(root: Path, run: str, order: int, said: str) -> None:
    worker = Working(root, run)
    worker.say(b'{"memory": %d}\n' % order)
    assert json.loads(worker.stdout.readline())["error"].startswith(said)
    assert worker.ends()[0] == 2


def test_only_the_offer_was_wanted(root: Path) -> None:
    assert Working(root, "raise AssertionError").ends() == (0, "")


def test_the_speed_that_a_worker_reports_is_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    worker = Working(root, "return Outcome(Report(speed=7))")
    worker.say(b'{"memory": 900}\n')
    worker.ends()
    assert speeds.recall(speeds.key("aarch64", "tcg", "max", 3)) == 7


def test_a_worker_at_a_socket_serves_one_after_the_other(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()  # and the file stays
    script = (
        f"import pathlib, sys; from zosia.run.workers import far; far.listen(pathlib.Path({str(path)!r}), sys.argv[1:])"
    )
    argv = [sys.executable, "-c", script, "/bin/sh", "-c", 'read line; echo "$line again"']
    env = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, env=env)
    assert child.stderr and b"offered at" in child.stderr.readline()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(LONGEST)
            one.connect(str(path))
            one.sendall(b"hello\n")
            assert one.recv(100) == b"hello again\n"
            assert one.recv(100) == b""
    child.send_signal(2)
    assert child.wait(LONGEST) == 0
    assert not path.exists()


def test_a_socket_that_is_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(2)
        clients = []
        for connects in (0, 9):  # its queue is full then
            for _ in range(connects):
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].setblocking(False)
                clients[-1].connect_ex(str(path))
            with pytest.raises(ZosiaError, match="in use"), socket.socket(socket.AF_UNIX) as server:
                far._bind(server, path)
            assert path.exists()
        for client in clients:
            client.close()
