"""The memory arithmetic against llama.cpp's own: the built program, emulated, loads models of true shape, as llama-cli
and as llama-server.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import shapes
from zosia.base.files import cache_root
from zosia.base.process import find
from zosia.inputs import catalogue, model_files
from zosia.model import memory, reader
from zosia.model.memory import MIB, Memory
from zosia.model.shape import Shape

# What zosia gives every run. No checkpoints: llama.cpp makes them while it chats.
ARGS = ("--cache-ram", "0", "-fit", "off", "--no-warmup", "--no-repack", "-ctxcp", "0")
READY = "reserve took"  # in the log, when all is reserved
ROUNDED = 0.01  # MiB, of the log's numbers


@dataclass(frozen=True)
class Reserved:
    """MiB that llama.cpp's log says."""

    model: float
    cache: float
    buffers: float


@pytest.fixture(scope="module")
def reserved(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reserved]:
    """Load a model and read the log. It is llama-server that knows --kv-unified."""
    program = str(root / "build/aarch64/llama-cli-i8mm")
    socket = tmp_path_factory.mktemp("s") / "1.sock"

    def load(gguf: Path, words: list[str]) -> Reserved:
        socket.unlink(missing_ok=True)
        cli, server = ["llama-cli", "-st", "-p", "hi"], ["llama-server", "--host", str(socket)]
        name, *own = server if "--kv-unified" in words else cli
        with subprocess.Popen(
            [find("qemu-aarch64"), "-0", name, program, *ARGS, "-lv", "4", *own, "-m", str(gguf), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child:
            log = []
            for line in child.stdout or ():
                log.append(line)
                if READY in line:
                    break
            child.kill()
        assert READY in log[-1], "".join(log[-20:])
        sizes = dict.fromkeys(("model", "KV", "RS", "compute", "output"), 0.0)
        for name, size in re.findall(r"(\w+) buffer size = +([0-9.]+) MiB", "".join(log)):
            sizes[name] += float(size)
        return Reserved(sizes["model"], sizes["KV"] + sizes["RS"], sizes["compute"] + sizes["output"])

    return load


def check(memory: Memory, found: Reserved, *, above: float = 1.1) -> None:
    """The estimate is not below, the sum by a tenth above at most, and each part is what it is called."""
    cache, buffers = memory.cache / MIB, memory.buffers / MIB
    assert found.model <= memory.weights / MIB <= found.model * 1.1 + 8
    assert found.cache - 2 * ROUNDED <= cache <= found.cache + 2 * ROUNDED
    assert found.buffers <= buffers <= found.buffers * 1.4 + 2
    whole = found.model + found.cache + found.buffers
    assert whole <= memory.weights / MIB + cache + buffers <= whole * above


def words(text: str, context: int = 2048) -> list[str]:
    return ["-c", str(context), *text.split()]


MODELS = {name: value for name, value in vars(shapes).items() if isinstance(value, Shape)}
# Each run takes a second.
RUNS = [
    *((name, "", 2048) for name in MODELS),
    *((name, "-np 4 --kv-unified", 8192) for name in MODELS),
    *((name, "-np 3", 2000) for name in ("GPT_OSS_20B", "LLAMA_32_1B", "QWEN_3_NEXT", "LFM_2_12B", "MAMBA_2_13B")),
    *((name, "-np 64 --kv-unified -ub 64", 2048) for name in ("GPT_OSS_20B", "GEMMA_3_4B", "QWEN_3_NEXT")),
    *(("GEMMA_3_4B", f"-np 4 {text}", 8192) for text in ("--kv-unified -fa off", "-fa off", "--kv-unified --swa-full")),
    ("GPT_OSS_20B", "-np 1 --kv-unified", 8192),
    ("QWEN_25_05B", "-np 4 --kv-unified -ctk q8_0 -ctv q8_0", 8192),
    *(("GPT_OSS_20B", text, 8192) for text in ("", "-ub 128", "-fa off", "-ctk q8_0 -ctv q8_0", "--swa-full")),
    *(("LLAMA_32_1B", text, 4096) for text in ("-fa off", "-b 256", "-ctk q8_0 -ctv q4_0", "-ub 2048", "-ctk f32")),
    *(("GEMMA_3_4B", text, 8192) for text in ("-fa off", "-ctk q8_0 -ctv q8_0", "-ub 1024")),
    *(("QWEN_3_30B", text, 4096) for text in ("-fa off", "-ub 64")),
    ("DEEPSEEK_2_LITE", "-fa off", 4096),
    ("LFM_2_12B", "-fa off", 8192),
    ("GPT_OSS_20B", "", 131072),
    ("GPT_OSS_20B", "", 1000),
]


@pytest.fixture(scope="module")
def ggufs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("shapes")

    def gguf(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else shapes.write(path, MODELS[name])

    return gguf


@pytest.mark.parametrize(("name", "text", "context"), RUNS)
def test_models_of_true_shape(
    reserved: Callable[..., Reserved], ggufs: Callable[[str], Path], name: str, text: str, context: int
) -> None:
    gguf = ggufs(name)
    found = reserved(gguf, words(text, context))
    check(memory.estimate(reader.read([gguf]), gguf.stat().st_size, [*ARGS, *words(text, context)]), found)


@pytest.mark.parametrize("text", ["", "-fa off", "-ctk q8_0 -ctv q8_0", "-ub 256"])
@pytest.mark.parametrize("context", [2048, 8192])
def test_the_default_model(root: Path, reserved: Callable[..., Reserved], context: int, text: str) -> None:
    entry = catalogue.read_models(root / "models.toml")["smollm2-135m"]
    gguf = model_files.model_file(entry, cache_root())
    found = reserved(gguf, words(text, context))
    check(memory.estimate(reader.read([gguf]), gguf.stat().st_size, [*ARGS, *words(text, context)]), found)
