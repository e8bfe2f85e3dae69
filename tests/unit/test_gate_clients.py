"""Programs that people use as clients of the gate."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.gate import EVENTS, SECONDS, Asked, Running, chunk, response, running

CHAT = "/v1/chat/completions"
KEY = "s3cret"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gate")
    with running(key=KEY, log=folder / "log", socket=folder / "x" / "gate") as gate:
        yield gate


def completion(text: str, name: str = "message") -> bytes:
    """Return what llama-server says, as far as clients need it."""
    choice = {"index": 0, name: {"role": "assistant", "content": text}, "finish_reason": None}
    return json.dumps({"id": "1", "object": "x", "created": 1, "model": "m", "choices": [choice]}).encode()


@pytest.fixture
def client(up: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key=KEY, max_retries=0, timeout=SECONDS) as client:
        yield client


def test_openai(up: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up.llama, "answer", response(completion("Hello")))
    for _ in range(2):  # on one connection
        said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert said.choices[0].message.content == "Hello"
        assert json.loads(up.llama.next().body)["messages"] == [{"role": "user", "content": "Hi"}]


def events(*data: bytes) -> bytes:
    return EVENTS + b"".join(chunk(b"data: " + text + b"\n\n") for text in data)


def test_openai_streams(up: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["One", "Two", "Three"]
    said = events(*(completion(word, "delta") for word in words), b"[DONE]") + chunk(b"")
    monkeypatch.setattr(up.llama, "answer", said)
    pieces = client.chat.completions.create(model="m", messages=[], stream=True)
    assert [piece.choices[0].delta.content for piece in pieces] == words
    up.llama.next()
    monkeypatch.setattr(up.llama, "answer", events(completion("One", "delta")))  # and no end
    with pytest.raises(openai.APIError, match="llama-server ended the connection"):
        list(client.chat.completions.create(model="m", messages=[], stream=True))
    up.llama.next()


def test_openai_hangs_up(up: Running, client: openai.OpenAI) -> None:
    def say() -> None:
        asked.append(up.llama.next())
        asked[0].say(events(completion("One", "delta")))

    asked: list[Asked] = []
    thread = threading.Thread(target=say)
    thread.start()
    with client.chat.completions.create(model="m", messages=[], stream=True) as pieces:
        assert next(pieces).choices[0].delta.content == "One"
    thread.join()
    assert asked[0].hung.wait(SECONDS)


def test_openai_errors(up: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="this server has no such path"):
        client.files.list()
    monkeypatch.setattr(up.llama, "error", "no memory")
    with pytest.raises(openai.InternalServerError, match="no memory"):
        client.models.list()


def curl(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(SECONDS), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_curl(up: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = ("--write-out", "%{http_code} %{num_connects} ", "--output", "/dev/null")
    both = f"{up.url}/health"
    assert curl(*status, both, *status, both).stdout == "200 1 200 0 ", "one connection for both"
    assert curl("--http1.0", f"{up.url}/health").stdout == '{"status":"ok"}'
    assert curl("--head", f"{up.url}/health").stdout.startswith("HTTP/1.1 200 OK\n")
    assert curl("--header", "Host: evil.example", *status, f"{up.url}/health").stdout == "421 1 "
    assert curl("--header", "Origin: null", *status, f"{up.url}/health").stdout == "403 1 "
    # curl resolves the name as an attacker's server would: DNS rebinding
    rebound = f"http://evil.example:{up.port}/health"
    assert curl("--resolve", f"evil.example:{up.port}:127.0.0.1", *status, rebound).stdout == "421 1 "
    monkeypatch.setattr(up.llama, "answer", response(completion("Hello")))
    key = ("--header", f"Authorization: Bearer {KEY}")
    large = tmp_path / "large"
    large.write_text(json.dumps({"prompt": "a" * 2_000_000}), encoding="ascii")  # curl asks before it sends that
    for version in ("--http1.0", "--http1.1"):
        assert "Hello" in curl(version, *key, "--data-binary", f"@{large}", up.url + CHAT).stdout
        assert len(up.llama.next().body) == large.stat().st_size
    done = curl(*key, "--data-binary", f"@{large}", "--header", "Transfer-Encoding: chunked", up.url + CHAT)
    assert "Hello" in done.stdout
    assert len(up.llama.next().body) == large.stat().st_size
    path = up.gate.addresses[1].removeprefix("unix:")
    assert "Hello" in curl(*key, "--unix-socket", path, "http://anything/v1/models").stdout
    assert "GET /v1/models " in up.llama.next().head


def test_curl_sees_an_answer_that_is_cut(up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up.llama, "answer", EVENTS.replace(b"text/event-stream", b"application/json") + chunk(b"[1,"))
    for version in ("--http1.0", "--http1.1"):
        done = curl(version, "--header", f"x-api-key: {KEY}", "--data", "{}", up.url + CHAT)
        assert done.returncode != 0
        up.llama.next()


def test_python(up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up.llama, "answer", response(completion("Hello")))
    client = http.client.HTTPConnection("127.0.0.1", up.port, timeout=SECONDS)
    for _ in range(3):
        client.request("POST", CHAT, body=iter([b"{", b"}"]), headers={"x-api-key": KEY}, encode_chunked=True)
        got = client.getresponse()
        assert (got.status, got.getheader("Server")) == (200, None)
        assert b"Hello" in got.read()
        assert up.llama.next().body == b"{}"
        client.request("POST", CHAT, body=b"{}")
        got = client.getresponse()
        assert got.status == 401
        got.read()
    client.close()
