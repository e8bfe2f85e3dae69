"""Files: digests, locks, atomic replacement, free space."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zosia.base import style
from zosia.base.errors import ZosiaError

RUN = "zosia-run."  # prefix of a temporary folder, which is locked as long as it is used
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = 2  # exit status, as zosia.machine.status has it
PATIENT = 1  # seconds that a lock is waited for before that is shown


def cache_root() -> Path:
    """Return the cache of downloads and compiled parts, shared by all clones: ZOSIA_CACHE, or the platform's folder.

    Raises:
        ZosiaError: ZOSIA_CACHE is not a path.
    """
    import platformdirs

    named = os.environ.get("ZOSIA_CACHE")
    try:
        return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("zosia")
    except RuntimeError as error:
        raise ZosiaError(f"ZOSIA_CACHE={named} is not a path: {error}", "Set it to the path of a folder") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`.lock; a second process waits for the first, and then finds its work done.

    Raises:
        ZosiaError: the file can't be opened or locked.
    """
    lock = Path(f"{path}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked_file(lock, path.name)
    except OSError as error:
        if error.errno in FULL:
            raise explained(error) from error
        hint = ours(lock) if isinstance(error, PermissionError) else "Delete it, and run it again"
        raise ZosiaError(f"{lock} can't be locked: {error.strerror}", hint) from error
    with file:
        yield


def _locked_file(lock: Path, name: str) -> IO[str]:
    until = time.monotonic() + PATIENT
    while True:
        file = lock.open("a")
        try:
            while not _lock(file, wait=False):
                if time.monotonic() > until:
                    style.say("WAIT", f"another process is working on {name}")
                    _lock(file, wait=True)
                    break
                time.sleep(0.05)
            if os.fstat(file.fileno()).st_nlink:
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # `scons -c` has deleted it meanwhile: a third process may have locked another one


def _lock(file: IO[str] | int, *, wait: bool) -> bool:
    """Lock a file until it is closed, and return whether that worked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` when the block succeeds and is removed when it fails.

    Temporary files of killed processes are removed as well.

    Raises:
        ZosiaError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno in FULL:
            raise explained(OSError(error.errno, error.strerror, str(path))) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which replaces `path` when the block succeeds and is removed when it fails.

    Only one process at a time may do this.
    """
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for left in (new, old):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed processes left in a folder; `name` is a glob pattern."""
    for old in folder.glob(f".{name}.*"):
        if old.suffix[1:].isdigit() and not _alive(int(old.suffix[1:])):
            old.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process
    return True


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder that nobody else may read, and remove it in the end, with all that is in it.

    Such folders of killed processes are removed as well.
    """
    top = Path(tempfile.gettempdir())
    for old in top.glob(f"{RUN}*"):
        with suppress(OSError), _held(old, wait=False) as dead:
            if dead:
                shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{RUN}"))
    with _held(made, wait=True):
        folder = made.rename(made.with_name(made.name[1:]))  # nobody takes it for one of a killed process any more
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder of this user; yield False where another process has it, or the disk knows no locks."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    held = False
    try:
        with suppress(OSError):
            held = os.fstat(file).st_uid == os.geteuid() and _lock(file, wait=wait)
        yield held
    finally:
        os.close(file)


def check_writable(top: Path) -> None:
    """Refuse a clone that this user can't build in: another one's, or with folders that, for example, root has made.

    Raises:
        ZosiaError: a folder is not writable.
    """
    if not os.access(top, os.W_OK | os.X_OK):
        raise ZosiaError(f"{top} can't be written to", "Build in a clone of your own")
    build = top / "build"
    for pattern in ("build", "build/*", "build/*/*"):
        for path in top.glob(pattern):
            if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise ZosiaError(f"{path} can't be written to", ours(path, build))
            if path.is_file() and not os.access(path, os.R_OK):
                raise ZosiaError(f"{path} can't be read", ours(path, build))


def ours(path: Path, whole: Path | None = None) -> str:
    """Return what to type so that a file or folder can be read and written, with all in the folder `whole` if given.

    For a file that could not be made, it is its folder.
    """
    path = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))  # noqa: PTH110 - no errors
    words = "chmod -R u+rwX" if path.stat().st_uid == os.geteuid() else "sudo chown -R $USER"
    return f"Type: {words} {shlex.quote(str(whole or path))}"


def explained(error: OSError) -> ZosiaError:
    """Return an error of the system as a sentence and what to do about it."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in FULL:
        return ZosiaError(f"The disk is full: {path or 'a file'} could not be written", "Make room, then run it again")
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError) and path:
        return ZosiaError(f"{path}: {reason}", ours(Path(path)))
    return ZosiaError(f"{path}: {reason}" if path else reason)


def refused(error: ZosiaError | OSError) -> int:
    """Print an error, and return the exit status for it."""
    if isinstance(error, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what can't be written would fail again in the end
        error = explained(error)
    print(style.error(error), file=sys.stderr)
    return REFUSED


def check_room(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of `folder`, which must exist, has `needed` bytes free; `what` needs them.

    Raises:
        ZosiaError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        cached = folder.resolve().is_relative_to(cache_root().resolve())
        raise ZosiaError(
            f"{what} needs {size_text(needed)} in {folder}, which has {size_text(free)} free",
            "Make room, or set ZOSIA_CACHE= to a folder on another disk" if cached else "Make room, then run it again",
        )


def size_text(count: int) -> str:
    """Format a number of bytes: 98362432 is 98.4 MB."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count >= 10**6 else f"{count} bytes"
