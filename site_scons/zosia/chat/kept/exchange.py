"""Chats as files of others: Markdown, and messages as OpenAI's API has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing
from zosia.chat.files import documents
from zosia.chat.kept.transcript import ENDS, Message, Transcript, message, now

OURS = "zosia"  # the name of what OpenAI's format does not have
ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
WHO = {"system": "System", "user": "You", "assistant": "Answer"}
TEXTS = ("text", "input_text", "output_text")  # types of parts of a message
FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
HINT = 'Expected: {"messages": [{"role": "user", "content": "a text"}, …]}, or only the list'


def markdown(name: str, transcript: Transcript) -> str:
    """Return a chat as a page to read."""
    parts = [f"# {name}", ", ".join(filter(None, (transcript.model, transcript.created)))]
    system = transcript.settings.get("system")
    if system and not any(message.role == "system" for message in transcript.messages):
        parts += ["## System", closed(str(system))]
    for one in transcript.messages:
        parts += [f"## {WHO[one.role]}", " · ".join(filter(None, (one.model, one.time)))]
        if one.files:
            parts.append(f"Files: {', '.join(one.files)}")
        if one.reasoning:
            parts.append("\n".join(f"> {line}".rstrip() for line in one.reasoning.strip("\n").split("\n")))
        parts.append(closed(one.content))
        if one.ended:
            parts.append(f"*({ENDS[one.ended]})*")
    return "\n\n".join(filter(None, parts)) + "\n"


def closed(text: str) -> str:
    """Return Markdown whose last code block has its end, which an answer that was cut off may lack."""
    fence = ""
    for line in text.split("\n"):
        found = FENCE.fullmatch(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1].startswith(fence) and not found[2].strip():
            fence = ""
    text = text.strip("\n")
    return f"{text}\n{fence}" if fence else text


def openai(name: str, transcript: Transcript) -> str:
    """Return a chat as JSON: messages as in a request to OpenAI's API, and beside them all else that is known."""
    records = [one.record() for one in transcript.messages]
    messages = [{"role": record.pop("role"), "content": record.pop("content")} for record in records]
    ours = {"name": name, "created": transcript.created, "settings": transcript.settings, "messages": records}
    return json.dumps({"messages": messages, OURS: ours}, ensure_ascii=False, indent=2) + "\n"


FORMATS = {".md": markdown, ".json": openai}


def export(name: str, transcript: Transcript, path: Path) -> None:
    """Write a chat to a file whose name ends with .md or .json.

    Raises:
        ZosiaError: the file is there already, its name has another end, or it can't be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ZosiaError(f"{path} does not say in which format", "Let it end with .md or .json")
    data = FORMATS[path.suffix.lower()](name, transcript).encode("utf-8", "backslashreplace")
    try:
        if path.exists():
            raise ZosiaError(f"{path} is there already", "Choose another name" if path.is_file() else "It is no file")
        with replacing(path) as temporary:
            temporary.touch(0o600)  # a chat is nobody else's business
            temporary.write_bytes(data)
    except OSError as error:
        raise explained(error) from error


def read(path: Path) -> list[Message]:
    """Return the messages of a file in OpenAI's format.

    Raises:
        ZosiaError: it can't be read, or is in another format.
    """
    content = documents.content(path, documents.shown(path))
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ZosiaError(f"{path} is no JSON: {error}", HINT) from error
    try:
        return list(_messages(data))
    except ValueError as error:
        raise ZosiaError(f"{path} has no messages as OpenAI's API has them: {error}", HINT) from error


def _messages(data: object) -> Iterator[Message]:
    messages = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(messages, list) or not messages:
        raise ValueError("there is no list of messages")
    ours = _ours(data, len(messages))
    for number, (one, further) in enumerate(zip(messages, ours, strict=True), 1):
        if not isinstance(one, dict):
            raise ValueError(f"message {number} is no object")
        role = one.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"message {number} has the role {role!r:.40}")
        text = _text(one.get("content"))
        if text is None:
            raise ValueError(f"message {number} has something else than text")
        reasoning = one.get("reasoning_content")
        common = {"time": now(), "reasoning": reasoning if isinstance(reasoning, str) else ""}
        try:
            yield message({**common, **further, "role": ROLES[role], "content": text})
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from error


def _text(content: object) -> str | None:
    """Return a message's text, or None if it has none, or more than that."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in TEXTS]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if whole else None


def _ours(data: object, count: int) -> Sequence[Mapping[str, Any]]:
    """Return what we wrote beside each message, if it is there."""
    ours = data.get(OURS) if isinstance(data, dict) else None
    further = ours.get("messages") if isinstance(ours, dict) else None
    fits = isinstance(further, list) and len(further) == count and all(isinstance(one, dict) for one in further)
    return further if isinstance(further, list) and fits else [{}] * count
