"""Policy of the gate: which request is whose, and which is refused. Nothing here reads or writes."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto

import h11

from zosia.serve.http import replies
from zosia.serve.http.replies import Reply
from zosia.serve.service import WILDCARDS, Service


def values(message: h11.Request | h11.Response, name: str) -> list[str]:
    """Return all values of a header, whose name is small."""
    return [value.decode("latin-1") for key, value in message.headers if key == name.encode()]


class Kind(Enum):
    """Treatment of a request."""

    HEALTH = auto()
    METRICS = auto()
    EMPTY = auto()  # the page asks for a list of what is not there: answers that go on without it, and tools
    NO_STREAM = auto()  # and goes on with one, or ends it
    ABSENT = auto()  # no model that zosia runs can do it
    FILE = auto()  # of the page
    QUICK = auto()  # the machine's, but no slot of the model
    ANSWER = auto()  # the model's


GATES_OWN = {
    "/health": {"GET": Kind.HEALTH, "HEAD": Kind.HEALTH},
    "/v1/health": {"GET": Kind.HEALTH, "HEAD": Kind.HEALTH},
    "/metrics": {"GET": Kind.METRICS, "HEAD": Kind.METRICS},
    "/v1/streams/lookup": {"POST": Kind.EMPTY},
    "/tools": {"GET": Kind.EMPTY, "POST": Kind.EMPTY},
    "/v1/stream": {"GET": Kind.NO_STREAM, "DELETE": Kind.NO_STREAM},
}
# Of llama-server's paths (tools/server/server.cpp) those that neither change it for others nor look at others.
QUICK = (
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/chat/completions/input_tokens",
    "/v1/chat/completions/input_tokens",
    "/responses/input_tokens",
    "/v1/responses/input_tokens",
    "/v1/messages/count_tokens",
)
ANSWERS = (
    "/completion",
    "/completions",
    "/v1/completions",
    "/chat/completions",
    "/v1/chat/completions",
    "/responses",
    "/v1/responses",
    "/v1/messages",
    "/infill",
)
# Of models for other uses, which zosia does not run
ABSENT = ("/embedding", "/embeddings", "/v1/embeddings", "/rerank", "/reranking", "/v1/rerank", "/v1/reranking")
ROUTES: dict[str, dict[str, Kind]] = {
    **GATES_OWN,
    **{path: {"GET": Kind.QUICK} for path in ("/props", "/models", "/v1/models")},
    **{path: {"POST": Kind.QUICK} for path in QUICK},
    **{path: {"POST": Kind.ANSWER} for path in ANSWERS},
    **{path: {"POST": Kind.ABSENT} for path in ABSENT},
}
PAGE = {"GET": Kind.FILE, "HEAD": Kind.FILE}
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
OPEN = frozenset({Kind.HEALTH, Kind.FILE})  # without the key: a browser has none until the page has asked for it

AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?")
ABSOLUTE = re.compile(r"http://([^/?#]*)(.*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Treatment of a request, or the reply that refuses it. `method` and `path` are known ones, or "-"."""

    method: str
    path: str
    kind: Kind | None = None
    limit: int = 0  # bytes of its body
    refusal: Reply | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Policy of a service that listens on a port; `files` are the paths of its page."""

    service: Service
    files: Collection[str] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        host = self.service.host.lower()
        bound = f"[{host}]" if ":" in host else host
        # Who asks for all addresses is called by the computer's name as well; see _ours for the addresses.
        own = {socket.gethostname().lower()} if host in WILDCARDS else {bound}
        object.__setattr__(self, "names", frozenset({"localhost", "127.0.0.1", "[::1]", *own}))

    def judge(self, request: h11.Request, *, local: bool, limit: int) -> Verdict:
        """Return the treatment of a request: of at most `limit` bytes, `local` if by the UNIX socket."""
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        found = ABSOLUTE.fullmatch(target)
        authorities = [found[1]] if found else []
        path = ((found[2] or "/") if found else target).partition("?")[0]
        methods = ROUTES.get(path) or (PAGE if path in self.files else {})
        limit = limit if method == "POST" else 0
        refusal = (
            (None if local else self._foreign(request, authorities))
            or _wrong_method(method, methods)
            or self._no_key(request, methods[method])
            or _unreadable(request, limit)
        )
        return Verdict(
            method=method if method in METHODS else "-",
            path=path if methods else "-",
            kind=None if refusal else methods[method],
            limit=limit,
            refusal=refusal,
        )

    def _foreign(self, request: h11.Request, authorities: list[str]) -> Reply | None:
        """Refuse what another site's page sends, or sends by a name of its own that leads here (DNS rebinding)."""
        host, *others = values(request, "host") or [""]
        authorities = [*authorities, host, *others]
        if not all(self._ours(authority) for authority in authorities):
            return replies.error(
                421, "the Host of the request is no name of this server: ask for 127.0.0.1 or localhost", close=True
            )
        if not all(origin.lower() == f"http://{host.lower()}" for origin in values(request, "origin")):
            return replies.error(403, "other sites may not use this server", close=True)
        if not {"same-origin", "none"}.issuperset(values(request, "sec-fetch-site")):
            return replies.error(403, "other sites may not use this server; type its address", close=True)
        return None

    def _ours(self, authority: str) -> bool:
        """Return whether a name is one of this server; by a tunnel, such as ssh -L, it comes with another port."""
        found = AUTHORITY.fullmatch(authority.lower())
        if not found:
            return False
        return found[1] in self.names or (self.service.host in WILDCARDS and _is_address(found[1].strip("[]")))

    def _no_key(self, request: h11.Request, kind: Kind) -> Reply | None:
        if not self.service.key or kind in OPEN:
            return None
        bearers = [value.partition(" ") for value in values(request, "authorization")]
        given = [word.strip() for scheme, _, word in bearers if scheme.lower() == "bearer"]
        given += values(request, "x-api-key")  # Anthropic's clients
        if any(hmac.compare_digest(word.encode(), self.service.key.encode()) for word in given):
            return None
        return replies.error(401, "the key is missing or wrong", headers=[("WWW-Authenticate", "Bearer")])


def _is_address(name: str) -> bool:
    """Return whether a name is an address: no other site's name leads there."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _wrong_method(method: str, methods: dict[str, Kind]) -> Reply | None:
    if not methods:
        return replies.error(404, "this server has no such path")
    if method in methods:
        return None
    allowed = ("Allow", ", ".join([*methods, "OPTIONS"]))
    if method == "OPTIONS":  # of a page of our own, which needs no permission
        return Reply(status=204, headers=(*replies.INERT, allowed))
    return replies.error(405, f"use {' or '.join(methods)}", headers=[allowed])


def _unreadable(request: h11.Request, limit: int) -> Reply | None:
    """Refuse a body that is too large, or of a form that isn't read here."""
    if any(int(length) > limit for length in values(request, "content-length")):
        return replies.error(413, f"the body has more than {limit} bytes", close=True)
    encodings, types = values(request, "content-encoding"), values(request, "content-type")
    if {"identity"}.issuperset(encodings) and not any("multipart" in text.lower() for text in types):
        return None
    return replies.error(415, "the body must be JSON, as it is", close=True)
