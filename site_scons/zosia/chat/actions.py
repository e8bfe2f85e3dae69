"""Actions of the chat program's commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from zosia.base.errors import ZosiaError, near
from zosia.base.files import size_text
from zosia.chat.api import ApiError
from zosia.chat.commands import help_lines, parse
from zosia.chat.conversation import SAMPLING, setting, with_room
from zosia.chat.ends import Ended, Stopped
from zosia.chat.files import documents
from zosia.chat.kept import exchange, listing
from zosia.chat.kept.chats import Chat
from zosia.chat.program import Program, See
from zosia.chat.view import size
from zosia.serve.service import BackendError


async def act(program: Program, text: str) -> bool:
    """Act on a command; return whether the text was one.

    Raises:
        EOFError: the program is to end.
        ZosiaError: it can't be done.
    """
    command = parse(text)
    if command:
        await ACTIONS[command[0]](program, command[1])
    return command is not None


async def _new(program: Program, rest: str) -> None:
    await program.change(None)


async def _chats(program: Program, rest: str) -> None:
    program.view.print([listing.listing(program.chats)])


async def _open(program: Program, rest: str) -> None:
    await program.change(program.chats.open(rest))


async def _rename(program: Program, rest: str) -> None:
    if program.chat:
        program.chats.rename(program.chat, rest)
    else:
        program.chat = _kept(program, rest)
    program.view.note(f"this chat is kept as {program.chat.name}")


def _kept(program: Program, name: str) -> Chat:
    """Return a new chat of that name with all that was said; an error leaves nothing of it."""
    chat = program.chats.open(name)
    if not chat.fresh:
        chat.close()
        raise ZosiaError(f"There is a chat {chat.name} already", "Choose another name, or delete that one")
    talk = program.conversation
    try:
        chat.transcript.extend(talk.transcript.messages)
        for known, value in talk.settings.items():
            chat.transcript.set(known, value)
    except ZosiaError:
        program.chats.delete(chat)
        raise
    talk.transcript = chat.transcript
    return chat


async def _delete(program: Program, rest: str) -> None:
    assert program.prompt
    if not program.chat:
        program.view.note("this chat has no name, and nothing of it is kept")
    elif await program.prompt.confirm(f"Delete the chat {program.chat.name}, and all that was said in it?"):
        name = program.chat.name
        await program.leave(keep=False)
        freed = program.chats.delete(name)
        program.view.note(f"the chat {name} is deleted: {size_text(freed)} freed")
        program.use(None)
        program.begin()


async def _export(program: Program, rest: str) -> None:
    path = documents.located(Path(rest), program.wish.launched)
    name = program.chat.name if program.chat else "A chat"
    exchange.export(name, program.conversation.transcript, path)
    program.view.note(f"written: {path}")


async def _import(program: Program, rest: str) -> None:
    messages = exchange.read(documents.located(Path(rest), program.wish.launched))
    await program.change(None)
    program.conversation.transcript.extend(messages)
    program.view.note(f"{len(messages)} messages are here, in a chat without a name. To keep it: /rename NAME")


async def _file(program: Program, rest: str) -> None:
    if not rest:
        names = ", ".join(one.name for one in program.attached)
        program.attached = []
        program.view.note(f"no longer attached: {names}" if names else "nothing is attached")
        return
    try:
        await program.stoppable(_attach(program, rest))
    except Stopped:
        program.view.note("stopped: nothing is attached")
    except (ApiError, BackendError) as error:
        raise ZosiaError(f"The tokens can't be counted: {error}", "Attach it once more") from error


async def _attach(program: Program, rest: str) -> None:
    start = program.wish.launched
    found, without = await asyncio.to_thread(documents.attached, documents.split(rest, start), start)
    for path, reason in without:
        program.view.note(f"left out: {documents.shown(path)}: {reason}")
    talk = program.conversation
    used = await talk.api.tokens(talk.messages() or [{"role": "user", "content": ""}])
    before = sum([await talk.api.count(documents.framed([one])) for one in program.attached])
    room = talk.context - used - before - documents.ANSWER_ROOM
    taken, left = await documents.fit(found, talk.api.count, room)
    if missed := documents.missed(left, taken):
        one, tokens = missed
        raise ZosiaError(
            f"{one.name} takes {tokens} tokens, and the context has room for {max(0, room)}",
            f"Start with CTX={with_room(talk.context - room + tokens)}, or attach a part of it",
        )
    for one, tokens in left:
        program.view.note(f"left out: {one.name}: {tokens} tokens, and there is no room for it")
    program.attached += taken
    if taken:
        names = ", ".join(one.name for one in taken)
        count = await talk.api.count(documents.framed(taken))
        program.view.note(f"attached to the next question: {names} ({count} tokens)")


async def _system(program: Program, rest: str) -> None:
    talk = program.conversation
    if rest:
        talk.set_system(rest)
    program.view.note(f"system prompt: {talk.settings.get('system') or 'the model’s own, if it has one'}")


async def _set(program: Program, rest: str) -> None:
    talk = program.conversation
    name, _, value = rest.partition(" ")
    if not name:
        width = max(map(len, SAMPLING))
        for known, (*_, text) in SAMPLING.items():
            program.view.print([f"  {known:{width}}  {talk.settings.get(known, '-')!s:8}  {text}"])
    elif name not in SAMPLING:
        raise ZosiaError(f"{name} is not a setting", near(name, SAMPLING))
    elif not value:
        talk.transcript.set(name, None)
        program.view.note(f"{name} is the model's again")
    else:
        talk.transcript.set(name, setting(name, value.strip()))
        program.view.note(f"{name} is {talk.settings[name]}")


async def _thoughts(program: Program, rest: str) -> None:
    program.folded = not program.folded
    program.view.note(f"thoughts are {'folded' if program.folded else 'shown'}")


async def _retry(program: Program, rest: str) -> None:
    talk = program.conversation
    if question := talk.unanswer():
        await program.show(talk.answer, back=question)
    else:
        program.view.note("there is no question yet")


async def _edit(program: Program, rest: str) -> None:
    program.default = program.conversation.undo()
    if not program.default:
        program.view.note("there is no question yet")


async def _undo(program: Program, rest: str) -> None:
    question = program.conversation.undo()
    program.view.note(
        f"taken back: {question.splitlines()[0][:60]}" if question.strip() else "there is no question yet"
    )


async def _compact(program: Program, rest: str) -> None:
    assert program.prompt
    talk = program.conversation
    summary = ""

    async def summarise(see: See) -> None:
        nonlocal summary
        summary = await talk.summary(see)

    await program.show(summarise)
    if summary and await program.prompt.confirm("Use this in place of the older part of the chat?"):
        talk.compact(summary)
        program.view.note("the older part is replaced; the transcript still has it")


async def _model(program: Program, rest: str) -> None:
    if program.conversation.transcript.messages and not program.chat:
        raise ZosiaError("Another model takes another machine, and this chat is not kept", "Type before: /rename NAME")
    name = [f"CHAT={program.chat.name}"] if program.chat else []
    await program.leave()
    raise Ended(become=(*program.wish.again, f"MODEL={rest}", *name))


async def _help(program: Program, rest: str) -> None:
    program.view.print(help_lines(size()[0] - 1))


async def _exit(program: Program, rest: str) -> None:
    raise EOFError


ACTIONS: Mapping[str, Callable[[Program, str], Awaitable[None]]] = {
    "/new": _new,
    "/chats": _chats,
    "/open": _open,
    "/rename": _rename,
    "/delete": _delete,
    "/export": _export,
    "/import": _import,
    "/file": _file,
    "/system": _system,
    "/set": _set,
    "/thoughts": _thoughts,
    "/retry": _retry,
    "/edit": _edit,
    "/undo": _undo,
    "/compact": _compact,
    "/model": _model,
    "/help": _help,
    "/exit": _exit,
}
