"""Static llama-cli binaries from llama.cpp's sources, one for each level of CPU, with zig as the cross compiler."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base import process
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked

PROJECT = Path(__file__).resolve().parents[2] / "llama"
MACHINES = {"aarch64": 183, "x86_64": 62}  # e_machine in an ELF header
PT_INTERP = 3
ZIG_SIZE = 500 << 20  # bytes, of the ziglang package


@dataclass(frozen=True, kw_only=True)
class Level:
    """Set of CPU features that one llama-cli is built for."""

    name: str  # the binary is called llama-cli-NAME
    arch: str  # architecture+feature+feature, as GCC's -march has it, or on x86 its -march and -m
    features: tuple[str, ...]  # words required in the line Features or flags of /proc/cpuinfo


# Best first: /init takes the first level that the machine supports. docs/benchmarks.md shows the gain of each.
_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
LEVELS = {
    # Common cores with dotprod have fp16 as well (Apple M1, Cortex-A76, Neoverse N1), at twice the rate of float.
    "aarch64": (
        Level(name="i8mm", arch="armv8.2-a+dotprod+fp16+i8mm", features=("asimddp", "fphp", "asimdhp", "i8mm")),
        Level(name="dotprod", arch="armv8.2-a+dotprod+fp16", features=("asimddp", "fphp", "asimdhp")),
    ),
    # The x86-64 psABI's levels: Cascade Lake or Zen 4; Haswell or Zen; Nehalem.
    "x86_64": (
        Level(name="avx512", arch="x86-64-v4+avx512vnni", features=(*_V4, "avx512_vnni")),
        Level(name="avx2", arch="x86-64-v3", features=_V3),
        Level(name="sse42", arch="x86-64-v2", features=_V2),
    ),
}


def elf_fault(elf: bytes, *, machine: int) -> str:
    """Return the reason why an ELF file is not a static program for `machine`, or "" (System V ABI, 4)."""
    if len(elf) < 64 or elf[:6] != b"\x7fELF\x02\x01":
        return "is not a 64-bit little-endian ELF file"
    (found,) = struct.unpack_from("<H", elf, 18)
    if found != machine:
        return f"is for machine {found}, not {machine}"
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    if size < 4 or offset + size * count > len(elf):
        return "is cut off within its program headers"
    if any(struct.unpack_from("<I", elf, offset + size * i)[0] == PT_INTERP for i in range(count)):
        return "needs a dynamic loader"
    return ""


def levels_table(arch: str) -> str:
    """Return the levels for /init: name and features, a line each, best first."""
    return "".join(f"{level.name} {' '.join(level.features)}\n" for level in LEVELS[arch])


def project_options(*, version: str, arch: str) -> list[str]:
    """Return the options of llama/CMakeLists.txt for a `version` (N.N.N) and the levels, for any compiler."""
    number = sum(int(part) * weight for part, weight in zip(version.split("."), (10000, 100, 1), strict=True))
    levels = ";".join(f"{level.name}={level.arch}" for level in LEVELS[arch])
    return [
        *(f"-DLLAMA_BUILD_NUMBER={number}", f"-DLLAMA_BUILD_COMMIT={version}"),
        *(f"-DLEVELS={levels}", f"-DPYTHON={sys.executable}"),
    ]


def build(
    *,
    source: Path,
    output: Path,
    version: str,
    jobs: int,
    log: Path,
    cache: Path,
    arch: str,
) -> tuple[Path, ...]:
    """Build llama-cli for every level of `arch` and return the binaries in the order of LEVELS.

    All levels are one CMake project: only ggml's CPU code is compiled for each. The commands have only paths below
    `output`, where `source` is linked, and `cache`, where zig is copied. So the binaries are the same from any folder,
    and ccache, if installed, has hits from any folder.

    Args:
        output: build folder; the next build is incremental, unless `version` (N.N.N) or the compiler changes.
        cache: folder for zig's and ccache's caches, shared by all build folders.

    Raises:
        ZosiaError: zig, cmake or ninja is missing, the build failed, or a binary is not static.
    """
    output, cache, levels = output.resolve(), cache.resolve(), LEVELS[arch]
    env = environment(output=output, cache=cache, arch=arch)
    zig_home(cache)
    ninja = Path(sys.executable).with_name("ninja")
    configure = [
        *(str(ninja.with_name("cmake")), "-G", "Ninja", "-S", f"{output}/project", "-B", f"{output}"),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DCMAKE_TOOLCHAIN_FILE={output}/project/toolchain/zig.cmake",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DLLAMA_SRC={output}/src",
        *project_options(version=version, arch=arch),
        *(f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX") if shutil.which("ccache")),
    ]
    recipe, stamp = json.dumps([str(source), configure, env], indent=1), output / "configured.json"
    if not stamp.exists() or stamp.read_text() != recipe:
        if stamp.exists() or (output / "CMakeCache.txt").exists():
            shutil.rmtree(output)  # ninja does not notice another compiler
        _link(output / "project", PROJECT)
        for entry in source.resolve().iterdir():
            if not entry.name.startswith("."):  # the sdist has an incomplete .git, which confuses upstream's build
                _link(output / "src" / entry.name, entry)
        process.run(configure, env=env, log=log)
        stamp.write_text(recipe)
    targets = [f"llama-cli-{level.name}" for level in levels]
    process.run([ninja, "-C", output, f"-j{jobs}", *targets], env=env, log=log)

    binaries = tuple(output / "bin" / target for target in targets)
    for binary in binaries:
        if fault := elf_fault(binary.read_bytes(), machine=MACHINES[arch]):
            raise ZosiaError(f"{binary} {fault}", f"See the end of {log}")
    return binaries


def environment(*, output: Path, cache: Path, arch: str) -> Mapping[str, str]:
    """Return what llama/toolchain and ccache take from the environment."""
    target = f"{arch}-linux-musl"
    # Libraries of zig and objects of ccache depend on the path of zig's headers.
    home = home_of(cache)
    # Identity of the compiler, of which ccache sees only a wrapper script.
    compiler = f"{target} {home.name} {hashlib.sha256((PROJECT / 'toolchain' / 'zig').read_bytes()).hexdigest()}"
    return {
        "ZIG": f"{home}/zig",
        "ZIG_LIB_DIR": f"{home}/lib",
        "ZIG_TARGET": target,
        "ZIG_PROCESSOR": arch,
        "ZIG_PREFIX_MAP": f"{output}/=\n{home}=zig",
        "ZIG_GLOBAL_CACHE_DIR": f"{cache}/zig",
        "ZIG_LOCAL_CACHE_DIR": f"{cache}/zig",
        "CCACHE_DIR": f"{cache}/ccache",
        "CCACHE_BASEDIR": str(output),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_COMPILERTYPE": "clang",
        "CCACHE_COMPILERCHECK": f"string:{compiler}",
    }


def home_of(cache: Path) -> Path:
    """Return the path of `zig_home`."""
    return cache / f"zig-{zig_version()}"


def zig_version() -> str:
    """Return the version of the ziglang package, "" if it is not installed."""
    for folder in _ziglang():
        for info in folder.parent.glob("ziglang-*.dist-info"):  # importlib.metadata takes 30 ms to import
            return info.name.removeprefix("ziglang-").removesuffix(".dist-info")
    return ""


def _ziglang() -> list[Path]:
    spec = importlib.util.find_spec("ziglang")
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]


def zig_home(cache: Path) -> Path:
    """Copy the ziglang package from the .venv to a path that is the same for all clones, and return that.

    Raises:
        ZosiaError: the package is missing, or there is no room for a copy.
    """
    home, packages = home_of(cache), _ziglang()
    if not packages:
        raise ZosiaError("the Python package ziglang is needed and was not found", "Type: ./scripts/bootstrap.sh")
    with locked(home):
        if not home.exists():
            shutil.rmtree(temporary := home.with_name(home.name + ".part"), ignore_errors=True)
            check_room(home.parent, ZIG_SIZE, "The compiler")
            try:
                shutil.copytree(packages[0], temporary)
            except shutil.Error as error:  # it lists many files; the last reason is enough
                raise ZosiaError(f"zig could not be copied to {home}: {error.args[0][-1][2]}") from error
            temporary.rename(home)
    return home


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
