"""The chat program: a machine whose llama-server answers, and a person at a terminal, or a question from a pipe."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from zosia.base.errors import ZosiaError
from zosia.chat.answer import Answer
from zosia.chat.api import Api, ApiError, Part, Reading, TooLong
from zosia.chat.commands import COMMANDS
from zosia.chat.conversation import SAMPLING, Conversation, Turn, with_room
from zosia.chat.ends import Ended, Stopped
from zosia.chat.files.documents import Document, framed
from zosia.chat.kept import states
from zosia.chat.kept.chats import Chat, Chats
from zosia.chat.kept.transcript import Transcript
from zosia.chat.view import View, size
from zosia.chat.wish import ChatWish
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run.hot import Store
from zosia.run.lease import BROKEN
from zosia.serve.guest import Guest
from zosia.serve.record import Metrics
from zosia.serve.service import BackendError, Phase

if TYPE_CHECKING:
    from zosia.chat.prompt import Prompt

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LONG = 64  # tokens to evaluate, from which on the progress is shown
STATES = 4 << 30  # bytes that the states of all chats may take


T = TypeVar("T")
See = Callable[[Reading | Part], None]
Act = Callable[["Program", str], Awaitable[bool]]  # on a command: zosia.chat.actions.act


class Program:
    """The program, from its start to its end."""

    def __init__(self, machine: Machine, wish: ChatWish, chats: Chats, chat: Chat | None, way: Act | str) -> None:
        """Show nothing yet; no chat is kept if it is None. `way` acts on a person's commands, or is one question."""
        self.machine, self.wish, self.chats = machine, wish, chats
        self._act = None if isinstance(way, str) else way
        self._question = way if isinstance(way, str) else ""
        self.prompt = self._prompt() if self._act else None
        self.view = View(person=self._act is not None)
        self.attached: list[Document] = []  # to the next question
        self.default = ""  # text that the next prompt begins with
        self.folded = False  # thoughts
        self._warned = False  # of a context that is nearly full
        self._failed: asyncio.Future[tuple[int, ZosiaError | None]] = asyncio.get_running_loop().create_future()
        self.use(chat)
        if wish.system:  # SYSTEM= was typed now
            self.conversation.set_system(wish.system)

    # ---- The machine and its chat

    def use(self, chat: Chat | None) -> None:
        """Have a chat, with a machine that knows of no other."""
        self.chat = chat
        transcript = chat.transcript if chat else Transcript()
        refresh = self.prompt.refresh if self.prompt else lambda: None
        self.guest = Guest(
            self.machine,
            Metrics(),
            say=self.view.note,
            ready=lambda seconds: refresh(),
            kept=self._place,
            progress=self.prompt is None,  # it would be drawn over the prompt
        )
        self.guest.failed.add_done_callback(lambda failed: _set(self._failed, failed.result()))
        if chat and (doubt := self.chats.doubt(chat)):
            self.view.note(doubt)
        wish = self.wish
        self.conversation = Conversation(Api(self.guest), transcript, wish.model, wish.sha256, wish.context)
        if wish.system and not transcript.turns:
            self.conversation.set_system(wish.system)
        self._warned = False
        if self.prompt:
            self.prompt.remember(one.content for one in transcript.messages if one.role == "user")

    async def change(self, chat: Chat | None, *, keep: bool = True) -> None:
        """Leave the chat, and have another one."""
        await self.leave(keep=keep)
        self.use(chat)
        self.begin()

    async def leave(self, *, keep: bool = True) -> None:
        """End the machine; that of a chat with a name is saved with it, if it is to be kept."""
        keep = keep and self.chat is not None and self.chat.transcript.turns > 0
        if reason := await self.guest.off(keep=keep):
            self.view.note(f"the chat is kept, and not its machine, so that it will be evaluated again: {reason}")
        self.close()
        if keep:
            self.chats.prune(STATES)

    def close(self) -> None:
        """Close the chat."""
        if self.chat:
            self.chat.close()

    def _place(self, store: Store) -> Store | None:
        """Return the place of the machine's state with this chat in it."""
        return states.place(store, self.chat.folder, self.chat.key) if self.chat else None

    def begin(self) -> None:
        """Say which chat this is, and start its machine; a question waits for it."""
        turns = self.conversation.transcript.turns
        if not self.prompt:
            return
        if self.chat:
            self.view.note(f"chat {self.chat.name}, which is kept{', encrypted' if self.chat.encrypted else ''}")
        else:
            self.view.note("a chat without a name: nothing of it is kept. To keep it: /rename NAME")
        if turns:
            self.view.note(f"{turns} question{'s' * (turns > 1)} so far; /export FILE writes them down")
        starting = asyncio.ensure_future(self.guest.start())
        starting.add_done_callback(lambda done: done.cancelled() or done.exception())  # a question will say it

    def _prompt(self) -> Prompt:
        from zosia.chat.prompt import Prompt, Words  # slow to import

        values = {"/open": lambda: [one.name for one in self.chats.list()], "/set": lambda: [*SAMPLING]}
        completer = Words([*COMMANDS], ["/file", "/export", "/import"], lambda command: values.get(command, list)())
        return Prompt(completer, self.status)

    def status(self) -> str:
        """Return the status line."""
        talk = self.conversation
        parts = {
            talk.model: True,
            self.chat.name if self.chat else "not kept": True,
            f"{talk.used:,} of {talk.context:,} tokens": talk.used,
            f"{talk.rate:.1f} tokens/s": talk.rate,
            f"{len(self.attached)} attached": self.attached,
            "the machine starts": self.guest.phase is Phase.LOADING,
        }
        return " · ".join(text for text, shown in parts.items() if shown)

    # ---- Questions

    async def stoppable(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work that takes its time.

        Raises:
            Stopped: Ctrl+C was pressed.
        """
        task, stopped = asyncio.ensure_future(work), False

        def stop() -> None:
            nonlocal stopped
            stopped = task.cancel()

        try:
            with self.prompt.listening(stop) if self.prompt else nullcontext():
                return await task
        except asyncio.CancelledError:
            if stopped:
                raise Stopped from None
            raise  # the program ends

    async def ask(self, text: str) -> None:
        """Ask a question, with what is attached, and show the answer."""
        attached, self.attached = self.attached, []
        files = tuple(one.name for one in attached)
        question = f"{framed(attached)}\n\n{text}" if attached else text
        await self.show(lambda see: self.conversation.ask(question, see, files), back=text)
        if self.conversation.dropped:
            self.attached = attached

    async def show(self, answering: Callable[[See], Coroutine[Any, Any, Turn | None]], back: str = "") -> None:
        """Show an answer as it comes, or say why there is none; `back` goes to the next prompt then."""
        answer = Answer(sys.stdout, width=size, plain=not self.view.drawn, thoughts=not self.folded)
        self.view.wait("reading" if self.guest.phase is Phase.READY else "the machine starts")
        talk, note = self.conversation, ""
        failure: tuple[Status, ZosiaError] | None = None
        talk.dropped = False
        try:
            turn = await self.stoppable(answering(lambda found: self._take(answer, found)))
            if cut := talk.cut(turn) if turn else "":
                note = f"cut off: {cut}"
                failure = Status.CUT_OFF, ZosiaError(f"The answer is {note}", "Set a larger CTX=")
        except Stopped:
            note = "stopped"
        except TooLong as error:
            hint = f"Shorten it, or start with CTX={with_room(error.tokens)}"
            failure = Status.TOO_LONG, ZosiaError(f"The question is too long: {error}", hint)
        except (ApiError, BackendError) as error:
            failure = Status.REFUSED, ZosiaError(f"There is no answer: {error}", "Ask once more")
        finally:
            self.view.wait("")
            answer.end(note)
        if failure and not self.prompt:
            raise Ended(*failure)
        if failure and not note:
            self.view.note(str(failure[1]))
        self.default = back if talk.dropped else ""
        if self.prompt and talk.nearly_full and (note or not self._warned):
            self._warned = True
            self.view.note(f"{talk.used:,} of {talk.context:,} tokens are used. {talk.room()}")

    def _take(self, answer: Answer, found: Reading | Part) -> None:
        if isinstance(found, Reading):
            if found.total - found.cached > LONG:
                self.view.wait(f"reading {found.done:,} of {found.total:,} tokens")
            return
        self.view.wait("")
        if found.thought:
            answer.think(found.thought)
        if found.text:
            answer.feed(found.text)

    # ---- From the start to the end

    async def run(self) -> int:
        """Chat until the end, and return the exit status.

        Raises:
            Ended: the machine failed, or another program is to follow.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, _set, ended, 128 + number)
        loop.add_signal_handler(BROKEN, lambda: self.guest.signal(BROKEN))
        work = asyncio.ensure_future(self._talk() if self.prompt else self._once())
        either: list[asyncio.Future[Any]] = [work, ended, self._failed]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            if not ended.done():
                status, error = self._failed.result()
                raise Ended(status, error)
            await self.guest.off()
        return ended.result() if ended.done() else work.result()

    async def _talk(self) -> int:
        assert self.prompt and self._act
        self.begin()
        while True:
            default, self.default = self.default, ""
            try:
                text = await self.prompt.read(default)
            except EOFError:
                break
            if not text.strip():
                continue
            try:
                if not await self._act(self, text):
                    await self.ask(text)
            except EOFError:
                break
            except ZosiaError as error:
                self.view.fail(error)
        await self.leave()
        return 0

    async def _once(self) -> int:
        try:
            await self.ask(self._question.removesuffix("\n"))
        finally:
            await self.leave()
        return Status.OK


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
