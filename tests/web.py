"""A web server on loopback that fails as it is told to."""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 1 << 14  # bytes
TRICKLE = 0.01  # seconds between single bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Treatment of one request by the server; a correct answer by default.

    `cut` breaks off after so many bytes of the body, and with `stall` keeps the connection open then; `lie` is added to
    Content-Length, which there is none of without `length`; `body` replaces the file; `location` redirects, with
    `status` if that is one of a redirect; `pause` is between pieces of the body, in seconds; after `trickle` bytes of
    the body come single ones.
    """

    status: int = 200
    ranges: bool = True
    cut: int | None = None
    stall: bool = False
    lie: int = 0
    length: bool = True
    body: bytes | None = None
    location: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0
    trickle: int | None = None


@dataclass
class Web:
    """A web server on loopback: `files` by path; `answers`, one a request, the last for all that follow.

    `pages` are answers for one path, treated the same.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    pages: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # path and Range of each GET
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Authorization of each request
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str]:
        """The Range header of each GET, "" for none."""
        return [given for _, given in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET or HEAD."""
        wanted = handler.headers.get("Range", "")
        self.asked.append((handler.command, handler.path, handler.headers.get("Authorization", "")))
        if handler.command == "GET":
            self.requests.append((handler.path, wanted))
        answers = self.pages.get(handler.path, self.answers)
        how = answers.pop(0) if len(answers) > 1 else answers[0]
        body = self.files.get(handler.path) if how.body is None else how.body
        redirect = how.status if 300 < how.status < 400 else 302
        status = redirect if how.location else how.status if how.status != 200 else 404 if body is None else 200
        whole = body or b""
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and how.ranges and status == 200 else 0
        if start:
            status = 206 if start < len(whole) else 416
        sent = whole[start:] if status in (200, 206) else b""
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if handler.path.endswith("/") else "application/octet-stream")
        if how.length:
            handler.send_header("Content-Length", str(len(sent) + how.lie))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        elif status == 416 and how.status != 416:
            handler.send_header("Content-Range", f"bytes */{len(whole)}")
        for name, value in {**how.headers, **({"Location": how.location} if how.location else {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            self._send(handler, sent[: how.cut], how)

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, how: Answer) -> None:
        piece = PIECE if how.pause else len(body) or 1
        with contextlib.suppress(ConnectionError):  # the client may be killed
            fast = len(body) if how.trickle is None else how.trickle
            for at in range(0, fast, piece):
                handler.wfile.write(body[at : min(at + piece, fast)])
                self.closing.wait(how.pause)
            for at in range(fast, len(body)):
                handler.wfile.write(body[at : at + 1])
                if self.closing.wait(TRICKLE):
                    return
            handler.wfile.flush()
        if how.stall:
            self.closing.wait(30)


@contextmanager
def serving(certificates: ssl.SSLContext | None = None) -> Iterator[Web]:
    """A running server; with TLS if it has certificates."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.answer(self)

        def do_HEAD(self) -> None:
            web.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificates:
            server.socket = certificates.wrap_socket(server.socket, server_side=True)
        web = Web(f"{'https' if certificates else 'http'}://127.0.0.1:{server.server_port}")
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        try:
            yield web
        finally:
            web.closing.set()
            server.shutdown()
