"""States of machines with a chat in them, beside the transcript; those of an encrypted chat are encrypted, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.chat.kept.sealed import Key
from zosia.run.hot import DamagedError, HotError, Store

LARGEST = 4 << 30  # bytes
PART = 1 << 20  # bytes


def place(store: Store, folder: Path, key: Key | None) -> Store:
    """Return the place, in the folder of a chat, for the state that has a place in `store` without the chat."""
    plain = replace(store, folder=folder, kept=1, largest=LARGEST)
    return Sealed(**vars(plain), seal=key) if key else plain


@dataclass(frozen=True, kw_only=True)
class Sealed(Store):
    """The file for an encrypted state: QEMU's state in age's format, and nothing else."""

    seal: Key

    def write(self, save: Callable[[Callable[[memoryview], None]], None], console: Callable[[], bytes]) -> int:
        """Write the state as Store does; the console's text is not kept."""
        self._prune()
        with replacing(self.path) as temporary:
            temporary.touch(0o600)
            with temporary.open("wb", buffering=0) as file, self.seal.sealing(file.write) as sealing:
                size = 0

                def write(part: memoryview) -> None:
                    nonlocal size
                    size += len(part)
                    if size > self.largest:
                        raise HotError(f"its state is larger than {self.largest >> 20} MiB")
                    sealing.write(part)

                save(write)
            return size

    def parts(self, state: IO[bytes]) -> Iterator[bytes]:
        """Yield the parts of an open state; each was checked.

        Raises:
            DamagedError: it is damaged, or of another chat.
        """
        with self.seal.opening(state) as opened:
            try:
                yield from iter(lambda: opened.read(PART), b"")
            except ZosiaError as error:
                raise DamagedError("it is damaged") from error
