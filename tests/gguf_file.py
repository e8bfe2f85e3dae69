"""Small GGUF files of shapes that a test chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

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
        if isinstance(value, list):
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
