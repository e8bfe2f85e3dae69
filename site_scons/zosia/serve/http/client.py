"""Client: its end of a connection, as HTTP, within the bounds of what it may take."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import struct
from collections.abc import Iterable

import h11

from zosia.serve.http.replies import Reply
from zosia.serve.service import Limits

READ = 16384  # bytes at once
WRITTEN = 1 << 18  # bytes at once, for which a slow client has Limits.write_seconds
RESET = struct.pack("ii", 1, 0)  # struct linger: close at once, and drop what is not sent


class Gone(Exception):
    """The client has hung up, or takes nothing more."""


class TooLarge(Exception):
    """The body has more bytes than its bound."""


class Client:
    """HTTP with one client. All that waits for it ends in Gone when it has hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self.status = 0  # of the answer that has begun
        self.events = False  # the answer is server-sent events
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)
        self._bodiless = False  # the answer to a HEAD
        # A write ends when the system has taken all of it: nothing is late, or lost when the connection is closed.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def begun(self) -> bool:
        """True once the head of an answer is sent."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def complete(self) -> bool:
        """True once all of it is sent."""
        return self._http.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    @property
    def reusable(self) -> bool:
        """True if another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def request(self) -> h11.Request | None:
        """Return the next request's head, or None if there will be none.

        Raises:
            TimeoutError: it came too slowly.
            h11.RemoteProtocolError: it is no HTTP, or too long.
        """
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self.status = 0
        if not self._http.trailing_data[0]:
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    await self._fill()
            except TimeoutError:
                return None
        async with asyncio.timeout(self._limits.head_seconds):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                await self._fill()
        if not isinstance(event, h11.Request):
            return None
        self._bodiless = event.method == b"HEAD"
        return event

    async def body(self, limit: int) -> bytes:
        """Return the request's body.

        Raises:
            TooLarge: it has more than `limit` bytes.
            TimeoutError, h11.RemoteProtocolError: as of `request`.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        parts: list[bytes] = []
        size = 0
        async with asyncio.timeout(self._limits.request_seconds):
            while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                    size += len(event.data)
                    if size > limit:
                        raise TooLarge
                elif event is h11.NEED_DATA:
                    async with asyncio.timeout(self._limits.body_seconds):
                        await self._fill()
                else:
                    raise Gone
        return b"".join(parts)

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer. A body that the client still sends is not read: its connection ends."""
        if self._http.their_state is h11.SEND_BODY:
            with contextlib.suppress(h11.RemoteProtocolError):
                self._http.next_event()  # the end, of a request without one
        headers = [*reply.headers]
        if reply.status not in (204, 304):
            headers.append(("Content-Length", str(len(reply.body))))
        if reply.close or self._http.their_state in (h11.SEND_BODY, h11.ERROR):
            headers.append(("Connection", "close"))
        await self.begin(reply.status, headers)
        if not self._bodiless:
            for at in range(0, len(reply.body), WRITTEN):
                await self.part(reply.body[at : at + WRITTEN])
        await self.end()

    async def begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send an answer's head."""
        self.status = status
        headers = [*headers]
        self.events = any(
            name == "Content-Type" and value.lower().startswith("text/event-stream") for name, value in headers
        )
        reason = http.client.responses.get(status, "").encode()
        await self._send(h11.Response(status_code=status, reason=reason, headers=headers))

    async def part(self, data: bytes) -> None:
        """Send a part of its body."""
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        """Send its end."""
        await self._send(h11.EndOfMessage())

    async def hung_up(self) -> None:
        """Wait until the client has hung up, while it is to wait for its answer.

        A half-close (shutdown, `nc -N`) can't be told from it, and counts as one, as in llama-server. So does sending
        so much ahead that a hang-up behind it would go unseen.
        """
        with contextlib.suppress(Gone):
            while len(self._http.trailing_data[0]) <= self._limits.ahead:
                if not await self._fill():
                    return

    async def linger(self) -> None:
        """Leave the client time to read its last answer: to close on bytes that it sent would drop that."""
        try:
            self._writer.write_eof()
            async with asyncio.timeout(self._limits.linger_seconds):
                while await self._reader.read(READ):
                    pass
        except OSError:
            pass  # it is gone, or has had its time

    def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Close the connection in a way that is never taken for the answer's end."""
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    async def _fill(self) -> bool:
        """Read some bytes, and return whether there will be more."""
        try:
            data = await self._reader.read(READ)
        except OSError as error:
            raise Gone from error
        self._http.receive_data(data)
        return bool(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if not data:
            return
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._limits.write_seconds):
                await self._writer.drain()
        except OSError as error:
            raise Gone from error
