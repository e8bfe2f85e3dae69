"""Initramfs of the guest: manifests, scripts, built programs and generated tables in one archive."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.version import ROOT, VERSION
from zosia.machine import status
from zosia_build import cpio, llama

FOLDER = ROOT / "initramfs"
TYPES = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "slink": stat.S_IFLNK, "nod": stat.S_IFCHR}
USAGE = {
    "dir": "dir PATH MODE",
    "file": "file PATH SOURCE MODE",
    "slink": "slink PATH TARGET",
    "nod": "nod PATH MODE c MAJOR MINOR",
}


def read_manifest(text: str, contents: Mapping[str, bytes]) -> Iterator[cpio.Entry]:
    """Yield the entries that a manifest lists.

    The manifest is written as for the kernel's usr/gen_init_cpio, less the owner, which is always root. A SOURCE is a
    name in `contents`.

    Raises:
        ZosiaError: a line is invalid.
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


def build(
    *,
    arch: str,
    contents: Mapping[str, bytes],
    target: Path,
    kinds: Iterable[str] = (),
    level: int = 0,
    appended: bytes = b"",
) -> None:
    """Write the guest's initramfs.

    The same input gives the same bytes wherever it is built.

    Args:
        contents: what was built: `busybox`, a `llama-cli-LEVEL` for each level, `llama-version`, and the programs of
            `kinds`. They replace files of the same name in the folder initramfs/ and generated tables.
        kinds: further manifests, such as `iso` or `serve`.
        level: compression, as in `cpio.write_gz`.
        appended: a further archive, such as that of a distribution's modules.

    Raises:
        ZosiaError: busybox is not a static program for `arch`, or a manifest is invalid.
    """
    if fault := llama.elf_fault(contents["busybox"], machine=llama.MACHINES[arch]):
        raise ZosiaError(f"The busybox for the guest {fault}", f"Set BUSYBOX= to a static busybox for {arch}")
    names = ("manifest", *(f"manifest-{kind}" for kind in (arch, *kinds)))
    manifest = "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
    scripts = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    tables = {"status": status.shell_table(), "levels": llama.levels_table(arch), "version": f"{VERSION}\n"}
    generated = {name: text.encode() for name, text in tables.items()}
    entries = read_manifest(manifest, {**scripts, **generated, **contents})
    cpio.write_gz(entries, target, level=level, appended=appended)
