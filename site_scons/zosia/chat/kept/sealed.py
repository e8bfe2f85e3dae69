"""Encrypted chats, in age's format: a key that a passphrase opens, and what it encrypts.

docs/chats.md says how `age` opens them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing
from zosia.chat.kept.records import decoded, encoded
from zosia.chat.kept.streams import BACKUP, Opening, Sealing

IDENTITY = "identity.age"  # file of a chat's key
PASSPHRASE = "ZOSIA_PASSPHRASE"
ENCRYPT = "ZOSIA_ENCRYPT"
WRONG = "Decryption failed"  # pyrage's words for a wrong passphrase


class Key:
    """The key of a chat, and the codec of its records."""

    header: Mapping[str, Any] = {"encrypted": "age"}

    def __init__(self, identity: Any) -> None:
        """Take an identity of pyrage's."""
        self._identity = identity
        self._recipient = identity.to_public()

    def line(self, record: Mapping[str, Any], before: str) -> bytes:
        """Return a record in base64, encrypted with the digest of what is before it."""
        import pyrage

        return base64.b64encode(pyrage.encrypt(encoded({**record, "before": before}), [self._recipient]))

    def record(self, line: bytes, before: str) -> dict[str, Any]:
        """Return the record in a line.

        Raises:
            ValueError: it is damaged, or has another place.
        """
        import pyrage

        try:
            record = decoded(pyrage.decrypt(base64.b64decode(line, validate=True), [self._identity]))
        except (ValueError, pyrage.DecryptError) as error:
            raise ValueError("it was changed, or is of another chat") from error
        if record.pop("before", "") != before:
            raise ValueError("a line before it was changed, moved or removed")
        return record

    def sealing(self, write: Callable[[bytes], object]) -> Sealing:
        """Return a file that encrypts what is written to it, and gives that to `write`."""
        return Sealing(write, self._recipient)

    def opening(self, file: IO[bytes]) -> Opening:
        """Return a file, with a file descriptor, that has what an encrypted file holds."""
        return Opening(file, self._identity)


def wanted() -> bool:
    """Return whether this user's new chats are encrypted where nothing else is said.

    Raises:
        ZosiaError: the environment has something else than 0 or 1.
    """
    text = os.environ.get(ENCRYPT, "")
    if text not in ("", "0", "1"):
        raise ZosiaError(f"{ENCRYPT}={text} is neither 0 nor 1", "Set it to 1 to have new chats encrypted, or unset it")
    return text == "1"


def create(path: Path, passphrase: str) -> Key:
    """Make a key, and write it to a file that only the passphrase opens.

    Raises:
        ZosiaError: it can't be written.
    """
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    text = f"# The key of a chat of zosia. Public key: {identity.to_public()}\n{identity}\n"
    sealed = pyrage.passphrase.encrypt(text.encode(), passphrase)
    try:
        with replacing(path) as temporary:
            temporary.touch(0o600)
            with temporary.open("wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise explained(error) from error
    return Key(identity)


def unlock(path: Path, passphrase: str, name: str) -> Key:
    """Return the key in a file of the chat NAME.

    Raises:
        ZosiaError: the passphrase is wrong, or the file is damaged or can't be read.
    """
    import pyrage

    try:
        text = pyrage.passphrase.decrypt(path.read_bytes(), passphrase).decode()
        return Key(pyrage.x25519.Identity.from_str(text.split("\n")[-2]))
    except FileNotFoundError as error:
        raise ZosiaError(f"The key of the chat {name} is missing: {path}", BACKUP) from error
    except OSError as error:
        raise explained(error) from error
    except pyrage.DecryptError as error:
        if str(error) == WRONG:
            raise ZosiaError(f"This is not the passphrase of the chat {name}", "Try it again") from error
        raise ZosiaError(f"{path} is damaged: {' '.join(str(error).split())}", BACKUP) from error
    except (ValueError, IndexError, pyrage.IdentityError) as error:
        raise ZosiaError(f"{path} holds no key of a chat", BACKUP) from error


def passphrase(name: str, *, new: bool) -> str:
    """Return the passphrase of the chat NAME, from the environment or a terminal; a `new` one is asked for twice.

    Raises:
        ZosiaError: there is no terminal, or the passphrase is none.
    """
    given = os.environ.get(PASSPHRASE, "")
    typed = given or _typed(f"Passphrase of the chat {name}: ", name)
    if new and not given and typed != _typed("Once more: ", name):
        raise ZosiaError("The two passphrases differ", "Try it again")
    if not typed or any("\ud800" <= letter <= "\udfff" for letter in typed):
        raise ZosiaError("A passphrase is needed, in UTF-8", "Try it again")
    return typed


def _typed(prompt: str, name: str) -> str:
    import warnings
    from getpass import GetPassWarning, getpass

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # it would be shown while it is typed
            return getpass(prompt)
    except (GetPassWarning, EOFError, OSError, ValueError) as error:
        raise ZosiaError(
            f"The chat {name} is encrypted, and there is no terminal to ask for its passphrase",
            f"Set {PASSPHRASE} in the environment",
        ) from error
