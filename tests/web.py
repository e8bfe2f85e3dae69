"""A web server on loopback that fails as it is told to."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the server treats one request; as it is, well.

    `cut` breaks off after so many bytes of the body, and with `stall` keeps the connection open then; `lie` is added to
    Content-Length; `body` replaces the file; `location` redirects.
    """

    status: int = 200
    ranges: bool = True
    cut: int | None = None
    stall: bool = False
    lie: int = 0
    body: bytes | None = None
    location: str = ""


@dataclass
class Web:
    """A web server on loopback: `files` by path; `answers`, one a request, the last for all that follow."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    requests: list[tuple[str, str]] = field(default_factory=list)  # path and Range
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str]:
        """The Range header of each request, "" for none."""
        return [given for _, given in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        wanted = handler.headers.get("Range", "")
        self.requests.append((handler.path, wanted))
        how = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        body = self.files.get(handler.path) if how.body is None else how.body
        status = 302 if how.location else 404 if body is None else how.status
        whole = body or b""
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and how.ranges and status == 200 else 0
        if start:
            status = 206 if start < len(whole) else 416
        sent = whole[start:] if status in (200, 206) else b""
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html" if handler.path.endswith("/") else "application/octet-stream")
        handler.send_header("Content-Length", str(len(sent) + how.lie))
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        if how.location:
            handler.send_header("Location", how.location)
        handler.end_headers()
        handler.wfile.write(sent[: how.cut])
        if how.stall:
            handler.wfile.flush()
            self.closing.wait(30)


@contextmanager
def serving() -> Iterator[Web]:
    """A running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web = Web(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        try:
            yield web
        finally:
            web.closing.set()
            server.shutdown()
