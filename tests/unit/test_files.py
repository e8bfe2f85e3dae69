"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest

from zosia.base import files
from zosia.base.errors import ZosiaError


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_replacing_follows_the_umask(tmp_path: Path, umask: int) -> None:
    with files.replacing(tmp_path / "plain") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o666 & ~umask
    with files.replacing(tmp_path / "program") as temporary:
        temporary.write_bytes(b"new")
        temporary.chmod(0o755)
    assert (tmp_path / "program").stat().st_mode & 0o111 == 0o111


def test_replacing_takes_effect_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "file"
    with files.replacing(target) as temporary:
        assert temporary.parent == target.parent  # else the last step is no rename
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ZosiaError, "disk is full: .*file could not be written"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ZosiaError, "disk is full"),
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_replacing_leaves_nothing_on_failure(
    tmp_path: Path, raised: BaseException, seen: type[BaseException], message: str
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(seen, match=message), files.replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise raised
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_replacing_removes_what_the_killed_left(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    left = tmp_path / f".file.{ended.pid}"
    at_work = tmp_path / f".file.{os.getppid()}"
    for path in (left, at_work):
        path.write_bytes(b"half")
    with files.replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
    assert set(tmp_path.iterdir()) == {tmp_path / "file", at_work}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        (tmp_path / ".folder.new").mkdir()  # a killed process left it
        (tmp_path / ".folder.new/old").touch()
        with files.replacing_folder(target) as new:
            assert os.listdir(new) == []
            (new / name).touch()
            assert not (target / name).exists()
        assert os.listdir(target) == [name]
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(target) as new:
        (new / "third").touch()
        raise KeyboardInterrupt
    assert os.listdir(target) == ["second"]
    assert os.listdir(tmp_path) == ["folder"]


def test_locked_makes_the_second_wait(tmp_path: Path) -> None:
    target, events = tmp_path / "folder" / "file", []

    def second() -> None:
        with files.locked(target):
            events.append("second")

    with files.locked(target):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        events.append("first")
    thread.join()
    assert events == ["first", "second"]


def test_a_lock_whose_file_is_deleted_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    """`scons -c` deletes lock files: a third process would lock another file of the same name."""
    target, waits, inside, most = tmp_path / "file", threading.Event(), [], []

    def enter() -> None:
        waits.set()
        with files.locked(target):
            inside.append(threading.get_ident())
            time.sleep(0.2)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(2)]
    with files.locked(target):
        threads[0].start()
        waits.wait()
        time.sleep(0.1)
        Path(f"{target}.lock").unlink()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "file") == digest


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for named, root in (("~/z", Path.home() / "z"), ("z", tmp_path / "z"), ("", platformdirs.user_cache_path("zosia"))):
        monkeypatch.setenv("ZOSIA_CACHE", named)
        assert files.cache_root() == root


def test_check_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))
    cached, built = tmp_path / "cache" / "models", tmp_path / "build"
    for folder, hint in ((cached, "Make room, or set ZOSIA_CACHE= to "), (built, "Make room, then")):
        files.check_room(folder, 10**9, "It")
        with pytest.raises(ZosiaError, match=rf"It needs 12.1 GB in {folder}, which has 1.0 GB free. {hint}"):
            files.check_room(folder, 12_109_566_560, "It")


@pytest.mark.parametrize(("count", "text"), [(999_999, "999999 bytes"), (98362432, "98.4 MB"), (10**9, "1.0 GB")])
def test_size_text(count: int, text: str) -> None:
    assert files.size_text(count) == text


def test_a_temporary_folder_goes_with_those_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{files.RUN}killed"
    (left / "deep").mkdir(parents=True)
    other = tmp_path / "zosia.mine"
    other.mkdir()
    with files.temporary_folder() as first:
        assert not left.exists()
        (first / "file").touch()
        with files.temporary_folder() as second:
            assert (first / "file").exists()
            assert {path.stat().st_mode & 0o777 for path in (first, second)} == {0o700}
        assert not second.exists()
    with pytest.raises(FileNotFoundError), files.temporary_folder() as third:
        (third / "no such file").read_bytes()
    assert list(tmp_path.iterdir()) == [other]


def test_a_temporary_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{files.RUN}other"
    left.mkdir()
    link = tmp_path / f"{files.RUN}link"
    link.symlink_to(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with files.temporary_folder():
        assert left.exists()
        assert link.is_symlink()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "x", "/a/b"),
            "The disk is full: /a/b could not be written. Make room, then run it again",
        ),
        (OSError(errno.EDQUOT, "x"), "The disk is full: a file could not be written. Make room, then run it again"),
        (OSError(errno.EIO, "broken", "/a"), "/a: broken"),
        (OSError(errno.EIO, "broken"), "broken"),
    ],
)
def test_errors_of_the_system_say_what_to_do(error: OSError, said: str) -> None:
    assert str(files.explained(error)) == said


def test_what_is_closed_has_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a b"
    path.touch()
    error = PermissionError(errno.EACCES, "denied", str(path))
    assert str(files.explained(error)) == f"{path}: denied. Type: chmod -R u+rwX '{path}'"
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert str(files.explained(error)) == f"{path}: denied. Type: sudo chown -R $USER '{path}'"


def test_what_is_ours_needs_no_other_owner(tmp_path: Path) -> None:
    assert files.ours(tmp_path) == f"Type: chmod -R u+rwX {tmp_path}"
    assert files.ours(tmp_path / "new" / "file") == f"Type: chmod -R u+rwX {tmp_path}", "what is there"


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        (".", "{top} can't be written to. Build in a clone of your own"),
        ("build", "{top}/build can't be written to. Type: sudo chown -R $USER {top}/build"),
        ("build/aarch64", "{top}/build/aarch64 can't be written to. Type: sudo chown -R $USER {top}/build"),
        ("build/aarch64/Image", "{top}/build/aarch64/Image can't be read. Type: sudo chown -R $USER {top}/build"),
    ],
)
def test_a_tree_with_what_root_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, said: str
) -> None:
    files.check_writable(tmp_path)
    (tmp_path / "build/aarch64").mkdir(parents=True)
    (tmp_path / "build/aarch64/Image").touch()
    files.check_writable(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / closed)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ZosiaError) as failure:
        files.check_writable(tmp_path)
    assert str(failure.value) == said.format(top=tmp_path)
