"""Debian's source packages of an image's GPL and LGPL parts, to distribute with the image.

    python -m zosia_build.release.source_packages FOLDER RECORD...

writes them, and the licences, to the folder; a record is a build/sources/NAME.json.
"""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from zosia.base import apt, style
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root, replacing, temporary_folder
from zosia.base.process import run
from zosia.base.version import ROOT, VERSION
from zosia.inputs import fetch
from zosia.inputs.catalogue import Pin, read_record
from zosia_build.release import licences

LINUX = "linux"  # its entry in sources.toml is a package of the source


def wanted(pins: Collection[Pin], cache: Path) -> set[tuple[str, str]]:
    """Return name and version of the source packages of the pins; a package may have several versions.

    The field Built-Using of a package names the other packages that it contains.
    """
    packages: set[tuple[str, str]] = set()
    for part in licences.PARTS:
        for pin in licences.used(part, pins) if part.source else ():
            packages.add((part.source, licences.source_version(pin)))
            deb = fetch.fetch_recorded(pin, cache)
            packages |= _built_using(run(["dpkg-deb", "-f", deb, "Built-Using"]).stdout)
    return packages


def _built_using(field: str) -> set[tuple[str, str]]:
    return set(re.findall(r"([a-z0-9][a-z0-9+.-]+) \(= ([^)]+)\)", field))


def write(pins: Collection[Pin], folder: Path, cache: Path) -> Path:
    """Write zosia-VERSION-sources.tar to the folder: Debian's source packages, and zosia's own as git has it.

    The same versions give the same bytes.

    Raises:
        ZosiaError: the host is no Debian, this is no clone or a changed one, or a package is no longer available.
    """
    if not apt.available():
        raise ZosiaError("Source packages need Debian's apt, and this is another system", "Use Debian")
    if changed := run(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"]).stdout.split("\n")[0]:
        what = f"{changed[3:]} differs from what git has, and the archive would lack the change"
        raise ZosiaError(what, "Type: git stash; or commit it, and build again")
    target = folder / licences.SOURCES
    with tempfile.TemporaryDirectory(prefix="zosia.", dir=folder) as name, replacing(target) as temporary:
        packages = wanted(pins, cache)
        for pin in pins:
            own = (LINUX, licences.source_version(pin))
            if pin.name == LINUX and own in packages:
                shutil.copyfile(fetch.fetch_recorded(pin, cache), Path(name, pin.file))
                packages.remove(own)
        _download(packages, Path(name))
        tree = Path(name, f"zosia-{VERSION}.tar")
        run(["git", "-C", ROOT, "archive", f"--prefix=zosia-{VERSION}/", "-o", tree, "HEAD"])
        _pack(sorted(Path(name).iterdir()), temporary)
    return target


def _download(packages: Collection[tuple[str, str]], folder: Path) -> None:
    """Let apt download and verify source packages, from the mirrors of its binary packages."""
    with temporary_folder() as scratch:
        options = apt.options(scratch, "arm64", kind="deb-src")
        run(["apt-get", *options, "update"])
        for package, version in sorted(packages):
            style.say("FETCH", f"{package} {version} (source, apt)")
            words = ["apt-get", *options, "-q", "source", "--download-only", f"{package}={version}"]
            done = run(words, cwd=folder, check=False)
            if done.returncode != 0:
                raise ZosiaError(
                    f"Debian's mirrors have no source of {package} {version}",
                    f"Rebuild with the current version; this one is at https://snapshot.debian.org/package/{package}/",
                )


def _pack(files: Iterable[Path], target: Path) -> None:
    """Write a tar file that depends on names and contents only."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in files:
            entry = tarfile.TarInfo(f"zosia-{VERSION}-sources/{path.name}")
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)


def main(*arguments: Path) -> None:
    """Write source packages and licences.

    Raises:
        ZosiaError: the folder or the records are missing from the arguments.
    """
    if len(arguments) < 2:
        raise ZosiaError("A folder and records are needed", "Type: ./scripts/make-sources.sh FOLDER")
    folder, *records = arguments
    pins = [read_record(record) for record in records]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / licences.NAME).write_text(licences.notice(pins), encoding="utf-8")
    style.say("TAR", write(pins, folder, cache_root()))


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except (ZosiaError, OSError) as error:
        sys.exit(style.error(error))
