"""Bounds of what a client may take of the gate."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.gate import EVENTS, SECONDS, Llama, Running, all_of, chunk, response, running, until

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
HEALTH = HEAD + b"\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CHAT = POST + b"Content-Length: 2\r\n\r\n{}"
OK = b'{"status":"ok"}'
ANSWER = b'{"done":1}'


def refusal(client: socket.socket) -> int:
    """Return the status that a connection ends with, an error in OpenAI's form."""
    text = all_of(client)
    assert text.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in text
    code = json.loads(text.rpartition(b"\r\n\r\n")[2])["error"]["code"]
    assert text.startswith(b"HTTP/1.1 %d " % code)
    return int(code)


def send_all(client: socket.socket, data: bytes) -> None:
    """Send what the other end may not want."""
    with contextlib.suppress(ConnectionError):
        client.sendall(data)


def test_slow_heads() -> None:
    with running(limits={"head_seconds": 0.05}) as up:
        for start in (b"G", b"GET /health HTTP/1.1\r\n", HEAD, HEAD + b"X: y"):
            with up.connect() as client:
                client.sendall(start)
                assert refusal(client) == 408
        with up.connect() as client:
            client.sendall(HEALTH)
            until(client, OK)
            client.sendall(b"G")
            assert refusal(client) == 408, "also of a later request"
        with up.connect() as dripping, contextlib.suppress(ConnectionError):
            dripping.settimeout(0.01)
            text = b""
            for _ in range(2000):  # one header after the other, each in time
                dripping.sendall(b"G" if not text else b"X: y\r\n")
                with contextlib.suppress(TimeoutError):
                    text = dripping.recv(1000)
                    break
            assert text.startswith(b"HTTP/1.1 408 ")


def test_slow_bodies() -> None:
    with running(limits={"body_seconds": 0.05}) as up:
        for start in (
            b"Content-Length: 5\r\n\r\n",
            b"Content-Length: 5\r\n\r\n{",
            b"Transfer-Encoding: chunked\r\n\r\n5",
        ):
            with up.connect() as client:
                client.sendall(POST + start)
                assert refusal(client) == 408
        assert up.llama.streams == 0
        assert up.gate.active == 0
    with running(limits={"request_seconds": 0.05}) as up, up.connect() as client:
        client.sendall(POST + b"Content-Length: 5\r\n\r\n{")
        assert refusal(client) == 408


def test_idle_connections_end() -> None:
    with running(limits={"idle_seconds": 0.05}) as up:
        with up.connect() as client:
            assert all_of(client) == b""
        with up.connect() as client:
            client.sendall(HEALTH)
            assert all_of(client).endswith(OK)
        with up.connect() as client:  # who waits for an answer is not idle
            client.sendall(CHAT)
            asked = up.llama.next()
            with up.connect() as other:
                assert all_of(other) == b""
            asked.say(response(ANSWER), end=True)
            until(client, ANSWER)


def test_large_heads() -> None:
    with running() as up:
        fits = b"X: " + b"y" * 14_000 + b"\r\n"
        with up.connect() as client:
            client.sendall(HEAD + fits + b"\r\n")
            until(client, OK)
        for bomb in (
            b"GET /" + b"y" * 100_000,
            HEAD + b"X: " + b"y" * 100_000,
            HEAD + b"X: y\r\n" * 20_000,
            HEAD + b"\r\n".join(b"X%d:" % number for number in range(20_000)),
        ):
            with up.connect() as client:
                send_all(client, bomb)
                assert refusal(client) == 431
        with up.connect() as client:
            send_all(client, b"\r\n" * 100_000)
            assert refusal(client) == 400


def test_large_bodies() -> None:
    with running(limits={"body": 1000}) as up:
        with up.connect() as client:
            send_all(client, POST + b"Content-Length: 1001\r\n\r\n" + b" " * 1001)
            assert refusal(client) == 413
        with up.connect() as client:
            client.sendall(POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
            assert refusal(client) == 413, "before it is sent"
        with up.connect() as client:
            send_all(client, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b" " * 10) * 101)
            assert refusal(client) == 413, "even if its size isn't said"
        with up.connect() as client:
            send_all(client, POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000)
            assert refusal(client) in (400, 431)
        with up.connect() as client:
            send_all(client, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000)
            assert refusal(client) in (400, 431)
        with up.connect() as client:
            client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x"))
            assert refusal(client) == 413, "a GET has no body"
        assert up.llama.streams == 0
        with up.connect() as client:
            client.sendall(POST + b"Content-Length: 1000\r\n\r\n{" + b" " * 998 + b"}")
            up.llama.next().say(response(ANSWER), end=True)
            until(client, ANSWER)


def test_idle_connections_are_in_nobodys_way() -> None:
    with running(Llama(answer=response(ANSWER))) as up, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(up.connect()) for _ in range(63)]
        for number, client in enumerate(idle):
            client.sendall((HEALTH, b"GET", CHAT[:-1], b"")[number % 4])
        for client in idle[::4]:
            until(client, OK)
        with up.connect() as client:
            client.sendall(CHAT)
            until(client, ANSWER)
            with up.connect() as other:  # beyond all places
                assert refusal(other) == 503
            client.sendall(CHAT)
            until(client, ANSWER)
        up.wait(lambda: len(up.gate._connections) == 63)
        with up.connect() as client:
            client.sendall(HEALTH)
            until(client, OK)


def test_who_is_refused_takes_no_place_either() -> None:
    with running(limits={"connections": 2, "linger_seconds": 3600}) as up, contextlib.ExitStack() as stack:
        held = [stack.enter_context(up.connect()) for _ in range(2)]
        up.wait(lambda: len(up.gate._connections) == 2)
        for _ in range(2):
            until(stack.enter_context(up.connect()), b"}}")
        with up.connect() as client:
            assert all_of(client) in (b"", b" (reset)"), "no answer, and no place"
        held[0].sendall(HEALTH)
        until(held[0], OK)


@pytest.mark.parametrize("head", [EVENTS, b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"])
def test_who_reads_nothing_is_hung_up_on(head: bytes) -> None:
    with running(limits={"write_seconds": 0.1}) as up, up.connect() as client, up.connect() as other:
        client.sendall(CHAT)
        asked = up.llama.next()
        asked.say(head + chunk(b"x" * 50_000_000))
        other.sendall(HEALTH)
        until(other, OK)
        assert asked.hung.wait(SECONDS)
        up.wait(lambda: up.gate.active == 0)


async def _open(up: Running) -> bool:
    return bool(up.gate._connections)


def test_a_slow_reader_gets_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_bytes(b"x" * 20_000_000)
    with running(page=folder, limits={"linger_seconds": 0}) as up, up.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with up.connect() as other:  # while nothing is read
            other.sendall(HEALTH)
            until(other, OK)
        size = 0
        while up.do(_open(up)).result(SECONDS):  # the gate has its turn between two readings
            size += len(client.recv(65536))
        assert size + len(all_of(client)) > 20_000_000, "also what was written just before the end"


def test_a_client_that_resets(up_log: Running) -> None:
    for request in (b"", b"GET", HEALTH, CHAT[:-1], CHAT):
        with up_log.connect() as client:
            client.sendall(request)
            if request == CHAT:
                asked = up_log.llama.next()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert asked.hung.wait(SECONDS)
    up_log.wait(lambda: not up_log.gate._connections)


@pytest.fixture
def up_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(log=tmp_path_factory.mktemp("gate") / "log") as gate:
        yield gate
