"""Model disks, checked by e2fsprogs itself."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from zosia import ext4
from zosia.errors import ZosiaError
from zosia.process import find, run

MIB = 1 << 20
GROUP = ext4.GROUP * ext4.BLOCK
NOISE = random.Random(1).randbytes(MIB)  # without holes, which would take no blocks


def model(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(NOISE)
        file.write(NOISE[: size % MIB])
        file.truncate(size)
    return path


def debugfs(image: Path, command: str) -> str:
    return run(["debugfs", "-R", command, image]).stdout


def digest_inside(image: Path, folder: Path, name: str) -> str:
    debugfs(image, f"dump {name} {folder}/dumped")
    with (folder / "dumped").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(image: Path) -> None:
    """Run fsck, which finds no fault and nothing to fix."""
    done = subprocess.run([find("e2fsck"), "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fix" not in done.stdout.lower()


@pytest.mark.parametrize("size", [4, 5, 4096, 4097, MIB - 1, 140 * MIB + 3])
def test_content_comes_back(tmp_path: Path, size: int) -> None:
    gguf, image = model(tmp_path / "m.gguf", size), tmp_path / "m.img"
    digest = ext4.build(gguf=gguf, name="A model", target=image)
    check(image)
    assert digest_inside(image, tmp_path, "model.gguf") == digest
    assert debugfs(image, "cat model.info").startswith(f"name=A model\nsha256={digest}\n")
    assert image.stat().st_size % ext4.ALIGN == 0
    assert image.stat().st_size < size * 1.01 + 4 * ext4.ALIGN


SIZES = [GROUP - 70 * ext4.BLOCK, GROUP - 1, GROUP + 1, 9 * GROUP, 12_109_566_560, 63_387_346_464, GROUP * 341 - 1]


@pytest.mark.parametrize("size", SIZES)
def test_large_models_would_fit(tmp_path: Path, size: int) -> None:
    sparse = tmp_path / "sparse.img"
    run([*ext4.MKE2FS, sparse, f"{ext4.image_size(size) // 1024}k"])
    free = next(line for line in debugfs(sparse, "stats -h").splitlines() if line.startswith("Free blocks:"))
    extents = size // GROUP + 2  # at worst one for each group, and a block for 340 of them; all below one index block
    wanted = -(-size // ext4.BLOCK) + -(-extents // 340) + 1 + 1
    assert int(free.split()[-1]) >= wanted
    assert ext4.image_size(size) < size * 1.01 + 4 * ext4.ALIGN


def test_same_bytes_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = model(tmp_path / "m.gguf", 3 * MIB)
    os.utime(gguf, (1e9, 1e9))
    ext4.build(gguf=gguf, name="m", target=tmp_path / "a.img")
    gguf = gguf.rename(tmp_path / "other.gguf")
    gguf.chmod(0o600)
    os.utime(gguf)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    (tmp_path / "new").mkdir()
    ext4.build(gguf=gguf, name="m", target=tmp_path / "new" / "b.img")
    assert (tmp_path / "a.img").read_bytes() == (tmp_path / "new" / "b.img").read_bytes()
    monkeypatch.setenv("TZ", "UTC")
    for command in ("stats -h", "stat model.gguf", "stat model.info"):
        times = re.findall(
            r"(?:time|created|written|checked):.* ([0-9]{4})$", debugfs(tmp_path / "a.img", command), re.M
        )
        assert set(times) == {"1970"}


@pytest.mark.parametrize("name", ["two words", 'it\'s "so"', "zażółć gęślą", "-q", "$HOME;#", "a\\b", "b\udcff"])
def test_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    gguf = model(folder / f"{name}.gguf", 5000)
    digest = ext4.build(gguf=gguf, name=gguf.name, target=folder / f"{name}.img")
    plain = (folder / f"{name}.img").rename(tmp_path / "plain.img")
    assert digest_inside(plain, tmp_path, "model.gguf") == digest
    info = tmp_path / "info"
    debugfs(plain, f"dump model.info {info}")
    assert info.read_bytes() == os.fsencode(f"name={name}.gguf\nsha256={digest}\n")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "m.gguf", 5000)
    monkeypatch.chdir(tmp_path)
    digest = ext4.build(gguf=Path("m.gguf"), name="m", target=Path("m.img"))
    assert digest_inside(tmp_path / "m.img", tmp_path, "model.gguf") == digest


def test_the_guest_can_only_read(tmp_path: Path) -> None:
    ext4.build(gguf=model(tmp_path / "m.gguf", 5000), name="m", target=tmp_path / "m.img")
    for name in ext4.FILES:
        status = debugfs(tmp_path / "m.img", f"stat {name}")
        assert "Mode:  0444" in status
        assert "Type: regular" in status
    assert "has_journal" not in debugfs(tmp_path / "m.img", "features")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = model(tmp_path / "m.gguf", MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=MIB))
    with pytest.raises(ZosiaError, match=r"m.img needs .* which has 1.0 MB free"):
        ext4.build(gguf=gguf, name="m", target=tmp_path / "m.img")


def test_an_image_that_is_too_small_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = model(tmp_path / "m.gguf", 3 * MIB)
    (tmp_path / "m.img").write_bytes(b"old")
    monkeypatch.setattr(ext4, "image_size", lambda content: 2 * MIB)
    with pytest.raises(ZosiaError, match=r"debugfs could not write .*m.img: .*[Cc]ould not allocate block"):
        ext4.build(gguf=gguf, name="m", target=tmp_path / "m.img")
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "m.img"]
    assert (tmp_path / "m.img").read_bytes() == b"old"
