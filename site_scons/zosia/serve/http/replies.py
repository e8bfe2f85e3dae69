"""Replies that the gate gives itself; errors have the form of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json; charset=utf-8"
# No answer is for another site's page, and none is looked into for a type that it doesn't have.
COMMON: Headers = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
# Of what is not the page: a browser that shows it runs nothing of it.
INERT: Headers = (*COMMON, ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"))
# llama-server's names (format_error_response of its server-common.cpp)
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    502: "server_error",
    503: "unavailable_error",
}
RETRY_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Status, headers and body of an answer. `close` ends the connection with it."""

    status: int
    body: bytes = b""
    headers: Headers = ()
    close: bool = False


def error_value(status: int, message: str) -> dict[str, object]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": KINDS.get(status, "invalid_request_error"), "code": status}}


def error_body(status: int, message: str) -> bytes:
    """Return an error as JSON."""
    return encode(error_value(status, message))


def encode(value: object) -> bytes:
    """Return JSON in few bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def answer(value: object, *, status: int = 200) -> Reply:
    """Return a reply of JSON."""
    return Reply(status=status, body=encode(value), headers=(*INERT, ("Content-Type", JSON)))


def text(value: str) -> Reply:
    """Return a reply of plain text, in the version that Prometheus reads."""
    return Reply(status=200, body=value.encode(), headers=(*INERT, ("Content-Type", TEXT)))


def error(status: int, message: str, *, headers: Iterable[tuple[str, str]] = (), close: bool = False) -> Reply:
    """Return an error's reply; a 503 says when to come again."""
    retry = [("Retry-After", str(RETRY_SECONDS))] if status == 503 else []
    every = (*INERT, ("Content-Type", JSON), *retry, *headers)
    return Reply(status=status, body=error_body(status, message), headers=every, close=close)
