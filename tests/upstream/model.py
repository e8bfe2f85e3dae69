"""A model that talks on: letters and blanks, drawn anew for each token, and never an end. 100 kB.

It stands in for the little model of upstream's tests. What it says depends on the last token only.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import numpy as np
from gguf import GGUFWriter, LlamaFileType, bytes_to_unicode

FIM = [f"<|fim_{part}|>" for part in ("prefix", "suffix", "middle")]  # by these names llama.cpp finds them
SPECIAL = ["<unk>", "<s>", "</s>", *FIM]  # the first at the places that they have in models of the llama family
WIDTH, HEAD, HEADS, INNER, CONTEXT = 64, 32, 2, 32, 2048
SHARE = 4.0  # of a token's embedding in the dimension that all tokens share
NEVER = -10.0


def write(target: Path) -> Path:
    """Write the model, the same bytes each time."""
    tokens = [*SPECIAL, *bytes_to_unicode().values()]
    said = [token in (*ascii_lowercase, bytes_to_unicode()[ord(" ")]) for token in tokens]
    draw = np.random.default_rng(1)
    embedding, output = (draw.standard_normal((len(tokens), WIDTH)) for _ in range(2))
    embedding[:, 0] = SHARE
    output[:, 0] = np.where(said, 0.0, NEVER)
    output[:, 1:] /= 2
    square, wide = np.zeros((WIDTH, WIDTH)), np.zeros((INNER, WIDTH))
    tensors = {
        "token_embd": embedding,
        **{f"blk.0.{name}": square for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{"blk.0.ffn_gate": wide, "blk.0.ffn_up": wide, "blk.0.ffn_down": wide.T},
        **dict.fromkeys(("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"), np.ones(WIDTH)),
        "output": output,
    }
    writer = GGUFWriter(target, "llama")
    writer.add_name("Letters")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    for name, matrix in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(matrix, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
