"""llama/scales.c: products of blocks come out the same to the last bit, whether scales are looked up or converted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia.inputs import fetch
from zosia.inputs.catalogue import read_record
from zosia_build import llama

LEVELS = [level.name for level in llama.LEVELS["aarch64"]]


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_the_same(root: Path, tmp_path: Path, level: str) -> None:
    subprocess.run([sys.executable, "-m", "SCons", "-s", "llama", "ARCH=aarch64"], cwd=root, check=True)
    built = root / "build" / "aarch64" / "llama"
    source = fetch.source_tree(read_record(root / "build" / "sources" / "llama-cpp.json"), cache_root())
    zig = llama.zig_home(cache_root())
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(cache_root() / "zig"))
    objects = built / "CMakeFiles"  # of all levels but the first, which ggml's own library is
    parts = [built / "llama.cpp/ggml/src/libggml-cpu.a"]
    if level != LEVELS[0]:
        parts = sorted((objects / f"ggml-cpu-{level}.dir").rglob("*.o"))
    assert all(part.exists() for part in parts) and parts
    driver = tmp_path / "driver"
    subprocess.run(
        [
            *(zig / "zig", "c++", "-target", "aarch64-linux-musl", "-static", "-O1", "-o", driver),
            *(f"-I{built}", f"-I{source}/ggml/include", "-x", "c", root / "tests/build/scales-driver.c", "-x", "none"),
            *(objects / f"scales-{level}.dir/scales.c.o", *parts, built / "llama.cpp/ggml/src/libggml-base.a"),
        ],
        env={**os.environ, **caches, "ZIG_LIB_DIR": str(zig / "lib")},
        check=True,
    )
    cpu = "max,pauth=off,sve=off" if level == LEVELS[0] else "cortex-a76"
    said = subprocess.run(["qemu-aarch64", "-cpu", cpu, driver, "1"], capture_output=True, text=True, check=True).stdout
    assert int(said) > 20
