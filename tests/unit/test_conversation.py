"""Questions and answers, as the transcript and the model get them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia.chat.api import ApiError, Part, Reading, TooLong
from zosia.chat.conversation import SAMPLING, Conversation, setting
from zosia.chat.kept.transcript import Transcript
from zosia.serve.service import BackendError


class Scripted:
    """llama-server that does what a test says."""

    def __init__(self, *found: Reading | Part | Exception, tokens: Sequence[int | Exception] = ()) -> None:
        self.found, self.numbers = found, list(tokens)
        self.asked: list[tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]] = []

    async def answer(
        self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]
    ) -> AsyncIterator[Reading | Part]:
        self.asked.append((list(messages), sampling))
        for one in self.found:
            if isinstance(one, Exception):
                raise one
            yield one
        if not self.found:
            await asyncio.sleep(1000)

    async def tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        number = self.numbers.pop(0)
        if isinstance(number, Exception):
            raise number
        return number


HELLO = Part(text="He", used=10), Part(text="llo", used=11, rate=3.5), Part(reason="stop", used=12, rate=4)


def talk(*found: Reading | Part | Exception, **fields: Any) -> tuple[Conversation, Scripted]:
    api = Scripted(*found, tokens=fields.pop("tokens", ()))
    return Conversation(api, Transcript(), "parrot", "ab12", fields.pop("context", 100), **fields), api  # type: ignore[arg-type]


def roles(chat: Conversation) -> list[tuple[str, str, str]]:
    return [(one.role, one.content, one.ended) for one in chat.transcript.messages]


def test_a_question_and_its_answer() -> None:
    chat, api = talk(Part(thought="Hm."), *HELLO)
    chat.set_system("Be brief.")
    seen: list[object] = []
    turn = asyncio.run(chat.ask("Hi", seen.append, ("a.txt",)))
    assert (turn.text, turn.thought, turn.reason) == ("Hello", "Hm.", "stop")
    assert seen == [Part(thought="Hm."), *HELLO]
    assert roles(chat) == [("user", "Hi", ""), ("assistant", "Hello", "")]
    first, answer = chat.transcript.messages
    assert first.files == ("a.txt",)
    assert (answer.reasoning, answer.model, answer.sha256) == ("Hm.", "parrot", "ab12")
    assert (chat.used, chat.rate) == (12, 4)
    ((messages, sampling),) = api.asked
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert sampling == {"seed": answer.seed}


def test_settings_are_sent_and_noted() -> None:
    chat, api = talk(*HELLO)
    for name, value in (("temp", 0.3), ("seed", 7), ("system", "Sing.")):
        chat.transcript.set(name, value)
    asyncio.run(chat.ask("Hi", lambda _: None))
    ((messages, sampling),) = api.asked
    assert messages[0] == {"role": "system", "content": "Sing."}
    assert sampling == {"temperature": 0.3, "seed": 7}
    answer = chat.transcript.messages[-1]
    assert (dict(answer.sampling), answer.seed) == ({"temperature": 0.3}, 7)


def test_each_answer_has_a_seed_of_its_own() -> None:
    chat, _ = talk(*HELLO)
    for _ in range(3):
        asyncio.run(chat.ask("Hi", lambda _: None))
    assert len({one.seed for one in chat.transcript.messages if one.role == "assistant"}) == 3


@pytest.mark.parametrize(
    "error",
    [TooLong(900, 100), ApiError("no template"), BackendError("the machine has gone")],
    ids=lambda e: type(e).__name__,
)
def test_a_question_without_an_answer_is_dropped(error: Exception) -> None:
    chat, _ = talk(Reading(done=0, total=9, cached=0), error)
    with pytest.raises(type(error)):
        asyncio.run(chat.ask("Hi", lambda _: None))
    assert (roles(chat), chat.dropped) == ([], True)
    chat.api = Scripted(*HELLO)  # type: ignore[assignment]
    asyncio.run(chat.ask("Again", lambda _: None))
    assert roles(chat) == [("user", "Again", ""), ("assistant", "Hello", "")]


def test_the_beginning_of_an_answer_stays() -> None:
    chat, _ = talk(Part(text="Once"), BackendError("the machine has gone"))
    with pytest.raises(BackendError):
        asyncio.run(chat.ask("A story", lambda _: None))
    assert (roles(chat)[1:], chat.dropped) == ([("assistant", "Once", "failed")], False)


@pytest.mark.parametrize(("seen", "left"), [((Part(text="Once"),), 2), ((), 0)])
def test_a_stopped_answer(seen: tuple[Part, ...], left: int) -> None:
    chat, api = talk()

    async def stopped() -> None:
        async def answer(*_: object) -> AsyncIterator[Reading | Part]:
            for one in seen:
                yield one
            await asyncio.sleep(1000)

        api.answer = answer  # type: ignore[method-assign,assignment]
        task = asyncio.ensure_future(chat.ask("A story", lambda _: None))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())
    assert roles(chat) == [("user", "A story", ""), ("assistant", "Once", "stopped")][:left]


def test_a_cut_answer_is_noted() -> None:
    chat, _ = talk(Part(text="1 2 3", used=99), Part(reason="length", used=100))
    turn = asyncio.run(chat.ask("Count", lambda _: None))
    assert turn.reason == "length"
    assert roles(chat)[-1] == ("assistant", "1 2 3", "length")
    assert chat.nearly_full


def test_retry_edit_and_undo() -> None:
    chat, _ = talk(*HELLO)
    for question in ("One", "Two"):
        asyncio.run(chat.ask(question, lambda _: None))
    assert chat.unanswer() == "Two"
    assert roles(chat)[-1] == ("user", "Two", "")
    asyncio.run(chat.answer(lambda _: None))
    assert chat.undo() == "Two"
    assert roles(chat) == [("user", "One", ""), ("assistant", "Hello", "")]
    assert chat.undo() == "One"
    assert chat.undo() == ""
    assert chat.unanswer() == ""


def test_older_turns_become_a_summary() -> None:
    chat, api = talk(*HELLO, tokens=[TooLong(120, 100), 95, 60])
    chat.set_system("Be brief.")
    for question in ("One", "Two", "Three", "Four"):
        asyncio.run(chat.ask(question, lambda _: None))
    api.found = (Part(text=" They said hello. "),)
    summary = asyncio.run(chat.summary(lambda _: None))
    assert summary == "They said hello."
    messages, sampling = api.asked[-1]
    assert [one["content"] for one in messages[:2]] == ["Be brief.", "Three"]  # what was before had no room
    assert "Four" not in [one["content"] for one in messages]
    assert sampling["max_tokens"] == 32
    chat.compact(summary)
    assert roles(chat) == [("user", "Four", ""), ("assistant", "Hello", "")]
    assert chat.messages()[0]["content"] == "Be brief.\n\nThe conversation so far, in short: They said hello."


def test_there_may_be_nothing_to_summarise() -> None:
    chat, _ = talk(*HELLO)
    asyncio.run(chat.ask("One", lambda _: None))
    with pytest.raises(ZosiaError, match="nothing to summarise"):
        asyncio.run(chat.summary(lambda _: None))


@pytest.mark.parametrize(
    ("name", "text", "value"), [("temp", "0.3", 0.3), ("top_k", "40", 40), ("temp", "0", 0.0), ("seed", "12", 12)]
)
def test_settings(name: str, text: str, value: float) -> None:
    assert setting(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("temp", "hot", "hot is no value of temp. Give a number from 0 to 10"),
        ("temp", "nan", "nan is no value of temp. Give a number from 0 to 10"),
        ("temp", "-1", "-1 is no value of temp. Give a number from 0 to 10"),
        ("top_k", "1.5", "1.5 is no value of top_k. Give a whole number from 0 to 1e+06"),
    ],
)
def test_refused_settings(name: str, text: str, error: str) -> None:
    with pytest.raises(ZosiaError) as raised:
        setting(name, text)
    assert str(raised.value) == error
    assert name in SAMPLING


def test_what_can_t_be_written_is_no_part_of_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, api = talk(*HELLO)

    def full(*_: object) -> None:
        raise ZosiaError("The disk is full")

    monkeypatch.setattr(Transcript, "_add", full)
    with pytest.raises(ZosiaError, match="full"):
        asyncio.run(chat.ask("Hi", lambda _: None))
    assert not api.asked
