"""Parts of the gate that need no connection: bodies, turns, record, service, sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gate import SECONDS
from zosia.base.errors import ZosiaError
from zosia.serve import listen
from zosia.serve.http import bodies
from zosia.serve.http.bodies import DEPTH, GRAMMAR
from zosia.serve.record import Done, Log, Metrics, Usage
from zosia.serve.service import Service
from zosia.serve.turns import Full, Turns


def nested(levels: int, start: str = "[", end: str = "]") -> str:
    return start * levels + end * levels


def test_plain_bodies_pass() -> None:
    texts = ['{"a":"' + "[" * 500 + '"}', r'{"a":"\"[[[\\"}', '{"grammar":"root ::= (\\"a\\" | [(])+"}', "{}"]
    assert [bodies.fault(text.encode()) for text in texts] == [""] * len(texts)
    flat = json.dumps({"a": [[]] * 1000, "b": [{"c": "]" * 1000}] * 1000})
    assert bodies.fault(flat.encode()) == ""


@pytest.mark.parametrize("start", ["[", '{"a":'])
def test_deep_json_is_refused(start: str) -> None:
    end = "]" if start == "[" else "}"
    deepest = '{"x":' + start * (DEPTH - 1) + "1" + end * (DEPTH - 1) + "}"
    assert bodies.fault(deepest.encode()) == ""
    deeper = '{"x":' + start * DEPTH + "1" + end * DEPTH + "}"
    assert "levels" in bodies.fault(deeper.encode())
    # before anything recurses into it
    assert "levels" in bodies.fault(b'{"s":"\\"]","x":' + start.encode() * 200_000)


@pytest.mark.parametrize("body", ["", "x", "[]", '"a"', '{"a":}', '{"a":1}x', "{", "\ufeff{}", '{"a":"\n"}'])
def test_what_is_no_object_is_refused(body: str) -> None:
    assert "not" in bodies.fault(body.encode())
    assert "not" in bodies.fault('{"a":1}'.encode("utf-16"))
    assert "not" in bodies.fault(b'{"a":"\xff"}')


def rule(levels: int) -> str:
    return "root ::= " + "(" * levels + '"a"' + ")" * levels


@pytest.mark.parametrize(
    "wrap",
    [
        lambda grammar: {"grammar": grammar},
        lambda grammar: {"response_format": {"type": "grammar", "grammar": grammar}},
        lambda grammar: {"a": [{"grammar": grammar}]},
        lambda grammar: {"json_schema": {"pattern": grammar}},
        lambda grammar: {"grammar_triggers": [{"type": 2, "value": grammar}]},
    ],
)
def test_deep_grammars_are_refused(wrap: object) -> None:
    assert callable(wrap)
    assert bodies.fault(json.dumps(wrap(rule(DEPTH))).encode()) == ""
    assert "levels" in bodies.fault(json.dumps(wrap(rule(DEPTH + 1))).encode())
    assert "levels" in bodies.fault(json.dumps(wrap(rule(50_000))).encode())


@pytest.mark.parametrize(
    "part",
    [
        '")" (',  # parentheses of a literal don't close any
        "[)] (",
        '"\\")" (',
        "[\\])] (",
        "# )\n(",
        '["] ( ["] (',  # and quotes of a class begin no literal
        '<"> ( <"> (',
        '# "\n( # "\n(',
    ],
)
def test_literals_hide_no_depth(part: str) -> None:
    assert "levels" in bodies.fault(json.dumps({"grammar": "root ::= " + part * 500}).encode())


def test_a_pattern_hides_no_depth() -> None:
    for part in (r"(\)", "([)]", r"([\])]"):
        assert "levels" in bodies.fault(json.dumps({"json_schema": {"pattern": part * 500}}).encode())
    assert bodies.fault(json.dumps({"json_schema": {"pattern": r"\(" * 500 + "[(]" * 500}}).encode()) == ""


def test_of_two_grammars_both_are_looked_at() -> None:
    body = json.dumps({"grammar": rule(5000)})[:-1] + ',"grammar":"x"}'
    assert "levels" in bodies.fault(body.encode())


def test_huge_grammars_are_refused() -> None:
    assert bodies.fault(json.dumps({"grammar": "a" * GRAMMAR}).encode()) == ""
    assert "characters" in bodies.fault(json.dumps({"grammar": "a" * (GRAMMAR + 1)}).encode())
    schema = {"properties": {f"p{number}": {"type": "string"} for number in range(10_000)}}
    for name, value in (("json_schema", schema), ("response_format", {"schema": schema}), ("tools", [schema])):
        assert "characters" in bodies.fault(json.dumps({name: value}).encode())
    assert bodies.fault(json.dumps({"prompt": "a" * (GRAMMAR + 1)}).encode()) == ""


def test_turns_are_given_in_order() -> None:
    async def check() -> None:
        turns, order, go = Turns(2, 3), list[int](), [asyncio.Event() for _ in range(5)]

        async def work(number: int) -> None:
            async with turns.turn():
                order.append(number)
                await go[number].wait()

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert (order, turns.running, turns.waiting) == ([0, 1], 2, 3)
        with pytest.raises(Full):
            async with turns.turn():
                pass
        tasks[3].cancel()
        await asyncio.wait([tasks[3]])
        assert turns.waiting == 2, "who leaves makes place"
        go[1].set()
        await tasks[1]
        await asyncio.sleep(0)
        assert (order, turns.running, turns.waiting) == ([0, 1, 2], 2, 1)
        for event in go:
            event.set()
        await asyncio.wait(tasks)
        assert (order, turns.running, turns.waiting) == ([0, 1, 2, 4], 0, 0)

    asyncio.run(check())


async def have_turn(turns: Turns, go: asyncio.Event) -> None:
    async with turns.turn():
        await go.wait()


def test_a_turn_is_not_lost_with_who_is_cancelled_as_it_comes() -> None:
    async def check() -> None:
        turns, go = Turns(1, 3), asyncio.Event()
        first, second, third = (asyncio.create_task(have_turn(turns, go)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert (turns.running, turns.waiting) == (1, 1)  # the second has the turn, but hasn't run yet
        second.cancel()
        go.set()
        await asyncio.wait_for(third, SECONDS)
        assert second.cancelled()
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(check())


def test_a_turn_is_not_given_to_who_is_cancelled_before() -> None:
    async def check() -> None:
        turns, go = Turns(1, 3), asyncio.Event()
        first, second, third = (asyncio.create_task(have_turn(turns, go)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()  # whom the first meets in the queue
        go.set()
        await asyncio.wait_for(third, SECONDS)
        assert first.cancelled()
        assert second.cancelled()
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(check())


def usage(*parts: bytes) -> tuple[int, int] | None:
    read = Usage()
    for part in parts:
        read.feed(part)
    return read.tokens


def test_tokens_of_answers() -> None:
    assert usage(b'{"usage":{"completion_tokens":5,"prompt_tokens":31,"total_tokens":36}}') == (31, 5)
    assert usage(b'{"timings":{"prompt_n":7,"predicted_n":2}}') == (7, 2)
    assert usage(b'{"timings":{"cache_n":24,"prompt_n":13,"predicted_n":2}}') == (37, 2)
    assert usage(b'{"usage":{"prompt_tokens":31,"completion_tokens":5},"timings":{"prompt_n":1,"predicted_n":5}}') == (
        31,
        5,
    )
    assert usage(b'{"usage": {"input_tokens": 3}}' + b" " * 70_000, b'{"usage": {"output_tokens": 9}}') == (3, 9)
    assert usage(b'{"usage":{"prompt_tokens":8},"data":[' + b"1," * 40_000 + b"1]}") == (8, 0)
    assert usage(b'data: {"timings":{"prompt', b'_n":7,"predicted_n":2}}\n\ndata: [DONE]\n\n') == (7, 2)
    assert usage(b"") is None
    said = json.dumps({"content": '"prompt_tokens":99,"completion_tokens":99'}).encode()
    assert usage(said) is None, "a text is not taken for them"
    assert usage(b'{"prompt_tokens":' + b"9" * 5000 + b"}") is None


def done(path: str = "/v1/models", status: int = 200, tokens: tuple[int, int] | None = None) -> Done:
    return Done(method="GET", path=path, status=status, seconds=0.25, tokens=tokens)


def test_log_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "log")
    log.write(done())
    log.write(done(tokens=(3, 4)))
    first, second = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert first.split(" ", 1)[1] == "GET /v1/models 200 - 0.250 s"
    assert second.split(" ", 1)[1] == "GET /v1/models 200 3+4 tokens 0.250 s"
    log.close()
    Log(tmp_path / "log").write(done())
    assert (tmp_path / "log").read_text(encoding="utf-8").startswith(f"{first}\n{second}\n"), "it is appended to"
    Log(None).write(done())
    assert "GET /v1/models 200" in capsys.readouterr().err


def test_a_full_disk_takes_one_note(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(Path("/dev/full"))
    for _ in range(3):
        log.write(done())
    log.close()
    assert capsys.readouterr().err.splitlines() == ["zosia: note: the log has gaps: [Errno 28] No space left on device"]


def test_a_log_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match="can't be written: Is a directory"):
        Log(tmp_path)


def test_figures() -> None:
    metrics = Metrics()
    metrics.count(done(tokens=(3, 4)))
    metrics.count(done(tokens=(3, 4)))
    metrics.count(done("-", 404))
    metrics.starts, metrics.crashes = 1, 3
    text = metrics.text(active=5, waiting=6)
    assert text.endswith("\n")
    for line in (
        'zosia_requests_total{path="/v1/models",status="200"} 2',
        'zosia_requests_total{path="-",status="404"} 1',
        'zosia_seconds_total{path="/v1/models"} 0.5',
        "zosia_prompt_tokens_total 6",
        "zosia_completion_tokens_total 8",
        "zosia_machine_starts_total 1",
        "zosia_machine_crashes_total 3",
        "zosia_active 5",
        "zosia_waiting 6",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "fd00::1"])
def test_others_need_a_key(host: str) -> None:
    with pytest.raises(ZosiaError, match="needs a key"):
        Service(model="m", host=host).check()
    Service(model="m", host=host, key="k").check()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.9"])
def test_this_computer_needs_none(host: str) -> None:
    Service(model="m", host=host).check()


def test_services_that_cannot_be() -> None:
    for key in ("a b", "a\nb", "ą", " "):
        with pytest.raises(ZosiaError, match="KEY= has a space, or"):
            Service(model="m", key=key).check()
    for host in ("example.org", "", "127.0.0.1:80", "127.0.0"):
        with pytest.raises(ZosiaError, match=f"^HOST={host} is no IP address. Set for example HOST=127.0.0.1$"):
            Service(model="m", host=host, key="k").check()


def test_a_port_in_use() -> None:
    with listen.tcp("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ZosiaError, match=f"Port {port} of 127.0.0.1 is in use. Set another: PORT="):
            listen.tcp("127.0.0.1", port)
    for host in ("192.0.2.1", "no such name"):
        with pytest.raises(ZosiaError, match="is no address of this computer"):
            listen.tcp(host, 0)


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with listen.unix(path):
        yield


def test_a_socket_is_the_users(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gate"
    with listening(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with pytest.raises(ZosiaError, match="Another server listens on"):
            listen.unix(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert path.exists()
    with listening(path), socket.socket(socket.AF_UNIX) as client:  # what was left over is replaced
        client.connect(str(path))


def test_sockets_that_cannot_be(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    with pytest.raises(ZosiaError, match="is no socket"):
        listen.unix(tmp_path / "file")
    with pytest.raises(ZosiaError, match="too long"):
        listen.unix(tmp_path / ("x" * 104))
    with pytest.raises(ZosiaError, match="can't be made"):
        listen.unix(tmp_path / "file" / "gate")
    for mode in (0o701, 0o710, 0o750):
        tmp_path.chmod(mode)
        with pytest.raises(ZosiaError, match="chmod 700"):
            listen.unix(tmp_path / "gate")
    tmp_path.chmod(0o700)
