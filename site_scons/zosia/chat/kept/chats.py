"""Chats that are kept: a folder for each, with its transcript, states of its machine, and a lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zosia.base import places
from zosia.base.errors import ZosiaError, near
from zosia.base.files import explained, locked, remove_leftovers
from zosia.chat.kept import folders, sealed
from zosia.chat.kept.folders import Hit, Summary
from zosia.chat.kept.names import checked, folded, shown
from zosia.chat.kept.records import PLAIN
from zosia.chat.kept.transcript import Transcript

PATIENT = 0.5  # seconds that a lock is waited for, which another program may have for a moment only
GONE = ".gone"  # a folder of this name is being deleted


class OpenError(ZosiaError):
    """Another program has the chat open."""


class Chat:
    """A chat that this process has open."""

    def __init__(self, folder: Path, lock: int, transcript: Transcript, key: sealed.Key | None, *, fresh: bool) -> None:
        """Take what Chats.open has opened; a `fresh` chat was made by that."""
        self.folder = folder
        self.transcript = transcript
        self.key = key
        self.fresh = fresh
        self._lock = lock

    @property
    def name(self) -> str:
        """The chat's name."""
        return shown(self.folder)

    @property
    def encrypted(self) -> bool:
        """True for a chat whose files are encrypted."""
        return self.key is not None

    def moved(self, folder: Path) -> None:
        """Take note that its folder has another name now."""
        self.folder = folder
        if self.transcript.path:
            self.transcript.path = folder / self.transcript.path.name

    def close(self) -> None:
        """Close it, so that another program can open it."""
        self.transcript.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Chats:
    """The chats in a folder, which nobody else may read."""

    def __init__(self, folder: Path | None = None, passphrase: str = "", *, encrypt: bool = False) -> None:
        """Use the folder of this user's chats, or another; a passphrase is for each one that is encrypted.

        With `encrypt`, those that are made are.
        """
        self.folder = folder or places.chats()
        self._passphrase = passphrase
        self._encrypt = encrypt

    def open(self, name: str, create: bool = True, passphrase: str | None = None, *, encrypt: bool = False) -> Chat:
        """Open a chat, which is made if there is none and `create` is true; with `encrypt`, it has to be encrypted.

        The passphrase of an encrypted chat is asked for unless it is given.

        Raises:
            ZosiaError: the name is none or is unknown, the passphrase is wrong, another program has the chat open, or
                its files are damaged or can't be read or written.
        """
        name = checked(name)
        with self._changing():
            folder = self._find(name) or self.folder / name
            fresh = not folders.begun(folder)
            if fresh and not create:
                raise self._unknown(name)
            if encrypt and not fresh and not folders.sealed(folder):
                hint = "Export it, delete it, and import it as an encrypted one"
                raise ZosiaError(f"The chat {name} is there, and it is not encrypted", hint)
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = _lock(folder)
        try:
            seal = folders.sealed(folder) or encrypt or (fresh and self._encrypt)
            key = _key(folder, passphrase or self._passphrase, new=fresh) if seal else None
            path = folder / (folders.SEALED if key else folders.PLAINLY)
            transcript = Transcript(path, key or PLAIN)
            with suppress(OSError):
                os.utime(path)
        except BaseException:
            if fresh:
                with suppress(ZosiaError), self._changing():
                    shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            raise
        return Chat(folder, lock, transcript, key, fresh=fresh)

    def doubt(self, chat: Chat) -> str:
        """Return a note about a chat that is not as one made now would be, or ""."""
        if chat.encrypted or not self._encrypt:
            return ""
        return (
            f"the chat {chat.name} was there before, and is not encrypted. To encrypt it: export, delete and import it"
        )

    def search(self, text: str) -> tuple[Hit, ...]:
        """Find a text in the messages of all chats that are not encrypted, whatever its case."""

        def found() -> Iterator[Hit]:
            for folder in folders.folders(self.folder):
                if not folders.sealed(folder):
                    with suppress(ZosiaError):  # a damaged one, of which `list` tells
                        yield from folders.hits(folder, folded(text))

        return tuple(found())

    def rename(self, chat: str | Chat, new: str) -> None:
        """Give a chat another name.

        Raises:
            ZosiaError: it is unknown or open in another program, or the new name is none or is taken.
        """
        new = checked(new)
        with self._changing(), self._held(chat) as folder:
            taken = self._find(new)
            if taken and taken != folder:
                if folders.begun(taken):
                    raise ZosiaError(f"There is a chat {new} already", "Choose another name, or delete that one")
                shutil.rmtree(taken)
            folder.rename(self.folder / new)
            if isinstance(chat, Chat):
                chat.moved(self.folder / new)

    def delete(self, chat: str | Chat) -> int:
        """Delete a chat with all of its files, and return the bytes freed.

        Raises:
            ZosiaError: it is unknown, open in another program, or can't be deleted.
        """
        with self._changing(), self._held(chat) as folder:
            freed = folders.size(folder)
            gone = self.folder / GONE
            folder.rename(gone)
            if isinstance(chat, Chat):
                chat.close()
            shutil.rmtree(gone)
        return freed

    def prune(self, limit: int) -> int:
        """Delete states of the chats unused for the longest time until all states have at most `limit` bytes.

        Those of chats that are open stay. Returns the bytes freed.

        Raises:
            ZosiaError: they can't be deleted.
        """
        with self._changing():
            sizes = {
                folder: sum(map(folders.blocks, folders.states(folder))) for folder in folders.folders(self.folder)
            }
            total = sum(sizes.values())
            freed = 0
            for folder in sorted(filter(sizes.__getitem__, sizes), key=folders.used):
                if total - freed <= limit:
                    break
                with suppress(OpenError), self._held(shown(folder), patient=0):
                    for state in folders.states(folder):
                        state.unlink(missing_ok=True)
                    remove_leftovers(folder)
                    freed += sizes[folder]
        return freed

    def list(self) -> tuple[Summary, ...]:
        """Return all chats, the one that was used last first."""
        return tuple(
            sorted(map(folders.summary, folders.folders(self.folder)), key=lambda chat: (-chat.used, chat.name))
        )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the only one who looks for names, and makes, renames and deletes folders."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.stat().st_mode & 0o077:
                self.folder.chmod(0o700)
            with locked(self.folder):
                if (self.folder / GONE).exists():  # its process was killed
                    shutil.rmtree(self.folder / GONE)
                yield
        except OSError as error:
            raise explained(error) from error

    @contextmanager
    def _held(self, chat: str | Chat, patient: float = PATIENT) -> Iterator[Path]:
        """Yield the folder of a chat that this process has open, or of another one, which it locks."""
        if isinstance(chat, Chat):
            yield chat.folder
            return
        folder = self._find(checked(chat))
        if not folder or not folders.begun(folder):
            raise self._unknown(chat)
        lock = _lock(folder, patient)
        try:
            yield folder
        finally:
            os.close(lock)

    def _find(self, name: str) -> Path | None:
        """Return the folder of a chat, whose name may differ in case."""
        found = [path for path in self.folder.iterdir() if folded(path.name) == folded(name)]
        return found[0] if found else None

    def _unknown(self, name: str) -> ZosiaError:
        known = [shown(folder) for folder in folders.folders(self.folder)]
        return ZosiaError(f"There is no chat {name}", near(name, known) if known else "No chat was kept so far")


def _key(folder: Path, passphrase: str, *, new: bool) -> sealed.Key:
    path, name = folder / sealed.IDENTITY, shown(folder)
    passphrase = passphrase or sealed.passphrase(name, new=new)
    return sealed.create(path, passphrase) if new else sealed.unlock(path, passphrase, name)


def _lock(folder: Path, patient: float = PATIENT) -> int:
    """Lock a chat, and return the open file that has to be closed."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patient
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    process = os.pread(file, 20, 0).decode(errors="replace")
                    message = f"The chat {shown(folder)} is open in another program (pid {process})"
                    raise OpenError(message, "Close it there first") from error
            time.sleep(0.02)
        with suppress(OSError):  # a full disk must not keep anybody from deleting
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return file
