"""Upstream: one request to llama-server, over a stream of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import h11

from zosia.serve.service import BackendError, Stream

PIECE = 65536  # bytes
ENDED = "llama-server ended the connection"


class Upstream:
    """One request and its answer. Faults are BackendErrors: the stream's own, and what is no HTTP."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, path: str, body: bytes, accept: str) -> h11.Response:
        """Send a request, and return the head of the answer. No header of the client's is passed on as it is."""
        headers = [("Host", "localhost"), ("Connection", "close")]
        if accept:
            headers.append(("Accept", accept))
        if method == "POST":
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        request = self._http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        request += self._http.send(h11.Data(body)) or b""
        request += self._http.send(h11.EndOfMessage()) or b""
        try:
            # No shut() after it: llama-server takes a half-close for a hang-up.
            await self._stream.write(request)
        except ConnectionError as error:
            raise BackendError(str(error) or ENDED) from error
        while not isinstance(event := await self._event(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise BackendError(ENDED)
        return event

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the answer's body as they come."""
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise BackendError(ENDED)
            if event.data:
                yield bytes(event.data)

    async def _event(self) -> h11.Event:
        try:
            while not isinstance(event := self._http.next_event(), h11.Event):
                if event is h11.PAUSED:
                    raise BackendError(ENDED)
                self._http.receive_data(await self._stream.read(PIECE))
        except h11.RemoteProtocolError as error:
            raise BackendError(ENDED) from error
        except ConnectionError as error:
            raise BackendError(str(error) or ENDED) from error
        return event
