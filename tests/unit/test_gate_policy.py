"""Policy of the gate: names, origins, keys, paths, methods."""

from __future__ import annotations

import json
import socket

import h11
import pytest

from zosia.serve.http.policy import ROUTES, Kind, Policy, Verdict
from zosia.serve.service import Service

LIMIT = 1000


def judge(
    target: str = "/v1/models",
    *headers: tuple[str, str],
    method: str = "GET",
    host: str = "localhost:8080",
    local: bool = False,
    service: Service | None = None,
) -> Verdict:
    request = h11.Request(method=method, target=target, headers=[("Host", host), *headers])
    policy = Policy(service=service or Service(model="parrot"), files={"/", "/a.js"})
    return policy.judge(request, local=local, limit=LIMIT)


def status(verdict: Verdict) -> int:
    """Return the status of a refusal, which is an error in OpenAI's form; 200 if there is none."""
    if not verdict.refusal:
        assert verdict.kind
        return 200
    error = json.loads(verdict.refusal.body)["error"]
    assert error["code"] == verdict.refusal.status
    assert error["message"]
    assert error["type"]
    return verdict.refusal.status


NAMES = ("localhost", "127.0.0.1", "[::1]", "LocalHost")


@pytest.mark.parametrize("host", [*NAMES, *(f"{name}:8080" for name in NAMES), "localhost:9000"])
def test_own_names(host: str) -> None:
    """A tunnel, such as that of ssh -L, has a port of its own; the page that comes through it is its own origin."""
    assert status(judge(host=host)) == 200


STRANGE = (
    "evil.example",
    "evil.example:8080",
    "localhost:123456",
    "localhost:",
    "localhost.:8080",
    "localhost.evil.example:8080",
    "evil@localhost:8080",
    "localhost:8080@evil.example",
    "127.0.0.2:8080",
    "10.0.0.1:8080",
    "2130706433",
    "::1",
    "localhost:8080,evil.example",
    "",
)


@pytest.mark.parametrize("host", STRANGE)
def test_foreign_names_are_refused(host: str) -> None:
    verdict = judge(host=host)
    assert status(verdict) == 421
    assert verdict.refusal
    assert verdict.refusal.close
    assert status(judge("/health", host=host)) == 421, "also of what needs no key"
    assert status(judge("/", host=host)) == 421, "and of the page"
    assert status(judge(host=host, local=True)) == 200, "no browser reaches the UNIX socket"


@pytest.mark.parametrize("name", [*NAMES[:3]])
def test_own_origins(name: str) -> None:
    for host in (name, f"{name}:8080", f"{name}:9000"):
        assert status(judge("/v1/models", ("Origin", f"http://{host}"), host=host)) == 200
        assert status(judge("/v1/models", ("Origin", f"http://{name}:3000"), host=host)) == 403, "another server's page"


ORIGINS = (
    "null",
    "https://evil.example",
    "http://evil.example:8080",
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:8080",
    "http://localhost:8080/",
    "http://localhost:8080.evil.example",
    "localhost:8080",
    "http://",
    "",
    "file://",
)


@pytest.mark.parametrize("origin", ORIGINS)
def test_foreign_origins_are_refused(origin: str) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("OPTIONS", "/v1/models")):
        assert status(judge(path, ("Origin", origin), method=method)) == 403
    assert status(judge("/health", ("Origin", origin))) == 403
    own = ("Origin", "http://localhost:8080")
    assert status(judge("/v1/models", own, ("Origin", origin))) == 403, "one of two"


@pytest.mark.parametrize(("site", "wanted"), [("same-origin", 200), ("none", 200), ("cross-site", 403)])
def test_sites(site: str, wanted: int) -> None:
    for path in ("/", "/v1/models"):
        assert status(judge(path, ("Sec-Fetch-Site", site))) == wanted
    assert status(judge("/", ("Sec-Fetch-Site", "same-site"))) == 403, "another port of this computer"


def test_a_preflight_gets_no_permission() -> None:
    verdict = judge("/v1/chat/completions", ("Origin", "http://localhost:8080"), method="OPTIONS")
    assert verdict.refusal
    assert verdict.refusal.status == 204
    assert "access-control" not in str(verdict.refusal.headers).lower()
    assert ("Allow", "POST, OPTIONS") in verdict.refusal.headers


def test_a_bound_address_is_a_name() -> None:
    service = Service(model="m", host="10.1.2.3", key="k")
    key = ("Authorization", "Bearer k")
    assert status(judge("/v1/models", key, host="10.1.2.3:8080", service=service)) == 200
    own = ("Origin", "http://10.1.2.3:8080")
    assert status(judge("/v1/models", key, own, host="10.1.2.3:8080", service=service)) == 200
    assert status(judge("/v1/models", key, own, host="localhost:8080", service=service)) == 403
    assert status(judge("/v1/models", key, host="10.1.2.4:8080", service=service)) == 421
    six = Service(model="m", host="fd00::1", key="k")
    assert status(judge("/v1/models", key, host="[fd00::1]:8080", service=six)) == 200


def test_all_addresses_are_names_when_all_are_bound() -> None:
    service = Service(model="m", host="0.0.0.0", key="k")
    key = ("Authorization", "Bearer k")
    for host in ("192.168.1.7:8080", "[fd00::1]:8080", f"{socket.gethostname()}:8080"):
        assert status(judge("/v1/models", key, host=host, service=service)) == 200
    for host in ("evil.example:8080", "0x7f000001:8080"):
        assert status(judge("/v1/models", key, host=host, service=service)) == 421


KEYED = Service(model="m", key="s3cret-key")


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([], 401),
        ([("Authorization", "Bearer s3cret-key")], 200),
        ([("Authorization", "bearer s3cret-key")], 200),
        ([("x-api-key", "s3cret-key")], 200),
        ([("Authorization", "Bearer wrong")], 401),
        ([("Authorization", "Bearer s3cret-key2")], 401),
        ([("Authorization", "Bearer s3cret-ke")], 401),
        ([("Authorization", "Bearer")], 401),
        ([("Authorization", "Basic s3cret-key")], 401),
        ([("Authorization", "s3cret-key")], 401),
        ([("x-api-key", "")], 401),
        ([("Cookie", "s3cret-key")], 401),
    ],
)
def test_keys(headers: list[tuple[str, str]], wanted: int) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics")):
        verdict = judge(path, *headers, method=method, service=KEYED)
        assert status(verdict) == wanted
        assert "s3cret" not in str(verdict)
    for path in ("/health", "/v1/health", "/", "/a.js"):
        assert status(judge(path, *headers, service=KEYED)) == 200, "open"


def test_a_key_does_not_open_other_doors() -> None:
    key = ("Authorization", "Bearer s3cret-key")
    assert status(judge("/v1/models", key, host="evil.example", service=KEYED)) == 421
    assert status(judge("/v1/models", key, ("Origin", "http://evil.example"), service=KEYED)) == 403
    assert status(judge("/slots", key, service=KEYED)) == 404


CLOSED = [
    "/slots",
    "/lora-adapters",
    "/cors-proxy",
    "/models/load",
    "/models/unload",
    "/models/sse",
    "/v1/chat/completions/control",
    "/v1/audio/transcriptions",
    "/slots/0",
    "/v1/stream/x",
    "/predict",
    "/mcp",
    "/index.html",  # of a page that has none
    "/v1/models/",
    "//v1/models",
    "/v1//models",
    "/v1/./models",
    "/v1/x/../models",
    "/v1%2fmodels",
    "/v1/model%73",
    "/V1/models",
    "/v1/models;x",
    "/v1/models#x",
    "/v1\\models",
    "v1/models",
    "*",
    "localhost:8080",
    "https://localhost:8080/v1/models",
    "file:///etc/passwd",
    "/../../etc/passwd",
    "/a.js/../../etc/passwd",
]


@pytest.mark.parametrize("target", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_all_else_is_not_there(target: str, method: str) -> None:
    verdict = judge(target, method=method)
    assert status(verdict) == 404
    assert verdict.path == "-", "no path of the client's is logged"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/props"),
        ("POST", "/models"),
        ("DELETE", "/models"),
        ("POST", "/v1/stream"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/"),
        ("HEAD", "/v1/models"),
        ("PUT", "/health"),
        ("BREW", "/v1/models"),
        ("get", "/v1/models"),
        ("CONNECT", "/v1/models"),
    ],
)
def test_other_methods_are_refused(method: str, path: str) -> None:
    verdict = judge(path, method=method)
    assert status(verdict) == 405
    assert verdict.refusal
    assert "Allow" in dict(verdict.refusal.headers)
    assert verdict.method in (method, "-")
    assert verdict.method not in ("BREW", "get", "CONNECT")


def test_kinds() -> None:
    for path, methods in ROUTES.items():
        for method, kind in methods.items():
            verdict = judge(path, method=method)
            assert (verdict.kind, verdict.path, verdict.method) == (kind, path, method)
            assert verdict.limit == (LIMIT if method == "POST" else 0)
    assert judge("/").kind is judge("/a.js", method="HEAD").kind is Kind.FILE
    assert judge("/v1/messages?beta=true", method="POST").kind is Kind.ANSWER
    assert judge("/v1/models?x=/slots").path == "/v1/models"


def test_absolute_targets() -> None:
    assert status(judge("http://localhost:8080/v1/models")) == 200
    assert judge("http://localhost:8080").kind is Kind.FILE
    assert status(judge("HTTP://127.0.0.1:8080/v1/models?a=b")) == 200
    for target in ("http://evil.example/v1/models", "http://localhost:8080@evil.example/v1/models", "http:///health"):
        assert status(judge(target)) == 421
    assert status(judge("http://localhost:8080/v1/models", host="evil.example")) == 421, "Host counts as well"
    assert status(judge("http://localhost:8080/slots")) == 404


def test_bodies_by_their_heads() -> None:
    def post(*headers: tuple[str, str]) -> int:
        return status(judge("/completion", *headers, method="POST"))

    assert post(("Content-Length", "1000")) == 200
    assert post(("Content-Length", "1001")) == 413
    assert post(("Content-Length", "9" * 20)) == 413
    assert status(judge("/v1/models", ("Content-Length", "1"))) == 413
    assert status(judge("/v1/models", ("Content-Length", "0"))) == 200
    assert post(("Content-Encoding", "identity")) == 200
    assert post(("Content-Encoding", "gzip")) == 415
    assert post(("Content-Type", "application/json")) == 200
    # llama-server makes JSON of it, in which nobody has looked for a deep grammar
    assert post(("Content-Type", "Multipart/form-data; boundary=x")) == 415
