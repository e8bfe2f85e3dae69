"""Documents: files whose text goes into a chat, each with its name."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.chat.files import extract

MOST_BYTES = 50_000_000  # of a file
MOST_FILES = 10_000  # that are looked at in a folder
MOST_DEPTH = 100  # of folders
ANSWER_ROOM = 256  # tokens of the context that files leave free, as in llama/room.cpp
VERSIONS = ("CVS", "_darcs")  # folders of version control that are not hidden
MAGIC = re.compile(r"[*?[]")
Left = list[tuple[Path, str]]


@dataclass(frozen=True)
class Document:
    """The text of a file, and its name as it was requested; one of a folder or a glob was not `named` alone."""

    name: str
    text: str
    named: bool = True


def read(path: Path, launched: Path) -> Document:
    """Return the document that a file holds; a relative path starts from `launched`.

    Raises:
        ZosiaError: it can't be read, or holds no text.
    """
    name = shown(path)
    data = content(located(path, launched), name)
    return Document(name, extract.text(data, path.suffix.lower(), name))


def shown(path: Path) -> str:
    """Return a path on one line, as the model and a message have it; a name may be any bytes."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(path))


def located(path: Path, launched: Path) -> Path:
    """Return where a path is that somebody typed in the folder `launched`.

    Raises:
        ZosiaError: it begins with ~ and the name of no user.
    """
    try:
        return launched / path.expanduser()
    except RuntimeError as error:
        raise ZosiaError(f"{shown(path)} is no path: {error}", "Name the home folder") from error


def content(place: Path, name: str) -> bytes:
    """Return the bytes of a file on a disk, and of nothing that could wait or have no end.

    Raises:
        ZosiaError: it can't be read, is empty, or is too large; the message has its `name`.
    """
    try:
        _check_kind(place.stat().st_mode, name)  # before it is opened, which devices notice
        with os.fdopen(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            before = os.fstat(file.fileno())
            _check_kind(before.st_mode, name)
            if before.st_size > MOST_BYTES:
                size, most = (f"{count / 1e6:,.0f} MB" for count in (before.st_size, MOST_BYTES))
                raise ZosiaError(f"{name} has {size}, and files are read up to {most}", "Cut out what matters")
            # What the kernel makes as it is read, as in /proc, may have no end. It has no size either.
            data = file.read(before.st_size)
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise ZosiaError(f"{name} can't be read: {_reason(error)}", _remedy(error)) from error
    if not before.st_size:
        raise ZosiaError(f"{name} is empty", "Files of /proc and the like have no size: copy it first")
    if (before.st_size, before.st_mtime_ns, len(data)) != (after.st_size, after.st_mtime_ns, before.st_size):
        raise ZosiaError(f"{name} changed while it was read", "Try again when it is complete")
    return data


def _check_kind(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise ZosiaError(f"{name} is a folder", "Name a file in it")
    if not stat.S_ISREG(mode):
        raise ZosiaError(f"{name} is no plain file, but a pipe, socket or device", "Copy what it gives into a file")


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _remedy(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "Make it readable for you: chmod u+r"
    return "Give the path of a file; relative ones start in the current folder"


def split(text: str, launched: Path) -> list[str]:
    """Split a list of paths as a shell does; the path of one existing file may have blanks.

    Raises:
        ZosiaError: a quote is not closed.
    """
    if text and _is(os.path.lexists, located(Path(text), launched)):
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        hint = "Close each quote that is opened"
        raise ZosiaError(f"{text} can't be split into paths: {error}", hint) from error


def attached(words: Sequence[str], launched: Path) -> tuple[list[Document], Left]:
    """Return the documents that paths, folders and globs name, and what folders and globs leave out, and why.

    Those that are named alone come last, next to the question; beyond that, they are in the order of the words, and
    sorted in each. A folder stands for all files in it and below it. Names stay as they are requested; relative ones
    start from `launched`.

    Raises:
        ZosiaError: a word names nothing, or too much, or a file that can't be read; among others it is left out.
    """
    found: dict[Path, Document] = {}
    left: dict[Path, str] = {}
    for word in words:
        files, without, several = chosen(word, launched)
        left |= dict(without)
        for path in files:
            if path in found and several:
                continue
            try:
                document = found.get(path) or read(path, launched)
                found[path] = replace(document, named=not several)
            except ZosiaError as error:
                if not several:
                    raise
                left[path] = error.message.removeprefix(f"{shown(path)} ")
    documents = sorted(found.values(), key=lambda document: document.named)
    return documents, [(path, why) for path, why in left.items() if path not in found]


def chosen(word: str, launched: Path) -> tuple[list[Path], Left, bool]:
    """Return the files that one word names, those left out and why, and whether it may name several.

    Raises:
        ZosiaError: it names nothing, or too much.
    """
    path = Path(word)
    place = located(path, launched)
    if word and _is(os.path.isdir, place):
        base, pattern = path, ["**", "*"]
    elif _is(os.path.lexists, place) or not MAGIC.search(word):  # a name may have brackets
        return [path], [], False
    else:
        parts = path.parts
        first = next(index for index, part in enumerate(parts) if MAGIC.search(part))
        base, pattern = Path(*parts[:first]), [*parts[first:], *["*"] * (parts[-1] == "**")]
    files, left = _matching(base, launched, pattern)
    if not files:
        why = f": {shown(left[0][0])} {left[0][1]}" if len(left) == 1 else ""
        raise ZosiaError(f"{shown(path)} names no file with text{why}", "Give the path of a file that has some")
    return files, left, True


def _is(test: Callable[[Path], bool], place: Path) -> bool:
    try:
        return test(place)
    except ValueError:  # a NUL byte
        return False


def _matching(base: Path, launched: Path, pattern: Sequence[str]) -> tuple[list[Path], Left]:
    """Return the files below a folder that match a pattern, and what matches and is left out."""
    found: list[Path] = []
    left: Left = []
    hidden = any(part.startswith(".") for part in pattern)
    depth = MOST_DEPTH if "**" in pattern else len(pattern)
    for count, (path, why) in enumerate(_entries(base, launched, depth, hidden=hidden)):
        if count == MOST_FILES:
            raise ZosiaError(f"{shown(base)} holds more than {MOST_FILES:,} files", "Name a smaller folder")
        if _matches(path.relative_to(base).parts, pattern):
            reason = why or _unfit(located(path, launched))
            left.extend([(path, reason)] if reason else [])
            found.extend([] if reason else [path])
    return found, left


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path matches; ** stands for any folders, and links to folders are not followed."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _entries(folder: Path, launched: Path, depth: int, *, hidden: bool) -> Iterator[tuple[Path, str]]:
    """Yield the files in a folder and below it, by name, and what is left out in any case, with the reason."""
    try:
        with os.scandir(located(folder, launched)) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"can't be read: {_reason(error)}"
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") and not hidden:
            yield path, "is hidden"
        elif entry.name in VERSIONS:
            yield path, "belongs to version control"
        elif not entry.is_dir():
            yield path, ""
        elif entry.is_symlink():
            yield path, "is a link to a folder"
        elif depth == 1:
            yield path, "is a folder"
        else:
            yield from _entries(path, launched, depth - 1, hidden=hidden)


def _unfit(place: Path) -> str:
    """Return why a file among others is left out, "" if it seems to hold text."""
    try:
        found = place.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is no plain file"
        if not found.st_size:
            return "is empty"
        if found.st_size > MOST_BYTES:
            return f"has {found.st_size / 1e6:,.0f} MB"
        with place.open("rb") as file:
            return "" if extract.holds_text(file.read(extract.SNIFFED)) else "is no text"
    except OSError as error:
        return f"can't be read: {_reason(error)}"


def framed(documents: Sequence[Document]) -> str:
    """Return the text of documents as a message has it: each in a fence of Markdown that is longer than any in it."""
    return "\n\n".join(map(fenced, documents))


def fenced(document: Document) -> str:
    """Return the text of one document as a message has it."""
    longest = max((len(run) for run in re.findall("`+", document.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"File: {document.name}\n{fence}\n{document.text.rstrip(chr(10))}\n{fence}"


async def fit(
    documents: Sequence[Document], count: Callable[[str], Awaitable[int]], room: int
) -> tuple[list[Document], list[tuple[Document, int]]]:
    """Return the documents that fit into `room` tokens, in order, and those that are left out, with their tokens.

    Those that are named alone come first. A smaller one behind one that is left out may still fit.
    """
    taken: list[Document] = []
    left: list[tuple[Document, int]] = []
    for document in sorted(documents, key=lambda document: not document.named):
        tokens = await count(f"{fenced(document)}\n\n")
        if tokens <= room:
            taken.append(document)
            room -= tokens
        else:
            left.append((document, tokens))
    return [document for document in documents if document in taken], left


def missed(left: Sequence[tuple[Document, int]], taken: Sequence[Document]) -> tuple[Document, int] | None:
    """Return a document without which nothing should be asked, and its tokens: one that was named alone, or the
    smallest of folders and globs of which nothing is taken; None if there is none.
    """
    named = [(document, tokens) for document, tokens in left if document.named]
    if named or all(document.named for document in taken):
        return min(named or left, key=lambda each: each[1], default=None)
    return None
