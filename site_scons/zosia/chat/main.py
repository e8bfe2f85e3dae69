"""The chat program: `python -m zosia.chat.main FILE`, where `scons chat` ends.

FILE has the machine and the wish as JSON. The exit status is 0, 128 + n after signal n, or one of zosia.machine.status.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import dacite

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.chat.wish import ChatWish
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.run import supervisor


def to_json(machine: Machine, wish: ChatWish) -> str:
    """Return a machine, and what is chatted with, as text."""
    return json.dumps({"machine": supervisor.to_json(machine), "wish": asdict(wish)}, default=str)


def from_json(text: str) -> tuple[Machine, ChatWish]:
    """Return what `to_json` wrote."""
    fields = json.loads(text)
    wish = dacite.from_dict(ChatWish, fields["wish"], dacite.Config(cast=[Path, tuple], strict=True))
    return supervisor.from_json(fields["machine"]), wish


def run(machine: Machine, wish: ChatWish) -> int:
    """Chat, and return the exit status. Another model is another program, which this one becomes.

    Raises:
        ZosiaError: the chat can't be opened.
    """
    from zosia.chat.actions import act
    from zosia.chat.ends import Ended
    from zosia.chat.kept import sealed
    from zosia.chat.kept.chats import Chats
    from zosia.chat.program import Program

    person = os.isatty(0) and os.isatty(1)
    if os.isatty(0) and not person:
        raise ZosiaError(
            "`scons chat` is for a terminal", "Leave its output there, or type: echo QUESTION | scons chat"
        )
    if wish.encrypt and not wish.name:
        raise ZosiaError("ENCRYPT=1 is for a chat that is kept", "Give it a name: CHAT=NAME")
    way = act if person else supervisor.piped_prompt("Type: echo PROMPT | scons chat")
    passphrase = os.environ.pop(sealed.PASSPHRASE, "")  # the guest's QEMU is not to have it
    chats = Chats(passphrase=passphrase, encrypt=sealed.wanted() if wish.encrypt is None else wish.encrypt)
    chat = chats.open(wish.name, encrypt=bool(wish.encrypt)) if wish.name else None

    async def chatting() -> int:
        program = Program(machine, wish, chats, chat, way)
        try:
            return await program.run()
        finally:
            program.close()

    try:
        return asyncio.run(chatting())
    except KeyboardInterrupt:  # while it starts or ends
        return 128 + signal.SIGINT
    except Ended as end:
        if end.error:
            print(style.error(end.error), file=sys.stderr)
        if end.become:
            os.chdir(wish.launched)
            os.execvpe(
                end.become[0], end.become, {**os.environ, **({sealed.PASSPHRASE: passphrase} if passphrase else {})}
            )
        return end.status


def main(argv: list[str]) -> int:
    """Chat with what is described in the one file named."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which `scons chat` blocks on its way here
        return run(*from_json(Path(argv[0]).read_text(encoding="utf-8")))
    except KeyboardInterrupt:  # before it could be taken
        return 128 + signal.SIGINT
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        return Status.REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
