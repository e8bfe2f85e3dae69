"""Models of true shape and no content: files that are as long as the real ones and a hole but for their metadata.

Names and sizes of tensors are those that llama.cpp asks for (load_arch_tensors in src/models/*.cpp); the shapes are
those of the models' published configurations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, ReaderField

from zosia.model.reader import PREFIXES
from zosia.model.shape import Shape

F32, Q4_0, Q8_0, MXFP4 = (GGMLQuantizationType[name] for name in ("F32", "Q4_0", "Q8_0", "MXFP4"))
Tensor = tuple[str, tuple[int, ...], GGMLQuantizationType]

GPT_OSS_20B = Shape(
    architecture="gpt-oss",
    block_count=24,
    embedding_length=2880,
    context_length=131072,
    vocab_size=201088,
    feed_forward_length=2880,
    head_count=64,
    head_count_kv=8,
    key_length=64,
    value_length=64,
    sliding_window=128,
    expert_count=32,
    expert_used_count=4,
    expert_feed_forward_length=2880,
)
LLAMA_32_1B = Shape(
    architecture="llama",
    block_count=16,
    embedding_length=2048,
    context_length=131072,
    vocab_size=128256,
    feed_forward_length=8192,
    head_count=32,
    head_count_kv=8,
)
QWEN_25_05B = Shape(
    architecture="qwen2",
    block_count=24,
    embedding_length=896,
    context_length=32768,
    vocab_size=151936,
    feed_forward_length=4864,
    head_count=14,
    head_count_kv=2,
)
QWEN_3_30B = Shape(
    architecture="qwen3moe",
    block_count=48,
    embedding_length=2048,
    context_length=40960,
    vocab_size=151936,
    feed_forward_length=6144,
    head_count=32,
    head_count_kv=4,
    key_length=128,
    value_length=128,
    expert_count=128,
    expert_used_count=8,
    expert_feed_forward_length=768,
)
QWEN_3_NEXT = Shape(
    architecture="qwen3next",
    block_count=12,  # of 48: an emulated llama-cli can't map them all
    embedding_length=2048,
    context_length=262144,
    vocab_size=151936,
    feed_forward_length=5120,
    head_count=16,
    head_count_kv=2,
    key_length=256,
    value_length=256,
    expert_count=512,
    expert_used_count=10,
    expert_feed_forward_length=512,
    expert_shared_feed_forward_length=512,
    conv_kernel=4,
    inner_size=4096,
    state_size=128,
    group_count=16,
)
GEMMA_3_4B = Shape(
    architecture="gemma3",
    block_count=34,
    embedding_length=2560,
    context_length=131072,
    vocab_size=262208,
    feed_forward_length=10240,
    head_count=8,
    head_count_kv=4,
    key_length=256,
    value_length=256,
    sliding_window=1024,
)
PHI_35_MINI = Shape(
    architecture="phi3",
    block_count=32,
    embedding_length=3072,
    context_length=131072,
    vocab_size=32064,
    feed_forward_length=8192,
    head_count=32,
    head_count_kv=32,
    sliding_window=262144,
)
DEEPSEEK_2_LITE = Shape(
    architecture="deepseek2",
    block_count=27,
    embedding_length=2048,
    context_length=163840,
    vocab_size=102400,
    feed_forward_length=10944,
    head_count=16,
    head_count_kv=1,
    key_length=576,
    value_length=512,
    key_length_mla=192,
    expert_count=64,
    expert_used_count=6,
    expert_feed_forward_length=1408,
    expert_shared_count=2,
)
LFM_2_12B = Shape(
    architecture="lfm2",
    block_count=16,
    embedding_length=2048,
    context_length=128000,
    vocab_size=65536,
    feed_forward_length=8192,
    head_count=32,
    head_count_kv=(0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0),
    l_cache=3,
)
MAMBA_2_13B = Shape(
    architecture="mamba2",
    block_count=48,
    embedding_length=2048,
    context_length=1048576,
    vocab_size=50288,
    conv_kernel=4,
    inner_size=4096,
    state_size=128,
    group_count=1,
)


def speaker(path: Path, words: Path) -> Path:
    """A small model with the vocabulary and chat template of another file, and its name, which decides on spaces."""
    found = GGUFReader(words).fields.items()
    fields = {name: field for name, field in found if name.startswith(("tokenizer.", "general.name"))}
    shape = Shape(  # small enough that only its vocabulary counts
        architecture="llama",
        block_count=1,
        embedding_length=64,
        context_length=4096,
        vocab_size=len(fields["tokenizer.ggml.tokens"].data),
        feed_forward_length=64,
        head_count=2,
        head_count_kv=2,
    )
    return write(path, shape, fields)


def write(path: Path, shape: Shape, words: dict[str, ReaderField] | None = None) -> Path:
    """A model that llama-cli loads, by its number of words, which it lacks without `words`; its weights are 0."""
    writer = GGUFWriter(path, shape.architecture)
    for own in fields(Shape)[1:]:
        value, key = getattr(shape, own.name), f"{shape.architecture}.{PREFIXES.get(own.name, '')}{own.name}"
        if isinstance(value, tuple):
            writer.add_array(key, list(value))
        elif value:
            writer.add_uint32(key, value)
    writer.add_layer_norm_rms_eps(1e-6)
    if shape.key_length_mla:
        writer.add_kv_lora_rank(shape.value_length)
        writer.add_value_length_mla(128)
        writer.add_rope_dimension_count(shape.key_length - shape.value_length)
        writer.add_leading_dense_block_count(1)
    elif shape.architecture == "phi3":
        writer.add_rope_dimension_count(_head(shape)[0])
    if shape.inner_size:
        writer.add_ssm_time_step_rank(_steps(shape))
    if words is None:
        writer.add_tokenizer_model("none")
    for key, field in (words or {}).items():
        element = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], element)
    size = 0
    for name, dimensions, kind in _tensors(shape):
        block, block_size = GGML_QUANT_SIZES[kind]
        length = int(np.prod(dimensions, dtype=object)) // block * block_size
        writer.add_tensor_info(name, dimensions[::-1], np.dtype(np.float32), length, kind)
        size += writer.ggml_pad(length, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(writer.ggml_pad(path.stat().st_size, writer.data_alignment) + size)
    return path


def _head(shape: Shape) -> tuple[int, int]:
    width = shape.embedding_length // (max(shape.each("head_count")) or 1)
    return shape.key_length or width, shape.value_length or width


def _steps(shape: Shape) -> int:
    """Heads of a state."""
    return shape.inner_size // (64 if shape.architecture == "mamba2" else shape.state_size)


def _tensors(shape: Shape) -> Iterator[Tensor]:
    yield "token_embd.weight", (shape.embedding_length, shape.vocab_size), Q8_0
    yield (
        "token_embd_norm.weight" if shape.architecture == "lfm2" else "output_norm.weight",
        (shape.embedding_length,),
        F32,
    )
    if shape.architecture in ("gpt-oss", "qwen3moe", "phi3"):
        yield "output.weight", (shape.embedding_length, shape.vocab_size), Q8_0
    for layer in range(shape.block_count):
        for name, dimensions, kind in (*_mixing(shape, layer), *_forward(shape, layer)):
            yield f"blk.{layer}.{name}", dimensions, kind


def _mixing(shape: Shape, layer: int) -> Iterator[Tensor]:
    """Yield the tensors that mix tokens: attention, or a recurrence."""
    width, arch = shape.embedding_length, shape.architecture
    yield "attn_norm.weight", (width,), F32
    if arch in ("gemma3", "gpt-oss", "qwen3next"):
        yield "post_attention_norm.weight", (width,), F32
    if arch == "mamba2" or (arch == "qwen3next" and (layer + 1) % 4):
        yield from _state_space(shape)
    elif arch == "lfm2" and not shape.each("head_count_kv")[layer]:
        yield "shortconv.conv.weight", (shape.l_cache, width), F32
        yield "shortconv.in_proj.weight", (width, 3 * width), Q4_0
        yield "shortconv.out_proj.weight", (width, width), Q4_0
    elif shape.key_length_mla:
        yield from _latent(shape)
    else:
        yield from _attention(shape, layer)


def _attention(shape: Shape, layer: int) -> Iterator[Tensor]:
    width, arch, (key, value) = shape.embedding_length, shape.architecture, _head(shape)
    heads, cached = shape.each("head_count")[layer], shape.each("head_count_kv")[layer]
    sizes = {"q": heads * key * (2 if arch == "qwen3next" else 1), "k": cached * key, "v": cached * value}
    if arch == "phi3":
        yield "attn_qkv.weight", (width, sum(sizes.values())), Q4_0
    else:
        for name, size in sizes.items():
            yield f"attn_{name}.weight", (width, size), Q4_0
            if arch in ("gpt-oss", "qwen2"):
                yield f"attn_{name}.bias", (size,), F32
    yield "attn_output.weight", (heads * key, width), Q4_0
    if arch in ("gemma3", "lfm2", "qwen3moe", "qwen3next"):
        yield "attn_q_norm.weight", (key,), F32
        yield "attn_k_norm.weight", (key,), F32
    if arch == "gpt-oss":
        yield "attn_output.bias", (width,), F32
        yield "attn_sinks.weight", (heads,), F32


def _latent(shape: Shape) -> Iterator[Tensor]:
    width, heads, rank = shape.embedding_length, max(shape.each("head_count")), shape.value_length
    rotated = shape.key_length - rank
    yield "attn_kv_a_norm.weight", (rank,), F32
    yield "attn_q.weight", (width, heads * shape.key_length_mla), Q4_0
    yield "attn_kv_a_mqa.weight", (width, shape.key_length), Q4_0
    yield "attn_k_b.weight", (shape.key_length_mla - rotated, rank, heads), Q4_0
    yield "attn_v_b.weight", (rank, 128, heads), Q4_0
    yield "attn_output.weight", (heads * 128, width), Q4_0


def _state_space(shape: Shape) -> Iterator[Tensor]:
    width, inner, steps = shape.embedding_length, shape.inner_size, _steps(shape)
    convolved = inner + 2 * shape.group_count * shape.state_size
    yield "ssm_conv1d.weight", (shape.conv_kernel, convolved), F32
    yield "ssm_dt.bias", (steps,), F32
    yield "ssm_out.weight", (inner, width), Q4_0
    if shape.architecture == "mamba2":
        yield "ssm_in.weight", (width, inner + convolved + steps), Q4_0
        yield "ssm_conv1d.bias", (convolved,), F32
        yield "ssm_a", (1, steps), F32
        yield "ssm_d", (1, steps), F32
        yield "ssm_norm.weight", (inner // shape.group_count, shape.group_count), F32
    else:
        yield "attn_qkv.weight", (width, convolved), Q4_0
        yield "attn_gate.weight", (width, inner), Q4_0
        yield "ssm_a", (steps,), F32
        yield "ssm_ba.weight", (width, 2 * steps), Q4_0
        yield "ssm_norm.weight", (shape.state_size,), F32


def _forward(shape: Shape, layer: int) -> Iterator[Tensor]:
    width, arch, inner = shape.embedding_length, shape.architecture, max(shape.each("feed_forward_length"))
    if arch == "mamba2":
        return
    if arch not in ("gpt-oss", "qwen3next"):
        yield "ffn_norm.weight", (width,), F32
    if arch == "gemma3":
        yield "post_ffw_norm.weight", (width,), F32
    if arch == "phi3":
        yield "ffn_up.weight", (width, 2 * inner), Q4_0
        yield "ffn_down.weight", (inner, width), Q4_0
    elif not shape.expert_count or (shape.key_length_mla and not layer):
        yield from _gated("", width, inner, Q4_0)
    else:
        yield from _experts(shape)


def _experts(shape: Shape) -> Iterator[Tensor]:
    width, arch, count = shape.embedding_length, shape.architecture, shape.expert_count
    inner = max(shape.each("expert_feed_forward_length"))
    yield "ffn_gate_inp.weight", (width, count), F32
    yield from _gated("_exps", width, inner, MXFP4 if arch == "gpt-oss" else Q4_0, count)
    shared = shape.expert_shared_feed_forward_length or shape.expert_shared_count * inner
    if shared:
        yield from _gated("_shexp", width, shared, Q4_0)
    if arch == "qwen3next":
        yield "ffn_gate_inp_shexp.weight", (width,), F32
    if arch == "gpt-oss":
        yield "ffn_gate_inp.bias", (count,), F32
        for name, size in (("gate", inner), ("up", inner), ("down", width)):
            yield f"ffn_{name}_exps.bias", (size, count), F32


def _gated(name: str, width: int, inner: int, kind: GGMLQuantizationType, *count: int) -> Iterator[Tensor]:
    yield f"ffn_gate{name}.weight", (width, inner, *count), kind
    yield f"ffn_up{name}.weight", (width, inner, *count), kind
    yield f"ffn_down{name}.weight", (inner, width, *count), kind
