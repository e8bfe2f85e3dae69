"""zosia as an installed package, with kernels that nobody boots: its folders, its imports, its service."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import gguf_file
from zosia.base.files import sha256
from zosia.base.version import VERSION
from zosia.command import table
from zosia.machine.boards import BOARDS
from zosia.settings.variables import DEFAULTS

MODEL = """
[tiny]
title = "Tiny"
origin = "hub"
project = "a/b"
version = "main"
file = "tiny.gguf"
size = {size}
sha256 = "{sha256}"
licence = "MIT"
context = 512
"""


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed package, with kernels that nobody boots, and one small model in its catalogue."""
    folder = tmp_path_factory.mktemp("site-packages")
    gguf = gguf_file.write(folder / "tiny.gguf")
    top = folder / "zosia"
    shutil.copytree(root / "site_scons" / "zosia", top)
    known = (root / "models.toml").read_text(encoding="utf-8")
    entry = MODEL.format(size=gguf.stat().st_size, sha256=sha256(gguf))
    (top / "models.toml").write_text(known + entry, encoding="utf-8")
    for arch in BOARDS:
        (top / "images" / arch).mkdir(parents=True)
        for name in ("Image", "initramfs.cpio.gz"):
            (top / "images" / arch / name).write_bytes(b"x")
        qemu = folder / "bin" / f"qemu-system-{arch}"
        qemu.parent.mkdir(exist_ok=True)
        qemu.write_text("#!/bin/sh\nexit 1\n")
        qemu.chmod(0o755)
    return folder


class Package:
    """The package, used by somebody with an empty home folder."""

    def __init__(self, home: Path, installed: Path) -> None:
        self.home = home
        self.folder = installed
        self.gguf = installed / "tiny.gguf"
        self.images = installed / "zosia" / "images"

    def __call__(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `zosia`."""
        return self.python("-m", "zosia.cli", *words, **environment)

    def python(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a Python with the package."""
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("XDG_", "ZOSIA_", "PYTHON"))
        }
        done = subprocess.run(
            [sys.executable, *words],
            env={
                **inherited,
                "PYTHONPATH": str(self.folder),
                "HOME": str(self.home),
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                **environment,
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def package(tmp_path: Path, installed: Path) -> Package:
    (tmp_path / "home").mkdir()
    return Package(tmp_path / "home", installed)


def test_the_files_of_a_model_in_a_package(package: Package, tmp_path: Path) -> None:
    """Imported, made into a disk, and removed, in the folders that the environment names."""
    folders = {"ZOSIA_CACHE": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data")}
    image = tmp_path / "data" / "zosia" / "models" / "tiny.img"
    said = "  MODEL tiny is imported. To run it, type: zosia run tiny\n"
    status, imported, errors = package("import", str(package.gguf), **folders)
    assert (status, imported) == (0, said)
    assert re.fullmatch(r"  COPY  .* as tiny \(1280 bytes\)\n", errors)
    status, _, said = package("pull", "tiny", **folders)
    assert (status, said.splitlines()[-2:]) == (
        0,
        [f"  EXT4  {image}", "  MODEL tiny is here. To run it, type: zosia run tiny"],
    )
    status, listed, errors = package("models", **folders)
    assert (status, errors) == (0, "")
    assert re.search(r"^tiny .* file, disk$", listed, re.M)
    assert "To keep only the disk, type: zosia remove tiny --keep disk" in listed
    status, removed, _ = package("remove", "tiny", **folders)
    assert (status, image.exists()) == (0, False)
    assert re.search(r"tiny: [1-9]\d* bytes freed$|tiny: [1-9][\d.]* MB freed$", removed.rstrip())
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert not list(package.home.iterdir())


def test_the_folders_of_a_package(package: Package) -> None:
    """They are the user's own: nothing is written where it is installed, or where it is used."""
    before = sorted(path for path in package.folder.rglob("*") if "__pycache__" not in path.parts)
    assert package("pull", str(package.gguf))[0] == 0
    (image,) = package.home.rglob("*.img")
    status, shown, errors = package("run", "-n", str(package.gguf), "--arch", "aarch64")
    assert (status, errors) == (0, "")
    assert shown.startswith("qemu-system-aarch64 ")
    assert f"-kernel {package.images}/aarch64/Image" in shown
    assert f",file={image}" in shown
    assert {path.relative_to(package.home).parts[0] for path in package.home.rglob("*")} == {".local"}
    assert sorted(path for path in package.folder.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_package_without_a_kernel(package: Package) -> None:
    kernel = package.images / "aarch64" / "Image"
    kernel.rename(kernel.with_name("elsewhere"))
    said = f"zosia: error: A part of the guest is missing: {kernel}. Install zosia again\n"
    try:
        assert package("run", str(package.gguf), "--arch", "aarch64") == (2, "", said)
    finally:
        kernel.with_name("elsewhere").rename(kernel)


@pytest.mark.parametrize("words", [["--help"], ["models"], ["run"]])
def test_a_cache_that_is_no_path(package: Package, words: Sequence[str]) -> None:
    status, output, errors = package(*words, ZOSIA_CACHE="~nonesuch/x")
    assert (status, output) == (2, "")
    assert re.fullmatch(r"zosia: error: ZOSIA_CACHE=~nonesuch/x is not a path: .*\n", errors)


def test_a_cache_of_any_bytes(package: Package, tmp_path: Path) -> None:
    status, output, errors = package("models", ZOSIA_CACHE=os.fsdecode(bytes(tmp_path) + b"/\xff"))
    assert (status, errors) == (0, "")
    assert "/\udcff" in output


def test_the_defaults_of_a_package(package: Package) -> None:
    """It has kernels of all architectures, and none of another base; in a clone they are those of scons."""
    assert {name: table.default(name) for name in DEFAULTS} == DEFAULTS
    assert "x86_64, native; default: native)" in " ".join(package("help", "run")[1].split())


RUN = """
import sys
from zosia import cli
from zosia.run import supervisor
supervisor.run = lambda machine: print(*sys.modules) or 0
sys.exit(cli.main(sys.argv[1:]))
"""
SLOW = {
    *("SCons", "asyncio", "concurrent", "difflib", "email", "h11", "http", "huggingface_hub", "importlib.metadata"),
    *("logging", "platform", "psutil", "requests", "ssl", "textwrap", "tqdm", "truststore"),
    *("zosia.base.packages", "zosia.command.help", "zosia.command.model_commands", "zosia.inputs.hub"),
    *("zosia.model.header", "zosia.model.reader", "zosia.settings.images"),
}


def test_a_run_with_a_disk_imports_nothing_slow(package: Package) -> None:
    words = ("run", str(package.gguf), "hello", "--accel", "tcg", "--no-sandbox", "--model-bus", "virtio-blk")
    assert package("pull", str(package.gguf))[0] == 0
    status, imported, errors = package.python("-c", RUN, *words)
    assert (status, errors) == (0, "")
    assert {"zosia.run.resume", "zosia.run.hot", "socket"} <= set(imported.split())
    assert SLOW & set(imported.split()) == set()


def test_the_version_imports_next_to_nothing(root: Path) -> None:
    code = "import sys; from zosia import cli; cli.main(['--version']); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    version, imported = done.stdout.splitlines()
    assert version == f"zosia {VERSION}"
    own = {name for name in imported.split() if name.partition(".")[0] == "zosia"}
    assert own == {"zosia", "zosia.base", "zosia.base.errors", "zosia.base.version", "zosia.cli"}
    known = sys.stdlib_module_names
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    rest = set(imported.split()) - set(bare.stdout.split()) - own
    assert {name for name in rest if name.partition(".")[0] not in known} == set()
    assert rest & {"argparse", "dataclasses", "getopt", "hashlib", "json", "shutil", "subprocess", "tempfile"} == set()


def test_a_server_as_a_service(package: Package, tmp_path: Path) -> None:
    """Its options are those that were given, with paths that hold from anywhere."""
    shutil.copy(package.gguf, package.home / "mine.gguf")
    shutil.copy(package.folder / "zosia" / "models.toml", package.home / "ours.toml")
    for argv in ("-q -t ed25519 -N '' -f key", "-q -Y sign -n zosia-catalogue -f key ours.toml"):
        subprocess.run(["ssh-keygen", *shlex.split(argv)], cwd=package.home, check=True)
    assert package("trust", "key.pub")[0] == 0
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    path = f"{systemctl.parent}:{package.folder / 'bin'}:{os.environ['PATH']}"
    words = ("serve", "mine.gguf", "--idle", "10m", "--no-hot", "--log", "log", "--arch", "aarch64", "--accel", "tcg")
    status, output, errors = package(*words, "--catalogue", "ours.toml", "--install", PATH=path)
    assert (status, output) == (0, ""), errors
    written = (package.home / ".config/systemd/user/zosia.service").read_text(encoding="utf-8")
    (line,) = re.findall("^ExecStart=(.*)$", written, re.M)
    home = package.home
    given = {
        f"--model={home}/mine.gguf",
        "--idle=10m",
        "--no-hot",
        f"--log={home}/log",
        "--arch=aarch64",
        "--accel=tcg",
        f"--catalogue={home}/ours.toml",
    }
    program, *options = shlex.split(line)
    assert (program, options[:3]) == (sys.executable, ["-m", "zosia.cli", "serve"])
    assert set(options[3:]) == given
    assert list(home.rglob("*.img")), "the first request finds the model's disk"
    assert package("serve", "--uninstall", PATH=path)[0] == 0
    status, output, errors = package("serve", "--uninstall", PATH=path)
    assert (status, output) == (2, "")
    assert errors.startswith("zosia: error: No service is installed: ")


def test_services_that_could_not_last(package: Package) -> None:
    words = ("serve", str(package.gguf), "--install", "--arch", "aarch64", "--accel", "tcg")
    status, _, errors = package(*words, "--port", "0")
    assert status == 2
    assert errors.startswith("zosia: error: --port 0 is not for a service, whose address stays. ")
    status, _, errors = package(*words, XDG_CACHE_HOME=str(Path(sys.prefix).parent))
    assert status == 2
    assert errors.startswith("zosia: error: This zosia is a temporary one, in ")
    assert not list(package.home.rglob("zosia.s*"))
