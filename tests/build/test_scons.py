"""The build as a whole: what it does again, what it leaves alone, what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import gguf_file
from zosia.base.files import cache_root
from zosia.inputs import catalogue, fetch

from .conftest import SCONS, Scons

BUSYBOX = "build/aarch64/busybox"
BIG = 1 << 20  # bytes
LINKED = {"vmlinux.o", "vmlinux", "Image"}  # of all objects of the kernel
# SCons, with each file that it opens noted: proof that a no-op reads nothing big.
WATCHED = """
import sys
opened = open(sys.argv.pop(1), "w")
sys.addaudithook(lambda event, args: event == "open" and isinstance(args[0], str) and print(args[0], file=opened))
from SCons.Script import main
main()
"""


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != ".sconsign.dblite"}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return gguf_file.write(tmp_path / "a 'model', small.gguf")


@pytest.fixture
def linux(tmp_path: Path) -> str:
    """KERNEL= of what looks like Linux' sources: the real ones take seconds to be checked."""
    folder = tmp_path / "linux"
    folder.mkdir()
    (folder / "Kconfig").touch()
    return f"KERNEL={folder}"


def test_what_is_built_is_not_built_again_nor_read(root: Path, scons: Scons, tmp_path: Path) -> None:
    first = scons(root)
    assert first.returncode == 0, first.stderr
    note = tmp_path / "opened"
    argv = [sys.executable, "-c", WATCHED, str(note)]
    again = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if "up to date" not in line] == []
    opened = {root / line for line in note.read_text().splitlines()}
    assert root / "SConstruct" in opened
    data = [path for path in opened if path.suffix not in (".py", ".pyc", ".so", ".dblite") and path.is_file()]
    assert [path for path in data if path.stat().st_size > BIG] == []


def test_n_touches_nothing(tree: Path, scons: Scons, tmp_path: Path) -> None:
    before = files(tree)
    for words in ([], ["run"], ["smoke"]):
        done = scons(tree, "-n", *words, ZOSIA_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        assert "LINUX build/aarch64/Image" in done.stdout
    assert files(tree) == before
    assert not (tmp_path / "cache").exists()


def test_c_removes_what_was_built_and_no_download(root: Path, tree: Path, scons: Scons, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    package = fetch.fetch(catalogue.read_sources(root / "sources.toml")["busybox-aarch64"], cache_root()).path
    shutil.copytree(package.parent, cache / package.parent.relative_to(cache_root()))
    before = files(tree)
    assert scons(tree, BUSYBOX, ZOSIA_CACHE=str(cache)).returncode == 0
    assert (tree / BUSYBOX).stat().st_size > BIG
    kept = files(cache)
    assert scons(tree, "-c", ZOSIA_CACHE=str(cache)).returncode == 0
    assert files(tree) == before
    assert files(cache) == kept


def test_c_of_a_base_leaves_the_others(tree: Path, scons: Scons, linux: str) -> None:
    own, other = (tree / "build/aarch64" / name for name in ("distro/kernel", "kernel"))
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "vmlinux").touch()
    assert scons(tree, "-c", "kernel", "BASE=distro", linux).returncode == 0
    assert (own.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize("tree", ["tree"], indirect=True)
def test_two_folders_give_the_same_bytes(root: Path, tree: Path, scons: Scons) -> None:
    """The kernel's second build begins with the objects of the first.

    Make compiles again what has another command or another input, and links all of it. No other path gets into objects
    than by a command, but for that of the folder that a compiler runs in, which would be found in the bytes.
    """
    first, second = (folder / "build/aarch64" for folder in (root, tree))
    done = scons(root, "kernel", "initramfs")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(first / "kernel", second / "kernel", symlinks=True)
    linked = [path for path in (second / "kernel").rglob("*") if path.name in LINKED]
    assert {path.name for path in linked} == LINKED
    for path in linked:
        path.unlink()
    done = scons(tree, "kernel", "initramfs")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("Image", "initramfs.cpio.gz"):
        assert digest(first / name) == digest(second / name)
    for data in ((first / "Image").read_bytes(), gzip.decompress((first / "initramfs.cpio.gz").read_bytes())):
        assert str(root).encode() not in data


def test_two_builds_at_once_share_a_cache(tree: Path, scons: Scons, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", tree, other], check=True)
    with ThreadPoolExecutor() as pool:
        build = lambda folder: scons(folder, BUSYBOX, ZOSIA_CACHE=str(tmp_path / "cache"))  # noqa: E731
        for done in pool.map(build, (tree, other)):
            assert done.returncode == 0, done.stdout + done.stderr
    assert digest(tree / BUSYBOX) == digest(other / BUSYBOX)


def test_a_model_disk_that_was_changed_is_made_again(tree: Path, scons: Scons, model: Path) -> None:
    words = ["model.img", f"MODEL={model}"]
    assert "EXT4" in scons(tree, *words).stdout
    (image,) = (tree / "build/models").glob("*.img")
    whole = digest(image)
    assert "EXT4" not in scons(tree, *words).stdout
    image.write_bytes(b"changed")
    assert "EXT4" in scons(tree, *words).stdout
    assert digest(image) == whole
    image.unlink()
    assert "EXT4" in scons(tree, *words).stdout
    gguf_file.write(model, rows=1000)
    assert "EXT4" in scons(tree, *words).stdout
    assert digest(image) != whole


def test_the_other_image_tool(tree: Path, scons: Scons, model: Path) -> None:
    words = ["model.img", f"MODEL={model}"]
    assert "EXT4" in scons(tree, *words, "IMAGE_TOOL=genext2fs").stdout
    (image,) = (tree / "build/models").glob("*.img")
    small = digest(image)
    assert "EXT4" not in scons(tree, *words, "IMAGE_TOOL=genext2fs").stdout
    assert "EXT4" in scons(tree, *words).stdout
    assert digest(image) != small


def test_models_come_stay_and_go(tree: Path, scons: Scons, tmp_path: Path, model_file: Path) -> None:
    name, disk = "MODEL=smollm2-135m", tree / "build/models/smollm2-135m.img"
    away = {"ZOSIA_CACHE": str(tmp_path / "cache"), "PIP_INDEX_URL": "http://127.0.0.1:9/simple/"}
    done = scons(tree, "import-model", f"FILE={model_file}", **away)
    assert "smollm2-135m is imported. To run it, type: scons run MODEL=smollm2-135m" in done.stdout, done.stderr
    assert "EXT4" in scons(tree, "model.img", name, **away).stdout
    assert re.search(r"^smollm2-135m .* file, disk$", scons(tree, "models", **away).stdout, re.M)
    assert "98.4 MB freed" in scons(tree, "remove-model", name, "KEEP=disk", **away).stdout
    whole = digest(disk)
    with (tree / "site_scons/zosia/disk/ext4.py").open("a") as module:
        module.write("\n# a change that makes all disks out of date\n")
    done = scons(tree, "model.img", name, **away)
    assert "KEEP  " in done.stderr, "the only copy stays, where there is no other"
    assert (done.returncode, digest(disk)) == (0, whole)
    assert " freed" in scons(tree, "remove-model", name, **away).stdout
    assert not disk.exists()
    done = scons(tree, "model.img", name, **away)
    assert done.returncode == 2
    assert "The Python package index could not be queried" in done.stderr


@pytest.mark.parametrize(
    ("typed", "takes"),
    [(["MEM=512M"], r"7\d\d"), (["MEM=4G", "MODEL_BUS=virtio-blk"], r"12\d{3}")],
    ids=["dax", "disk"],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_built(
    tree: Path, scons: Scons, typed: list[str], takes: str
) -> None:
    before = files(tree)
    done = scons(tree, "run", "MODEL=gpt-oss-20b-Q4", *typed)
    assert (done.returncode, files(tree)) == (2, before)
    assert re.match(rf"zosia: error: gpt-oss-20b-Q4 takes {takes} MiB at CTX=8192 .*Set MEM={takes}M or ", done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODL=x"], "MODL is not a variable of zosia. Did you mean MODEL?"),
        (["kernle"], "kernle is not a target of zosia. Did you mean kernel?"),
        (["-n", "run", "ACCEL=kvn"], "ACCEL=kvn is not a value that zosia knows. Did you mean kvm?"),
    ],
)
def test_what_can_not_be_meant_is_refused_in_one_line(tree: Path, scons: Scons, words: list[str], message: str) -> None:
    before = files(tree)
    done = scons(tree, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"zosia: error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert files(tree) == before


def test_a_file_that_is_no_model(tree: Path, scons: Scons, tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>")
    done = scons(tree, "model.img", f"MODEL={path}")
    assert done.returncode == 2
    assert f"zosia: error: {path} is no GGUF model: it begins with b'<htm', not b'GGUF'" in done.stderr
    assert "Traceback" not in done.stderr
    assert [name for name in (tree / "build/models").iterdir() if name.suffix != ".lock"] == []


def test_a_busybox_that_can_not_run_in_the_guest(tree: Path, scons: Scons) -> None:
    done = scons(tree, "build/aarch64/initramfs-stub.cpio.gz", "BUSYBOX=/bin/sh")
    assert done.returncode == 2
    assert "zosia: error: The busybox for the guest" in done.stderr
    assert not (tree / "build/aarch64/initramfs-stub.cpio.gz").exists()


def test_a_kernel_that_is_none(tree: Path, scons: Scons) -> None:
    done = scons(tree, "kernel", "KERNEL=/etc/passwd")
    assert done.returncode == 2
    assert "zosia: error: /etc/passwd is not a kernel image for aarch64" in done.stderr
    assert not (tree / "build/aarch64/Image").exists()


@pytest.mark.parametrize(
    ("goal", "name", "typed"),
    [
        ("kernel", "Image", "KERNEL=/etc/passwd"),
        ("build/aarch64/initramfs-stub.cpio.gz", "initramfs-stub.cpio.gz", "BUSYBOX=/bin/sh"),
    ],
)
def test_what_is_there_stays_when_its_replacement_is_refused(
    tree: Path, scons: Scons, goal: str, name: str, typed: str
) -> None:
    built = tree / "build/aarch64" / name
    built.parent.mkdir(parents=True)
    built.write_text("what worked")
    assert scons(tree, goal, typed).returncode == 2
    assert built.read_text() == "what worked"


@pytest.mark.parametrize("garbage", ["", "garbage", "[]", '{"name": 5}'])
def test_a_damaged_record_is_made_again(tree: Path, scons: Scons, garbage: str) -> None:
    record = tree / "build/sources/llama-cpp.json"
    assert scons(tree, "build/sources/llama-cpp.json").returncode == 0
    whole = record.read_text()
    record.write_text(garbage)
    done = scons(tree, "build/sources/llama-cpp.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "  INPUT build/sources/llama-cpp.json\n", "")
    assert record.read_text() == whole


def test_a_damaged_database_is_made_again(tree: Path, scons: Scons) -> None:
    database, goal = tree / ".sconsign.dblite", "build/sources/llama-cpp.json"
    assert scons(tree, goal).returncode == 0
    whole = database.read_bytes()
    for damaged in (b"garbage", whole[:-1], whole[:50] + b"x" + whole[51:]):
        database.write_bytes(damaged)
        done = scons(tree, goal)
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert line == "  NOTE  everything is looked at anew: .sconsign.dblite, the list of what was built, is damaged"
        assert scons(tree, goal).stdout == f"scons: `{goal}' is up to date.\n"


def takes_no_interrupt(process: int) -> bool:
    """Return True once Python has started there and interrupt.pth was read: SIGPIPE is ignored, SIGINT not caught."""
    masks = dict(re.findall(r"^Sig(Ign|Cgt):\t(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
    ignored, caught = (int(masks[name], 16) for name in ("Ign", "Cgt"))
    return bool(ignored >> (signal.SIGPIPE - 1) & 1) and not caught >> (signal.SIGINT - 1) & 1


def interrupted(root: Path, after: float | None) -> tuple[int, bytes, bytes, float]:
    """Interrupt a `scons -n` so many seconds after its first moment, None for never; its end, and how long it took."""
    with subprocess.Popen([SCONS, "-n"], cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        while not takes_no_interrupt(child.pid):
            time.sleep(0.001)
        began = time.monotonic()
        if after is not None:
            time.sleep(after)
            child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=20)
    return child.returncode, output, errors, time.monotonic() - began


def test_an_interrupt_in_the_first_moments_says_nothing(root: Path) -> None:
    status, whole, errors, seconds = interrupted(root, None)
    assert (status, errors) == (0, b"")
    moments = random.Random(18)
    ends = [interrupted(root, moments.uniform(0.02, 0.5) * seconds) for _ in range(12)]
    assert {errors for _, _, errors, _ in ends} == {b""}
    assert (-signal.SIGINT, b"") in [(status, output) for status, output, _, _ in ends]
    # If this process was kept from the processor meanwhile, SCons was at its targets by then, or through.
    assert all(whole.startswith(output) for _, output, _, _ in ends)
    assert {status for status, _, _, _ in ends} <= {-signal.SIGINT, 2, 0}


def test_an_interrupt_ends_a_download(tree: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple/"
        env = {**os.environ, "PIP_INDEX_URL": index, "ZOSIA_CACHE": str(tmp_path / "cache")}
        words = [str(SCONS), "build/sources/llama-cpp.json"]
        with subprocess.Popen(words, cwd=tree, env=env, stderr=subprocess.PIPE, text=True) as child:
            connection, _ = silent.accept()  # open until the end: a closed one would end the download by itself
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=20)
            connection.close()
    assert child.returncode == 2
    assert "zosia: interrupted" in errors
    assert "Traceback" not in errors


def test_a_second_build_in_a_folder_waits_for_the_first(tree: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple/"
        env = {**os.environ, "PIP_INDEX_URL": index, "ZOSIA_CACHE": str(tmp_path / "cache")}
        options: dict[str, Any] = {"cwd": tree, "env": env, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([SCONS, "build/sources/llama-cpp.json"], **options) as first:
            connection, _ = silent.accept()
            with subprocess.Popen([SCONS, "models"], **options) as second:
                assert second.stderr
                assert second.stderr.readline() == "  WAIT  another process is working on scons\n"
                first.send_signal(signal.SIGINT)
                assert second.wait(timeout=60) == 0
            connection.close()


def test_a_missing_program_is_named_with_its_package(tree: Path, scons: Scons, linux: str, tmp_path: Path) -> None:
    for name in ("python3", "apt-get"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = scons(tree, "kernel", linux, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "zosia: error: make is needed and was not found on PATH. Type: sudo apt-get install make" in done.stderr


def test_a_path_that_the_kernel_can_not_be_built_in(tree: Path, scons: Scons, linux: str) -> None:
    done = scons(tree, "kernel", linux)
    assert done.returncode == 2
    assert f"zosia: error: The kernel can't be built in '{tree}/build/aarch64/kernel'" in done.stderr


def test_doctor_says_whether_a_run_can_work(root: Path, tree: Path, scons: Scons, tmp_path: Path) -> None:
    done = scons(root, "doctor")
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(re.match(r"  (ok   |warn ) \S", line) for line in lines)
    assert last.startswith("`scons run` can work")
    before = files(tree)
    (tmp_path / "python3").symlink_to("/usr/bin/python3")
    done = scons(tree, "doctor", PATH=str(tmp_path), ZOSIA_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "  fail  qemu-system-aarch64: not found. Type: sudo apt-get install qemu-system-arm\n" in done.stdout
    assert "  fail  make, gcc, flex, bison, bc, " in done.stdout
    assert f"  fail  The kernel can't be built in '{tree}'" in done.stdout
    assert files(tree) == before
    assert not (tmp_path / "cache").exists()
    kernel = tmp_path / "Image"
    kernel.write_bytes(b"x")
    done = scons(tree, "doctor", f"KERNEL={kernel}", PATH=str(tmp_path))
    assert "gcc" not in done.stdout, "a kernel of one's own takes no compiler"
    assert scons(tree, "-n", "doctor").stdout == "scons: Nothing to be done for `doctor'.\n"
    assert scons(tree, "doctor", "MODL=x").returncode == 2


def test_a_missing_python_package_is_named(tree: Path) -> None:
    script = "import sys; sys.modules['dacite'] = None; from SCons.Script import main; main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tree, capture_output=True, text=True, check=False)
    said = "zosia: error: the Python package dacite is needed and was not found. Type: ./scripts/bootstrap.sh\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_no_network_and_no_room(tree: Path, scons: Scons, tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple/", "ZOSIA_CACHE": str(tmp_path / "cache")}
    done = scons(tree, "build/sources/llama-cpp.json", **nowhere)
    assert done.returncode == 2
    assert "zosia: error: The Python package index could not be queried for llama-cpp-python" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tree / "build/sources/llama-cpp.json").exists()
    done = scons(tree, "build/sources/llama-cpp.json", ZOSIA_CACHE="/proc/nowhere")
    assert done.returncode == 2
    assert "zosia: error: /proc" in done.stderr


@pytest.mark.parametrize(
    ("words", "compiled"),
    [
        ([], "the kernel and llama.cpp"),
        (["run", "BUSYBOX=busybox"], "the kernel and llama.cpp"),
        (["smoke"], "the kernel"),
        (["wheel"], "the kernel and llama.cpp"),
        (["run", "BASE=distro"], "llama.cpp"),
        (["smoke", "BASE=distro"], ""),
        (["model.img"], ""),
    ],
)
def test_a_first_build_says_how_long_it_takes(tree: Path, scons: Scons, words: list[str], compiled: str) -> None:
    """The cache can't be used, so that the first download fails."""
    (tree / "busybox").touch()
    done = scons(tree, *words, ZOSIA_CACHE="/proc/none")
    assert done.returncode == 2
    notes = [line for line in done.stderr.splitlines() if line.startswith("  NOTE  ")]
    if not compiled:
        assert notes == []
        return
    time, size = notes
    assert re.fullmatch(rf"  NOTE  the first build compiles {compiled}: about \d+ min on this machine\. .*", time)
    assert re.fullmatch(r"  NOTE  it downloads \d+\.\d MB", size)


def test_a_later_build_does_not(tree: Path, scons: Scons) -> None:
    for name in ("Image", "llama-version", "llama-cli-i8mm", "llama-cli-dotprod"):
        (tree / "build/aarch64" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "build/aarch64" / name).touch()
    done = scons(tree, ZOSIA_CACHE="/proc/none")
    assert (done.returncode, "first build" in done.stderr) == (2, False)
