"""Saved machines, with the model loaded and nothing asked: which state fits a machine, and the files of states.

A file is QEMU's state of the machine, a description in JSON (what the console had shown, how many seconds the
machine stood still to be saved), the length of that (8 bytes), and the SHA-256 of all before it. It has the name of its
key: everything that decides what the machine is. Nobody else may read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from zosia.base.errors import ZosiaError
from zosia.base.files import remove_leftovers, replacing
from zosia.base.process import find
from zosia.machine.boards import Accel
from zosia.machine.qemu import Machine
from zosia.machine.task import Mode
from zosia.model import sampling

FORMAT = 2  # of the files, and of what host and guest say to each other
KEPT = 4  # states; the one that was not used for the longest time goes
LARGEST = 1 << 30  # bytes of a state: more than that takes longer to write and to read than a person likes to wait
EMULATED = 200_000_000  # bytes of a model, with which an emulated processor warms up for some ten seconds
RESERVE = 512 << 20  # bytes that stay free on the disk
DIGEST, LENGTH = 32, 8  # bytes
CPUINFO = Path("/proc/cpuinfo")
SAME_CPU = re.compile(r"^(model name|flags|Features|CPU (?:implementer|variant|part|revision)|microcode)\s*:.*$", re.M)


class HotError(Exception):
    """A state can't be used or made; the reason is the middle of a sentence."""


class RefutedError(Exception):
    """A machine is not the one that was wanted, or more is needed than to resume it."""


class DamagedError(HotError):
    """A state is no use to anybody."""


@dataclass(frozen=True)
class Store:
    """The file for the state of one machine."""

    folder: Path
    key: str
    files: tuple[object, ...] = ()  # what the machine's files were like just before
    kept: int = KEPT  # states in the folder
    largest: int = LARGEST  # bytes of a state

    @property
    def path(self) -> Path:
        """The state's file."""
        return self.folder / f"{self.key}.state"

    @property
    def _refusal(self) -> Path:
        return self.folder / f"{self.key}.cold"

    @property
    def refused(self) -> bool:
        """True for a machine that an earlier run could not save, or not resume."""
        return os.path.exists(self._refusal)  # noqa: PTH110 (which asks for no permission)

    def refuse(self, reason: str) -> None:
        """Remember that this machine can't be saved, or can't be resumed."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refusal.write_text(f"{reason}\n", encoding="utf-8")

    def check(self, machine: Machine) -> None:
        """Check that a QEMU started meanwhile has the files that the key was made of.

        Raises:
            HotError: one of them was replaced meanwhile.
            OSError: one of them has gone.
        """
        if stamps(machine) != self.files:
            raise HotError("a file of the machine was replaced meanwhile")

    def worth(self, used: int) -> bool:
        """Return whether a machine that uses this many bytes should be saved."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return used <= self.largest and shutil.disk_usage(self.folder).free >= used + RESERVE
        return False

    def open(self) -> IO[bytes] | None:
        """Open the state, if there is one; it counts as used now."""
        try:
            os.utime(self.path)
            return self.path.open("rb")
        except OSError:
            return None

    def parts(self, state: IO[bytes]) -> Iterable[bytes] | None:
        """Return the parts of an open state that is encrypted, or None."""

    def discard(self) -> None:
        """Remove a useless state."""
        self.path.unlink(missing_ok=True)

    def write(self, save: Callable[[Callable[[memoryview], None]], None], console: Callable[[], bytes]) -> int:
        """Write the state that `save` hands over, and the console's text; return the size in bytes.

        States that were not used for long make room for it.

        Raises:
            ZosiaError: the disk is full.
            OSError: it can't be written.
            HotError: it grows too large.
        """
        self._prune()
        began = time.monotonic()
        with replacing(self.path) as temporary:
            temporary.touch(0o600)
            with temporary.open("wb", buffering=0) as file:
                digest = hashlib.sha256()

                def write(part: memoryview | bytes) -> None:
                    if file.tell() + len(part) > self.largest:
                        raise HotError(f"its state is larger than {self.largest >> 20} MiB")
                    while part:
                        digest.update(part[: (done := file.write(part))])
                        part = part[done:]

                save(write)
                seconds = round(time.monotonic() - began, 3)
                details = {
                    "format": FORMAT,
                    "key": self.key,
                    "seconds": seconds,
                    "console": console().decode("latin-1"),
                }
                text = json.dumps(details).encode()
                write(text + len(text).to_bytes(LENGTH))
                write(digest.digest())
                return file.tell()

    def _prune(self) -> None:
        used = {}
        for path in set(self.folder.glob("*.state")) - {self.path}:
            with suppress(FileNotFoundError):  # another run removes them as well
                used[path] = path.stat().st_mtime
        remove_leftovers(self.folder)
        for old in sorted(used, key=used.__getitem__, reverse=True)[self.kept - 1 :]:
            old.unlink(missing_ok=True)


def extent(file: IO[bytes]) -> int:
    """Return the size of the state in an undamaged file, without a change of the place where it is read."""
    end = os.fstat(file.fileno()).st_size - DIGEST - LENGTH
    return end - int.from_bytes(os.pread(file.fileno(), LENGTH, end))


def about(file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """Return the size of the state in an undamaged file, and the JSON behind it; errors as for any JSON."""
    size = extent(file)
    file.seek(size)
    return size, json.loads(file.read()[: -DIGEST - LENGTH])


def check(file: IO[bytes], key: str) -> tuple[int, bytes]:
    """Return the size of the state in a file, and the console's text.

    Raises:
        DamagedError: the file is damaged, or of another machine.
    """
    size = os.fstat(file.fileno()).st_size - DIGEST
    digest, buffer, left = hashlib.sha256(), memoryview(bytearray(4 << 20)), size
    file.seek(0)
    while left > 0 and (got := file.readinto(buffer[: min(left, len(buffer))])):  # type: ignore[attr-defined]
        digest.update(buffer[:got])
        left -= got
    if size < LENGTH or left or file.read() != digest.digest():
        raise DamagedError("it is damaged")
    try:
        state, details = about(file)
        if details["format"] != FORMAT or details["key"] != key:
            raise DamagedError("it is of another machine")
        return state, details["console"].encode("latin-1")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError("it is damaged") from error


def store(machine: Machine, folder: Path) -> Store:
    """Return the file for the state of this machine.

    Raises:
        ZosiaError: QEMU is not installed.
        OSError: what it boots can't be read.
    """
    return Store(folder, files=stamps(machine), key=key(machine))  # in this order


def key(machine: Machine) -> str:
    """Return 64 digits that change with anything that matters once the model is loaded.

    A resumed machine gets the question, the sampling and the size of its terminal anew. A dumb terminal is another
    matter: llama-cli looks at it when it starts.
    """
    args, _ = split(machine)
    dumb = "dumb" if machine.terminal[2] == "dumb" else ""
    alike = machine.given(llama_args=args, prompt=None, files=(), terminal=(0, 0, dumb))
    parts: list[object] = [
        FORMAT,
        {name: str(value) for name, value in sorted(asdict(alike).items()) if name != "hot"},
        alike.argv(dict.fromkeys(machine.ports, 0), monitor=0),
        _stamp(Path(find(f"qemu-system-{machine.arch}"))),  # another version is another file
        stamps(machine),
        *(() if machine.disk is None else (_record(machine.disk),)),
        *(() if machine.accel is Accel.TCG else _host()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def quick(machine: Machine) -> bool:
    """Return whether warming up is short enough for a person who waits for the first prompt."""
    try:
        return machine.accel is not Accel.TCG or machine.disk is None or machine.disk.stat().st_size < EMULATED
    except OSError:  # it has gone
        return False


def split(machine: Machine) -> tuple[tuple[str, ...], str]:
    """Return the arguments that llama.cpp needs at its start, and what a chat is given once it is loaded, as
    sampling.split. A server has all of its defaults from the start.
    """
    serves = machine.task.mode is Mode.SERVE
    return (machine.task.llama_args, "") if serves else sampling.split(machine.task.llama_args)


def stamps(machine: Machine) -> tuple[object, ...]:
    """Return values that change when a file of the machine is replaced, even by the same bytes."""
    tree = machine.verity and machine.verity.tree
    return tuple(str(_stamp(path)) for path in (machine.kernel, machine.initramfs, machine.disk, tree) if path)


def _stamp(path: Path) -> list[object]:
    """Return values that change with a file, which takes too long to read each time."""
    state = path.resolve().stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]


def _record(disk: Path) -> str:
    """Return the record of a disk's content; its digest above all."""
    try:
        return disk.with_suffix(".img.json").read_text(encoding="utf-8")
    except OSError:
        return ""


def _host() -> list[object]:
    """Return the processor that a guest sees, and the kernel that shows it."""
    try:
        found = sorted({match[0] for match in SAME_CPU.finditer(CPUINFO.read_text(encoding="utf-8", errors="replace"))})
    except OSError:  # macOS
        import platform  # slow to import, and only needed here

        found = [platform.processor()]
    return [os.uname().machine, os.uname().release, os.uname().version, *found]


def clean(folder: Path) -> int:
    """Remove all states, and return the bytes freed.

    Raises:
        ZosiaError: they can't be removed.
    """
    freed = sum(path.lstat().st_blocks * 512 for path in folder.glob("*"))
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ZosiaError(
            f"{error.filename or folder} can't be removed: {error.strerror}", "Remove it by hand"
        ) from error
    return freed
