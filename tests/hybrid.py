"""A model of the granitehybrid architecture, 0.5 MB: state-space layers (Mamba 2) around one of attention, for tests.

Its weights are random, so each letter that it says depends on all that it read, by the state of the former layers and
the cache of the latter: a chat goes on with the same letters only if both are restored. Each byte is a token, typed or
answered; an answer has letters and blanks, and no end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from gguf import GGUFWriter, LlamaFileType, bytes_to_unicode

from tests.parrot import BEGIN, END, TEMPLATE, encode

WIDTH, HEADS, CONTEXT = 64, 2, 4096
INNER, STEPS, STATE, KERNEL = 2 * WIDTH, 4, 16, 4  # of a state
CONVOLVED = INNER + 2 * STATE
CACHED = (0, HEADS, 0)  # heads of each layer's cache; those without one have a state
DECAY = -0.02  # of a state: it lasts for a hundred tokens
PAIR = "!!"  # the one token of two bytes, for llama.cpp takes no tokenizer without any; it is never said


def _shapes(tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the random tensors."""
    yield "token_embd.weight", (tokens, WIDTH)
    yield "output.weight", (tokens, WIDTH)
    for layer, cached in enumerate(CACHED):
        if cached:
            yield from ((f"blk.{layer}.attn_{name}.weight", (WIDTH, WIDTH)) for name in ("q", "k", "v", "output"))
        else:
            yield f"blk.{layer}.ssm_in.weight", (INNER + CONVOLVED + STEPS, WIDTH)
            yield f"blk.{layer}.ssm_conv1d.weight", (CONVOLVED, KERNEL)
            yield f"blk.{layer}.ssm_out.weight", (WIDTH, INNER)
        yield from ((f"blk.{layer}.ffn_{name}.weight", (WIDTH, WIDTH)) for name in ("gate", "up", "down"))


def tensors(tokens: list[str]) -> dict[str, np.ndarray]:
    """Return the weights."""
    random = np.random.default_rng(1)
    found = {name: random.normal(0, shape[-1] ** -0.5, shape) for name, shape in _shapes(len(tokens))}
    said = [tokens.index(encode(letter)) for letter in f"{ascii_lowercase} "]
    others = np.setdiff1d(np.arange(len(tokens)), said)
    found["output.weight"][others] = 0
    norms = ["output_norm", *(f"blk.{layer}.{name}_norm" for layer in range(len(CACHED)) for name in ("attn", "ffn"))]
    found |= {f"{name}.weight": np.ones(WIDTH) for name in norms}
    for layer in (layer for layer, cached in enumerate(CACHED) if not cached):
        found |= {
            f"blk.{layer}.ssm_conv1d.bias": np.zeros(CONVOLVED),
            f"blk.{layer}.ssm_dt.bias": np.zeros(STEPS),
            f"blk.{layer}.ssm_a": np.full((STEPS, 1), DECAY),
            f"blk.{layer}.ssm_d": np.ones((STEPS, 1)),
            f"blk.{layer}.ssm_norm.weight": np.ones((1, INNER)),
        }
    return found


def write(target: Path) -> Path:
    """Write the model."""
    tokens = [*bytes_to_unicode().values(), PAIR, BEGIN, END]
    writer = GGUFWriter(target, "granitehybrid")
    writer.add_name("Hybrid")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(len(CACHED))
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(CACHED)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(STEPS)
    writer.add_ssm_group_count(1)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in (BEGIN, END) else 1 for token in tokens])
    writer.add_token_merges([" ".join(PAIR)])
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, numbers in tensors(tokens).items():
        writer.add_tensor(name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
