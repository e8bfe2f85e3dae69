"""Engine: models that the pinned llama.cpp can load, and other kinds of GGUF.

The tables are those of its source: `enum ggml_type` and its traits (ggml.h, ggml.c), GGUF_VERSION (gguf.h and
gguf.cpp), LLM_ARCH_NAMES (llama-arch.cpp), as far as llama-model.cpp has a class for them. tests/unit/test_engine.py
reads them there: after an update of llama.cpp it prints what to write here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from zosia.base.errors import ZosiaError
from zosia.base.places import INSTALLED

VERSIONS = (2, 3)  # of the file format
ALIGNMENT = 32  # bytes, of tensors, where the metadata has no other
MOST_TYPES = 1 << 10  # above all that ggml and its forks have


class Type(NamedTuple):
    """Type of tensors: `size` bytes hold a `block` of numbers."""

    name: str
    block: int
    size: int


TYPES = {
    0: Type("F32", 1, 4),
    1: Type("F16", 1, 2),
    2: Type("Q4_0", 32, 18),
    3: Type("Q4_1", 32, 20),
    6: Type("Q5_0", 32, 22),
    7: Type("Q5_1", 32, 24),
    8: Type("Q8_0", 32, 34),
    9: Type("Q8_1", 32, 36),
    10: Type("Q2_K", 256, 84),
    11: Type("Q3_K", 256, 110),
    12: Type("Q4_K", 256, 144),
    13: Type("Q5_K", 256, 176),
    14: Type("Q6_K", 256, 210),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    24: Type("I8", 1, 1),
    25: Type("I16", 1, 2),
    26: Type("I32", 1, 4),
    27: Type("I64", 1, 8),
    28: Type("F64", 1, 8),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
    40: Type("NVFP4", 64, 36),
    41: Type("Q1_0", 128, 18),
    42: Type("Q2_0", 64, 18),
}
REMOVED = {
    **{4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"},
    **{36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"},
}
# Of forks: those of ik_llama.cpp (its ggml.h), whose numbers from 200 on are types in another order.
IK_LLAMA = {
    **{97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4", 133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 137: "IQ2_K"},
    **{138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K", 141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS"},
    **{152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT", 155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT"},
}
BITNET = {36: "I2_S", 37: "I8_S", 38: "TL1"}  # of BitNet.cpp; its 39 is MXFP4 here

ARCHITECTURES = frozenset(
    """
    afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom chameleon
    chatglm clip codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2 deepseek2-ocr
    deepseek32 deepseek4 dflash dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe
    exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4
    glm4moe glm5-next gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe
    hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3
    kimi-k3 kimi-linear laguna lfm2 lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple
    mellum mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert mpt muse-glimmer
    nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion
    paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3
    qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7
    seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder talkie
    wavtokenizer-dec xverse
    """.split()  # noqa: SIM905
)
# Names that Ollama gives to architectures in its own files, whose tensors have other names too.
OLLAMA = {"gptoss": "gpt-oss", "mllama": "Llama 3.2 Vision", "qwen25vl": "Qwen2.5-VL", "glm4moelite": "GLM-4.7-Flash"}
OTHER_MODEL = "Set MODEL= to a chat model: scons models lists some"
OWN_ENGINE = "" if INSTALLED else ", or LLAMA_SRC= to a llama.cpp that knows it"


class Kind(Enum):
    """Kind of GGUF that is no model for a chat: what it is, what to do, and the architectures that say so.

    llama.cpp knows none of the `foreign` kinds.
    """

    PROJECTOR = (
        "a projector (mmproj) of images or sound",
        "Set MODEL= to the text model that it belongs to, which runs without it",
        ("clip",),
    )
    ADAPTER = (
        "an adapter (LoRA) and no whole model",
        "Merge it into its model with llama.cpp's llama-export-lora, and set MODEL= to the result",
        (),
    )
    CONTROL_VECTOR = (
        "a control vector and no whole model",
        "Set MODEL= to the model that it steers",
        ("controlvector",),
        True,
    )
    IMATRIX = (
        "an importance matrix (imatrix), which helps to quantise a model",
        "Set MODEL= to the model itself",
        (),
    )
    VOCABULARY = ("a vocabulary without weights", "Set MODEL= to the whole model", ())
    EMBEDDER = (
        "an embedding model (an encoder), which writes no text",
        OTHER_MODEL,
        (
            *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert"),
            *("neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder"),
        ),
    )
    RERANKER = ("a reranker, which rates texts and writes none", OTHER_MODEL, ())
    ENCODER_DECODER = ("an encoder-decoder (T5), which llama-cli doesn't run", OTHER_MODEL, ("t5",))
    DIFFUSION = (
        "a diffusion model, which llama-cli doesn't run",
        OTHER_MODEL,
        ("dream", "llada", "llada-moe", "rnd1"),
    )
    DRAFT = (
        "a draft model, which only speeds up another one",
        "Set MODEL= to the model that it belongs to",
        ("dflash", "eagle3", "gemma4-assistant"),
    )
    SPEECH = ("a model that writes speech, not text", OTHER_MODEL, ("pockettts", "qwen3tts", "wavtokenizer-dec"))
    PICTURES = (
        "a model of pictures or films, not of text",
        OTHER_MODEL,
        (
            *("aura", "cosmos", "flux", "hidream", "hyvid", "ltxv", "lumina2", "qwen_image", "sd1", "sd3"),
            *("sdxl", "wan"),  # of ComfyUI-GGUF and stable-diffusion.cpp
        ),
        True,
    )

    def __init__(self, what: str, remedy: str, architectures: tuple[str, ...], foreign: bool = False) -> None:
        self.what = what
        self.remedy = remedy
        self.architectures = architectures
        self.foreign = foreign

    def refusal(self, model: str | Path) -> ZosiaError:
        """Return the error for a model of this kind."""
        return ZosiaError(f"{model} is {self.what}", self.remedy)


KINDS = {name: kind for kind in Kind for name in kind.architectures}
GENERAL_TYPES = {"mmproj": Kind.PROJECTOR, "adapter": Kind.ADAPTER, "imatrix": Kind.IMATRIX}  # of general.type


def check_version(gguf: Path, version: int) -> None:
    """Refuse a file format that llama.cpp does not read.

    Raises:
        ZosiaError: the version is another one, or in the other byte order.
    """
    if version in VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if 0 < swapped < 1 << 16:
        raise ZosiaError(
            f"{gguf} is a big-endian GGUF, for processors that zosia has no guests for",
            "Get the little-endian file, or convert it with gguf_convert_endian.py of llama.cpp's gguf-py",
        )
    if not 0 < version < 1 << 8:
        raise ZosiaError(
            f"{gguf} is damaged: GGUF version {' or '.join(map(str, VERSIONS))} is expected, and {version} found",
            "Get the file again",
        )
    newer = version > max(VERSIONS)
    raise ZosiaError(
        f"{gguf} has {'a newer' if newer else 'an old'} file format: its GGUF version is {version}, and llama.cpp "
        f"reads {' and '.join(map(str, VERSIONS))}",
        f"Get {'an older' if newer else 'a newer'} file of this model, or convert it again",
    )


def check_architecture(model: str | Path, architecture: str) -> None:
    """Refuse an architecture that llama.cpp can't load, or that doesn't write text.

    Raises:
        ZosiaError: it is such an architecture.
    """
    if kind := KINDS.get(architecture):
        raise kind.refusal(model)
    if architecture in ARCHITECTURES:
        return
    shown = architecture if re.fullmatch(r"[\w.-]{1,40}", architecture) else ascii(architecture[:40])
    message = f"{model} has the architecture {shown}, which zosia's llama.cpp does not know"
    if architecture == "gptoss":
        raise ZosiaError(
            f"{message}: it is Ollama's own file of gpt-oss", "Set MODEL=gpt-oss-20b-Q4, or get a file for llama.cpp"
        )
    if name := OLLAMA.get(architecture):
        raise ZosiaError(f"{message}: it is Ollama's own file of {name}", "Get the model's file for llama.cpp")
    raise ZosiaError(message, f"Set MODEL= to another model (scons models lists some){OWN_ENGINE}")


def check_types(gguf: Path, found: Iterable[int]) -> None:
    """Refuse types of tensors that the pinned ggml can't read.

    Raises:
        ZosiaError: it lacks one of them.
    """
    unknown = sorted(set(found) - set(TYPES))
    if not unknown:
        return
    number = unknown[0]
    name = REMOVED.get(number) or IK_LLAMA.get(number, "")
    message = f"{gguf} has tensors of type {number}{f' ({name})' if name else ''}"
    if number in REMOVED:
        fork = f"; in BitNet.cpp it is {BITNET[number]}" if number in BITNET else ""
        plain = "IQ4_NL" if name.startswith("IQ4_NL") else "Q4_0"
        raise ZosiaError(f"{message}, which llama.cpp no longer reads{fork}", f"Get the model's file in {plain}")
    if number in IK_LLAMA or 200 <= number < 400:
        raise ZosiaError(f"{message}, which only ik_llama.cpp reads", f"Get another file of it{OWN_ENGINE}")
    raise ZosiaError(
        f"{message}, which zosia's llama.cpp does not know: a fork or a newer version made it",
        f"Get another file of it, such as Q4_K_M{OWN_ENGINE}",
    )
