"""Extraction from .tar.gz, .tar.xz, .deb and .whl, by Python's libraries, so that it is the same on every host."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import arpy

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing

COPY = 1 << 20  # bytes
DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError),
    *(arpy.ArchiveFormatError, arpy.ArchiveAccessError),
)


@contextmanager
def damage_named(archive: Path) -> Iterator[None]:
    """Turn the libraries' errors about a damaged archive into a ZosiaError that names it."""
    try:
        yield
    except KeyError as error:
        raise ZosiaError(f"{archive} does not contain {error.args[0]}") from error
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise ZosiaError(f"{archive} is damaged: {reason}", "Delete it and run it again") from error


def extract_file(archive: Path, member: str, target: Path) -> None:
    """Extract the file `member` of a .whl or .deb to `target`, atomically.

    Raises:
        ZosiaError: the archive is damaged or lacks `member`, or the disk is full.
    """
    with (
        damage_named(archive),
        open_member(archive, member) as source,
        replacing(target) as temporary,
        temporary.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, COPY)


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a .whl or .deb for reading."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
            yield file
        return
    with closing(package_files(archive)) as files:
        for name, content in files:
            if name == member:
                yield content
                return
    raise KeyError(member)


def package_files(archive: Path) -> Generator[tuple[str, IO[bytes]], None, None]:
    """Yield name and content of each file of a .deb, in one pass; read a content before advancing.

    Use it within `damage_named`, which handles its errors.
    """
    with arpy.Archive(str(archive)) as package, tarfile.open(fileobj=_data_tar(package), mode="r|*") as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isfile() else None
            if content is not None:
                yield entry.name.removeprefix("./"), content


def _data_tar(package: arpy.Archive) -> arpy.ArchiveFileData:
    """Return the data.tar.* of a .deb, an ar archive that also has debian-binary and control.tar.*; see deb(5)."""
    for entry in package:
        if entry.header.name.startswith(b"data.tar."):
            return entry
    raise KeyError("data.tar")


def extract_tree(archive: Path, member: str, target: Path) -> None:
    """Unpack the folder `member` of a .tar.gz or .deb, or the .tar.xz `member` of a .deb, as the folder `target`.

    `target` is created atomically. The top folder of a .tar.xz is stripped.

    Raises:
        ZosiaError: the archive is damaged or lacks `member`.
    """
    with damage_named(archive):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed build; the caller holds the lock
        try:
            if archive.suffix == ".deb" and not member.endswith(".tar.xz"):
                with arpy.Archive(str(archive)) as package, tarfile.open(fileobj=_data_tar(package), mode="r|*") as tar:
                    _unpack(tar, temporary, below=member)
            elif archive.suffix == ".deb":
                with open_member(archive, member) as inner, tarfile.open(fileobj=inner, mode="r|xz") as tar:
                    _unpack(tar, temporary, strip=1)
            else:
                with tarfile.open(archive) as tar:
                    _unpack(tar, temporary, below=member)
            if not temporary.is_dir():
                raise KeyError(member)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _unpack(tar: tarfile.TarFile, target: Path, *, below: str = "", strip: int = 0) -> None:
    """Unpack the entries below a folder, stripping that folder or the first `strip` parts of their names."""
    lead = len(Path(below).parts) if below else strip
    # Python 3.12 and later warn without a filter; early 3.11 has none. The archives have been verified.
    tar.extraction_filter = getattr(tarfile, "tar_filter", None)
    for entry in tar:
        parts = Path(entry.name).parts
        if len(parts) <= lead or (below and not entry.name.removeprefix("./").startswith(below + "/")):
            continue
        entry.name = str(Path(*parts[lead:]))
        if entry.islnk():
            entry.linkname = str(Path(*Path(entry.linkname).parts[lead:]))
        tar.extract(entry, target, set_attrs=not entry.isdir())
