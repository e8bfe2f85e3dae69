"""Wheel: the package zosia, with what its machines boot from and the web page, and with all their licences.

pyproject.toml describes it. hatchling makes it in a folder of its own, where only what belongs to it is.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import deflate

from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, replacing, temporary_folder
from zosia.base.process import run
from zosia.base.version import ROOT
from zosia.inputs.catalogue import Pin
from zosia_build.release import licences
from zosia_build.ui import licences as page_licences

PACKAGE = Path("site_scons/zosia")
IMAGES = PACKAGE / "images"
PROJECT, CATALOGUE = ROOT / "pyproject.toml", ROOT / "models.toml"
DESCRIBED = (PROJECT, CATALOGUE, ROOT / "LICENSE", ROOT / "README.md")
LEVEL = 9  # of compression: 12 saves 2 % more, and takes five times as long
TIME = "315532800"  # of all files in the wheel: 1980, the first that a .zip knows


def check_host() -> None:
    """Refuse a host without hatchling, before anything is built.

    Raises:
        ZosiaError: it is missing.
    """
    if not importlib.util.find_spec("hatchling"):
        raise ZosiaError("the Python package hatchling is needed and was not found", "Type: ./scripts/bootstrap.sh")


def package() -> list[Path]:
    """Return the files of the package in this clone."""
    return sorted(
        path for pattern in ("*.py", "*.txt", "*.bash", "*.zsh", "*.fish") for path in (ROOT / PACKAGE).rglob(pattern)
    )


def build(*, images: Mapping[str, Path], page: Path, pins: Collection[Pin], target: Path) -> None:
    """Write the wheel; the same input gives the same bytes.

    Args:
        images: kernels and root filesystems, by ARCH/NAME.
        page: folder of the web page.
        pins: the entries of sources.toml that the images were made of.

    Raises:
        ZosiaError: hatchling fails, or there is no room.
    """
    files = {
        **{path.relative_to(ROOT): path for path in (*package(), ROOT / "LICENSE", ROOT / "README.md")},
        PACKAGE / CATALOGUE.name: CATALOGUE,
        **{IMAGES / name: path for name, path in images.items()},
        **{IMAGES / "ui" / path.relative_to(page): path for path in page.rglob("*") if path.is_file()},
    }
    notice = licences.notice(pins, introduction=licences.OF_A_WHEEL)
    texts = {
        Path(PROJECT.name): project(PROJECT.read_text(encoding="utf-8"), expression(pins, page)),
        Path(licences.NAME): notice,
        IMAGES / licences.NAME: notice,
    }
    with temporary_folder() as folder, replacing(target) as temporary:
        check_room(folder, 2 * sum(path.stat().st_size for path in files.values()), target.name)
        for name in (*files, *texts):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            shutil.copyfile(path, folder / name)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        argv = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "dist"]
        run(argv, cwd=folder, env={"SOURCE_DATE_EPOCH": TIME})
        pack(folder / "dist" / target.name, temporary)


class _Whole:
    """Compressor of a file in a .zip, as zipfile has them, of which the bytes don't depend on the host's zlib."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def compress(self, data: bytes) -> bytes:
        """Keep a part."""
        self.parts.append(bytes(data))
        return b""

    def flush(self) -> bytes:
        """Return all of it, compressed."""
        return bytes(deflate.deflate_compress(b"".join(self.parts), LEVEL))


def pack(wheel: Path, target: Path) -> None:
    """Write a copy of a .zip that has the same bytes on each host."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for info in source.infolist():
            plain = zipfile.ZipInfo(info.filename, info.date_time)
            plain.compress_type, plain.external_attr, plain.create_system = info.compress_type, info.external_attr, 3
            with made.open(plain, "w") as file:
                file._compressor = _Whole()  # type: ignore[attr-defined]  # there is no public way
                file.write(source.read(info))


def project(text: str, licence: str) -> str:
    """Return pyproject.toml for a wheel: with the licences of what is only in that.

    Raises:
        ZosiaError: the text has no field that would have to be replaced.
    """
    fields = {
        'license = "MIT"': f'license = "{licence}"',
        'license-files = ["LICENSE"]': f'license-files = ["LICENSE", "{licences.NAME}"]',
    }
    for old, new in fields.items():
        if text.count(f"\n{old}\n") != 1:
            raise ZosiaError(f"{PROJECT.name} should have one line {old}")
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    return text


def expression(pins: Collection[Pin], page: Path) -> str:
    """Return the SPDX expression of everything in a wheel."""
    notice = (page / page_licences.NAME).read_text(encoding="utf-8")
    found = {part.licence for part in licences.parts(pins)} | page_licences.expressions(notice)
    return " AND ".join(sorted(f"({text.strip('()')})" if " OR " in text else text for text in found))
