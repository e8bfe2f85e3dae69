"""Static relay programs for the guest, each from a C file in initramfs/, with zig as the cross compiler."""

from __future__ import annotations

from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.base.process import run
from zosia_build import llama

# The first four are llama-cli's, so that zig reuses the libc that it built for that.
FLAGS = ("-O3", "-static", "-s", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")


def build(source: Path, target: Path, *, arch: str, cache: Path) -> None:
    """Compile a program; the same source gives the same bytes from any folder.

    Raises:
        ZosiaError: the program does not compile, or is not static.
    """
    zig = llama.zig_home(cache)
    folders = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), f"{cache}/zig")
    env = {"ZIG_LIB_DIR": f"{zig}/lib", **folders}
    with replacing(target.absolute()) as temporary:
        run([zig / "zig", "cc", "-target", f"{arch}-linux-musl", *FLAGS, "-o", temporary, source], env=env)
        if fault := llama.elf_fault(temporary.read_bytes(), machine=llama.MACHINES[arch]):
            raise ZosiaError(f"{target} {fault}", "Type: ./scripts/bootstrap.sh")
