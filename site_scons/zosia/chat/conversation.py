"""Conversation: questions and answers of one chat, as the model is asked them and as the transcript has them."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.chat.api import Api, Part, Reading, TooLong
from zosia.chat.kept.transcript import Message, Transcript, now

NEARLY = 0.8  # of the context, from where on a note says so
SHARE = 8  # a summary has this part of the context
# name of a setting: its type, its bounds, and its meaning
SAMPLING: Mapping[str, tuple[type, float, float, str]] = {
    "temp": (float, 0, 10, "how freely it chooses; 0 always takes the likeliest word"),
    "top_p": (float, 0, 1, "likeliest words that it chooses from, by their probability together"),
    "top_k": (int, 0, 1_000_000, "likeliest words that it chooses from, by number; 0 is all"),
    "min_p": (float, 0, 1, "least probability of a word, as a part of the likeliest one's"),
    "repeat_penalty": (float, 0.01, 10, "above 1, what was said before becomes less likely"),
    "max_tokens": (int, 1, 1 << 20, "longest answer"),
    "seed": (int, 0, (1 << 32) - 2, "start of the random numbers; the same one gives the same answer"),
}
FIELDS = {"temp": "temperature"}  # names of llama-server, where they are others
SHORTEN = "Summarise our conversation so far in a few sentences. Keep names, numbers, decisions and open questions."


@dataclass
class Turn:
    """An answer, so far."""

    text: str = ""
    thought: str = ""
    reason: str = ""

    def take(self, found: Reading | Part) -> None:
        """Take a part of it."""
        if isinstance(found, Part):
            self.text += found.text
            self.thought += found.thought
            self.reason = found.reason or self.reason


@dataclass
class Conversation:
    """One chat with the model of one machine.

    `model` and `sha256` are noted with each answer. `context` is in tokens, as are `used`, the part of it that the chat
    takes, and `rate`, which are generated in a second. `dropped`: the last question had no answer, and was taken back.
    """

    api: Api
    transcript: Transcript
    model: str
    sha256: str
    context: int
    used: int = 0
    rate: float = 0.0
    dropped: bool = False
    _random: random.Random = field(default_factory=random.Random)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the chat."""
        return self.transcript.settings

    @property
    def nearly_full(self) -> bool:
        """True if little of the context is left."""
        return self.used >= NEARLY * self.context > 0

    def cut(self, turn: Turn) -> str:
        """Return the reason for which an answer was cut off, or ""."""
        if turn.reason != "length":
            return ""
        if self.used < self.context - 1:
            return "it has as many tokens as max_tokens, or -n in LLAMA_ARGS=, allows"
        return f"the context of {self.context:,} tokens is full"

    def room(self) -> str:
        """Return what makes room in the context."""
        longer = min(2 * self.context, 1 << 20)
        return f"/compact summarises older parts, /new begins anew, and CTX={longer} is larger"

    def messages(self) -> list[dict[str, str]]:
        """Return what the model is to see."""
        system = str(self.settings.get("system", ""))
        if summary := self.settings.get("summary"):
            system = f"{system}\n\nThe conversation so far, in short: {summary}".strip()
        first = [{"role": "system", "content": system}] if system else []
        return first + [{"role": one.role, "content": one.content} for one in self.transcript.messages]

    def set_system(self, text: str) -> None:
        """Have a system prompt from now on."""
        if self.settings.get("system") != text:
            self.transcript.set("system", text)

    def sampling(self) -> dict[str, Any]:
        """Return the settings that a request has."""
        return {FIELDS.get(name, name): self.settings[name] for name in SAMPLING if name in self.settings}

    async def ask(self, question: str, show: Callable[[Reading | Part], None], files: tuple[str, ...] = ()) -> Turn:
        """Add a question to the chat, and answer it; see `answer`."""
        self.transcript.append(Message(role="user", content=question, time=now(), files=files))
        return await self.answer(show)

    async def answer(self, show: Callable[[Reading | Part], None]) -> Turn:
        """Answer the last question. `show` gets each part; the whole becomes a part of the chat.

        A question that has no answer, not even the beginning of one, is no part of the chat then.

        Raises:
            TooLong: it does not fit into the context.
            ApiError, BackendError: there is no answer, or no end of it.
            asyncio.CancelledError: it was stopped; what there was of it is a part of the chat.
        """
        sampling = {"seed": self._random.randrange(1 << 31), **self.sampling()}
        turn = Turn()
        with self._noted(turn, sampling):
            async for found in self.api.answer(self.messages(), sampling):
                turn.take(found)
                if isinstance(found, Part) and found.used:
                    self.used, self.rate = found.used, found.rate
                show(found)
        return turn

    @contextmanager
    def _noted(self, turn: Turn, sampling: Mapping[str, Any]) -> Iterator[None]:
        ended = "failed"
        try:
            yield
            ended = "length" if turn.reason == "length" else ""
        except asyncio.CancelledError:
            ended = "stopped"
            raise
        finally:
            if turn.text or turn.thought or not ended:
                self.transcript.append(
                    Message(
                        role="assistant",
                        content=turn.text,
                        reasoning=turn.thought,
                        time=now(),
                        ended=ended,
                        model=self.model,
                        sha256=self.sha256,
                        sampling={name: value for name, value in sampling.items() if name != "seed"},
                        seed=sampling["seed"],
                    )
                )
            else:
                self.transcript.drop(1)
                self.dropped = True

    def undo(self) -> str:
        """Drop the last question and its answer, and return the question; "" if there is none."""
        for count, message in enumerate(reversed(self.transcript.messages), 1):
            if message.role == "user":
                self.transcript.drop(count)
                return message.content
        return ""

    def unanswer(self) -> str:
        """Drop the last answer, and return the question that waits for another one; "" if there is none."""
        messages = self.transcript.messages
        if messages and messages[-1].role == "assistant":
            self.transcript.drop(1)
        last = self.transcript.messages[-1:]
        return last[0].content if last and last[0].role == "user" else ""

    async def summary(self, show: Callable[[Reading | Part], None]) -> str:
        """Return the model's summary of all but the last question and its answer, or of the part that it can read.

        Raises:
            ApiError, BackendError: as of `answer`.
            ZosiaError: there is nothing older.
        """
        longest = max(32, self.context // SHARE)
        older = self.messages()[: -len(self._last())]
        first = older[:1] if older and older[0]["role"] == "system" else []
        older = older[len(first) :]
        while older:
            messages = [*first, *older, {"role": "user", "content": SHORTEN}]
            try:
                if await self.api.tokens(messages) + longest <= self.context:
                    break
            except TooLong:
                pass
            older = older[2:]
        else:
            raise ZosiaError("There is nothing to summarise", "The last question and its answer stay as they are")
        turn = Turn()
        async for found in self.api.answer(messages, {**self.sampling(), "max_tokens": longest}):
            turn.take(found)
            show(found)
        return turn.text.strip()

    def compact(self, summary: str) -> None:
        """Put a summary in the place of all but the last question and its answer."""
        last = self._last()
        self.transcript.drop(len(self.transcript.messages))
        self.transcript.set("summary", summary)
        self.transcript.extend(last)
        self.used = 0

    def _last(self) -> list[Message]:
        messages = self.transcript.messages
        at = max((i for i, one in enumerate(messages) if one.role == "user"), default=0)
        return messages[at:]


def with_room(tokens: int) -> int:
    """Return a context, in tokens, that has room for so many and an answer."""
    return -(-(tokens + 1024) // 1024) * 1024


def setting(name: str, text: str) -> Any:
    """Return the value of a setting of SAMPLING.

    Raises:
        ZosiaError: it is none.
    """
    kind, least, most, _ = SAMPLING[name]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        what = "a number" if kind is float else "a whole number"
        raise ZosiaError(f"{text} is no value of {name}", f"Give {what} from {least:g} to {most:g}")
    return value
