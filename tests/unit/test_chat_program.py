"""The chat program without a machine: what a question that fails leaves, and which chat is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.completion import DummyCompleter
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from zosia.base.errors import ZosiaError
from zosia.chat import actions, main, program, view
from zosia.chat.api import Part, TooLong
from zosia.chat.ends import Ended
from zosia.chat.files import documents
from zosia.chat.files.documents import Document
from zosia.chat.kept.chats import Chats
from zosia.chat.kept.transcript import Transcript
from zosia.chat.program import Program
from zosia.chat.prompt import Prompt
from zosia.chat.wish import ChatWish
from zosia.machine.status import Status
from zosia.serve.service import BackendError, Phase

from .test_conversation import HELLO, Scripted
from .test_qemu import MACHINE

CUT = Part(text="1 2", used=99), Part(reason="length", used=100)
LIMITED = Part(text="1 2", used=20), Part(reason="length", used=21)


class Off:
    """A machine that is never started."""

    phase = Phase.READY

    def __init__(self, *args: Any, **fields: Any) -> None:
        self.fields = fields
        self.failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.kept: list[bool] = []

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def off(self, *, keep: bool = False) -> str:
        self.kept.append(keep)
        return ""


class Hand:
    """A person's prompt; Ctrl+C comes at once if `stops`."""

    stops = False

    def __init__(self, *args: object) -> None:
        self.history: list[str] = []
        self.sure = True

        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def remember(self, questions: Iterator[str]) -> None:
        self.history = [*questions]

    async def confirm(self, question: str) -> bool:
        return self.sure

    @contextmanager
    def listening(self, stop: Callable[[], object]) -> Iterator[None]:
        if self.stops:
            asyncio.get_running_loop().call_later(0.01, stop)
        yield


@pytest.fixture
def chats(tmp_path: Path) -> Chats:
    return Chats(tmp_path / "chats")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chats: Chats) -> Callable[..., Any]:
    """Do something with a program whose llama-server does what a test says."""
    monkeypatch.setattr(program, "Guest", Off)
    monkeypatch.setattr("zosia.chat.prompt.Prompt", Hand)

    def do(
        act: Callable[[Program, Scripted], Any], *found: Any, name: str = "", system: str = "", pipe: str = ""
    ) -> Any:
        scripted = Scripted(*found)
        monkeypatch.setattr(program, "Api", lambda guest: scripted)
        wish = ChatWish(
            model="parrot",
            sha256="ab",
            context=100,
            name=name,
            system=system,
            launched=tmp_path,
            again=("zosia", "chat"),
        )

        async def doing() -> Any:
            chat = chats.open(name) if name else None
            made = Program(MACHINE, wish, chats, chat, pipe or actions.act)
            try:
                return await act(made, scripted)
            finally:
                made.close()

        return asyncio.run(doing())

    return do


def said(made: Program) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in made.conversation.transcript.messages]


def test_a_machine_that_starts_is_in_the_status_line_and_nothing_is_drawn_over_the_prompt(
    run: Callable[..., Any],
) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        machine: Any = made.guest
        assert "starts" not in made.status()
        machine.phase = Phase.LOADING
        assert made.status() == "parrot · not kept · the machine starts"
        assert made.prompt
        assert not machine.fields["progress"]
        machine.fields["ready"](0.5)
        assert made.prompt.refreshed == 1  # type: ignore[attr-defined]

    run(act)


def test_a_question_from_a_pipe_shows_how_far_the_machine_is(run: Callable[..., Any]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        machine: Any = made.guest
        assert machine.fields["progress"]
        machine.fields["ready"](0.5)

    run(act, pipe="Why?")


def test_what_is_attached_is_left_out_again(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        made.attached = [Document("a.txt", "A cat."), Document("b.txt", "A dog.")]
        await actions.act(made, "/file")
        assert made.attached == []
        await actions.act(made, "/file")

    run(act)
    first, second = capsys.readouterr().out.splitlines()
    assert "no longer attached: a.txt, b.txt" in first
    assert "nothing is attached" in second


def test_lines_break_between_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "size", lambda: (30, 24))
    view.View(person=True).fail(ZosiaError("README.md takes 3410 tokens", "Start with CTX=5120"))
    assert capsys.readouterr().out == "zosia: error: README.md takes\n3410 tokens. Start with\nCTX=5120\n"


def test_a_question_says_at_once_that_it_is_read(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        made.view.drawn = True
        await made.ask("Why?")

    run(act, *HELLO)
    shown = capsys.readouterr().out
    assert shown.startswith("\r\x1b[2mreading\x1b[0m\x1b[K\r\x1b[K")


FAILURES = [
    (
        TooLong(900, 100),
        "The question is too long: it takes 900 tokens, and the context has 100. Shorten it, or start with CTX=2048",
    ),
    (BackendError("the machine ended"), "There is no answer: the machine ended. Ask once more"),
]


@pytest.mark.parametrize(("failure", "text"), FAILURES)
def test_a_question_that_fails_is_typed_again(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str], failure: Exception, text: str
) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        made.attached = [Document("a.txt", "A cat.")]
        await made.ask("Why?")
        assert (made.default, [one.name for one in made.attached], said(made)) == ("Why?", ["a.txt"], [])
        scripted.found = HELLO
        await made.ask(made.default)
        assert (made.default, made.attached) == ("", [])
        question = scripted.asked[-1][0][-1]["content"]
        assert "A cat." in question
        assert question.endswith("\n\nWhy?")

    run(act, failure)
    assert text in capsys.readouterr().out.replace("\n", " ")


def test_a_later_question_that_is_stopped_is_typed_again(run: Callable[..., Any]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("One")
        scripted.found = ()  # it never answers
        made.prompt.stops = True  # type: ignore[union-attr]
        await made.ask("Two")
        assert made.default == "Two"
        assert said(made) == [("user", "One"), ("assistant", "Hello")]
        made.default = ""
        await actions.act(made, "/retry")
        assert made.default == "One"

    run(act, *HELLO)


def test_the_beginning_of_an_answer_is_kept(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("A story")
        assert (made.default, said(made)) == ("", [("user", "A story"), ("assistant", "Once")])

    run(act, Part(text="Once"), BackendError("the machine ended"))
    assert "Once" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (CUT, Status.CUT_OFF, "The answer is cut off: the context of 100 tokens is full. Set a larger CTX="),
        (
            LIMITED,
            Status.CUT_OFF,
            "The answer is cut off: it has as many tokens as max_tokens, or -n in LLAMA_ARGS=, allows",
        ),
        ((FAILURES[0][0],), Status.TOO_LONG, FAILURES[0][1]),
        ((FAILURES[1][0],), Status.REFUSED, FAILURES[1][1]),
    ],
)
def test_a_pipe_has_a_status(run: Callable[..., Any], found: tuple[Any, ...], status: Status, text: str) -> None:
    with pytest.raises(Ended) as raised:
        run(lambda made, _: made.run(), *found, pipe="Why?")
    assert raised.value.status == status
    assert str(raised.value.error).startswith(text)


def test_a_pipe_is_answered(run: Callable[..., Any], capsys: pytest.CaptureFixture[str], chats: Chats) -> None:
    assert run(lambda made, _: made.run(), *HELLO, name="work", pipe="Hi\n") == 0
    assert capsys.readouterr().out == "Hello\n"
    assert [one.content for one in Transcript.read(chats.folder / "work" / "transcript.jsonl").messages] == [
        "Hi",
        "Hello",
    ]


def test_the_context_is_nearly_full_once(run: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        for question in "ab":
            await made.ask(question)

    run(act, Part(text="x", used=85), Part(reason="stop", used=86))
    assert capsys.readouterr().out.count("86 of 100 tokens are used") == 1


def test_a_chat_that_gets_a_name_is_kept(run: Callable[..., Any], chats: Chats) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        await actions.act(made, "/set temp 0.5")
        await actions.act(made, "/rename work")
        assert made.status().startswith("parrot · work · 12 of 100 tokens · 4.0 tokens/s")
        await made.leave()
        assert made.guest.kept == [True]  # type: ignore[attr-defined]

    run(act, *HELLO)
    with chats.open("work", create=False) as chat:
        assert (chat.transcript.turns, chat.transcript.settings) == (1, {"temp": 0.5})


def test_a_chat_that_was_there_before_encryption_says_so(
    run: Callable[..., Any], chats: Chats, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chats.open("old").close()
    monkeypatch.setattr(chats, "_encrypt", True)

    async def act(made: Program, scripted: Scripted) -> None:
        await made.leave()

    run(act, name="old", pipe="Why?")
    assert capsys.readouterr().err.startswith(
        "  CHAT  the chat old was there before, and is not encrypted. To encrypt it"
    )
    run(act)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("typed", "environment", "encrypted"), [(None, "1", True), (False, "1", False), (True, "", True), (None, "", False)]
)
def test_what_is_typed_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: bool | None, environment: str, encrypted: bool
) -> None:
    found = []

    class Noted(Program):
        async def run(self) -> int:
            assert self.chat
            found.append(self.chat.encrypted)
            return 0

    monkeypatch.setattr(program, "Program", Noted)
    monkeypatch.setattr(program, "Guest", Off)
    monkeypatch.setattr("zosia.run.supervisor.piped_prompt", lambda remedy: "Why?")
    monkeypatch.setattr("os.isatty", lambda _: False)
    monkeypatch.setattr("zosia.base.places.chats", lambda: tmp_path)
    monkeypatch.setenv("ZOSIA_ENCRYPT", environment)
    monkeypatch.setenv("ZOSIA_PASSPHRASE", "correct horse")
    wish = ChatWish(model="parrot", sha256="", context=100, name="a", encrypt=typed, launched=tmp_path)
    assert main.run(*main.from_json(main.to_json(MACHINE, wish))) == 0
    assert found == [encrypted]


class Counting(Scripted):
    """A model whose tokens are the x in a text."""

    async def tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        return 10

    async def count(self, text: str) -> int:
        return text.count("x")


def test_files_for_the_next_question(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder takes what fits, as for ATTACH=; what is named alone has to."""
    for name, size in (("notes/a", 20), ("notes/b", 60), ("notes/c", 9), ("large", 80), ("my own", 50)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * size, encoding="utf-8")
    monkeypatch.setattr(documents, "ANSWER_ROOM", 15)  # of 100; 10 are the chat's

    async def act(made: Program, scripted: Scripted) -> None:
        made.conversation.api = Counting()  # type: ignore[assignment]
        await actions.act(made, "/file notes")
        assert [one.name for one in made.attached] == ["notes/a", "notes/c"]
        for words, message in [
            ("large", "large takes 80 tokens, and the context has room for 46. Start with CTX=2048, or attach a part"),
            ("notes large", "large takes 80 tokens"),
            ("notes/b*", "notes/b takes 60 tokens"),
            ("my own", "my own takes 50 tokens"),
        ]:
            with pytest.raises(ZosiaError) as refused:
                await actions.act(made, f"/file {words}")
            assert str(refused.value).startswith(message)
        assert len(made.attached) == 2
        made.attached = []
        await actions.act(made, "/file 'my own' notes")
        assert [one.name for one in made.attached] == ["notes/a", "my own"]

    run(act)
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out: notes/b: 60 tokens, and there is no room for it" in shown
    assert "attached to the next question: notes/a, notes/c (29 tokens)" in shown


def test_a_name_that_is_taken(run: Callable[..., Any], chats: Chats) -> None:
    chats.open("work").close()

    async def act(made: Program, scripted: Scripted) -> None:
        with pytest.raises(ZosiaError, match="There is a chat work already"):
            await actions.act(made, "/rename work")
        assert made.chat is None
        chats.open("work").close()  # nobody has it open

    run(act)


def test_a_name_on_a_full_disk_leaves_nothing(
    run: Callable[..., Any], chats: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        monkeypatch.setattr(Transcript, "extend", full)
        with pytest.raises(ZosiaError, match="full"):
            await actions.act(made, "/rename work")
        assert (made.chat, made.conversation.transcript.turns) == (None, 1)
        assert chats.list() == ()

    def full(*_: object) -> None:
        raise ZosiaError("The disk is full")

    run(act, *HELLO)


def test_a_system_prompt_stays_with_the_chat(run: Callable[..., Any]) -> None:
    async def act(made: Program, scripted: Scripted) -> str:
        await made.ask("Hi")
        return str(scripted.asked[0][0][0]["content"])

    assert run(act, *HELLO, name="work", system="Be brief.") == "Be brief."
    assert run(act, *HELLO, name="work") == "Be brief."
    assert run(act, *HELLO, name="work", system="Sing.") == "Sing."
    assert run(act, *HELLO, name="work") == "Sing."


def test_each_chat_has_a_machine_of_its_own(run: Callable[..., Any]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        first = made.guest
        await actions.act(made, "/open other")
        assert first.kept == [False]  # type: ignore[attr-defined]
        assert made.guest is not first
        assert said(made) == []
        second = made.guest
        await made.ask("Hi")
        await actions.act(made, "/new")
        assert second.kept == [True]  # type: ignore[attr-defined]
        assert made.chat is None

    run(act, *HELLO)


def test_a_chat_without_a_question_has_no_state(run: Callable[..., Any]) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.leave()
        assert made.guest.kept == [False]  # type: ignore[attr-defined]

    run(act, name="work")


def test_delete_asks_first(run: Callable[..., Any], chats: Chats) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        for sure in (False, True):
            made.prompt.sure, machine = sure, made.guest  # type: ignore[union-attr]
            await actions.act(made, "/delete")
            assert bool(chats.list()) is not sure
        assert machine.kept == [False]  # type: ignore[attr-defined]
        assert (made.chat, said(made)) == (None, [])

    run(act, *HELLO, name="work")


def test_another_model_is_another_program(run: Callable[..., Any], chats: Chats) -> None:
    async def act(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        with pytest.raises(Ended) as raised:
            await actions.act(made, "/model qwen3-4b")
        assert raised.value.become == ("zosia", "chat", "MODEL=qwen3-4b", "CHAT=work")
        chats.open("work").close()  # it is closed

    async def lost(made: Program, scripted: Scripted) -> None:
        await made.ask("Hi")
        with pytest.raises(ZosiaError, match="this chat is not kept"):
            await actions.act(made, "/model qwen3-4b")

    run(act, *HELLO, name="work")
    run(lost, *HELLO)


def test_the_program_is_suspended_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    suspended: list[Any] = []
    monkeypatch.setattr(Application, "suspend_to_background", lambda *args: suspended.append(args))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        made = Prompt(DummyCompleter(), lambda: "")
        keys.send_text("Why?\x1a\r")
        assert asyncio.run(asyncio.wait_for(made.read(), 10)) == "Why?"
    assert len(suspended) == 1
