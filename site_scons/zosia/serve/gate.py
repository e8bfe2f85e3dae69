"""Gate: HTTP on this computer, in front of a machine that has no network. Only it speaks to llama-server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from dataclasses import replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.serve import listen
from zosia.serve.connection import Connection, Shared
from zosia.serve.http import pages, replies
from zosia.serve.http.client import Client, Gone
from zosia.serve.http.policy import Policy
from zosia.serve.record import Log, Metrics
from zosia.serve.service import Backend, Limits, Service
from zosia.serve.turns import Turns

WAITING = 4  # times as many requests wait as are answered
QUICK = 4  # of llama-server's threads those beyond its slots (server-http.cpp: n_threads_http)
STOPPING = "the server is stopping"
LAST_SECONDS = 2.0  # to tell clients the end


class Gate:
    """Gate of a service, for a backend. `metrics` has counters for who starts the machine."""

    def __init__(
        self, service: Service, backend: Backend, limits: Limits | None = None, *, metrics: Metrics | None = None
    ) -> None:
        self.metrics = metrics or Metrics()
        self.addresses: list[str] = []
        self._service = service
        self._backend = backend
        self._limits = limits or Limits(connections=service.guests * Limits.connections)
        self._shared: Shared | None = None
        self._servers: list[asyncio.Server] = []
        self._socket_id: tuple[int, int] | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._refused: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> int:
        """Number of requests that need the machine: those that are answered, and those that wait."""
        return self._state.active

    @property
    def last(self) -> float:
        """Time of time.monotonic() when the last of them ended; at first when the gate started."""
        return self._state.last

    @property
    def _state(self) -> Shared:
        assert self._shared, "start() comes first"
        return self._shared

    async def start(self) -> None:
        """Listen.

        Raises:
            ZosiaError: an address can't be had, or what is to be served is not safe or not there.
        """
        service, given = self._service, listen.inherited()
        for each in given:
            if each.family != socket.AF_UNIX:
                service = replace(service, host=each.getsockname()[0])
        service.check()
        files = pages.read(service.page.resolve()) if service.page else {}
        log = Log(service.log)
        try:
            sockets = given or listen.sockets(service.host, service.port, service.socket)
        except ZosiaError:
            log.close()
            raise
        at_once = service.parallel * service.guests
        self._shared = Shared(
            service=service,
            backend=self._backend,
            limits=self._limits,
            policy=Policy(service=service, files=frozenset(files)),
            files=files,
            log=log,
            metrics=self.metrics,
            answers=Turns(at_once, WAITING * at_once),
            quick=Turns(QUICK * service.guests, self._limits.connections),
        )
        for each in sockets:
            self.addresses.append(listen.address(each))
            accept = functools.partial(self._accept, local=each.family == socket.AF_UNIX)
            # asyncio reads on until twice its limit is unread; more than a client may send ahead is of no use.
            self._servers.append(await asyncio.start_server(accept, sock=each, limit=self._limits.head))
        if service.socket and not given:
            self._socket_id = _identity(service.socket)

    async def drain(self, seconds: float) -> None:
        """End: take no requests more, leave those that are answered some seconds, and end the rest with an error."""
        self._state.stopping = STOPPING
        for server in self._servers:
            server.close()
        for task, connection in self._connections.items():
            if not connection.busy:
                task.cancel()
        await self._settle(seconds)
        for connection in self._connections.values():
            connection.cut(STOPPING)
        await self._settle(LAST_SECONDS)
        for task in [*self._connections, *self._refused]:
            task.cancel()
        await self._settle(LAST_SECONDS)
        path = self._service.socket
        if path and self._socket_id and _identity(path) == self._socket_id:
            path.unlink(missing_ok=True)
        self._state.log.close()

    async def _settle(self, seconds: float) -> None:
        """Wait until all connections have ended, for at most so long."""
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool) -> None:
        """Serve a connection, or refuse it if there are too many."""
        task = asyncio.current_task()
        assert task
        task.add_done_callback(self._forget)
        client = Client(reader, writer, self._limits)
        if self._state.stopping or len(self._refused) >= self._limits.connections:
            client.close()
        elif len(self._connections) >= self._limits.connections:
            self._refused.add(task)
            with contextlib.suppress(Gone, asyncio.CancelledError):
                await client.reply(replies.error(503, "there are too many connections", close=True))
                await client.linger()
            client.close()
        else:
            connection = self._connections[task] = Connection(self._state, client, local=local)
            with contextlib.suppress(asyncio.CancelledError):  # by drain(); asyncio's own callback takes it for a fault
                await connection.run()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task, None)
        self._refused.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._state.log.line(style.error(f"a connection ended: {error!r}"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
