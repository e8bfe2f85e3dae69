"""Transcripts of chats: messages and settings in a file that only grows, one JSON object a line.

docs/chats.md describes the format.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing
from zosia.chat.kept.records import PLAIN, Codec, damaged, decoded, encoded

FORMAT, VERSION = "zosia chat", 1
ROLES = ("system", "user", "assistant")
ENDS = {"": "complete", "stopped": "stopped", "length": "cut off: the context or a limit was full", "failed": "failed"}
NEEDED = ("role", "content", "time")
EMPTY: tuple[Any, ...] = ("", None, (), {})
# Types of a message's fields in JSON. (dacite, which other tables are read with, takes seconds for some thousands.)
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("role", "content", "reasoning", "time", "ended", "model", "sha256"), str),
    "sampling": dict,
    "seed": (int, type(None)),
    "files": (list, tuple),
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a chat.

    Attributes:
        role: one of ROLES.
        reasoning: thoughts before an answer.
        time: in ISO 8601, with its zone.
        ended: one of ENDS.
        model: name of the model that wrote an answer.
        sha256: digest of that model.
        sampling: options of llama-server's requests, such as temperature.
        files: names of the files whose text is in it.
    """

    role: str
    content: str
    reasoning: str = ""
    time: str
    ended: str = ""
    model: str = ""
    sha256: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an unknown role or end.

        Raises:
            ValueError: it is unknown.
        """
        for value, known in ((self.role, ROLES), (self.ended, ENDS)):
            if value not in known:
                raise ValueError(f"{value!r} is none of: {', '.join(filter(None, known))}")

    def record(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {name: value for name, value in vars(self).items() if name in NEEDED or value not in EMPTY}


def message(record: Mapping[str, Any]) -> Message:
    """Return the message with these fields; unknown ones are ignored.

    Raises:
        KeyError: a field is missing.
        ValueError: a field is of another type, or its value is unknown.
    """
    fields = {name: record[name] for name in KINDS if name in NEEDED or name in record}
    for name, value in fields.items():
        if not isinstance(value, KINDS[name]):
            raise ValueError(f"{name} can't be {value!r:.40}")
    files = fields.get("files", [])
    if not all(isinstance(name, str) for name in files):
        raise ValueError(f"files can't be {files!r:.40}")
    return Message(**{**fields, "files": tuple(files)})


def now() -> str:
    """Return the time of a message that is made now."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class Transcript:
    """A transcript, in a file or only in memory."""

    def __init__(self, path: Path | None = None, codec: Codec = PLAIN) -> None:
        """Open the file, which is made if it is not there; without a path, nothing is kept.

        Raises:
            ZosiaError: it can't be read or made, it is damaged, or a newer zosia wrote it.
        """
        self.path = path
        self.created = now()
        self.messages: list[Message] = []
        self.settings: dict[str, Any] = {}
        self._codec = codec
        self._file: int | None = None
        self._end = 0  # of what is in the file; anything behind it was cut off
        self._unended = False  # the last line lacks its newline
        self._before = hashlib.sha256()
        if path:
            try:
                if not path.exists():
                    self._create(path)
                self._read(path)
                self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise explained(error) from error

    @classmethod
    def read(cls, path: Path, codec: Codec = PLAIN) -> Transcript:
        """Return a file's transcript in memory, without a change to the file; errors as for opening it."""
        read = cls(None, codec)
        read.path = path
        try:
            read._read(path)
        except OSError as error:
            raise explained(error) from error
        return read

    @property
    def turns(self) -> int:
        """The number of questions."""
        return sum(message.role == "user" for message in self.messages)

    @property
    def model(self) -> str:
        """The model that was used last, or ""."""
        named = [message.model for message in self.messages if message.model]
        return named[-1] if named else str(self.settings.get("model") or "")

    def append(self, message: Message) -> None:
        """Add a message; it is on the disk when this returns.

        Raises:
            ZosiaError: it can't be written, and the transcript is as before.
        """
        self.extend([message])

    def extend(self, messages: Iterable[Message]) -> None:
        """Add messages; errors as for `append`."""
        self._add({"record": "message", **message.record()} for message in messages)

    def drop(self, count: int = 1) -> None:
        """Take the last messages back; errors as for `append`.

        Raises:
            ValueError: there are not so many.
        """
        self._add([{"record": "drop", "count": count}])

    def set(self, name: str, value: Any) -> None:
        """Change a setting, which None removes; errors as for `append`."""
        self._add([{"record": "set", "name": name, "value": value}])

    def close(self) -> None:
        """Close the file. Nothing can be added any more."""
        if self._file is not None and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _add(self, records: Iterable[Mapping[str, Any]]) -> None:
        records = list(records)
        messages, settings = list(self.messages), dict(self.settings)
        for record in records:
            _replay(record, messages, settings)
        if self._file is not None:
            self._write(self._file, records)
        self.messages, self.settings = messages, settings

    def _write(self, file: int, records: list[Mapping[str, Any]]) -> None:
        data, before = b"\n" * self._unended, self._before.copy()
        for record in records:
            line = self._codec.line(record, before.hexdigest()) + b"\n"
            before.update(line)
            data += line
        end = self._end
        try:
            os.ftruncate(file, self._end)
            while end < self._end + len(data):
                end += os.pwrite(file, data[end - self._end :], end)
            os.fsync(file)
        except BaseException as error:  # an interrupt among them
            with suppress(OSError):  # the next record will be written at the same place in any case
                os.ftruncate(file, self._end)
            if isinstance(error, OSError):
                raise explained(OSError(error.errno, error.strerror, str(self.path))) from error
            raise
        self._end, self._before, self._unended = end, before, False

    def _create(self, path: Path) -> None:
        header = encoded({"format": FORMAT, "version": VERSION, "created": self.created, **self._codec.header})
        with replacing(path) as temporary:
            temporary.touch(0o600)
            with temporary.open("wb") as file:
                file.write(header + b"\n")
                file.flush()
                os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, path: Path) -> None:
        for number, (line, ended) in enumerate(_lines(path.read_bytes()), 1):
            try:
                if number == 1:
                    self._read_header(path, decoded(line))
                else:
                    record = self._codec.record(line, self._before.hexdigest())
                    _replay(record, self.messages, self.settings)
            except (ValueError, KeyError, TypeError) as error:
                if number > 1 and not ended:
                    return  # its writer was killed, or lost its power
                raise damaged(path, number, error) from error
            self._end += len(line) + ended
            self._unended = not ended
            self._before.update(line + b"\n")
        if not self._end:
            raise damaged(path, 1, ValueError("it is empty"))

    def _read_header(self, path: Path, header: Mapping[str, Any]) -> None:
        if header.get("format") != FORMAT or type(header.get("version")) is not int:
            raise ValueError("it is no header of a chat")
        if header["version"] > VERSION:
            raise ZosiaError(f"{path} is of a newer zosia (its format is {header['version']})", "Update zosia")
        if header.get("encrypted", "") != self._codec.header.get("encrypted", ""):
            raise ValueError("its chat is encrypted in another way than this file's name says")
        self.created = str(header.get("created", ""))


def _lines(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a file, and for each whether a newline ends it."""
    *lines, last = data.split(b"\n")
    yield from ((line, True) for line in lines)
    if last:
        yield last, False


def _replay(record: Mapping[str, Any], messages: list[Message], settings: dict[str, Any]) -> None:
    """Apply a record; errors are ValueError, KeyError and TypeError."""
    match record["record"]:
        case "message":
            messages.append(message(record))
        case "drop":
            if not 0 < record["count"] <= len(messages):
                raise ValueError(f"{record['count']} messages can't be taken back: there are {len(messages)}")
            del messages[-record["count"] :]
        case "set":
            settings[str(record["name"])] = record["value"]
            if record["value"] is None:
                del settings[str(record["name"])]
        case unknown:
            raise ValueError(f"a record {unknown!r} is unknown")
