"""Record beside an image, NAME.json: stands for it in SCons, which would read gigabytes to see if they changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dacite

from zosia.base.files import replacing
from zosia.inputs.catalogue import frozen
from zosia.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Record:
    """Facts about an image. An ISO has only its size and time.

    Attributes:
        content: cache key of the image: text that changes when its inputs do.
        made_of: all that decides the image's bytes, and not only the model.
        sha256: digest of the model's parts, one after the other.
        weights: bytes of the model's parts.
        shape: of the model.
        root: digest of the image's hash tree (verity.py), "" for one that was made without.
        size: of the image, in bytes.
        mtime_ns: when the image was written.
    """

    content: str = ""
    made_of: str = ""
    sha256: str = ""
    weights: int = 0
    shape: Shape | None = None
    root: str = ""
    size: int
    mtime_ns: int


def path_of(image: Path) -> Path:
    """Return the path of an image's record."""
    return image.with_name(f"{image.name}.json")


def write(image: Path, **facts: Any) -> None:
    """Write the record of an image that is there; `facts` are fields of Record."""
    stat = image.stat()
    record = Record(**facts, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    with replacing(path_of(image)) as temporary:
        temporary.write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")


def read(image: Path) -> Record | None:
    """Return the record of an image; None if it is missing, damaged, or of a zosia with other fields."""
    try:
        written = frozen(json.loads(path_of(image).read_text(encoding="utf-8")))
        return dacite.from_dict(Record, written, dacite.Config(strict=True))
    except (OSError, ValueError, TypeError, AttributeError, dacite.DaciteError):  # among these: no JSON, no object
        return None


def read_current(image: Path) -> Record | None:
    """Return the record of an image; None also if the image is missing, or has changed since it was written."""
    try:
        stat = image.stat()
    except OSError:
        return None
    record = read(image)
    return record if record and (record.size, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns) else None
