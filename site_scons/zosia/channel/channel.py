"""Host's end of the channel, in asyncio: streams of bytes to the guest's relay, initramfs/streams.c."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine

from zosia.channel import frames
from zosia.channel.frames import Breach, Flow, Frame, Kind


class ChannelError(ConnectionError):
    """Stream or channel that has ended; the text is a reason, without a full stop."""


class Stream:
    """One stream of bytes, made by `Channel.stream`."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.number = number
        self.flow = Flow()
        self.opened = False  # OPEN was sent
        self.error = ""  # the reason why it has ended before its time
        self._channel = channel
        self._incoming = bytearray()  # not a list of pieces: the other end could send single bytes
        self._outgoing = memoryview(b"")
        self._shut = False  # nothing more is written
        self._readable, self._written = asyncio.Event(), asyncio.Event()
        self._writing = asyncio.Lock()

    async def read(self, size: int = 65536) -> bytes:
        """Return some bytes, at most `size`, or none after the other end's SHUT.

        Raises:
            ChannelError: the stream was closed. What came before a CLOSE of the other end is returned first.
        """
        while not self._incoming:
            if self.error:
                raise ChannelError(self.error)
            if self.flow.got_shut:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._incoming[:size])
        del self._incoming[:size]
        self.flow.consumed += len(data)
        if self.flow.owes:
            self._channel.wake(self)
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; wait while the other end has no room for them.

        Raises:
            ChannelError: the stream was closed, or shut on this side.
        """
        async with self._writing:
            if self.error or self._shut:
                raise ChannelError(self.error or "the stream was shut")
            self._outgoing = memoryview(data)
            self._channel.wake(self)
            try:
                while self._outgoing:
                    self._written.clear()
                    await self._written.wait()
                    if self.error:
                        raise ChannelError(self.error)
            finally:  # also if the writer is cancelled
                self._outgoing = memoryview(b"")

    def shut(self) -> None:
        """Send no more after what is being written; the other end's reader sees the end. It can be repeated."""
        self._shut = True
        self._channel.wake(self)

    def close(self) -> None:
        """End the stream both ways, and drop what waits. It can be repeated."""
        self._incoming.clear()
        if not self.error:
            self.fail("the stream was closed")
            self._channel.wake(self)

    def fail(self, reason: str) -> None:
        """End it for its user. What has come can still be read."""
        self.error = self.error or reason
        self._readable.set()
        self._written.set()

    def receive(self, frame: Frame) -> None:
        """Take a DATA, SHUT or CREDIT of the other end."""
        self.flow.receive(frame)
        if frame.kind is Kind.CREDIT:
            self._channel.wake(self)
        elif not self.error:
            if frame.kind is Kind.DATA:
                self._incoming += frame.payload
            self._readable.set()

    def next_frame(self) -> Frame | None:
        """Return what is to be sent now, if anything."""
        if not self.opened:
            self.opened = True
            return Frame(Kind.OPEN, self.number)
        if self.error:
            return Frame(Kind.CLOSE, self.number)
        if self.flow.owes:
            return frames.credit(self.number, self.flow.grant())
        if self._outgoing:
            size = min(self.flow.credit, frames.PAYLOAD, len(self._outgoing))
            payload, self._outgoing = bytes(self._outgoing[:size]), self._outgoing[size:]
            self.flow.credit -= size
            if not self._outgoing:
                self._written.set()
            return Frame(Kind.DATA, self.number, payload) if payload else None
        if self._shut and not self.flow.sent_shut:
            self.flow.sent_shut = True
            return Frame(Kind.SHUT, self.number)
        return None


class Channel:
    """Channel on one end of a socket pair, whose other end is QEMU's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin; use `open`."""
        self._reader, self._writer = reader, writer
        self._nonce = os.urandom(frames.NONCE)
        self._greeted, self._ended = asyncio.Event(), asyncio.Event()
        self._reason = ""
        self._last = 0  # number of the newest stream
        self._streams: dict[int, Stream] = {}  # until they are over for the other end as well
        self._ready: dict[Stream, None] = {}  # those that may have something to send, in turn
        self._begin = True  # a HELLO is due
        self._awake = asyncio.Event()
        self._awake.set()
        self._tasks = [asyncio.create_task(self._until_it_ends(work)) for work in (self._receive, self._send)]

    @classmethod
    async def open(cls, sock: socket.socket, *, seconds: float) -> Channel:
        """Greet the guest's end, and wait for its answer. The socket belongs to the channel from now on.

        Raises:
            TimeoutError: no answer came in so many seconds.
            ChannelError: the other end broke the protocol or has gone.
        """
        channel = cls(*await asyncio.open_unix_connection(sock=sock, limit=frames.WINDOW))
        try:
            async with asyncio.timeout(seconds):
                await channel._greeted.wait()
        except BaseException:
            channel.close()
            raise
        if channel._reason:
            raise ChannelError(channel._reason)
        return channel

    def stream(self) -> Stream:
        """Return a new stream. A guest that can't serve it closes it.

        Raises:
            ChannelError: the channel has ended, or as many are open as there may be.
        """
        if self._reason:
            raise ChannelError(self._reason)
        if len(self._streams) >= frames.STREAMS:
            raise ChannelError(f"{frames.STREAMS} streams are open, and no more are possible")
        self._last += 1
        stream = self._streams[self._last] = Stream(self, self._last)
        self.wake(stream)
        return stream

    async def rest(self, *, seconds: float) -> None:
        """End all streams, and begin anew: nothing is under way in either direction then; errors as `open`."""
        for stream in self._streams.values():
            stream.fail("the channel begins anew")
        self._streams.clear()
        self._ready.clear()
        self._greeted.clear()
        self._nonce = os.urandom(frames.NONCE)
        self._begin = True
        self._awake.set()
        async with asyncio.timeout(seconds):
            await self._greeted.wait()
        if self._reason:
            raise ChannelError(self._reason)

    def close(self) -> None:
        """End the channel and all of its streams. It can be repeated."""
        self._end("the channel was closed")

    async def closed(self) -> str:
        """Wait for the end of the channel, and return the reason."""
        await self._ended.wait()
        return self._reason

    def wake(self, stream: Stream) -> None:
        """Note that a stream may have something to send."""
        if stream.number not in self._streams:
            return  # it is over
        if stream.error and not stream.opened:
            self._forget(stream)
        else:
            self._ready.setdefault(stream)
            self._awake.set()

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        self._ready.pop(stream, None)

    async def _until_it_ends(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        reason = "the channel was closed"
        try:
            await work()
        except Breach as breach:
            reason = f"the guest broke the channel's protocol: {breach}"
        except OSError as error:
            reason = f"the guest's end of the channel has gone: {error.strerror or error}"
        finally:
            self._end(reason)

    def _end(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        for stream in self._streams.values():
            stream.fail(reason)
        self._streams.clear()
        self._ready.clear()
        for task in self._tasks:
            task.cancel()
        self._writer.transport.abort()  # not close, which waits for a reader of what is buffered
        self._greeted.set()
        self._ended.set()

    async def _receive(self) -> None:
        """Handle what comes. It never waits for anything else: docs/channel.md says why that matters."""
        decoder = frames.Decoder()
        while data := await self._reader.read(frames.WINDOW):
            for frame in decoder.feed(data):
                if self._greeted.is_set():
                    self._handle(frame)
                elif frame == frames.hello(self._nonce):
                    self._greeted.set()
        raise ConnectionResetError("it was closed")

    def _handle(self, frame: Frame) -> None:
        if frame.kind in (Kind.HELLO, Kind.OPEN):
            raise Breach(f"{frame.kind.name} from the guest")
        stream = self._streams.get(frame.stream)
        if stream is None:
            return  # closed meanwhile
        if frame.kind is Kind.CLOSE:
            self._forget(stream)
            stream.fail("the guest closed the stream")
            return
        stream.receive(frame)
        if stream.flow.over:
            self._forget(stream)

    async def _send(self) -> None:
        """Send a frame of each stream in turn. Nothing is queued: streams know what they have to send."""
        while await self._awake.wait():
            while self._begin or self._ready:
                if self._begin:
                    self._begin = False
                    self._writer.write(frames.hello(self._nonce).pack())
                    await self._writer.drain()
                    continue
                stream = next(iter(self._ready))
                del self._ready[stream]
                if frame := stream.next_frame():
                    self._ready[stream] = None
                    if frame.kind is Kind.CLOSE or stream.flow.over:
                        self._forget(stream)
                    self._writer.write(frame.pack())
                    await self._writer.drain()
                    await asyncio.sleep(0)  # others may run, even if the socket takes all at once
            self._awake.clear()
