"""Small GGUF files of shapes that a test chooses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

METADATA: dict[str, Any] = {
    "context_length": 4096,
    "block_count": 4,
    "embedding_length": 64,
    "feed_forward_length": 160,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
}


def write(path: Path, changes: dict[str, Any] | None = None, arch: str = "llama", rows: int = 3) -> Path:
    """A model without any use: its metadata with changes, of which None is left out, and one tensor of many rows."""
    writer = GGUFWriter(path, arch)
    for key, value in {**METADATA, **(changes or {})}.items():
        if key.startswith("split."):  # a part's own, without the architecture
            writer.add_uint16(key, value)
        elif key.startswith("general."):
            writer.add_uint32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(f"{arch}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{arch}.{key}", value)
        elif isinstance(value, list):
            writer.add_array(f"{arch}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{arch}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "zażółć"])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.zeros((rows, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split(whole: Path, target: Path, parts: int) -> None:
    """Write the model in a file again as target-00001-of-0000N.gguf and so on, about as many tensors in each part."""
    reader = GGUFReader(whole)
    metadata = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    arch = metadata.pop("general.architecture").contents()
    writer = GGUFWriter(target, arch, split_max_tensors=math.ceil(len(reader.tensors) / parts))
    for name, field in metadata.items():
        element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
