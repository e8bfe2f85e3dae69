"""llama/wrap.cmake: a program is linked only if its --wrap options have an effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zosia.base.files import cache_root
from zosia_build import llama

BIN = Path(sys.executable).parent
MAIN = "extern int asked(void);\nint main(void) { return asked(); }\n"
OURS = "extern int __real_answer(void);\nint __wrap_answer(void) { return __real_answer() + 1; }\n"
CALLER = "extern int answer(void);\nint asked(void) { return answer(); }\n"
CALLEE = "int answer(void) { return 41; }\n"
TABLE = "extern int answer(void);\nint (*volatile table[])(void) = {answer};\nint asked(void) { return table[0](); }\n"
PROJECT = f"""
cmake_minimum_required(VERSION 3.28)
project(wraps C)
include({llama.PROJECT}/wrap.cmake)
add_library(upstream STATIC caller.c callee.c)
add_executable(program main.c ours.c)
target_link_libraries(program PRIVATE upstream)
wrap(program upstream SOURCE answer)
"""


def linked(folder: Path, *, source: str = "caller.c", **files: str) -> subprocess.CompletedProcess[str]:
    """Build the program, with zig as llama-cli is."""
    contents = {"main": MAIN, "ours": OURS, "caller": CALLER, "callee": CALLEE, **files}
    for name, text in contents.items():
        (folder / f"{name}.c").write_text(text)
    (folder / "CMakeLists.txt").write_text(PROJECT.replace("SOURCE", source))
    cache = cache_root()
    home = llama.zig_home(cache)
    env = {**llama.environment(output=folder, cache=cache, arch="aarch64"), "PATH": "/usr/bin:/bin"}
    assert env["ZIG"] == f"{home}/zig"
    options = [
        *("-G", "Ninja", "-S", f"{folder}", "-B", f"{folder}/out", f"-DCMAKE_MAKE_PROGRAM={BIN}/ninja"),
        *(f"-DCMAKE_TOOLCHAIN_FILE={llama.PROJECT}/toolchain/zig.cmake", f"-DPYTHON={sys.executable}"),
    ]
    subprocess.run([BIN / "cmake", *options], env=env, check=True, capture_output=True)
    return subprocess.run([BIN / "ninja", "-C", folder / "out"], env=env, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("caller", [CALLER, TABLE], ids=["a call", "a table of functions"])
def test_wrap_in_effect(tmp_path: Path, caller: str) -> None:
    built = linked(tmp_path, caller=caller)
    assert built.returncode == 0, built.stdout
    assert subprocess.run(["qemu-aarch64", tmp_path / "out/program"], check=False).returncode == 42


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"caller": CALLEE + CALLER, "callee": ""}, "caller.c defines it, so its calls do not pass the linker"),
        (
            {"caller": CALLER.replace("answer", "reply"), "callee": CALLEE.replace("answer", "reply")},
            "caller.c does not call it",
        ),
        ({"source": "asker.c"}, "asker.c has no objects"),
    ],
    ids=["caller and callee in one object", "a function of another name", "a source of another name"],
)
def test_wrap_without_effect(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    built = linked(tmp_path, **files)
    assert built.returncode != 0
    assert f"zosia: error: --wrap=answer has no effect: {reason}\n" in built.stdout
    assert not (tmp_path / "out/program").exists()
