"""Header of a GGUF: its metadata, and where its tensors are. The weights themselves are not read.

What is refused is what ggml refuses (gguf_init_from_reader in ggml/src/gguf.cpp). The gguf package has a reader too; it
takes seconds for a vocabulary, knows other types of tensors than the pinned ggml, and raises whatever comes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError, shown
from zosia.model import engine

MAGIC = b"GGUF"
MOST_LISTED = 1 << 22  # merges are below 2^19
MOST_NUMBERS = 1 << 12  # of a list that is read: such have a number for each layer
MOST_TENSORS = MOST_KEYS = 1 << 16
MOST_TEXT = 1 << 24  # bytes; templates of chats are below 2^17
MOST_DIMENSIONS, MOST_NAME = 4, 63  # GGML_MAX_DIMS, and GGML_MAX_NAME without the end
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, TEXT, LIST = 4, 8, 9


class DamagedError(Exception):
    """Damage of a file, as the end of a sentence about it."""


@dataclass(frozen=True)
class Listed:
    """List of the metadata: its length, and its numbers if it has few; of texts, the most bytes that one has, and those
    of up to two bytes.
    """

    count: int
    numbers: tuple[int | float, ...] = ()
    longest: int = 0
    shortest: frozenset[bytes] = frozenset()


Value = int | float | str | Listed


@dataclass(frozen=True)
class Tensor:
    """Tensor: its `kind` is a number of engine.TYPES, its `offset` is from where the weights begin."""

    name: str
    dimensions: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """Header of a GGUF of `size` bytes, whose weights begin at the byte `start`."""

    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    alignment: int
    start: int
    size: int


class _Cursor:
    """Place in a file."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.size = len(content)
        self.place = len(MAGIC)

    def skip(self, count: int) -> int:
        """Pass some bytes, and return where they begin."""
        start, self.place = self.place, self.place + count
        if self.place > self.size:
            raise DamagedError(
                f"is truncated or damaged: it has {self.size} bytes, and its metadata takes {self.place} or more, "
                f"so that {self.place - self.size} are missing"
            )
        return start

    def number(self, form: str) -> int | float:
        """Return a number in one of struct's forms."""
        value: int | float
        form = f"<{form}"
        (value,) = struct.unpack_from(form, self.content, self.skip(struct.calcsize(form)))
        return value

    def whole(self, form: str = "I", *, what: str = "number", most: int = (1 << 63) - 1) -> int:
        """Return a whole number that counts something."""
        found = int(self.number(form))
        if not 0 <= found <= most:
            raise DamagedError(f"is damaged: {what} is {found}, which is not within 0 and {most}")
        return found

    def text(self, what: str) -> bytes:
        """Return a text, which follows its length."""
        count = self.whole("Q", what=f"the length of {what}", most=MOST_TEXT)
        start = self.skip(count)
        return self.content[start : start + count]

    def value(self, key: str) -> tuple[int, Value]:
        """Return the type of a value and the value."""
        kind = self.whole()
        if kind == TEXT:
            return kind, self.text(shown(key)).decode(errors="replace")
        if kind == LIST:
            return kind, self._list(key)
        if kind not in SCALARS:
            raise DamagedError(f"is damaged: the type of {shown(key)} is {kind}, which GGUF does not have")
        return kind, self.number(SCALARS[kind])

    def _list(self, key: str) -> Listed:
        kind = self.whole()
        count = self.whole("Q", what=f"the length of {shown(key)}", most=MOST_LISTED)
        if kind == TEXT:
            return self._texts(key, count)
        if kind not in SCALARS:
            raise DamagedError(f"is damaged: {shown(key)} lists values of type {kind}, which GGUF does not have")
        form = f"<{count}{SCALARS[kind]}"
        start = self.skip(struct.calcsize(form))
        return Listed(count, struct.unpack_from(form, self.content, start) if count <= MOST_NUMBERS else ())

    def _texts(self, key: str, count: int) -> Listed:
        """Pass texts, of which a vocabulary has hundreds of thousands."""
        content, length_at = self.content, struct.Struct("<Q").unpack_from
        last, longest, shortest = self.size - 8, 0, set()
        place = self.place
        for number in range(count):
            if place > last:
                place += 8 * (count - number)
                break
            length = length_at(content, place)[0]
            place += 8 + length
            longest = max(longest, length)
            if length <= 2:
                shortest.add(content[place - length : place])
        if place > self.size + MOST_TEXT:
            raise DamagedError(f"is damaged: a text in {shown(key)} is longer than {MOST_TEXT} bytes")
        self.skip(place - self.place)
        return Listed(count, longest=longest, shortest=frozenset(shortest))

    def tensor(self) -> Tensor:
        """Return what is said of a tensor."""
        text = self.text("a tensor's name")
        name = shown(text.decode(errors="replace"))
        if len(text) > MOST_NAME:
            raise DamagedError(f"is damaged: the tensor {name} has a name of {len(text)} bytes, and {MOST_NAME} fit")
        dimensions = self.whole(what=f"the number of dimensions of {name}", most=MOST_DIMENSIONS)
        sizes = tuple(self.whole("q", what=f"a dimension of {name}") for _ in range(dimensions))
        kind = self.whole(what=f"the type of {name}", most=engine.MOST_TYPES)
        return Tensor(name, sizes, kind, int(self.number("Q")))


def read(gguf: Path) -> Header:
    """Read the header of a GGUF.

    Raises:
        ZosiaError: the file can't be read, is none, or is damaged there.
    """
    try:
        with gguf.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic == MAGIC:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    return _header(gguf, _Cursor(content))
    except OSError as error:
        raise ZosiaError(
            f"The model {gguf} can't be read: {error.strerror}", "Set MODEL= to the path of a .gguf"
        ) from error
    except DamagedError as error:
        raise ZosiaError(f"{gguf} {error}", "Get the file again") from error
    raise ZosiaError(f"{gguf} is no GGUF model: it begins with {magic!r}, not {MAGIC!r}", "Convert it to GGUF first")


def _header(gguf: Path, cursor: _Cursor) -> Header:
    engine.check_version(gguf, cursor.whole())
    tensors = cursor.whole("q", what="the number of tensors", most=MOST_TENSORS)
    values: dict[str, Value] = {}
    alignment = engine.ALIGNMENT
    for _ in range(cursor.whole("q", what="the number of keys", most=MOST_KEYS)):
        key = cursor.text("a key").decode(errors="replace")
        if not key:
            raise DamagedError("is damaged: one of its keys has no name")
        if key in values:
            raise DamagedError(f"is damaged: it has the key {shown(key)} twice")
        kind, values[key] = cursor.value(key)
        if key == "general.alignment":
            alignment = _alignment(kind, values[key])
    found = tuple(cursor.tensor() for _ in range(tensors))
    if len({tensor.name for tensor in found}) < len(found):
        raise DamagedError("is damaged: two of its tensors have the same name")
    return Header(values, found, alignment, -(-cursor.place // alignment) * alignment, cursor.size)


def _alignment(kind: int, value: Value) -> int:
    if kind != UINT32 or not isinstance(value, int) or value.bit_count() != 1:
        raise DamagedError(
            f"is damaged: a power of two is expected as general.alignment, and {shown(str(value))} found"
        )
    return value


def check_weights(gguf: Path, header: Header) -> None:
    """Refuse a file whose weights are not where the header says; those of types that ggml lacks may be anywhere.

    Raises:
        ZosiaError: a tensor is not behind the one before it, or the file ends too soon.
    """
    end, exact = 0, True  # of the tensor before, from where the weights begin
    for tensor in header.tensors:
        place = -(-end // header.alignment) * header.alignment
        misplaced = tensor.offset % header.alignment or tensor.offset < place
        if tensor.offset != place if exact else misplaced:
            raise ZosiaError(
                f"{gguf} is damaged: its tensor {tensor.name} is at byte {tensor.offset} of the weights, and "
                f"{place} is expected",
                "Get the file again",
            )
        size = _size(gguf, tensor)
        end, exact = tensor.offset + size, tensor.kind in engine.TYPES
    missing = header.start + end - header.size
    if header.tensors and missing > 0:
        raise ZosiaError(
            f"{gguf} is truncated: it has {header.size} bytes of {header.start + end}, so that {missing} are missing",
            "Download the rest, or all of it again",
        )


def _size(gguf: Path, tensor: Tensor) -> int:
    """Return the bytes of a tensor, 0 if its type is unknown."""
    kind = engine.TYPES.get(tensor.kind)
    if kind is None:
        return 0
    count = 1
    for dimension in tensor.dimensions:
        count *= dimension
    row = tensor.dimensions[0] if tensor.dimensions else 1
    if row % kind.block:
        wanted = f"rows of {kind.name} have a multiple of {kind.block} numbers"
    elif count >= 1 << 63:
        wanted = "less than 2^63 numbers fit"
    else:
        return count // kind.block * kind.size
    raise ZosiaError(
        f"{gguf} is damaged: its tensor {tensor.name} has the dimensions {tensor.dimensions}, and {wanted}",
        "Get the file again",
    )
