"""Answers of llama-server to the chat, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from zosia.chat.api import Api, ApiError, Part, Reading, TooLong
from zosia.serve.service import BackendError

QUESTION = [{"role": "user", "content": "Zażółć?"}]
TIMINGS = {"cache_n": 30, "prompt_n": 4, "predicted_n": 2, "predicted_per_second": 7.5}
TOO_LONG = {"error": {"type": "exceed_context_size_error", "message": "…", "n_prompt_tokens": 900, "n_ctx": 256}}


class Bytes:
    """A stream with an answer, which comes in pieces of some size."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size
        self.sent = b""
        self.closed = False

    async def write(self, data: bytes) -> None:
        self.sent += data

    async def read(self, size: int = 65536) -> bytes:
        piece, self.data = self.data[: self.size], self.data[self.size :]
        return piece

    def close(self) -> None:
        self.closed = True


def reply(body: bytes, status: int = 200, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def events(*found: Any) -> bytes:
    return reply(
        b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in found) + b"data: [DONE]\n\n",
        kind="text/event-stream",
    )


def choice(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def asked(data: bytes, do: Callable[[Api], Any], size: int = 65536) -> tuple[Any, Bytes]:
    stream = Bytes(data, size)

    class Backend:
        async def stream(self) -> Bytes:
            return stream

    return asyncio.run(do(Api(Backend()))), stream  # type: ignore[arg-type]


async def answer(api: Api) -> list[Reading | Part]:
    return [part async for part in api.answer(QUESTION, {"temperature": 0.5})]


@pytest.mark.parametrize("size", [1, 7, 65536])
def test_an_answer(size: int) -> None:
    data = events(
        {"choices": [], "prompt_progress": {"total": 34, "cache": 30, "processed": 32, "time_ms": 5}},
        choice(role="assistant", content=None),
        choice(reasoning_content="Hm."),
        {**choice(content="Zażółć"), "timings": TIMINGS},
        {**choice("length"), "timings": {**TIMINGS, "predicted_n": 3}},
    )
    found, stream = asked(data, answer, size)
    assert found == [
        Reading(done=32, total=34, cached=30),
        Part(),
        Part(thought="Hm."),
        Part(text="Zażółć", used=36, rate=7.5),
        Part(reason="length", used=37, rate=7.5),
    ]
    head, _, body = stream.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")
    assert json.loads(body)["messages"] == QUESTION
    assert json.loads(body)["temperature"] == 0.5
    assert stream.closed


def test_who_stops_reading_cancels_the_answer() -> None:
    async def first(api: Api) -> Reading | Part:
        answer = api.answer(QUESTION, {})
        found = await anext(answer)
        await answer.aclose()  # type: ignore[attr-defined]
        return found

    found, stream = asked(events(choice(content="a"), choice(content="b")), first, 1)
    assert (found, stream.closed) == (Part(text="a"), True)


ERROR = {"error": {"code": 500, "message": "Jinja says no", "type": "server_error"}}


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (reply(json.dumps(TOO_LONG).encode(), 400), TooLong, "it takes 900 tokens, and the context has 256"),
        (reply(json.dumps(ERROR).encode(), 500), ApiError, "Jinja says no"),
        (reply(b"<html>", 502), ApiError, "<html>"),
        (reply(b"", 502), ApiError, "llama-server gave no reason"),
        (events(choice(content="a"), ERROR), ApiError, "Jinja says no"),
        (reply(b"error: " + json.dumps(ERROR).encode() + b"\n\n"), ApiError, "Jinja says no"),
        (reply(b"data: {\n\n"), ApiError, "llama-server's answer can't be read: {"),
        (events([1]), ApiError, "llama-server's answer can't be read: [1]"),
        (b"HTTP/1.1 200 X\r\n", BackendError, "llama-server ended the connection"),
        (events(choice(content="a"))[:-9], BackendError, "llama-server ended the connection"),
    ],
)
def test_a_refusal(data: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        asked(data, answer)
    assert (type(raised.value), str(raised.value)) == (error, text)


def test_tokens() -> None:
    assert asked(reply(b'{"input_tokens": 12}'), lambda api: api.tokens(QUESTION))[0] == 12
    counted, stream = asked(reply(b'{"tokens": [1, 2, 3]}'), lambda api: api.count("a b c"))
    assert (counted, b'{"content": "a b c"}' in stream.sent, stream.closed) == (3, True, True)
