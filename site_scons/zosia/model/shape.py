"""Shape of a model: the metadata of a GGUF that affects the memory of a run.

Format and keys are in the GGUF specification (ggml, docs/gguf.md). Of a split model the first part has the metadata
(llama.cpp, tools/gguf-split).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zosia.base.errors import ZosiaError

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
MOST_LAYERS = 1024  # llama.cpp has room for 512
MOST_WIDTH = 1 << 24  # of anything else: vocabularies are below 2^19, contexts below 2^24
MOST_LISTED = 1 << 22  # merges are below 2^19
MOST_TENSORS = 1 << 16
Count = int | tuple[int, ...]  # one for all layers, or one for each


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a model. Fields have the names of the last part of their GGUF keys, which the specification explains.

    A field that a model lacks is 0; None stands for llama.cpp's own default for the architecture. `vocab_size` and
    `merges` are the lengths of the tokenizer's lists where the metadata has no number.
    """

    architecture: str
    block_count: int
    embedding_length: int
    context_length: int = 0
    vocab_size: int = 0
    merges: int = 0
    feed_forward_length: Count = 0
    head_count: Count = 0
    head_count_kv: Count | None = None  # as many as head_count
    key_length: int = 0  # embedding_length / head_count
    value_length: int = 0  # likewise
    key_length_swa: int = 0  # key_length
    value_length_swa: int = 0  # value_length
    key_length_mla: int = 0
    sliding_window: int | None = None
    sliding_window_pattern: Count | None = None
    shared_kv_layers: int = 0
    expert_count: int = 0
    expert_used_count: Count = 0
    expert_feed_forward_length: Count = 0
    expert_shared_feed_forward_length: int = 0
    expert_shared_count: int = 0
    conv_kernel: int = 0
    inner_size: int = 0
    state_size: int = 0
    group_count: int = 0
    full_attention_interval: int = 0
    l_cache: int = 0  # of lfm2's short convolutions
    head_size: int = 0  # of RWKV
    head_dim: int = 0  # of Kimi's linear attention
    embedding_length_per_layer_input: int = 0
    num_inputs: int = 0  # of gemma3n's AltUp

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str):
            raise ValueError(f'wrong value for field "architecture": {self.architecture!r} is no text')
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            listed = isinstance(value, tuple) and str(field.type).startswith("Count")
            most = MOST_LAYERS if field.name == "block_count" else MOST_WIDTH
            for number in value if listed else (value,):
                if number is None and field.default is None and not listed:
                    continue
                if not isinstance(number, int):
                    raise ValueError(f'wrong value for field "{field.name}": {number!r} is no whole number')
                if not 0 <= number <= most:
                    raise ValueError(f'wrong value for field "{field.name}": {number} is not within 0 and {most}')
            if listed and len(value) < self.block_count:
                raise ValueError(
                    f'wrong value for field "{field.name}": it has {len(value)} numbers for {self.block_count} layers'
                )
        for name in ("block_count", "embedding_length"):
            if not getattr(self, name):
                raise ValueError(f'wrong value for field "{name}": 0 is not above 0')

    def each(self, name: str) -> tuple[int, ...]:
        """Return a field's number for each layer; 0 for None."""
        value = getattr(self, name) or 0
        return value[: self.block_count] if isinstance(value, tuple) else (value,) * self.block_count


# Prefixes of keys, between the architecture and the name of the field.
PREFIXES = {
    **dict.fromkeys(
        (
            *("head_count", "head_count_kv", "key_length", "value_length", "key_length_swa", "value_length_swa"),
            *("key_length_mla", "sliding_window", "sliding_window_pattern", "shared_kv_layers"),
        ),
        "attention.",
    ),
    **dict.fromkeys(("conv_kernel", "inner_size", "state_size", "group_count"), "ssm."),
    "l_cache": "shortconv.",
    "head_size": "wkv.",
    "head_dim": "kda.",
    "num_inputs": "altup.",
}
LISTS = {"vocab_size": "tokenizer.ggml.tokens", "merges": "tokenizer.ggml.merges"}
PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def split_parts(gguf: Path) -> list[Path]:
    """Return the file, or all parts in order if it is one of NAME-00001-of-00003.gguf.

    Raises:
        ZosiaError: a part is missing.
    """
    found = PART.fullmatch(gguf.name)
    if not found or not 0 < int(found["number"]) <= int(found["count"]):
        return [gguf]
    count = int(found["count"])
    parts = [gguf.with_name(f"{found['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ZosiaError(
            f"{gguf} is one of {count} parts, and {missing[0]}{more} is not in {gguf.parent}",
            "Put all parts into one folder",
        )
    return parts


def read(parts: Sequence[Path]) -> Shape:
    """Read the shape of a model.

    Args:
        parts: its .gguf, or the parts of a split one, in order (`split_parts`).

    Raises:
        ZosiaError: a file can't be read, is damaged or no GGUF model; a part is missing or out of order.
    """
    first, *others = parts
    with _errors_named(first):
        reader = _reader(first)
        count = _number(reader, "split.count") or 1
    _check_place(reader, first, 0)
    if count != len(parts):
        expected = PART.fullmatch(first.name)
        name = f"{expected['name']}-{len(parts) + 1:05}-of-{count:05}.gguf" if expected else f"part {len(parts) + 1}"
        missing = f": {name} is missing" if count > len(parts) else ""
        raise ZosiaError(
            f"{first} is the first of {count} parts, and {len(parts)} are given{missing}",
            "Put all parts into one folder",
        )
    for place, part in enumerate(others, 1):
        with _errors_named(part):
            other = _reader(part)
        _check_place(other, part, place)
    with _errors_named(first):
        return _shape(reader)


def _check_place(reader: GGUFReader, part: Path, place: int) -> None:
    with _errors_named(part):
        found = _number(reader, "split.no")
    if found != place:
        raise ZosiaError(f"{part} is part {found + 1} of a model, not part {place + 1}", "Get the parts again")


def _number(reader: GGUFReader, key: str) -> int:
    field = reader.get_field(key)
    return int(field.contents()) if field else 0


def _shape(reader: GGUFReader) -> Shape:
    architecture = reader.fields["general.architecture"].contents()
    values: dict[str, Any] = {}
    for field in fields(Shape)[1:]:
        found = reader.get_field(f"{architecture}.{PREFIXES.get(field.name, '')}{field.name}")
        if found:
            value = found.contents()
            for_each = isinstance(value, list) and str(field.type).startswith("Count")
            values[field.name] = tuple(int(number) for number in value) if for_each else int(value)
    for name, key in LISTS.items():
        found = reader.get_field(key)
        if found and not values.get(name):
            values[name] = int(found.parts[4][0])  # after length, name and type of the key, and the elements' type
    return Shape(architecture=architecture, **values)


@contextmanager
def _errors_named(gguf: Path) -> Iterator[None]:
    """Turn any error of the reader into a ZosiaError that names the file."""
    try:
        with gguf.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ZosiaError(
            f"The model {gguf} can't be read: {error.strerror}", "Set MODEL= to the path of a .gguf"
        ) from error
    if magic != MAGIC:
        raise ZosiaError(
            f"{gguf} is no GGUF model: it begins with {magic!r}, not {MAGIC!r}", "Convert it to GGUF first"
        )
    try:
        yield
    except Exception as error:  # the reader has no exception of its own for a file that is damaged
        reason = f"{type(error).__name__}: {error}"
        raise ZosiaError(f"{gguf} is damaged, or no model: {reason}", "Get the file again") from error


def _reader(gguf: Path) -> GGUFReader:
    """Open a GGUF, without the contents of the tokenizer's lists.

    The package's own reader takes seconds for these, and never ends if a length is damaged.
    """
    import numpy  # slow to import, both
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: Any = 1, *rest: Any, **named: Any) -> Any:
            if offset + numpy.dtype(dtype).itemsize * int(count) > len(self.data):
                raise EOFError("unexpected end of file")
            return super()._get(offset, dtype, count, *rest, **named)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, length = self._get(orig_offs, numpy.uint32), self._get(orig_offs + 4, numpy.uint64)
            element, count, start = GGUFValueType(kind[0]), int(length[0]), orig_offs + 12
            types = [GGUFValueType.ARRAY, element]
            if count > MOST_LISTED:
                raise ValueError(f"a list of {count}")
            if element == GGUFValueType.STRING:
                return self._after_strings(start, count) - orig_offs, [kind, length], [], types
            numbers = self._get(start, self.gguf_scalar_to_np[element], count)
            return 12 + numbers.nbytes, [kind, length, numbers], [2], types

        def _after_strings(self, offset: int, count: int) -> int:
            """Return the offset behind `count` strings: each is its length in 8 bytes, and its text."""
            data = self.data.data
            order: Literal["little", "big"] = "little" if self.endianess == GGUFEndian.LITTLE else "big"
            for _ in range(count):
                offset += 8 + int.from_bytes(data[offset : offset + 8], order)
                if offset > len(data):
                    raise EOFError("unexpected end of file")
            return offset

        def _build_tensor_info(self, offs: int, count: int) -> Any:
            if count > MOST_TENSORS:
                raise ValueError(f"{count} tensors")
            return super()._build_tensor_info(offs, count)

    return Reader(gguf)
