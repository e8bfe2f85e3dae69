"""The kernel's fragments: what Kconfig dropped is noticed, and said in one sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia_build import kernel, llama

CONFIG = """\
# Linux/arm64 6.1 Kernel Configuration
CONFIG_SMP=y
CONFIG_HZ=100
CONFIG_PANIC_TIMEOUT=-1
CONFIG_LOCALVERSION="-zosia"
# CONFIG_MODULES is not set
# end of General setup
"""
BOARD = Path(__file__).parents[2] / "buildroot" / "board" / "zosia"


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_SMP=y",
        "CONFIG_HZ=100",
        "CONFIG_PANIC_TIMEOUT=-1",
        'CONFIG_LOCALVERSION="-zosia"',
        "CONFIG_MODULES=n",
        "# CONFIG_MODULES is not set",
        "# CONFIG_ABSENT is not set",
        "CONFIG_ABSENT=n",
        "# CONFIG_SMP would be y in a comment",
        "",
    ],
)
def test_honoured(line: str) -> None:
    assert kernel.dropped(line, CONFIG) == []


@pytest.mark.parametrize(
    "line",
    [
        "CONFIG_SMP=n",
        "# CONFIG_SMP is not set",
        "CONFIG_HZ=1000",
        "CONFIG_HZ=10",
        'CONFIG_LOCALVERSION=""',
        "CONFIG_MODULES=y",
        "CONFIG_ABSENT=y",
        "CONFIG_SM=y",
    ],
)
def test_dropped(line: str) -> None:
    assert kernel.dropped(f"# a comment\n{line}\nCONFIG_SMP_X=n\n", CONFIG) == [line]


def test_dropped_keeps_order_and_spelling() -> None:
    assert kernel.dropped("CONFIG_B=y\nCONFIG_SMP=y\r\n  CONFIG_A=m  \n", CONFIG) == ["CONFIG_B=y", "CONFIG_A=m"]


def test_last_line_about_an_option_counts() -> None:
    assert kernel.dropped("CONFIG_MODULES=y\n# CONFIG_MODULES is not set\n", CONFIG) == []
    assert kernel.dropped("CONFIG_SMP=y\nCONFIG_SMP=n\n", CONFIG) == ["CONFIG_SMP=n"]


@pytest.mark.parametrize("path", sorted(BOARD.glob("linux-*.config")), ids=lambda path: path.name)
def test_fragments_say_each_option_once_and_nothing_else(path: Path) -> None:
    lines = path.read_text().splitlines()
    options = [kernel.OPTION.fullmatch(line) for line in lines if "CONFIG_" in line and "KCONFIG_" not in line]
    assert all(options), "a line that mentions an option and does not set it"
    names = [match["set"] or match["unset"] for match in options if match]
    assert sorted(set(names)) == sorted(names)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Path]]:
    """A source folder whose `make` writes the .config given, with two fragments; returns the arguments of configure."""

    def prepare(config: str) -> dict[str, Path]:
        def make(argv: Sequence[str | Path], **_: Any) -> None:
            assert argv[-1] == "allnoconfig"
            (tmp_path / "out" / ".config").write_text(config)

        monkeypatch.setattr(kernel, "find", lambda program: program)
        monkeypatch.setattr(kernel, "check_headers", lambda arch: None)
        monkeypatch.setattr(llama, "zig_home", lambda cache: cache)
        monkeypatch.setattr(kernel, "run", make)
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "Kconfig").touch()
        (tmp_path / "common.config").write_text("CONFIG_SMP=y\n")
        (tmp_path / "board.config").write_text("CONFIG_MODULES=y\nCONFIG_PCI=y\n")
        return {"source": tmp_path / "src", "output": tmp_path / "out", "log": tmp_path / "log", "cache": tmp_path}

    return prepare


def test_configure_names_options_and_fragment(tree: Any, tmp_path: Path) -> None:
    fragments = [tmp_path / "common.config", tmp_path / "board.config"]
    with pytest.raises(ZosiaError) as caught:
        kernel.configure(**tree(CONFIG), fragments=fragments, arch="aarch64")
    assert "CONFIG_MODULES=y; CONFIG_PCI=y" in str(caught.value)
    assert "board.config" in str(caught.value)
    assert "common.config" not in str(caught.value)


def test_configure_accepts(tree: Any, tmp_path: Path) -> None:
    kernel.configure(**tree(CONFIG), fragments=[tmp_path / "common.config"], arch="aarch64")


def test_build_without_an_image(tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = tree(CONFIG)
    folders["output"].mkdir()
    monkeypatch.setattr(kernel, "run", lambda argv, **_: subprocess.CompletedProcess(argv, 0, "", ""))
    with pytest.raises(ZosiaError, match=r"succeeded without making .*Image"):
        kernel.build(**folders, arch="aarch64", jobs=1)


def test_how_many_steps_there_will_be(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make says what it would do, and that is what it is measured against."""
    folders, calls = tree(CONFIG), []
    folders["output"].mkdir()
    said = (
        "set -e;  echo '  CC      a.o';   gcc a.c\necho '  AR      b.a'; ar\nset -e;     gcc\nmake: *** no vmlinux.a\n"
    )

    def make(argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        calls.append((argv[-1], options["total"], options["check"]))
        return subprocess.CompletedProcess(argv, 2, said if argv[-1] == "-n" else "", "")

    monkeypatch.setattr(kernel, "run", make)
    with pytest.raises(ZosiaError, match="succeeded without making"):
        kernel.build(**folders, arch="aarch64", jobs=1)
    assert calls == [("prepare", 0, True), ("-n", 0, False), ("Image", 2, True)]


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_the_compiler_and_the_linker_are_the_pinned_ones(
    tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    folders, calls = tree(CONFIG), []
    folders["output"].mkdir()

    def make(argv: Sequence[str | Path], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append((dict(str(word).partition("=")[::2] for word in argv), env))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(kernel, "run", make)
    monkeypatch.setattr("shutil.which", lambda program: program)
    with pytest.raises(ZosiaError, match="succeeded without making"):
        kernel.build(**folders, arch=arch, jobs=1)
    for words, env in calls:
        assert words["CC"].endswith(f" CCACHE_COMPILERCHECK=string:{tmp_path.name} ccache ./clang")
        assert (words["LD"], words["AR"]) == (f"{tmp_path}/zig ld.lld", f"{tmp_path}/zig ar")
        assert [name for name, value in words.items() if "gcc" in value] == ["HOSTCC"]
        assert "LLVM" in words and env["ZIG"] == f"{tmp_path}/zig"
    assert (folders["output"] / "clang").resolve() == kernel.CLANG.resolve()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "vax"}, "no kernel build for vax.*aarch64, x86_64"),
        ({"fragments": [Path("/nowhere/x.config")]}, "/nowhere/x.config cannot be read"),
        ({"source": Path("/nowhere")}, "/nowhere is not a kernel source tree"),
    ],
)
def test_configure_refuses(tree: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ZosiaError, match=message):
        kernel.configure(**{**tree(CONFIG), "fragments": [], "arch": "aarch64", **change})


def test_build_refuses_an_unknown_architecture(tree: Any) -> None:
    with pytest.raises(ZosiaError, match="no kernel build for vax"):
        kernel.build(**tree(CONFIG), arch="vax", jobs=1)


@pytest.mark.parametrize(
    ("arch", "start", "fits"),
    [
        ("aarch64", bytes(56) + b"ARM\x64" + bytes(100), True),
        ("aarch64", b"\x1f\x8b" + bytes(100), True),  # gzip: QEMU unpacks it
        ("aarch64", bytes(56) + b"RISC" + bytes(100), False),
        ("aarch64", b"root:x:0:0\n", False),
        ("aarch64", b"", False),
        ("x86_64", b"\x7fELF\x02\x01" + bytes(100), True),
        ("x86_64", bytes(0x202) + b"HdrS" + bytes(100), True),
        ("x86_64", bytes(56) + b"ARM\x64" + bytes(1000), False),
        ("x86_64", b"\x7fELF", False),
    ],
)
def test_an_image_is_known_by_its_header(tmp_path: Path, arch: str, start: bytes, fits: bool) -> None:
    path = tmp_path / "Image"
    path.write_bytes(start)
    if fits:
        assert kernel.read_image(path, arch=arch) == start
    else:
        with pytest.raises(ZosiaError, match=rf"is not a kernel image for {arch}\. Set KERNEL="):
            kernel.read_image(path, arch=arch)


@pytest.mark.parametrize(
    ("arch", "header", "package"), [("x86_64", "gelf.h", "libelf-dev"), ("aarch64", "stdio.h", "libc6-dev")]
)
def test_a_header_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, arch: str, header: str, package: str
) -> None:
    monkeypatch.setattr(kernel, "run", lambda argv, check: subprocess.CompletedProcess(argv, int(header in argv)))
    with pytest.raises(ZosiaError, match=rf"the C header {header} is needed and was not found.* {package}"):
        kernel.check_headers(arch)
