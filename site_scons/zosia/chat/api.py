"""API: what the chat asks of llama-server in the guest, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zosia.serve.http.upstream import Upstream
from zosia.serve.service import Backend

CHAT = "/v1/chat/completions"
ASKS = {"stream": True, "return_progress": True, "timings_per_token": True}


class ApiError(Exception):
    """Refusal of llama-server, in its words."""


class TooLong(ApiError):
    """Refusal of what does not fit into the context."""

    def __init__(self, tokens: int, context: int) -> None:
        self.tokens, self.context = tokens, context
        super().__init__(f"it takes {tokens} tokens, and the context has {context}")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """State of the evaluation of a prompt, in tokens. Those that are `cached` need none."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of an answer.

    `reason` of the last part: "stop", or "length" if it was cut off. `used` tokens of the context are taken so far, and
    `rate` are generated in a second.
    """

    thought: str = ""
    text: str = ""
    reason: str = ""
    used: int = 0
    rate: float = 0.0


class Api:
    """llama-server of one machine. Errors are ApiErrors, and BackendErrors where there is no answer at all."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def answer(
        self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]
    ) -> AsyncIterator[Reading | Part]:
        """Yield the answer to these messages as it comes. Who stops reading cancels it.

        Raises:
            TooLong: the messages do not fit into the context.
        """
        body = {"messages": list(messages), **sampling, **ASKS}
        stream = await self._backend.stream()
        try:
            upstream = Upstream(stream)
            head = await upstream.ask("POST", CHAT, json.dumps(body).encode(), "text/event-stream")
            if head.status_code != 200:
                raise _refusal(b"".join([part async for part in upstream.parts()]))
            waiting = b""
            async for piece in upstream.parts():
                *events, waiting = (waiting + piece).split(b"\n\n")
                for event in events:
                    for found in _found(event):
                        yield found
        finally:
            stream.close()

    async def tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Return the number of tokens that the model sees of these messages."""
        found = await self._ask(f"{CHAT}/input_tokens", {"messages": list(messages)})
        return int(found["input_tokens"])

    async def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len((await self._ask("/tokenize", {"content": text}))["tokens"])

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        stream = await self._backend.stream()
        try:
            upstream = Upstream(stream)
            head = await upstream.ask("POST", path, json.dumps(body).encode(), "application/json")
            data = b"".join([part async for part in upstream.parts()])
        finally:
            stream.close()
        if head.status_code != 200:
            raise _refusal(data)
        return json.loads(data)


def _refusal(data: bytes) -> ApiError:
    try:
        error = json.loads(data)["error"]
        if error.get("type") == "exceed_context_size_error":
            return TooLong(int(error["n_prompt_tokens"]), int(error["n_ctx"]))
        return ApiError(str(error["message"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(data.decode(errors="replace").strip() or "llama-server gave no reason")


def _found(event: bytes) -> list[Reading | Part]:
    """Return what an event holds.

    Raises:
        ApiError: an error of the server, or something else that is no part of an answer.
    """
    text = event.removeprefix(b"data:").strip()
    if event.startswith(b"error:"):  # llama-server's own kind of event
        raise _refusal(event.removeprefix(b"error:"))
    if not event.startswith(b"data:") or text == b"[DONE]":
        return []
    try:
        fields = json.loads(text)
        if "error" in fields:
            raise _refusal(text)
        found: list[Reading | Part] = []
        if progress := fields.get("prompt_progress"):
            found.append(Reading(done=progress["processed"], total=progress["total"], cached=progress["cache"]))
        timings = fields.get("timings") or {}
        used = sum(int(timings.get(name, 0)) for name in ("cache_n", "prompt_n", "predicted_n"))
        rate = float(timings.get("predicted_per_second") or 0)
        for choice in fields.get("choices", ()):
            delta = choice.get("delta", {})
            found.append(
                Part(
                    thought=delta.get("reasoning_content") or "",
                    text=delta.get("content") or "",
                    reason=choice.get("finish_reason") or "",
                    used=used,
                    rate=rate,
                )
            )
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(f"llama-server's answer can't be read: {text.decode(errors='replace')[:200]}") from error
