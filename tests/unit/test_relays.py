"""Two relays, end to end: initramfs/streams.c takes connections at one, and makes them at the other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.channel import CLOSE, DATA, HELLO, LONGEST, OPEN, PAYLOAD, SHUT, WINDOW, Peer, frame, hello, pattern
from zosia.base.patience import patience

PING = 7
SECONDS = 1 + round(patience())  # of silence, which are the end


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Opener:
    """The relay that takes connections, and its port."""

    def __init__(self, program: Path, port: socket.socket, seconds: int = SECONDS) -> None:
        self.number = free_port()
        argv = [str(program), "-", str(self.number), str(seconds)]
        self.child = subprocess.Popen(argv, stdin=port.fileno(), stderr=subprocess.PIPE)

    def connect(self) -> socket.socket:
        """Connect as llama.cpp does; it may not listen yet."""
        end = time.monotonic() + LONGEST
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.number), timeout=LONGEST)
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.01)

    def ended(self) -> str:
        said = self.child.communicate(timeout=LONGEST)[1].decode()
        assert (self.child.returncode, said.count("\n")) == (1, 1), said
        return str(said).strip().removeprefix("zosia-streams: ")


Start = Callable[..., Opener]


@pytest.fixture
def opener(program: Path) -> Iterator[Start]:
    started: list[Opener] = []

    def start(port: socket.socket, **options: int) -> Opener:
        started.append(Opener(program, port, **options))
        return started[-1]

    yield start
    for each in started:
        each.child.kill()
        each.child.communicate()


def echo(connection: socket.socket) -> None:
    """Send back what comes, and the end after it."""
    with connection, suppress(ConnectionError):
        while data := connection.recv(1 << 20):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


@pytest.fixture(params=["TCP", "UNIX"])
def pair(request: pytest.FixtureRequest, program: Path, opener: Start, tmp_path: Path) -> Iterator[tuple[Opener, int]]:
    """Two relays, port to port, with a server that echoes; and the process id of the one that makes connections."""
    if request.param == "TCP":
        server = socket.create_server(("127.0.0.1", 0), backlog=16)
        name = str(server.getsockname()[1])
    else:
        server, name = socket.socket(socket.AF_UNIX), str(tmp_path / "server")
        server.bind(name)
        server.listen(1)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=echo, args=server.accept()[:1], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    ours, theirs = socket.socketpair()
    child = subprocess.Popen([str(program), "-", name], stdin=theirs.fileno())
    relay = opener(ours)
    ours.close()
    theirs.close()
    yield relay, child.pid
    child.kill()
    child.wait()
    server.close()


def test_connections_are_carried_whole_and_apart(pair: tuple[Opener, int]) -> None:
    def talk(number: int) -> bool:
        sent = pattern(number * 61_803, number)
        with pair[0].connect() as connection, ThreadPoolExecutor(1) as speaker:

            def say() -> None:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)

            speaker.submit(say)
            heard = b"".join(iter(lambda: connection.recv(1 << 20), b""))
            return heard == sent

    with ThreadPoolExecutor(16) as clients:  # and more of them in turn than there are places
        assert all(clients.map(talk, range(1, 81)))


def test_small_messages_are_not_held_back(program: Path, opener: Start) -> None:
    """Without TCP_NODELAY the second of two small writes waits 40 ms for an answer that needs both, each way."""

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError):
            while connection.recv(1) and connection.recv(1):
                connection.sendall(b"a")
                time.sleep(0.002)  # a frame of its own
                connection.sendall(b"b")

    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        argv = [str(program), "-", str(server.getsockname()[1])]
        child = subprocess.Popen(argv, stdin=theirs.fileno())
        try:
            with opener(ours).connect() as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                times = []
                for _ in range(60):
                    began = time.monotonic()
                    connection.sendall(b"a")
                    time.sleep(0.002)
                    connection.sendall(b"b")
                    assert connection.recv(1) and connection.recv(1)
                    times.append(time.monotonic() - began)
        finally:
            child.kill()
            child.wait()
    assert sorted(times)[len(times) // 2] < 0.035


def test_a_quiet_pair_stays_until_one_end_gives_no_sign_of_life(pair: tuple[Opener, int]) -> None:
    relay, other = pair
    with relay.connect() as connection:
        with pytest.raises(subprocess.TimeoutExpired):
            relay.child.wait(1.5 * SECONDS)
        connection.sendall(b"still there")
        assert connection.recv(100) == b"still there"
        os.kill(other, signal.SIGSTOP)
        try:
            assert relay.ended() == f"the worker gave no sign of life for {SECONDS} s"
        finally:
            os.kill(other, signal.SIGCONT)


def test_the_other_end_goes(pair: tuple[Opener, int]) -> None:
    relay, other = pair
    with relay.connect() as connection:
        connection.sendall(b"there")
        assert connection.recv(100) == b"there"
        os.kill(other, signal.SIGKILL)
        assert relay.ended() == "the worker has gone"


# By hand: the test is the other end


@pytest.fixture
def peer(opener: Start) -> Iterator[tuple[Opener, Peer]]:
    """A relay that was greeted, and what it talks to."""
    ours, theirs = socket.socketpair()
    relay = opener(theirs, seconds=60)
    theirs.close()
    far = Peer(ours)
    ((kind, stream, greeting),) = far.wait()
    assert (kind, stream, greeting[:4]) == (HELLO, 0, b"zos1")
    far.send(hello(b"of another time "), frame(OPEN, 3), frame(DATA, 1, b"old"), frame(HELLO, 0, greeting))
    yield relay, far
    ours.close()


def test_a_port_that_closes_is_the_end(peer: tuple[Opener, Peer]) -> None:
    peer[0].connect().close()
    peer[1].sock.close()
    assert peer[0].ended() == "the worker has gone"


def test_noise_before_the_greeting_is_no_sign_of_life(opener: Start) -> None:
    ours, theirs = socket.socketpair()
    relay = opener(theirs, seconds=1)
    end = time.monotonic() + LONGEST
    with suppress(ConnectionError):
        while relay.child.poll() is None and time.monotonic() < end:
            ours.sendall(frame(DATA, 1, b"noise"))
            time.sleep(0.1)
    assert relay.child.poll() is not None, "it ends while there is noise"
    assert relay.ended() == "the worker gave no sign of life for 1 s"


def test_greetings_differ(opener: Start) -> None:
    greetings = set()
    for _ in range(2):
        ours, theirs = socket.socketpair()
        opener(theirs)
        greetings.add(Peer(ours).wait()[0])
    assert len(greetings) == 2


def test_nothing_is_opened_before_the_greeting_was_answered(opener: Start) -> None:
    ours, theirs = socket.socketpair()
    relay = opener(theirs)
    with relay.connect() as connection:
        connection.sendall(b"early")
        far = Peer(ours)
        ((_, _, greeting),) = far.wait()
        far.send(hello(b"x" * 16), frame(DATA, 1, b"from before"))
        time.sleep(0.2)
        assert list(far.there()) == []
        far.send(frame(HELLO, 0, greeting))
        assert far.wait(2) == [(OPEN, 1, b""), (DATA, 1, b"early")]


@pytest.mark.parametrize(
    ("sent", "why"),
    {
        frame(OPEN, 2): "OPEN from the wrong end",
        hello(): "HELLO after its reply",
        frame(9): "unknown kind of frame",
        frame(DATA, 1, bytes(PAYLOAD)) * 500: "more DATA than the window",
        frame(SHUT, 1) * 2: "SHUT after SHUT",
    }.items(),
)
def test_a_breach_is_the_end(peer: tuple[Opener, Peer], sent: bytes, why: str) -> None:
    relay, far = peer
    with relay.connect():
        far.wait_for((OPEN, 1, b""))
        with suppress(ConnectionError):
            far.send(sent)
        assert relay.ended() == f"the worker broke the channel's protocol: {why}"


def test_a_reader_that_takes_nothing_holds_up_no_other(peer: tuple[Opener, Peer]) -> None:
    relay, far = peer
    with relay.connect() as slow, relay.connect() as quick:
        slow.sendall(b"1")
        quick.sendall(b"2")
        seen = far.wait_until(lambda seen: sum(kind == DATA for kind, _, _ in seen) == 2)
        numbers = {payload: stream for kind, stream, payload in seen if kind == DATA}
        far.send(*[frame(DATA, numbers[b"1"], bytes(PAYLOAD))] * (WINDOW // PAYLOAD))
        far.send(frame(DATA, numbers[b"2"], b"news"))
        assert quick.recv(100) == b"news"


def test_what_is_closed_at_one_end_is_closed_at_the_other(peer: tuple[Opener, Peer]) -> None:
    relay, far = peer
    connection = relay.connect()
    far.wait_for((OPEN, 1, b""))
    far.send(frame(CLOSE, 1))
    assert connection.recv(1) == b""
    connection.close()
    relay.connect().close()
    far.wait_for((SHUT, 2, b""))


def test_a_ping_is_answered_once(program: Path, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen([str(program), "-", str(tmp_path / "nobody")], stdin=theirs.fileno())
    far = Peer(ours)
    far.send(hello(), frame(PING), frame(PING))
    assert far.wait(3)[1:] == [(PING, 0, b"")] * 2
    child.kill()
    child.wait()


# A server that gets its connections over a socket, and has a pulse


@pytest.fixture
def handed(program: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Peer, socket.socket, int]]:
    """A relay that hands over connections, its channel, the server's end, and the file of the pulse."""
    ours, theirs = socket.socketpair()
    here, there = socket.socketpair()
    pulse = os.open(tmp_path / "pulse", os.O_RDWR | os.O_CREAT)
    ends = (here.fileno(), pulse)
    argv, env = [str(program), "-", f"@{here.fileno()}"], {**os.environ, "ZOSIA_PULSE": str(pulse)}
    child = subprocess.Popen(argv, stdin=theirs.fileno(), pass_fds=ends, env=env, stderr=subprocess.PIPE)
    far = Peer(ours)
    far.send(hello())
    far.wait()
    yield child, far, there, pulse
    assert child.poll() is None, child.communicate()
    child.kill()
    child.communicate()
    for end in (ours, theirs, here, there):
        end.close()
    os.close(pulse)


Handed = tuple[subprocess.Popen[bytes], Peer, socket.socket, int]


def taken(there: socket.socket) -> socket.socket:
    """Return the next connection, as a server takes it."""
    there.settimeout(LONGEST)
    said, (number,), _, _ = socket.recv_fds(there, 1, 1)
    assert said == b"\0"
    assert os.get_blocking(number), "llama.cpp waits in its calls"
    return socket.socket(fileno=number)


def test_connections_are_handed_over(handed: Handed) -> None:
    _, far, there, _ = handed
    for number in range(1, 3 * 64):
        far.send(frame(OPEN, number), frame(DATA, number, b"said"))
        with taken(there) as connection:
            assert connection.recv(100) == b"said"
            connection.sendall(b"heard")
            far.wait_for((DATA, number, b"heard"))
        far.send(frame(SHUT, number))
        far.wait_for((SHUT, number, b""))


def test_connections_wait_for_a_server_that_takes_none(handed: Handed) -> None:
    _, far, there, _ = handed
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    far.send(*(frame(OPEN, number) for number in range(1, 65)))
    far.send(*(frame(DATA, number, b"%d" % number) for number in range(1, 65)))
    time.sleep(0.3)
    said = set()
    for _ in range(64):
        with taken(there) as connection:
            said.add(int(connection.recv(100)))
    assert said == set(range(1, 65))


def test_a_server_that_has_gone_closes_the_streams(handed: Handed) -> None:
    _, far, there, _ = handed
    there.close()
    far.send(frame(OPEN, 1))
    far.wait_for((CLOSE, 1, b""))


def test_a_ping_is_answered_for_each_pulse(handed: Handed) -> None:
    _, far, _, pulse = handed
    far.send(frame(PING))
    assert far.wait() == [(PING, 0, b"")], "it does not serve yet"
    for beat in range(1, 4):
        os.pwrite(pulse, bytes([beat] * 8), 0)
        far.send(frame(PING), frame(PING), frame(PING))
        assert far.wait() == [(PING, 0, b"")]
        far.send(hello(b"%16d" % beat))
        assert far.wait() == [(HELLO, 0, b"zos1%16d" % beat)]
