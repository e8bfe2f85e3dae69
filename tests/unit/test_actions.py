"""Actions of `zosia` in a clone: disks, and the files of models."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import gguf_file
from zosia.base import places, process
from zosia.base.errors import ZosiaError
from zosia.base.files import sha256
from zosia.command import actions, again, line
from zosia.disk import ext4, record
from zosia.inputs import model_files
from zosia.run import supervisor
from zosia.serve import units
from zosia.settings import hardware, machines, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS

Do = Callable[..., int]
DISKS = places.DISKS  # build/models in a clone


@pytest.fixture
def do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Do:
    """Act on words, in an empty folder with an empty cache, emulated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))

    def act(*words: str) -> int:
        name, rest = line.command(words)
        given, flags = line.parse(name, rest)
        return actions.do(name, {"ACCEL": "tcg", **given}, tmp_path, flags)

    return act


@pytest.fixture
def settings(do: Do, root: Path, tmp_path: Path) -> Settings:
    """Settings of an entry whose file is in the cache."""
    path = gguf_file.write(tmp_path / "m.gguf")
    read = reading.read(DEFAULTS, (), root, launched=tmp_path)
    known = read.models["qwen3-4b"]
    digest = sha256(path)
    entry = replace(known, name="small", shape=None, file=path.name, size=path.stat().st_size, sha256=digest)
    place = model_files.place_of(entry, read.cache)
    place.parent.mkdir(parents=True)
    path.rename(place)
    return replace(read.of(entry), models={"small": entry})


def disk() -> Path:
    """The one disk that is there."""
    (path,) = DISKS.glob("*.img")
    return path


def inode(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_a_disk_is_made_once(do: Do, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    assert do("pull", "m.gguf") == 0
    before = inode(disk())
    here = f"  MODEL m.gguf is here. To run it, type: scons run MODEL={tmp_path}/m.gguf\n"
    assert capsys.readouterr().err == f"  MODEL m.gguf: its disk is made once\n  EXT4  {disk()}\n{here}"
    assert do("pull", "./m.gguf") == do("pull", str(tmp_path / "m.gguf")) == 0
    assert capsys.readouterr().err == here * 2
    assert inode(disk()) == before


def older(image: Path) -> None:
    """Make the record that of a zosia which did not write `made_of`."""
    path = record.path_of(image)
    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["made_of"]
    path.write_text(json.dumps(facts), encoding="utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "the file": lambda gguf: gguf_file.write(gguf, rows=5),
    "its time": lambda gguf: os.utime(gguf, (1, 1)),
    "the disk": lambda _: os.truncate(disk(), 4096),
    "no record": lambda _: record.path_of(disk()).unlink(),
    "an older record": lambda _: older(disk()),
    "the format": lambda _: setattr(ext4, "FORMAT", ext4.FORMAT + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_is_made_again(do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(ext4, "FORMAT", ext4.FORMAT)  # what it was, in the end
    gguf = gguf_file.write(tmp_path / "m.gguf")
    do("pull", "m.gguf")
    before = inode(disk())
    CHANGES[change](gguf)
    do("pull", "m.gguf")
    after = inode(disk())
    assert after != before
    do("pull", "m.gguf")
    assert inode(disk()) == after, "once"


@pytest.mark.parametrize(
    "change",
    [{"title": "another"}, {"licence": "MIT"}, {"sampling": {"temp": 0.5}}, {"version": "another"}],
)
def test_a_disk_of_an_entry_that_changed(settings: Settings, change: dict[str, Any]) -> None:
    actions.make_disk(settings)
    before = inode(disk())
    actions.make_disk(settings)
    assert inode(disk()) == before
    assert settings.model.entry
    actions.make_disk(replace(settings, model=replace(settings.model, entry=replace(settings.model.entry, **change))))
    assert inode(disk()) != before


def test_a_disk_of_another_tool(settings: Settings) -> None:
    actions.make_disk(settings)
    assert settings.model.is_made("mke2fs")
    assert not settings.model.is_made("genext2fs")


def test_two_at_once_make_one_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first is at work, waits, and finds the disk."""
    made: list[str] = []
    second = threading.Thread(target=actions.make_disk, args=(settings,))

    def build(**arguments: Any) -> str:
        made.append("disk")
        if len(made) == 1:
            second.start()
            time.sleep(0.3)  # and it waits for the lock by then; else it finds the disk in any case
        return original(**arguments)

    original = ext4.build
    monkeypatch.setattr(ext4, "build", build)
    actions.make_disk(settings)
    second.join()
    assert made == ["disk"]
    assert settings.model.is_made("mke2fs")


def test_an_interrupted_disk_leaves_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        assert list(DISKS.glob(".small.img.*")), "it had begun"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ext4, "copy_into", interrupted)
        actions.make_disk(settings)
    assert os.listdir(DISKS) == ["small.img.lock"]
    actions.make_disk(settings)
    assert settings.model.is_made("mke2fs")


def test_a_disk_whose_file_has_gone(do: Do, tmp_path: Path) -> None:
    """It goes when another is made; disks of what has a name, or nobody knows, stay."""
    names = ("a", "b", "c")
    for name in names:
        gguf_file.write(tmp_path / f"{name}.gguf")
    do("pull", "a.gguf")
    do("pull", "b.gguf")
    for name, content in {"hub-model-01234567": str(("a/b", "main", "x.gguf", "0" * 64)), "odd": "nonsense"}.items():
        (DISKS / f"{name}.img").write_bytes(b"x")
        record.write(DISKS / f"{name}.img", content=content)
    (DISKS / "bare.img").write_bytes(b"x")
    (tmp_path / "a.gguf").unlink()
    do("pull", "b.gguf")
    assert len(list(DISKS.glob("a-*.img"))) == 1, "nothing was made"
    do("pull", "c.gguf")
    left = sorted(path.stem.partition("-")[0] for path in DISKS.glob("*.img"))
    assert left == ["b", "bare", "c", "hub", "odd"]
    assert not list(DISKS.glob("a-*.json"))


@pytest.mark.parametrize(
    "content", ["[('/x' * 2,)]", "[5]", "[('/" + "x" * 5000 + "', 1, 1)]", "{}", "[(5, 1)]", "(" * 99]
)
def test_a_disk_of_an_odd_record_stays(do: Do, tmp_path: Path, content: str) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    DISKS.mkdir(parents=True)
    odd = DISKS / "odd.img"
    odd.write_bytes(b"x")
    record.write(odd, content=content)
    do("pull", "m.gguf")
    assert odd.exists()


def used(folder: Path) -> int:
    """Bytes that the files in a folder take on its disk, but for locks and records."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]
    return sum(path.stat().st_blocks * 512 for path in found)


@pytest.mark.parametrize(
    ("given", "installed"),
    [("team.toml", "team.toml"), ("../team.toml", "../team.toml"), ("https://x.example/team.toml", ""), ("", "")],
)
def test_a_service_has_the_path_of_its_catalogue(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, installed: str
) -> None:
    made: list[list[str]] = []
    service = SimpleNamespace(socket=tmp_path / "8080.sock", log=None)
    monkeypatch.setattr(actions, "prepare", lambda settings: None)
    monkeypatch.setattr(machines, "serving", lambda settings: SimpleNamespace(service=service))
    monkeypatch.setattr(units, "install", lambda service, words: made.append(words))
    assert actions.install(settings, {"CATALOGUE": given}) == 0
    path = os.path.normpath(tmp_path / installed) if installed else given
    assert f"--catalogue={path}" in made[0]


def freed(text: str) -> int:
    return sum(int(size) for size in re.findall(r"(\d+) bytes freed", text))


def test_clean(do: Do, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    do("pull", "m.gguf")
    saved = Path("build/hot")
    saved.mkdir()
    (saved / "x.state").write_bytes(bytes(200_000))
    (saved / "x.cold").write_bytes(b"x")
    kept = {"qwen3-4b": "", "hub-model-01234567": str(("a/b", "main", "x.gguf", "0" * 64))}
    for name, content in kept.items():
        (DISKS / f"{name}.img").write_bytes(bytes(5000))
        record.write(DISKS / f"{name}.img", content=content)
    before = used(Path("build"))
    remembered = again.memory(["run"], tmp_path)
    remembered.parent.mkdir(parents=True)
    remembered.touch()
    capsys.readouterr()
    assert do("clean") == 0
    assert not remembered.exists()
    said = capsys.readouterr().err
    assert freed(said) == before - used(Path("build"))
    assert freed(said) > 200_000
    assert not saved.exists()
    assert sorted(path.stem for path in DISKS.glob("*.img")) == sorted(kept)
    assert (tmp_path / "m.gguf").exists()
    assert do("clean") == 0
    assert capsys.readouterr().err == "  CLEAN build/hot: saved machines, 0 bytes freed\n" + (
        "  CLEAN build/models: disks of files, 0 bytes freed\n"
    )


def test_remove(do: Do, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    do("pull", "m.gguf")
    before = used(DISKS)
    assert do("remove", "m.gguf") == 0
    assert freed(capsys.readouterr().out) == before > 0
    assert used(DISKS) == 0
    assert (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("words", [["run"], ["run", "-n"], ["serve"], ["diag"]])
def test_no_kernel(do: Do, tmp_path: Path, words: Sequence[str]) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    with pytest.raises(ZosiaError) as caught:
        do(*words, "--model", "m.gguf", "--arch", "aarch64")
    missing = "A part of the guest is missing: build/aarch64/Image"
    assert str(caught.value) == f"{missing}. Build it first. Type: scons ARCH=aarch64"
    assert not DISKS.exists(), "and no disk was made"


@pytest.mark.parametrize(
    ("words", "program"), [(["run"], "qemu-system-aarch64"), (["serve"], "qemu-system-aarch64"), (["pull"], "mke2fs")]
)
def test_no_program(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str], program: str
) -> None:
    gguf_file.write(tmp_path / "m.gguf")
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZosiaError, match=f"^{program} is needed and was not found on PATH. .*") as caught:
        do(*words, "--model", "m.gguf", "--arch", "aarch64")
    assert caught.value.hint
    assert not DISKS.exists()


@pytest.mark.parametrize(
    ("words", "asked"), [([], set()), (["--arch", "aarch64"], {"ARCH"}), (["--mem", "1G"], {"MEM"})]
)
def test_advice_for_a_terminal(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], asked: set[str]
) -> None:
    """It is about an architecture that nobody has chosen; in a clone, as for scons."""
    gguf_file.write(tmp_path / "m.gguf")
    do("pull", "m.gguf")
    seen: list[Mapping[str, str]] = []

    def note(settings: Settings, given: Mapping[str, str]) -> str:
        seen.append(given)
        return ""

    monkeypatch.setattr(hardware, "native_note", note)
    monkeypatch.setattr(actions, "check_programs", lambda settings: None)
    monkeypatch.setattr(supervisor, "run", lambda machine: 7)
    for terminal in (True, False):
        monkeypatch.setattr(os, "isatty", lambda _, answer=terminal: answer)
        assert do("run", "m.gguf", "--no-sandbox", "--model-bus", "virtio-blk", "--prompt", "x", *words) == 7
    (given,) = seen
    assert set(given) - {"MODEL", "ACCEL", "SANDBOX", "MODEL_BUS", "PROMPT"} == asked


def test_a_folder_that_cant_be_written(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser can write into any, so another user tries."""
    with tempfile.TemporaryDirectory() as name:  # which others can reach, unlike pytest's
        folder = Path(name)
        path = gguf_file.write(folder / "m.gguf")
        folder.chmod(0o555)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("ZOSIA_CACHE", str(folder / "cache"))
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            with pytest.raises(ZosiaError) as caught:
                do("pull", str(path))
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
        words = "sudo chown -R $USER" if user == 0 else "chmod -R u+rwX"
        assert "can't be locked: Permission denied. " in str(caught.value)
        assert str(caught.value).endswith(f"Type: {words} {folder}")
