"""Check of an installed zosia: its files are those of its wheel, by the digests that pip keeps (RECORD)."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from zosia.base.places import repair
from zosia.doctor.findings import Finding, fail, ok

SHOWN = 3  # names in a line


def unchanged(package: str, top: Path) -> Iterator[Finding]:
    """Check the files of a package below `top`, kernels and initramfs too; nothing is known of a bare copy of it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return
    known = {Path(str(file.locate())): file.hash for file in files if file.hash and file.hash.mode == "sha256"}
    own = {path: digest.value for path, digest in known.items() if path.is_relative_to(top)}
    changed = [str(path.relative_to(top)) for path, digest in own.items() if _digest(path) != digest]
    if changed:
        others = ", …" if len(changed) > SHOWN else ""
        names = ", ".join(sorted(changed)[:SHOWN])
        yield fail(f"{top}: not what its wheel has: {names}{others}. {repair()}")
    elif own:
        yield ok(f"the {len(own)} files of zosia are those of its wheel")


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file as RECORD has it; "" for one that is gone."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
