"""Model disks, checked by e2fsprogs itself."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from zosia.base.errors import ZosiaError
from zosia.base.process import find, run
from zosia.disk import ext4
from zosia.inputs import copies

MIB = 1 << 20
NOISE = random.Random(1).randbytes(MIB)
GENEXT2FS = pytest.mark.skipif(not shutil.which("genext2fs"), reason="genext2fs is not installed")
TOOLS = ["mke2fs", pytest.param("genext2fs", marks=GENEXT2FS)]


def model(path: Path, size: int) -> Path:
    """A file without holes, of which no two MiB are alike."""
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + NOISE[8:])
        file.write(NOISE[: size % MIB])
    return path


def split(folder: Path, *sizes: int) -> list[Path]:
    return [model(folder / f"part{number}", size) for number, size in enumerate(sizes)]


def sha256(parts: list[Path]) -> str:
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def debugfs(image: Path, command: str) -> str:
    return run(["debugfs", "-R", command, image]).stdout


def inside(image: Path, folder: Path, name: str) -> bytes:
    debugfs(image, f"dump {name} {folder}/dumped")
    return (folder / "dumped").read_bytes()


def check(image: Path) -> None:
    """Run fsck, which finds no fault and nothing to fix."""
    done = subprocess.run([find("e2fsck"), "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search("fix|optimi[sz]e", done.stdout.lower())


def place(image: Path, name: str, size: int) -> int:
    """Return the offset of a file of this size in the image: its extents are one run, and all of them initialised."""
    listed = debugfs(image, f"dump_extents {name}")
    assert "Uninit" not in listed
    number = r"\s*([0-9]+)"
    levels = re.findall(rf"^\s*([0-9]+)/\s*([0-9]+){number}/{number}{number} -{number}{number} -", listed, re.M)
    leaves = [tuple(map(int, row[4:])) for row in levels if row[0] == row[1]]
    after, start = 0, leaves[0][2]
    for first, last, physical in leaves:
        assert first == after
        assert physical == start + first
        after = last + 1
    assert after == -(-size // ext4.BLOCK)
    return start * ext4.BLOCK


SIZES = [4, 4096, 4097, MIB - 1, 2 * MIB, 2 * MIB + 1, copies.CHUNK, copies.CHUNK + 1, 140 * MIB + 3]


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back(tmp_path: Path, size: int) -> None:
    parts, image = split(tmp_path, size), tmp_path / "m.img"
    digest = ext4.build(parts=parts, info={"name": "A model", "licence": "MIT"}, target=image)
    check(image)
    assert digest == sha256(parts)
    assert inside(image, tmp_path, "model.gguf") == parts[0].read_bytes()
    assert inside(image, tmp_path, "model.info") == f"name=A model\nlicence=MIT\nsha256={digest}\n".encode()
    assert image.stat().st_size == ext4.image_size([size]) < size + 8 * ext4.ALIGN
    assert image.stat().st_size % ext4.ALIGN == 0
    with image.open("rb") as file:
        file.seek(place(image, "model.gguf", size))
        assert file.tell() % ext4.ALIGN == 0
        assert file.read(size) == parts[0].read_bytes()


def test_a_split_model(tmp_path: Path) -> None:
    sizes = [5000, 3 * MIB, copies.CHUNK + 7]
    parts, image = split(tmp_path, *sizes), tmp_path / "m.img"
    assert ext4.build(parts=parts, info={}, target=image) == sha256(parts)
    check(image)
    for part, name in zip(parts, ext4.part_names(3), strict=True):
        assert inside(image, tmp_path, name) == part.read_bytes()
        assert place(image, name, part.stat().st_size) % ext4.ALIGN == 0
    assert ext4.part_names(3)[1] == "model-00002-of-00003.gguf"
    assert "model.gguf" not in debugfs(image, "ls")


LARGE = [
    *([512 * MIB], [512 * MIB + 1], [12_109_566_560], [63_387_346_464], [13_000_000, 32 * 10**9, 31 * 10**9 + 1]),
    *([170 * 128 * MIB] * 3, [345 * 128 * MIB], [1200 * 10**9], [10_000] * 150),
]


@pytest.mark.parametrize("sizes", LARGE, ids=lambda sizes: f"{len(sizes)}x{sizes[0]}")
def test_large_models_fit(tmp_path: Path, sizes: list[int]) -> None:
    image = tmp_path / "sparse.img"
    names = ext4.part_names(len(sizes))
    parts = [ext4.Part(Path(), name, size) for name, size in zip(names, sizes, strict=True)]
    places = ext4.lay_out(parts, image)
    check(image)
    assert places == [place(image, part.name, part.size) for part in parts]
    run(["debugfs", "-w", "-R", f"write {__file__} model.info", image])
    check(image)
    assert inside(image, tmp_path, "model.info") == Path(__file__).read_bytes()
    assert image.stat().st_size == ext4.image_size(sizes) < sum(sizes) * 1.001 + (len(sizes) + 8) * ext4.ALIGN
    assert image.stat().st_blocks * 512 < 2 * MIB


def start(tool: str, parts: list[Path], target: Path, before: Callable[[], object] = lambda: None) -> int:
    """Build in another process, after some call; returns its number."""
    child = os.fork()
    if not child:
        try:
            before()
            ext4.build(parts=parts, info={"name": "m"}, target=target, tool=tool)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def be_another() -> None:
    os.umask(0o077)
    os.chdir("/")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.parametrize("tool", TOOLS)
def test_same_bytes_each_time(tmp_path: Path, tool: str) -> None:
    parts = split(tmp_path, 3 * MIB, 5000)
    os.utime(parts[0], (1e9, 1e9))
    ext4.build(parts=parts, info={"name": "m"}, target=tmp_path / "a.img", tool=tool)
    time.sleep(1.1)  # so that no clock shows the same second
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        others = [Path(shutil.copy(part, folder / f"other{9 - number}")) for number, part in enumerate(parts)]
        assert os.waitpid(start(tool, others, folder / "b.img", be_another), 0)[1] == 0
        assert (folder / "b.img").stat().st_mode & 0o077 == 0
        assert (tmp_path / "a.img").read_bytes() == (folder / "b.img").read_bytes()
    for command in ("stats -h", *(f"stat {file}" for file in (*ext4.part_names(2), "model.info"))):
        shown = debugfs(tmp_path / "a.img", command)
        times = re.findall(r"(?:time|created|written|checked):.* ([0-9]{4})$", shown, re.M)
        assert set(times) == {"1970"}


def test_neither_processor_nor_settings_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tmp_path, 5000)
    ext4.build(parts=parts, info={}, target=tmp_path / "a.img")
    # A machine with other settings in /etc:
    (tmp_path / "settings").write_text("[defaults]\ndefault_mntopts = nobarrier\n")
    program = tmp_path / "mke2fs"
    default = f"MKE2FS_CONFIG=${{MKE2FS_CONFIG:-{tmp_path}/settings}}"
    program.write_text(f'#!/bin/sh\nexport {default}\nexec {find("mke2fs")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ext4.build(parts=parts, info={}, target=tmp_path / "b.img")
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()
    stats = debugfs(tmp_path / "a.img", "stats -h")
    assert re.search("flags: *signed_directory_hash *$", stats, re.M)
    features = "sparse_super2 filetype extent flex_bg large_file bigalloc"
    assert re.search(f"features: *{features} *$", stats, re.M)


@pytest.mark.parametrize("name", ["two words", 'it\'s "so"', "zażółć gęślą", "-q", "$HOME;#", "a\\b", "b\udcff"])
@pytest.mark.parametrize("tool", TOOLS)
def test_names_of_all_kinds(tmp_path: Path, name: str, tool: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    gguf = model(folder / f"{name}.gguf", 5000)
    digest = ext4.build(parts=[gguf], info={"name": gguf.name}, target=folder / f"{name}.img", tool=tool)
    plain = (folder / f"{name}.img").rename(tmp_path / "plain.img")
    assert inside(plain, tmp_path, "model.gguf") == gguf.read_bytes()
    assert inside(plain, tmp_path, "model.info") == os.fsencode(f"name={name}.gguf\nsha256={digest}\n")


def test_a_value_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZosiaError, match=r"^name of a model must be one line, and is 'a\\nargs=-x'\. Rename the file"):
        ext4.build(parts=split(tmp_path, 5), info={"name": "a\nargs=-x"}, target=tmp_path / "m.img")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    gguf = model(tmp_path / "m.gguf", 5000)
    monkeypatch.chdir(tmp_path)
    ext4.build(parts=[Path("m.gguf")], info={}, target=Path("new/m.img"), tool=tool)
    assert inside(tmp_path / "new/m.img", tmp_path, "model.gguf") == gguf.read_bytes()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_guest_can_only_read(tmp_path: Path, tool: str) -> None:
    gguf = model(tmp_path / "m.gguf", 5000)
    gguf.chmod(0o600)
    ext4.build(parts=[gguf], info={}, target=tmp_path / "m.img", tool=tool)
    for name in ("model.gguf", "model.info"):
        status = debugfs(tmp_path / "m.img", f"stat {name}")
        assert "Mode:  0444" in status
        assert "Type: regular" in status
        assert re.search(r"User: +0 +Group: +0 ", status)
    assert "has_journal" not in debugfs(tmp_path / "m.img", "features")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_known_digest_is_believed(tmp_path: Path, tool: str) -> None:
    known = "0123456789abcdef" * 4
    image = tmp_path / "m.img"
    assert ext4.build(parts=split(tmp_path, 5000), info={}, target=image, digest=known, tool=tool) == known
    assert inside(image, tmp_path, "model.info") == f"sha256={known}\n".encode()


@GENEXT2FS
@pytest.mark.parametrize("sizes", [[4], [4096, 5, 70_000], [12 * 4096 + 1], [130 * MIB, 3]])
def test_genext2fs(tmp_path: Path, sizes: list[int]) -> None:
    parts, image = split(tmp_path, *sizes), tmp_path / "m.img"
    assert ext4.build(parts=parts, info={}, target=image, tool="genext2fs") == sha256(parts)
    check(image)
    for part, name in zip(parts, ext4.part_names(len(parts)), strict=True):
        assert inside(image, tmp_path, name) == part.read_bytes()
    assert image.stat().st_size % ext4.ALIGN == 0
    assert image.stat().st_size < sum(sizes) * 1.01 + 4 * MIB
    assert sorted(os.listdir(tmp_path)) == ["dumped", "m.img", *(part.name for part in parts)]


@GENEXT2FS
def test_genext2fs_takes_small_models_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large.gguf"
    large.touch()
    os.truncate(large, (2 << 30) - 4)
    parts = [large, *split(tmp_path, 5)]
    with pytest.raises(ZosiaError, match=r"more than 2\.1 GB, and large\.gguf has 2\.1 GB\. Leave IMAGE_TOOL= out$"):
        ext4.build(parts=parts, info={}, target=tmp_path / "m.img", tool="genext2fs")
    parts = split(tmp_path, 5000, 1000)
    monkeypatch.setattr(ext4, "GENEXT2FS_MOST", 6000)
    ext4.build(parts=parts, info={}, target=tmp_path / "m.img", tool="genext2fs")


@GENEXT2FS
def test_genext2fs_needs_room_for_the_image_and_for_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split(tmp_path, MIB, MIB // 2)
    image = tmp_path / "m.img"
    ext4.build(parts=parts, info={}, target=image, tool="genext2fs")
    whole = image.stat().st_size + MIB + MIB // 2
    image.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=whole - 1))
    monkeypatch.setattr(ext4, "run", lambda *arguments, **named: pytest.fail("it was begun"))
    with pytest.raises(ZosiaError, match=r"^The model disk needs 5\.8 MB in "):
        ext4.build(parts=parts, info={}, target=image, tool="genext2fs")
    assert sorted(os.listdir(tmp_path)) == ["part0", "part1"]


def test_genext2fs_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZosiaError, match=r"genext2fs is needed .* Type: "):
        ext4.build(parts=split(tmp_path, 5), info={}, target=tmp_path / "m.img", tool="genext2fs")
    assert os.listdir(tmp_path) == ["part0"]


def test_an_old_e2fsprogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "mke2fs"
    old.write_text("#!/bin/sh\necho 'mke2fs 1.41.12 (17-May-2010)' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ZosiaError, match=r"e2fsprogs 1\.45 or newer is needed, and this is 1\.41"):
        ext4.build(parts=split(tmp_path, 5), info={}, target=tmp_path / "m.img")


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen just before bytes are copied."""
    copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)

    def copy_file_range(*arguments: int) -> int:
        happens()
        if copy is None:
            raise OSError(errno.ENOSYS, "macOS has none")
        return copy(*arguments)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range, raising=False)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": append,
    "shorter": lambda path: os.truncate(path, 4000),
    "other": os.utime,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_a_part_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, digest: str) -> None:
    parts, image = split(tmp_path, 5000, MIB), tmp_path / "m.img"
    image.write_bytes(b"old")
    os.utime(parts[1], (1e9, 1e9))

    def happens() -> None:
        CHANGES[change](parts[1])
        if change != "other":
            os.utime(parts[1], (1e9, 1e9))

    meanwhile(monkeypatch, happens)
    with pytest.raises(ZosiaError, match="part1 changed while it was copied"):
        ext4.build(parts=parts, info={}, target=image, digest=digest)
    assert sorted(os.listdir(tmp_path)) == ["m.img", "part0", "part1"]
    assert image.read_bytes() == b"old"


@pytest.mark.parametrize("number", [None, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_kernel_can_not_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    parts = split(tmp_path, 3 * copies.CHUNK + 5, 3)
    ext4.build(parts=parts, info={}, target=tmp_path / "a.img")
    if number is None:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        meanwhile(monkeypatch, lambda: fail(OSError(number, "no")))
    assert ext4.build(parts=parts, info={}, target=tmp_path / "b.img") == sha256(parts)
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


def fail(error: BaseException) -> None:
    raise error


FAILURES = [
    (KeyboardInterrupt("Ctrl+C"), KeyboardInterrupt, "Ctrl"),
    (OSError(errno.ENOSPC, "full"), ZosiaError, "The disk is full: .*m.img could not be written"),
    (OSError(errno.EIO, "broken"), OSError, "broken"),
]


@pytest.mark.parametrize(("error", "seen", "says"), FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("tool", TOOLS)
def test_failures_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, seen: type, says: str, tool: str
) -> None:
    parts = split(tmp_path, 5000)
    meanwhile(monkeypatch, lambda: fail(error))
    with pytest.raises(seen, match=says):
        ext4.build(parts=parts, info={}, target=tmp_path / "m.img", tool=tool)
    assert os.listdir(tmp_path) == ["part0"]


@pytest.mark.parametrize("tool", TOOLS)
def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    parts = split(tmp_path, 3 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=MIB))
    with pytest.raises(ZosiaError, match=r"The model disk needs .* which has 1.0 MB free"):
        ext4.build(parts=parts, info={}, target=tmp_path / "m.img", tool=tool)
    assert os.listdir(tmp_path) == ["part0"]


@pytest.mark.parametrize("places", [[6 * MIB, 8 * MIB], [2 * MIB, 10 * MIB]], ids=["too small", "overlapping"])
def test_a_layout_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[int]) -> None:
    parts = split(tmp_path, 3 * MIB)
    (tmp_path / "m.img").write_bytes(b"old")
    monkeypatch.setattr(ext4, "_places", lambda sizes: places)
    with pytest.raises(ZosiaError, match="debugfs could not write the model disk: "):
        ext4.build(parts=parts, info={}, target=tmp_path / "m.img")
    assert (tmp_path / "m.img").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["m.img", "part0"]


def test_what_e2fsck_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "e2fsck"
    program.write_text("#!/bin/sh\necho UNEXPECTED INCONSISTENCY\nexit 4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ZosiaError, match="e2fsck refused the model disk: UNEXPECTED"):
        ext4.build(parts=split(tmp_path, 5), info={}, target=tmp_path / "m.img")
    assert sorted(os.listdir(tmp_path)) == ["e2fsck", "part0"]


@GENEXT2FS
@pytest.mark.parametrize("tool", ["mke2fs", "genext2fs"])
@pytest.mark.parametrize("name", ["m.img", "[a-b] *.img"])
def test_what_killed_builds_left_is_removed(tmp_path: Path, tool: str, name: str) -> None:
    parts, image = split(tmp_path, 5000), tmp_path / name

    def kill(*arguments: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = start("genext2fs", parts, image, lambda: setattr(os, "copy_file_range", kill))
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert list(tmp_path.glob(f".*.{child}.*/0/model.gguf"))
    ext4.build(parts=parts, info={}, target=image, tool=tool)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "part0"])


def test_what_others_work_with_is_left_alone(tmp_path: Path) -> None:
    parts, folder = split(tmp_path, 5000), tmp_path / f".m.img.{os.getppid()}.any{ext4.PARTS}"
    folder.mkdir()
    folder.with_suffix("").with_suffix("").touch()  # its image, and the process is alive
    ext4.build(parts=parts, info={}, target=tmp_path / "m.img")
    assert folder.is_dir()


def test_an_image_left_by_a_process_of_the_same_number(tmp_path: Path) -> None:
    parts = split(tmp_path, 5000)
    ext4.build(parts=parts, info={}, target=tmp_path / "a.img")
    (tmp_path / f".b.img.{os.getpid()}").write_bytes(NOISE * 20)
    ext4.build(parts=parts, info={}, target=tmp_path / "b.img")
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "b.img").read_bytes()


@pytest.mark.parametrize("tool", TOOLS)
def test_two_at_once(tmp_path: Path, tool: str) -> None:
    parts = split(tmp_path, 30 * MIB)
    children = [start(tool, parts, tmp_path / "m.img") for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    check(tmp_path / "m.img")
    assert inside(tmp_path / "m.img", tmp_path, "model.gguf") == parts[0].read_bytes()


@pytest.fixture(params=["btrfs", "xfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem where files can share blocks; it has less than 300 MB free."""
    disk, folder = tmp_path / "disk", tmp_path / "mounted"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(340 * MIB)
    try:
        run([f"mkfs.{request.param}", "-q", disk])
        run(["mount", "-o", "loop", disk, folder])
    except ZosiaError as error:
        pytest.skip(f"no {request.param} can be mounted here: {error.message}")
    try:
        yield folder
    finally:
        run(["umount", folder])


@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_blocks_are_shared(sharing: Path, tmp_path: Path, digest: str) -> None:
    assert copies.shares(sharing, sharing)
    assert not copies.shares(sharing, tmp_path)
    if sys.platform != "linux":
        raise AssertionError("these filesystems are Linux'")
    size = 40 * MIB + 5
    gguf = model(sharing / "m.gguf", size)
    os.sync()
    with (sharing / "other").open("wb") as other:
        os.posix_fallocate(other.fileno(), 0, shutil.disk_usage(sharing).free - size + MIB)
    os.sync()
    free = shutil.disk_usage(sharing).free
    assert free < size  # so that a copy would not fit
    assert ext4.build(parts=[gguf], info={}, target=sharing / "m.img", digest=digest) == (digest or sha256([gguf]))
    os.sync()
    assert free - shutil.disk_usage(sharing).free < 8 * MIB
    check(sharing / "m.img")
    assert inside(sharing / "m.img", tmp_path, "model.gguf") == gguf.read_bytes()
