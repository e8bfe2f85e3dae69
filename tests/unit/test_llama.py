"""The cross build of llama-cli, without compiling: wrapper, check of the result, CPU levels."""

from __future__ import annotations

import struct
import subprocess
from itertools import chain, pairwise
from pathlib import Path

import pytest

from zosia_build import llama

AARCH64 = llama.MACHINES["aarch64"]


def wrapped(tmp_path: Path, name: str, *arguments: str, prefix_map: str = "") -> list[str]:
    """Arguments that zig would get from the wrapper called as `name`."""
    fake = tmp_path / "zig"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "ZIG": str(fake), "ZIG_TARGET": "aarch64-linux-musl", "ZIG_PREFIX_MAP": prefix_map}
    wrapper = llama.PROJECT / "toolchain" / name
    done = subprocess.run([wrapper, *arguments], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("march", "mcpu"),
    [
        ("armv8-a", "generic+v8a"),
        ("armv8.2-a+dotprod", "generic+v8_2a+dotprod"),
        ("armv8.2-a+fp16", "generic+v8_2a+fullfp16"),
        ("armv8.2-a+dotprod+fp16+i8mm", "generic+v8_2a+dotprod+fullfp16+i8mm"),
        ("armv8.2-a+fp16fml", "generic+v8_2a+fp16fml"),
        ("armv9.2-a+sve2", "generic+v9_2a+sve2"),
        ("x86-64-v3", "x86_64_v3"),
        ("x86-64", "x86_64"),
    ],
)
def test_wrapper_translates_march(tmp_path: Path, march: str, mcpu: str) -> None:
    assert wrapped(tmp_path, "zig-cc", f"-march={march}") == ["cc", "-target", "aarch64-linux-musl", f"-mcpu={mcpu}"]


def test_wrapper_leaves_other_arguments_alone(tmp_path: Path) -> None:
    arguments = ["-c", "a file.c", "-DX=$HOME", "-mavx512vnni", "-o", "it's"]
    assert wrapped(tmp_path, "zig-c++", *arguments) == ["c++", "-target", "aarch64-linux-musl", *arguments]


def test_wrapper_straightens_include_folders(tmp_path: Path) -> None:
    given, wanted = ["-I/a b/c/..", "-I/a/b/../c", "-I/a/..b"], ["-I/a b", "-I/a/c", "-I/a/..b"]
    assert wrapped(tmp_path, "zig-cc", *given)[3:] == wanted


def test_wrapper_maps_paths(tmp_path: Path) -> None:
    maps = wrapped(tmp_path, "zig-cc", prefix_map="/a b/=\n/c=d")[-2:]
    assert maps == ["-ffile-prefix-map=/a b/=", "-ffile-prefix-map=/c=d"]


@pytest.mark.parametrize("tool", ["ar", "ranlib"])
def test_wrapper_passes_archives_on(tmp_path: Path, tool: str) -> None:
    assert wrapped(tmp_path, f"zig-{tool}", "qc", "libx.a") == [tool, "qc", "libx.a"]


def elf(*segments: int, machine: int = AARCH64) -> bytes:
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    )
    return header + b"".join(struct.pack("<IIQQQQQQ", kind, *[0] * 7) for kind in segments)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (elf(1, 1), ""),
        (elf(6, llama.PT_INTERP, 1), "needs a dynamic loader"),
        (elf(1, machine=62), "is for machine 62, not 183"),
        (elf(1, 1)[:-8], "is cut off within its program headers"),
        (b"#!/bin/sh\n", "is not a 64-bit little-endian ELF file"),
        (b"", "is not a 64-bit little-endian ELF file"),
    ],
)
def test_elf_fault(content: bytes, fault: str) -> None:
    assert llama.elf_fault(content, machine=AARCH64) == fault


@pytest.mark.parametrize("levels", llama.LEVELS.values(), ids=list(llama.LEVELS))
def test_levels_go_from_most_to_least_demanding(levels: tuple[llama.Level, ...]) -> None:
    for better, worse in pairwise(levels):
        assert set(better.features) > set(worse.features)


@pytest.mark.parametrize("levels", llama.LEVELS.values(), ids=list(llama.LEVELS))
def test_level_names_differ_and_fit_a_file_name(levels: tuple[llama.Level, ...]) -> None:
    names = [level.name for level in levels]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() for name in names)


# What /proc/cpuinfo calls a feature (Documentation/arch/arm64/elf_hwcaps.rst, arch/x86/include/asm/cpufeatures.h)
# that GCC calls so; and those of the x86-64 psABI's levels, each with the ones before, less what Linux does not show.
V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
V4 = V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
CPUINFO: dict[str, set[str]] = {
    **{"armv8.2-a": set(), "dotprod": {"asimddp"}, "i8mm": {"i8mm"}, "fp16": {"fphp", "asimdhp"}},
    **{"x86-64-v2": V2, "x86-64-v3": V3, "x86-64-v4": V4, "avx512vnni": {"avx512_vnni"}},
}


@pytest.mark.parametrize("level", list(chain(*llama.LEVELS.values())), ids=lambda level: level.name)
def test_level_asks_for_what_it_is_compiled_for(level: llama.Level) -> None:
    assert set(level.features) == {word for flag in level.arch.split("+") for word in CPUINFO[flag]}
