"""Connection: the requests of one client, one after the other, and who answers them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import h11

from zosia.serve.http import bodies, replies
from zosia.serve.http.client import Client, Gone, TooLarge
from zosia.serve.http.pages import File
from zosia.serve.http.policy import Kind, Policy, Verdict, values
from zosia.serve.http.upstream import Upstream
from zosia.serve.record import Done, Log, Metrics, Usage
from zosia.serve.service import Asking, Backend, BackendError, Limits, Phase, Service, Stream
from zosia.serve.turns import Full, Turns

GONE = 499  # status in the log, as nginx has it: the client hung up
EVENTS = "text/event-stream"
# Types that the machine may name for what it sends: never a page's.
PASSED = ("application/json", EVENTS, "text/plain")
BUSY = "all turns are taken, and as many wait as may"


@dataclass(kw_only=True)
class Shared:
    """State that all connections of a gate share."""

    service: Service
    backend: Backend
    limits: Limits
    policy: Policy
    files: Mapping[str, File]
    log: Log
    answers: Turns
    quick: Turns
    metrics: Metrics = field(default_factory=Metrics)
    last: float = field(default_factory=time.monotonic)  # end of the last request that needed the machine
    stopping: str = ""  # the reason, once the gate stops

    @property
    def active(self) -> int:
        """Number of requests that need the machine."""
        return sum(turns.running + turns.waiting for turns in (self.answers, self.quick))


class Connection:
    """One client's connection; `local` is one by the UNIX socket."""

    def __init__(self, shared: Shared, client: Client, *, local: bool) -> None:
        self.busy = False  # between the end of a request's head and that of its answer
        self._shared = shared
        self._client = client
        self._local = local
        self._work: asyncio.Task[None] | None = None
        self._cut = ""  # reason why the answer is ended
        self._usage = Usage()
        self._guest = 0  # that has the request
        self._failed = 0  # status of the log, if an answer broke off

    async def run(self) -> None:
        """Answer requests until one end has enough."""
        try:
            while await self._one():
                pass
            await self._client.linger()
        except Gone:
            pass  # there is nobody to tell
        finally:
            self._client.close()

    def cut(self, reason: str) -> None:
        """End the answer that is being given, with a reason for the client."""
        self._cut = reason
        if self._work:
            self._work.cancel()

    async def _one(self) -> bool:
        """Answer one request, and return whether another may follow."""
        try:
            request = await self._client.request()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, str(error))
            return False
        except TimeoutError:
            await self._refuse(408, "the head of the request took too long")
            return False
        if request is None:
            return False
        self.busy = True
        self._usage, self._failed, self._guest = Usage(), 0, 0
        start = time.monotonic()
        verdict = self._shared.policy.judge(request, local=self._local, limit=self._shared.limits.body)
        try:
            await self._answer(verdict, request)
        finally:
            self.busy = False
            self._record(verdict, time.monotonic() - start)
        return self._client.reusable and not self._failed and not self._shared.stopping

    async def _refuse(self, status: int, message: str) -> None:
        """Refuse what has no head that could be judged."""
        start = time.monotonic()
        await self._client.reply(replies.error(status, message, close=True))
        self._record(Verdict(method="-", path="-"), time.monotonic() - start)

    def _record(self, verdict: Verdict, seconds: float) -> None:
        shared = self._shared
        status = self._failed or (self._client.status if self._client.complete else GONE)
        tokens = self._usage.tokens
        done = Done(
            method=verdict.method,
            path=verdict.path,
            status=status,
            seconds=seconds,
            tokens=tokens,
            guest=self._guest,
        )
        shared.metrics.count(done)
        dull = verdict.kind in (Kind.FILE, Kind.HEALTH) and status < 400
        if shared.service.verbose or not dull:
            shared.log.write(done)

    async def _answer(self, verdict: Verdict, request: h11.Request) -> None:
        if verdict.refusal:
            await self._client.reply(verdict.refusal)
            return
        try:
            body = await self._client.body(verdict.limit)
        except TooLarge:
            await self._client.reply(replies.error(413, f"the body has more than {verdict.limit} bytes", close=True))
        except TimeoutError:
            await self._client.reply(replies.error(408, "the body took too long", close=True))
        except h11.RemoteProtocolError as error:
            await self._client.reply(replies.error(error.error_status_hint, str(error), close=True))
        else:
            if verdict.kind in (Kind.QUICK, Kind.ANSWER):
                await self._ask_machine(verdict, request, body)
            else:
                await self._client.reply(self._own(verdict, request))

    def _own(self, verdict: Verdict, request: h11.Request) -> replies.Reply:
        """Return what the gate answers by itself."""
        shared = self._shared
        match verdict.kind:
            case Kind.HEALTH:
                return self._health()
            case Kind.METRICS:
                waiting = shared.answers.waiting + shared.quick.waiting
                return replies.text(shared.metrics.text(active=shared.active - waiting, waiting=waiting))
            case Kind.EMPTY:
                return replies.answer([])
            case Kind.ABSENT:
                return replies.error(501, "the models of this server write text: they embed and rank none")
            case Kind.NO_STREAM:
                return replies.Reply(status=204, headers=replies.INERT)
            case _:
                known = ", ".join(values(request, "if-none-match"))
                accepted = ", ".join(values(request, "accept-encoding"))
                return shared.files[verdict.path].reply(known=known, accepted=accepted)

    def _health(self) -> replies.Reply:
        """Return whether requests are answered: by a machine that is off, too, which the next one starts."""
        phase = self._shared.backend.phase
        if self._shared.stopping or phase is Phase.LOADING:
            status = "stopping" if self._shared.stopping else "loading"
            message = self._shared.stopping or "the model is being loaded"
            return replies.answer({"status": status, **replies.error_value(503, message)}, status=503)
        return replies.answer({"status": "ok"} | ({"machine": "off"} if phase is Phase.OFF else {}))

    async def _ask_machine(self, verdict: Verdict, request: h11.Request, body: bytes) -> None:
        """Pass a request on, and its answer back, until the client hangs up or the gate ends it."""
        reason = self._shared.stopping
        if reason:
            await self._client.reply(replies.error(503, reason, close=True))
            return
        if verdict.method == "POST" and (reason := bodies.fault(body)):
            await self._client.reply(replies.error(400, reason))
            return
        accept = ", ".join(values(request, "accept"))
        work = self._work = asyncio.create_task(self._relay(verdict, body, accept))
        watch = asyncio.create_task(self._client.hung_up())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._work = None
            work.cancel()
            watch.cancel()
            await asyncio.wait({work, watch})
            self._shared.last = time.monotonic()
        if work.cancelled():
            if not self._cut:
                raise Gone
            await self._broken(503, self._cut)
        elif isinstance(error := work.exception(), Full):
            await self._client.reply(replies.error(503, BUSY))
        elif isinstance(error, BackendError):
            await self._broken(502, str(error))
        elif error:
            raise error

    async def _relay(self, verdict: Verdict, body: bytes, accept: str) -> None:
        """Pass a request on and its answer back, in its turn."""
        turns = self._shared.answers if verdict.kind is Kind.ANSWER else self._shared.quick
        async with turns.turn():
            stream, upstream, head = await self._asked(verdict, body, accept)
            try:
                await self._client.begin(head.status_code, _headers(head))
                async for part in upstream.parts():
                    self._usage.feed(part)
                    await self._client.part(part)
                await self._client.end()
            finally:
                stream.close()  # which cancels an answer that is not complete

    async def _asked(self, verdict: Verdict, body: bytes, accept: str) -> tuple[Stream, Upstream, h11.Response]:
        """Pass a request on, and return the head of its answer, of which the client has nothing yet.

        If a guest ends before, another one is asked, but no third: the request may be what ends them.
        """
        several, slot = self._shared.service.guests > 1, verdict.kind is Kind.ANSWER
        asking = Asking(slot=slot, session=bodies.session(body) if several and slot else "")
        while True:
            stream = await self._shared.backend.stream(asking)
            self._guest = asking.guest
            try:
                upstream = Upstream(stream)
                return stream, upstream, await upstream.ask(verdict.method, verdict.path, body, accept)
            except BackendError:
                stream.close()
                if not several or asking.tried:
                    raise
                asking.tried = asking.guest
                self._shared.metrics.moved += 1
            except BaseException:
                stream.close()
                raise

    async def _broken(self, status: int, reason: str) -> None:
        """Tell the client that its answer ends here, in a form that can't be taken for a whole one."""
        if self._client.complete:
            return
        if not self._client.begun:
            await self._client.reply(replies.error(status, reason))
            return
        self._failed = status
        if self._client.events and self._usage.tail[-2:] in (b"", b"\n\n"):  # between two events
            await self._client.part(b"data: " + replies.error_body(status, reason) + b"\n\n")
            await self._client.end()
        else:
            self._client.reset()


def _headers(head: h11.Response) -> list[tuple[str, str]]:
    """Return the headers of an answer for the client: the gate's, and few of the machine's."""
    kind, *_ = [*values(head, "content-type"), ""]
    known = kind.partition(";")[0].strip().lower() in PASSED
    passed = [(name, value) for name in ("content-length", "cache-control") for value in values(head, name)]
    return [*replies.INERT, ("Content-Type", kind if known else "application/octet-stream"), *passed]
