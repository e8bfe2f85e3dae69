"""Streams of an encrypted chat: files of age's format that are written or read in parts, with little memory.

pyrage reports some errors of the files that it is given as others, and loses some: here they are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import IO, Any

from zosia.base.errors import ZosiaError

BUFFER = 1 << 20  # bytes; pyrage reads and writes a few kB at a time
BACKUP = "Restore it from a backup"


class _Worker:
    """A thread between two ends of pyrage's input and output; whatever fails there is raised in `join`."""

    def __init__(self, work: Callable[[_Worker], None], end: IO[bytes]) -> None:
        """Run `work`, then close `end`, by which the other thread learns of it."""
        self.error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(work, end), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[_Worker], None], end: IO[bytes]) -> None:
        try:
            work(self)
        except BaseException as error:  # pyrage's own, and what it makes of those of its files
            self.error = self.error or error
        finally:
            with suppress(OSError):  # what is left of a damaged file, and nobody reads
                end.close()

    def calling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, and keeps its error."""

        def call(*args: Any) -> Any:
            try:
                return function(*args)
            except BaseException as error:
                self.error = self.error or error
                raise

        return call

    def join(self) -> None:
        """Wait for the end, and raise the error."""
        self._thread.join()
        if self.error:
            raise self.error


class _End:
    """One end of pyrage's input and output: a file with only what it calls."""

    def __init__(self, *, read: Callable[[int], bytes] | None = None, write: Callable[[bytes], Any] | None = None):
        self.read, self._write = read, write

    def write(self, part: bytes) -> int:
        """Write a part, and return how much of it was."""
        assert self._write
        done = self._write(part)
        return done if isinstance(done, int) else len(part)

    def flush(self) -> None:
        """Do nothing: nothing is kept here."""


class Sealing:
    """A file that encrypts what is written to it. Without `close`, what it has written is a cut file."""

    def __init__(self, write: Callable[[bytes], object], recipient: Any) -> None:
        """Write to `write`, in another thread; it may return how much of a part it took."""
        import pyrage

        end, self._pipe = os.pipe()
        reading = os.fdopen(end, "rb", BUFFER)
        self._whole = False

        def read(size: int) -> bytes:
            part = reading.read(size)
            if not part and not self._whole:
                raise EOFError("it was given up")
            return part

        def work(worker: _Worker) -> None:
            pyrage.encrypt_io(_End(read=worker.calling(read)), _End(write=worker.calling(write)), [recipient])

        self._worker = _Worker(work, reading)

    def write(self, part: bytes | memoryview) -> int:
        """Encrypt a part; errors are those of the function that takes it."""
        left = memoryview(part)
        try:
            while left:
                left = left[os.write(self._pipe, left) :]
        except BrokenPipeError:
            self._worker.join()
            raise
        return len(part)

    def close(self) -> None:
        """Write the end; errors as for `write`."""
        if self._pipe >= 0:
            self._whole = True
            self._end()
            self._worker.join()

    def give_up(self) -> None:
        """End without an end."""
        if self._pipe >= 0:
            self._end()
            with suppress(BaseException):
                self._worker.join()

    def _end(self) -> None:
        os.close(self._pipe)
        self._pipe = -1

    def __enter__(self) -> Sealing:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.give_up() if kind else self.close()


class Opening:
    """Content of an encrypted file, as a stream. Each part was checked; `read` and `check` raise at a damaged one."""

    def __init__(self, file: IO[bytes], identity: Any) -> None:
        """Read `file` in another thread, which ends before `close` returns."""
        import pyrage

        self._name = str(getattr(file, "name", "a file"))
        self._pipe, end = os.pipe()
        writing = os.fdopen(end, "wb", BUFFER)

        def work(worker: _Worker) -> None:
            read, write = worker.calling(file.read), worker.calling(writing.write)
            pyrage.decrypt_io(_End(read=read), _End(write=write), [identity])
            worker.calling(writing.flush)()

        self._worker = _Worker(work, writing)

    def fileno(self) -> int:
        """Return the end of a pipe to read from. Who does that calls `check` afterwards."""
        return self._pipe

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, or all that are left; none at the end.

        Raises:
            ZosiaError: the file is damaged, or not of this chat.
            OSError: it can't be read.
        """
        parts = []
        while size and (part := os.read(self._pipe, min(size, BUFFER) if size > 0 else BUFFER)):
            parts.append(part)
            size -= len(part) if size > 0 else 0
        if size:
            self._join()
        return b"".join(parts)

    def check(self) -> None:
        """Read what is left, and check that the file is whole; errors as for `read`."""
        while os.read(self._pipe, BUFFER):
            pass
        self._join()

    def close(self) -> None:
        """Stop."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            with suppress(BaseException):
                self._worker.join()

    def _join(self) -> None:
        import pyrage

        try:
            self._worker.join()
        except pyrage.DecryptError as error:
            raise ZosiaError(f"{self._name} is damaged, or of another chat", BACKUP) from error
        except OSError as error:
            if error.errno is None:  # so does pyrage report a damaged part
                raise ZosiaError(f"{self._name} is damaged", BACKUP) from error
            raise

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
