"""From a manifest to initramfs.cpio.gz."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia_build import cpio

TYPES = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "slink": stat.S_IFLNK, "nod": stat.S_IFCHR}
USAGE = {
    "dir": "dir PATH MODE",
    "file": "file PATH SOURCE MODE",
    "slink": "slink PATH TARGET",
    "nod": "nod PATH MODE c MAJOR MINOR",
}


def read_manifest(text: str, contents: Mapping[str, bytes]) -> Iterator[cpio.Entry]:
    """The entries that a manifest lists.

    The manifest is written as for the kernel's usr/gen_init_cpio, less the owner, which is always root. A SOURCE is a
    name in `contents`.

    Raises:
        ZosiaError: a line is not understood.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            yield _entry(words, contents)
        except (ValueError, KeyError) as error:
            wanted = USAGE.get(words[0], " or ".join(USAGE.values()))
            raise ZosiaError(f"initramfs manifest, line {number}: {line.strip()!r} should be: {wanted}") from error


def _entry(words: list[str], contents: Mapping[str, bytes]) -> cpio.Entry:
    kind, path, *rest = words
    name, form = path.removeprefix("/"), TYPES[kind]
    match kind, rest:
        case "dir", [mode]:
            return cpio.Entry(name=name, mode=form | int(mode, 8))
        case "file", [source, mode]:
            return cpio.Entry(name=name, mode=form | int(mode, 8), data=contents[source])
        case "slink", [target]:
            return cpio.Entry(name=name, mode=form | 0o777, data=target.encode())
        case "nod", [mode, "c", major, minor]:
            return cpio.Entry(name=name, mode=form | int(mode, 8), device=(int(major), int(minor)))
    raise ValueError(kind)


def build(*, manifest: str, contents: Mapping[str, bytes], target: Path, level: int = 0, appended: bytes = b"") -> None:
    """Write the archive, and behind it a further one, such as that of a distribution's modules.

    The same input gives the same bytes wherever it is built. `level` is as in `cpio.write_gz`.
    """
    cpio.write_gz(read_manifest(manifest, contents), target, level=level, appended=appended)
