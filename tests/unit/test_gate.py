"""The gate, as its clients meet it on the line."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gate import EVENTS, SECONDS, Llama, Running, all_of, chunk, response, running, until
from zosia.base.errors import ZosiaError
from zosia.serve.gate import Gate
from zosia.serve.service import Phase, Service

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n{}"
HEALTH = b"GET /health HTTP/1.1\r\nHost: HOST\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"
METRICS = LAST.replace(b"/health", b"/metrics")
OK = b'{"status":"ok"}'
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gate with no wishes of any test."""
    with running(log=tmp_path_factory.mktemp("gate") / "log") as gate:
        yield gate


def statuses(text: bytes) -> list[int]:
    """Return the statuses of several answers."""
    return [int(part.split(b" ", 1)[0]) for part in text.split(b"HTTP/1.1 ")[1:]]


def error(text: bytes) -> dict[str, object]:
    """Return the error that an answer is."""
    found = json.loads(text.rpartition(b"\r\n\r\n")[2])["error"]
    assert isinstance(found, dict)
    return found


def ask(up: Running, request: bytes) -> socket.socket:
    """Send a request, and return the connection."""
    client = up.connect()
    client.sendall(request.replace(b"HOST", b"localhost:%d" % up.port))
    return client


def test_an_answer_is_passed_on(up: Running) -> None:
    head = (
        b"POST /v1/chat/completions?beta=true HTTP/1.1\r\nHost: HOST\r\nContent-Length: 8\r\nAccept: text/x\r\n"
        b"X-Conversation-Id: 1\r\nAuthorization: Bearer x\r\nCookie: a=b\r\nOrigin: http://HOST\r\nTE: trailers\r\n"
        b"Content-Type: text/plain\r\nX-Forwarded-For: 1.2.3.4\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    with ask(up, head + b'{"a": 1}') as client:
        asked = up.llama.next()
        assert asked.head == (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/x\r\n"
            "Content-Type: application/json\r\nContent-Length: 8\r\n\r\n"
        )
        assert asked.body == b'{"a": 1}'
        asked.say(
            response(ANSWER, headers="Set-Cookie: a=b\r\nLocation: /x\r\nX-Other: 1\r\nCache-Control: no-store\r\n")
        )
        got, _, body = until(client, ANSWER).partition(b"\r\n\r\n")
        assert asked.hung.wait(SECONDS), "a stream is for one request"
        names = {line.partition(b":")[0].lower() for line in got.split(b"\r\n")[1:]}
        assert body == ANSWER
        assert names == {
            b"content-type",
            b"content-length",
            b"cache-control",
            b"x-content-type-options",
            b"referrer-policy",
            b"cross-origin-resource-policy",
            b"content-security-policy",
        }
        client.sendall(LAST.replace(b"HOST", b"localhost:%d" % up.port))  # keep-alive is the gate's
        assert all_of(client).endswith(OK)


def test_a_get_is_passed_on(up: Running) -> None:
    with ask(up, b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n") as client:
        asked = up.llama.next()
        assert asked.head == "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        asked.say(response(b"{}", status="418 I'm a teapot", type="text/html"), end=True)
        got = all_of(client)
        assert got.startswith(b"HTTP/1.1 418 ")
        assert b"Content-Type: application/octet-stream" in got, "no page comes from the machine"


def test_events_come_one_by_one(up: Running) -> None:
    with ask(up, CHAT) as client:
        asked = up.llama.next()
        asked.say(EVENTS)
        assert b"text/event-stream" in until(client, b"\r\n\r\n")
        for number in range(5):
            event = b'data: {"n":%d}\n\n' % number
            asked.say(chunk(event))
            assert until(client, b"\r\n" + event + b"\r\n") == chunk(event), "before the next is said"
        asked.say(chunk(b""), end=True)
        assert until(client, b"0\r\n\r\n") == b"0\r\n\r\n"


def test_a_client_of_http_1_0_gets_plain_events(up: Running) -> None:
    with ask(up, b"POST /completion HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}") as client:
        up.llama.next().say(EVENTS + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n") + chunk(b""), end=True)
        head, _, body = all_of(client).partition(b"\r\n\r\n")
        assert body == b"data: 1\n\ndata: 2\n\n"
        assert b"chunked" not in head.lower()


def test_chunks_of_a_request_are_put_together(up: Running) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with ask(up, head) as client:
        for part in (b'{"content"', b':"', b'x"}', b""):
            client.sendall(chunk(part))
        asked = up.llama.next()
        assert asked.body == b'{"content":"x"}'
        assert "Content-Length: 15" in asked.head
        asked.say(response(b"{}"), end=True)
        assert all_of(client).endswith(b"{}")


def test_a_client_may_ask_whether_to_send(up: Running) -> None:
    head = CHAT[:-2].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with ask(up, head) as client:
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        up.llama.next().say(response(b"{}"), end=True)
        assert until(client, b"{}").startswith(b"HTTP/1.1 200 ")
    for bad, status in ((b"/slots", 404), (b"/v1/models", 405)):
        got = up.talk(head.replace(b"/v1/chat/completions", bad))
        assert statuses(got) == [status], "nobody sends a body to be refused"
        assert b"Connection: close" in got


def test_health() -> None:
    with running() as up:
        for path in (b"/health", b"/v1/health"):
            assert up.talk(LAST.replace(b"/health", path)).endswith(OK)
        head = up.talk(LAST.replace(b"GET", b"HEAD"))
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: 15\r\n" in head
        assert head.endswith(b"\r\n\r\n")
        up.llama.phase = Phase.OFF
        assert up.talk(LAST).endswith(b'{"status":"ok","machine":"off"}')
        up.llama.phase = Phase.LOADING
        got = up.talk(LAST)
        assert statuses(got) == [503]
        assert b"Retry-After" not in got
        assert json.loads(got.rpartition(b"\r\n\r\n")[2])["status"] == "loading"
        assert error(got)["code"] == 503
        assert up.llama.streams == 0


def test_what_the_page_asks_for_is_there(up: Running) -> None:
    lookup = b"POST /v1/streams/lookup HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    before = up.llama.streams
    assert up.talk(lookup).endswith(b"\r\n\r\n[]")
    delete = b"DELETE /v1/stream?conv_id=1 HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"
    assert statuses(up.talk(delete)) == [204]
    assert up.llama.streams == before


def test_each_request_of_a_connection_is_judged(up: Running) -> None:
    foreign = b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert statuses(up.talk(HEALTH + foreign + HEALTH)) == [200, 421], "and what follows is not read"
    origin = LAST.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n")
    assert statuses(up.talk(HEALTH + origin)) == [200, 403]
    assert statuses(up.talk(HEALTH + b"GET /slots HTTP/1.1\r\nHost: HOST\r\n\r\n" + LAST)) == [200, 404, 200]
    with running(key="k") as keyed:
        models = b"GET /v1/models HTTP/1.1\r\nHost: HOST\r\n%s\r\n"
        with ask(keyed, models % b"Authorization: Bearer k\r\n" + models % b"Connection: close\r\n") as client:
            keyed.llama.next().say(response(b"{}"), end=True)
            assert statuses(all_of(client)) == [200, 401]


def test_requests_sent_ahead_are_answered_in_order(up: Running) -> None:
    with ask(up, CHAT + LAST) as client:
        up.llama.next().say(response(ANSWER), end=True)
        got = all_of(client)
        assert got.index(ANSWER) < got.index(OK)


def test_what_is_no_http_is_refused(up: Running) -> None:
    for request, status in (
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /health HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost : HOST\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 421),
        (b"POST /completion HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /completion HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /completion HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (b"POST /completion HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    ):
        got = up.talk(request)
        assert statuses(got) == [status], request
        assert b"Connection: close" in got
        assert error(got)["code"] == status


def test_a_length_beside_chunks_smuggles_nothing(up: Running) -> None:
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: HOST\r\n\r\n"
    both = b"POST /tokenize HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    with ask(up, both + chunk(b"{}") + chunk(b"") + smuggled) as client:
        asked = up.llama.next()
        assert asked.body == b"{}"
        assert "Transfer-Encoding" not in asked.head
        asked.say(response(b"{}"), end=True)
        second = up.llama.next()
        assert "GET /v1/models" in second.head, "a request of its own, judged as one"
        until(client, b"{}")
        second.say(response(b"{}"), end=True)
        until(client, b"{}")


def test_bodies_are_looked_at(up: Running) -> None:
    before = up.llama.streams
    for body in (b"[" * 500, b'{"grammar":"%s"}' % (b"(" * 500), b"x"):
        head = b"POST /completion HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert statuses(up.talk(head + body)) == [400]
    assert up.llama.streams == before


def test_a_client_that_hangs_up_ends_its_answer(up: Running) -> None:
    for said in (b"", EVENTS, EVENTS + chunk(b"data: 1\n\n")):
        with ask(up, CHAT) as client:
            asked = up.llama.next()
            if said:
                asked.say(said)
                until(client, said[-8:])
            assert not asked.hung.is_set()
        assert asked.hung.wait(SECONDS), said
    up.wait(lambda: up.gate.active == 0)


def test_a_half_close_is_a_hang_up(up: Running) -> None:
    with ask(up, CHAT) as client:
        asked = up.llama.next()
        client.shutdown(socket.SHUT_WR)
        assert asked.hung.wait(SECONDS)
        assert all_of(client) == b""
    with ask(up, HEALTH) as client:
        client.shutdown(socket.SHUT_WR)
        assert all_of(client).endswith(OK), "what is answered at once is answered"


def test_a_client_that_sends_ahead_without_end_is_hung_up_on() -> None:
    with running(limits={"ahead": 20_000}) as up, ask(up, CHAT) as client:
        asked = up.llama.next()
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(HEALTH * 20)
        assert asked.hung.wait(SECONDS)


def test_no_answer_in_time_is_no_reason_to_end_it(up: Running) -> None:
    with ask(up, CHAT) as client:
        asked = up.llama.next()
        assert up.gate.active == 1
        before = up.gate.last
        assert up.talk(LAST).endswith(OK)
        assert up.gate.last == before, "health needs no machine"
        asked.say(response(ANSWER), end=True)
        until(client, ANSWER)
    up.wait(lambda: up.gate.active == 0 and up.gate.last > before)


def _active(up: Running, number: int) -> bool:
    return up.gate.active == number


def test_turns() -> None:
    with running(parallel=1) as up, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(ask(up, CHAT))]
        first = up.llama.next()
        for number in range(4):
            body = b'{"n":%d}' % number
            clients.append(stack.enter_context(ask(up, CHAT[:-2].replace(b": 2\r\n", b": %d\r\n" % len(body)) + body)))
            up.wait(functools.partial(_active, up, number + 2))
        refused = up.talk(CHAT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert statuses(refused) == [503]
        assert b"Retry-After: 5\r\n" in refused
        assert error(refused)["type"] == "unavailable_error"
        assert {b"zosia_active 1", b"zosia_waiting 4"} <= {*up.talk(METRICS).splitlines()}
        clients[2].close()  # the second of those who wait
        up.wait(lambda: up.gate.active == 4)
        assert up.llama.streams == 1
        first.say(response(ANSWER), end=True)
        until(clients[0], ANSWER)
        order = []
        for _ in range(3):
            asked = up.llama.next()
            order.append(asked.body)
            assert up.llama.asked.empty(), "one at a time"
            asked.say(response(ANSWER), end=True)
        assert order == [b'{"n":0}', b'{"n":2}', b'{"n":3}']
        up.wait(lambda: up.gate.active == 0)


def test_what_takes_no_slot_waits_for_none() -> None:
    with running(parallel=1) as up, ask(up, CHAT) as client:
        chat = up.llama.next()
        with ask(up, b"GET /props HTTP/1.1\r\nHost: HOST\r\n\r\n") as other:
            up.llama.next().say(response(b'{"a":1}'), end=True)
            until(other, b'{"a":1}')
        chat.say(response(ANSWER), end=True)
        until(client, ANSWER)


def test_a_machine_that_is_not_there() -> None:
    with running(Llama(error="the machine doesn't start: no memory")) as up:
        with ask(up, CHAT + LAST) as client:
            bad, good = all_of(client).split(b"HTTP/1.1 ")[1:]
        assert bad.startswith(b"502 ")
        assert error(bad) == {"message": "the machine doesn't start: no memory", "type": "server_error", "code": 502}
        assert good.startswith(b"200 ")


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nA:b\r\n" * 9000]
)
def test_an_end_before_the_head(up: Running, said: bytes) -> None:
    with ask(up, CHAT) as client:
        up.llama.next().say(said, end=True)
        got = until(client, b"}}")
        assert statuses(got) == [502]
        assert error(got)["message"] == "llama-server ended the connection"


def test_an_end_between_events(up: Running) -> None:
    with ask(up, CHAT) as client:
        up.llama.next().say(EVENTS + chunk(b"data: 1\n\n"), end=True)
        body = all_of(client).partition(b"\r\n\r\n")[2]
        wanted = b'data: {"error":{"message":"llama-server ended the connection","type":"server_error","code":502}}\n\n'
        assert body == chunk(b"data: 1\n\n") + chunk(wanted) + chunk(b"")


@pytest.mark.parametrize(
    "said",
    [
        EVENTS + chunk(b'data: {"cut'),
        EVENTS.replace(b"text/event-stream", b"application/json") + chunk(b"[1,\n\n"),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n[1,",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_end_elsewhere_is_seen(up: Running, said: bytes, version: bytes) -> None:
    with ask(up, CHAT.replace(b"HTTP/1.1", b"HTTP/" + version)) as client:
        asked = up.llama.next()
        asked.say(said)
        got = until(client, b"cut" + (b"\r\n" if version == b"1.1" else b"")) if b"cut" in said else b""
        asked.say(b"", end=True)
        got += all_of(client)
        assert got.endswith(b" (reset)")
        assert b"\r\n0\r\n" not in got
        assert b"error" not in got


def test_a_stop() -> None:
    with running(limits={"linger_seconds": 0.1}) as up, contextlib.ExitStack() as stack:

        def start(request: bytes) -> socket.socket:
            return stack.enter_context(ask(up, request))

        idle, half, used, body = start(b""), start(b"GET /hea"), start(HEALTH), start(CHAT[:-1])
        until(used, OK)
        client, fine = start(CHAT), up.llama.next()
        plain, late = start(CHAT), up.llama.next()
        events, begun = start(CHAT), up.llama.next()
        begun.say(EVENTS + chunk(b"data: 1\n\n"))
        until(events, b"data: 1\n\n\r\n")
        stop = up.do(up.gate.drain(0.5))
        for other in (idle, half, used):
            assert all_of(other) == b"", "who has no request under way is hung up on"
        with pytest.raises(ConnectionRefusedError):
            up.connect()
        body.sendall(b"}")
        assert error(all_of(body))["message"] == "the server is stopping"
        fine.say(response(ANSWER), end=True)
        assert all_of(client).endswith(ANSWER), "who has, gets the answer"
        assert not late.hung.is_set()
        got = all_of(plain)
        assert statuses(got) == [503], "unless it takes longer"
        assert error(got)["message"] == "the server is stopping"
        assert b'data: {"error":{"message":"the server is stopping"' in all_of(events)
        stop.result(SECONDS)
        for asked in (late, begun):
            assert asked.hung.wait(SECONDS)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "x" / "gate"
    with running(socket=path) as up:
        assert up.gate.addresses == [f"http://127.0.0.1:{up.port}", f"unix:{path}"]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(LAST.replace(b"HOST", b"anything"))
            assert all_of(client).endswith(OK)
        with pytest.raises(ZosiaError, match="Another server"):
            up.do(Gate(Service(model="m", port=0, socket=path), up.llama).start()).result(SECONDS)
        with pytest.raises(ZosiaError, match=f"Port {up.port} of 127.0.0.1 is in use. Set another: PORT={up.port + 1}"):
            up.do(Gate(Service(model="m", port=up.port), up.llama).start()).result(SECONDS)
        assert up.talk(LAST).endswith(OK)
    assert not path.exists()


def test_others_are_let_in_only_with_a_key() -> None:
    with pytest.raises(ZosiaError, match="needs a key"), running(host="0.0.0.0"):
        pass
    with running(host="0.0.0.0", key="k") as up:
        assert up.gate.addresses == [f"http://0.0.0.0:{up.port}"]
        assert statuses(up.talk(LAST)) == [200]
        assert statuses(up.talk(METRICS)) == [401]


def test_the_log_and_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with running(Llama(answer=response(ANSWER)), log=log, key="s3cret") as up:
        key = b"\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n"
        body = b'{"messages":"private"}'
        up.talk(CHAT[:-6].replace(b": 2", b": 22") + key + body)
        up.talk(LAST)
        up.talk(LAST.replace(b"/health", b"/private?private"))
        up.talk(LAST.replace(b"GET", b"PRIVATE"))
        up.talk(b"private\r\n\r\n")
        figures = up.talk(LAST.replace(b"/health", b"/metrics").replace(b"\r\nConnection: close\r\n\r\n", key))
        up.wait(lambda: log.read_text(encoding="utf-8").count("\n") >= 5)
    lines = [
        line.split(" ", 1)[1].rpartition(" ")[0].rpartition(" ")[0] for line in log.read_text("utf-8").splitlines()
    ]
    assert lines == [
        "POST /v1/chat/completions 200 3+4 tokens",
        "GET - 404 -",
        "- /health 405 -",
        "- - 400 -",
        "GET /metrics 200 -",
    ]
    for text in (log.read_bytes(), figures):
        assert b"private" not in text.lower()
        assert b"s3cret" not in text
    for line in (
        b'zosia_requests_total{path="/v1/chat/completions",status="200"} 1',
        b'zosia_requests_total{path="/health",status="200"} 1',
        b'zosia_requests_total{path="-",status="404"} 1',
        b"zosia_prompt_tokens_total 3",
        b"zosia_completion_tokens_total 4",
    ):
        assert line in figures.splitlines()
    with running(verbose=True) as up:
        up.talk(LAST)
    assert " GET /health 200 " in capsys.readouterr().err


def test_a_hang_up_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log=log) as up:
        with ask(up, CHAT):
            up.llama.next()
        up.wait(lambda: " 499 " in log.read_text(encoding="utf-8"))


def test_a_full_disk_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Llama(answer=response(ANSWER)), log=Path("/dev/full")) as up:
        for _ in range(3):
            assert up.talk(CHAT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).endswith(ANSWER)
    assert capsys.readouterr().err.count("the log has gaps") == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small page."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<html><script>go()</script><script src='a.js'></script></html>")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.js").write_text("a" * 600_000)
    (folder / "sub" / "a.js.gz").write_bytes(gzip.compress(b"a" * 600_000))
    (folder / "b.bin").write_bytes(b"\0")
    (folder / "c.txt.gz").write_bytes(b"alone")
    (folder / "passwd").symlink_to("/etc/passwd")
    return folder


def get(up: Running, path: str, headers: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    text = up.talk(f"{method} {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n{headers}\r\n".encode())
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def test_the_page(folder: Path) -> None:
    with running(page=folder, key="k") as up:
        status, headers, body = get(up, "/")
        assert (status, body) == (200, (folder / "index.html").read_bytes())
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
        assert policy["frame-ancestors"] == "'none'"
        # printf %s 'go()' | openssl dgst -sha256 -binary | base64
        assert policy["script-src"] == "'self' 'sha256-5KYv+PUboo5h+0+YAtGRPbwv5d/QxzHslP4YGnUaxRw='"
        assert get(up, "/index.html")[2] == body
        assert get(up, "/?q=1")[0] == 200
        tag = headers["ETag"]
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            status, headers, none = get(up, "/", f"If-None-Match: {given}\r\n")
            assert (status, none, headers["ETag"]) == (304, b"", tag)
        assert get(up, "/", 'If-None-Match: "other"\r\n')[0] == 200
        assert get(up, "/b.bin")[1]["Content-Type"] == "application/octet-stream"
        assert get(up, "/c.txt.gz")[2] == b"alone"
        for path in ("/passwd", "/sub", "/sub/", "/sub/a.js.gz", "/../etc/passwd", "/sub/../index.html", "/%2e%2e/x"):
            assert get(up, path)[0] == 404
        assert get(up, "/", "Origin: http://evil.example\r\n")[0] == 403
        assert up.llama.streams == 0


def test_packed_files(folder: Path) -> None:
    with running(page=folder) as up:
        status, headers, body = get(up, "/sub/a.js", "Accept-Encoding: br, gzip\r\n")
        assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "gzip", "Accept-Encoding")
        assert body == (folder / "sub" / "a.js.gz").read_bytes()
        assert headers["Content-Type"] == "text/javascript; charset=utf-8"
        for given in ("", "Accept-Encoding: br\r\n", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: xgzip\r\n"):
            status, plain, body = get(up, "/sub/a.js", given)
            assert (status, body) == (200, b"a" * 600_000)
            assert "Content-Encoding" not in plain
            assert plain["ETag"] != headers["ETag"]
        status, head, body = get(up, "/sub/a.js", method="HEAD")
        assert (status, head["Content-Length"], body) == (200, "600000", b"")


def test_a_page_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match=r"has no index\.html"), running(page=tmp_path):
        pass
