"""A gate that runs in a thread, in front of a llama-server that says what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from zosia.base.patience import patience
from zosia.serve.gate import Gate
from zosia.serve.service import Asking, BackendError, Limits, Phase, Service

T = TypeVar("T")
SECONDS = 20 * patience()  # for what takes none
LONG = 3600.0
# No bound of time, unless a test sets it.
CALM = {f"{name}_seconds": LONG for name in ("head", "body", "request", "idle", "write")}


def response(body: bytes, *, status: str = "200 OK", type: str = "application/json", headers: str = "") -> bytes:
    """Return an answer of llama-server's, with the headers that it has."""
    return (
        f"HTTP/1.1 {status}\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\nKeep-Alive: timeout=5\r\n"
        f"Content-Type: {type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk; the last if it is empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(eq=False)
class Asked:
    """A request as it came to llama-server, which a test answers from its own thread."""

    head: str
    body: bytes
    loop: asyncio.AbstractEventLoop
    writer: asyncio.StreamWriter
    hung: threading.Event = field(default_factory=threading.Event)  # the gate has closed the stream

    def say(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes, and hang up after the last."""
        self.loop.call_soon_threadsafe(self.writer.write, data)
        if end:
            self.loop.call_soon_threadsafe(self.writer.close)


@dataclass(eq=False)
class Pipe:
    """The gate's end of a stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, size: int = 65536) -> bytes:
        return await self.reader.read(size)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass(eq=False)
class Llama:
    """A llama-server, which answers all requests with `answer`, or leaves them to the test: `asked`."""

    phase: Phase = Phase.READY
    error: str = ""  # there are no streams, for this reason
    answer: bytes = b""
    asked: queue.Queue[Asked] = field(default_factory=queue.Queue)
    streams: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def stream(self, asking: Asking | None = None) -> Pipe:
        if self.error:
            raise BackendError(self.error)
        self.streams += 1
        ours, theirs = socket.socketpair()
        task = asyncio.create_task(self.serve(theirs))
        self.tasks.add(task)
        return Pipe(*await asyncio.open_unix_connection(sock=ours))

    async def serve(self, end: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = re.search(r"(?i)content-length: ([0-9]+)", head)
            body = await reader.readexactly(int(size[1]) if size else 0)
            asked = Asked(head, body, asyncio.get_running_loop(), writer)
            self.asked.put(asked)
            if self.answer:
                asked.say(self.answer, end=True)
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    pass
            asked.hung.set()
            writer.close()

    def next(self) -> Asked:
        """Return the next request that comes."""
        return self.asked.get(timeout=SECONDS)


@dataclass(eq=False)
class Running:
    """A gate that runs, and how to reach it."""

    gate: Gate
    llama: Llama
    loop: asyncio.AbstractEventLoop
    path: Path | None = None  # of the UNIX socket

    @property
    def url(self) -> str:
        return self.gate.addresses[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def do(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the gate's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def connect(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def talk(self, request: bytes) -> bytes:
        """Send bytes on a new connection, and return all that comes until it ends."""
        with self.connect() as client:
            client.sendall(request.replace(b"HOST", b"localhost:%d" % self.port))
            return all_of(client)

    def wait(self, true: Callable[[], object]) -> None:
        """Wait until something is true, as seen from the gate's loop."""

        async def look() -> None:
            async with asyncio.timeout(SECONDS):
                while not true():
                    await asyncio.sleep(0.002)

        self.do(look()).result(SECONDS)


def all_of(client: socket.socket) -> bytes:
    """Return all bytes until the other end has closed; a reset ends them as well, with " (reset)"."""
    got = b""
    try:
        while data := client.recv(65536):
            got += data
    except ConnectionResetError:
        return got + b" (reset)"
    return got


def until(client: socket.socket, end: bytes) -> bytes:
    """Return what comes until it ends so."""
    got = b""
    while not got.endswith(end):
        data = client.recv(65536)
        assert data, got
        got += data
    return got


@contextmanager
def running(llama: Llama | None = None, *, limits: dict[str, float] | None = None, **wishes: Any) -> Iterator[Running]:
    """A gate on a free port; `wishes` are of its Service."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    llama = llama or Llama()
    bounds: dict[str, Any] = {**CALM, **(limits or {})}
    gate = Gate(Service(**{"model": "parrot", "port": 0, **wishes}), llama, Limits(**bounds))
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    up = Running(gate, llama, loop, wishes.get("socket"))
    try:
        up.do(gate.start()).result(SECONDS)
        yield up
        up.do(gate.drain(0)).result(SECONDS)
        assert [str(fault) for fault in faults] == []
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        _close(loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()
