"""Task of a guest: everything that the host passes to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from zosia.base import style
from zosia.base.errors import ZosiaError

TOKEN = 3  # bytes of an average token, at least, in English and most code


class Mode(Enum):
    """A kind of task; only the host chooses it."""

    CHAT = "chat"
    SERVE = "serve"  # answer requests on the port zosia.streams
    WORKER = "worker"  # compute a part of another machine's model, for requests on the port zosia.streams
    DIAG = "diag"  # report what a bug report needs
    PROBE = "probe"  # show how the disk was mounted


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A machine that computes some `layers` of the model.

    `name` is as in WORKERS=, and `memory` its guest's in MiB. `sha256` is the model's: who has it needs no weights from
    here. `machine` is the guest as JSON, if it runs on this host.
    """

    name: str
    layers: int
    memory: int
    sha256: str = ""
    machine: str = ""


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A file with a question, and its text as the model sees it. One that is not `named` alone may be left out."""

    name: str
    text: str
    named: bool = True


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task of one guest.

    `llama_args` are words for llama-cli or llama-server; `system` is the system prompt, "" for none; `prompt` is asked
    once, with `files` before it, and None for a chat; `terminal` has rows, columns and TERM. `need` is the memory in
    MiB that the model and its context take, 0 where it is unknown or no matter, and `enough` the MEM= of a guest that
    has it. `room` is the most bytes of text that can fit into the context, 0 if unknown. Each of the `workers` ends the
    run when it gives no sign of life for `silence` seconds; a worker itself has a disk with the model if it
    `has_weights`.
    """

    mode: Mode = Mode.CHAT
    llama_args: tuple[str, ...] = ()
    system: str = ""
    prompt: str | None = None
    files: tuple[Attached, ...] = ()
    terminal: tuple[int, int, str] = (24, 80, "linux")
    need: int = 0
    enough: int = 0
    room: int = 0
    workers: tuple[Worker, ...] = ()
    silence: int = 0
    has_weights: bool = False
    verity: str = ""

    def fitting(self) -> Task:
        """Return the task without the files that can't fit, which the guest would take minutes to find out; say which.

        Blanks don't count: templates strip them, and special tokens take them in.

        Raises:
            ZosiaError: the prompt is too long even if all its tokens are the longest ones, or so is each of its files.
        """
        over = [file for file in self.loose if 0 < self.room < solid(file.text)]
        size = solid(self.system) + solid(self.question)
        if 0 < self.room < size or (over and len(over) == len(self.loose)):
            least = min(over, key=lambda file: solid(file.text)).text if over else ""
            tokens = len(utf8(self.system + self.question + least)) / TOKEN
            raise ZosiaError(
                f"the prompt is too long: without blanks it has {size + solid(least)} bytes, and the context has room "
                f"for {self.room} or fewer",
                f"Set about CTX={math.ceil(tokens / 1024) * 1024}, or shorten the prompt",
            )
        for file in over:
            style.say("NOTE", f"{file.name} has {solid(file.text)} bytes, for which there is no room, and is left out")
        return replace(self, files=tuple(file for file in self.files if file not in over))

    def left_out(self, line: bytes) -> str:
        """Return a note of what a line of the guest's report says about files, "" if it says nothing about any."""
        found = re.fullmatch(rb"left ([0-9]{1,5}) ([0-9]{1,9})", line)
        if not found or int(found[1]) >= len(self.loose):
            return ""
        name = self.loose[int(found[1])].name
        return style.line("NOTE", f"{name} takes {int(found[2])} tokens, for which there is no room, and is left out")

    def texts(self, *, supervised: bool) -> Mapping[str, str]:
        """Return what the guest reads at its start, as fw_cfg files opt/zosia/NAME.

        A supervised guest waits for `begin` on its status port when the model is loaded (llama/hot.cpp), and the
        question is a part of that. Another guest has it among the arguments of llama-cli.
        """
        whole = "".join(f"{file.text}\n\n" for file in self.loose) + self.question
        once = ("--single-turn", "--no-escape", "-p", whole) if whole and not supervised else ()
        texts = {
            "args": " ".join(map(word, (*self.llama_args, *once))),
            "begin": "1" if supervised and self.mode in (Mode.CHAT, Mode.SERVE) else "",
            "mode": self.mode.value,
            "silence": str(self.silence) if self.workers else "",
            "workers": " ".join(worker.name for worker in self.workers),
            "weights": "1" if self.has_weights else "",
            "need": f"{self.need} {self.enough}" if self.need else "",
            "system": self.system,
            "verity": self.verity,
            "terminal": " ".join(map(str, self.terminal)),
        }
        return {name: text for name, text in texts.items() if text}  # an empty one is an error to QEMU

    @property
    def question(self) -> str:
        """Prompt in the form that llama-cli takes, behind the files that were named; "" for none.

        A newline at its end is dropped.
        """
        if self.prompt is None:
            return ""
        return "\n\n".join([*(file.text for file in self.files if file.named), self.prompt.removesuffix("\n")])

    @property
    def loose(self) -> tuple[Attached, ...]:
        """Files that come before the question as far as there is room."""
        return () if self.prompt is None else tuple(file for file in self.files if not file.named)


def solid(text: str) -> int:
    """Return the number of bytes of a text without its blanks."""
    return sum(map(len, utf8(text).split()))


def utf8(text: str) -> bytes:
    """Return a text as the guest reads it, whatever the locale; what is no text in the locale stays as it was."""
    return text.encode("utf-8", "surrogateescape")


def word(text: str) -> str:
    r"""Return a word without blanks, which printf's %b decodes; \c stands for an empty one."""
    return text.translate({ord("\\"): r"\\", ord(" "): r"\0040", ord("\t"): r"\t", ord("\n"): r"\n"}) or r"\c"
