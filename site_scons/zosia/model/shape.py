"""Shape of a model: the metadata of a GGUF that affects the memory of a run; and the names of a split model's parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from dataclasses import field as declared
from pathlib import Path
from reprlib import repr as short

from zosia.base.errors import ZosiaError

MOST_LAYERS = 1024  # llama.cpp has room for 512
MOST_WIDTH = 1 << 24  # of anything else: vocabularies are below 2^19, contexts below 2^24
Count = int | tuple[int, ...]  # one for all layers, or one for each


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape of a model. Fields have the names of the last part of their GGUF keys, which the specification explains.

    A field that a model lacks is 0; None stands for llama.cpp's own default for the architecture. `vocab_size` and
    `merges` are the lengths of the tokenizer's lists where the metadata has no number. `longest_token` is the most
    bytes of a text that one token stands for, 0 if unknown; models with the same shape may differ there.
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
    longest_token: int = declared(default=0, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str):
            raise ValueError(f'wrong value for field "architecture": {short(self.architecture)} is no text')
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            listed = isinstance(value, tuple) and str(field.type).startswith("Count")
            most = MOST_LAYERS if field.name == "block_count" else MOST_WIDTH
            for number in value if listed else (value,):
                if number is None and field.default is None and not listed:
                    continue
                if not isinstance(number, int):
                    raise ValueError(f'wrong value for field "{field.name}": {short(number)} is no whole number')
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


PART = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def split_names(name: str) -> list[str]:
    """Return the name, or those of all parts in order if it is one of NAME-00001-of-00003.gguf."""
    found = PART.fullmatch(name)
    if not found or not 0 < int(found["number"]) <= int(found["count"]):
        return [name]
    count = int(found["count"])
    return [f"{found['name']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def split_parts(gguf: Path) -> list[Path]:
    """Return the file, or all parts in order if it is one of NAME-00001-of-00003.gguf.

    Raises:
        ZosiaError: a part is missing.
    """
    parts = [gguf.with_name(name) for name in split_names(gguf.name)]
    if len(parts) == 1:
        return [gguf]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ZosiaError(
            f"{gguf} is one of {len(parts)} parts, and {missing[0]}{more} is not in {gguf.parent}",
            "Put all parts into one folder",
        )
    return parts
