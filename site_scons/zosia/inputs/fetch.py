"""Fetching of pinned inputs into the cache: from the Python package index, apt, a snapshot archive or a URL.

In the cache: downloads/SHA256/FILE are downloads, sources/NAME-SHA256/ are unpacked sources, apt/ is apt's private
state. Names are digests of contents, so clones and concurrent builds share the cache, and nothing in it gets stale.
(Models are in models/, see model_files.py.)
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import requests

from zosia.base import apt, style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked, sha256
from zosia.base.pip_settings import pip_settings
from zosia.base.process import run
from zosia.inputs import web
from zosia.inputs.archives import extract_tree
from zosia.inputs.catalogue import Pin
from zosia.inputs.download import download, plain


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Verified file in the cache, and its pin, which may be newer than the requested one."""

    pin: Pin
    path: Path


def fetch(pin: Pin, cache: Path) -> Fetched:
    """Return a pinned file, verified, from the cache or its origin.

    Raises:
        ZosiaError: the file is unavailable, or is not the pinned one.
    """
    used = pin
    if pin.origin == "debian" and apt.available() and not place(pin, cache).is_file():
        used = offered_by_apt(pin, cache)
    path = place(used, cache)
    with locked(path.parent):
        if path.is_file():
            if used.size in (0, path.stat().st_size) and sha256(path) == used.sha256:
                return Fetched(pin=replace(used, size=path.stat().st_size), path=path)
            path.unlink()  # damaged in the cache
        bring(used, path, cache)
        return Fetched(pin=replace(used, size=path.stat().st_size), path=path)


def fetch_recorded(pin: Pin, cache: Path) -> Path:
    """Return the file of a pin that `fetch` returned, and no newer one.

    Raises:
        ZosiaError: the file is neither in the cache nor available any more.
    """
    fetched = fetch(pin, cache)
    if fetched.pin.sha256 != pin.sha256:
        raise ZosiaError(
            f"{pin.project} {pin.version} is no longer available; {fetched.pin.version} is",
            f"To use that one, type: rm build/sources/{pin.name}.json",
        )
    return fetched.path


def bring(pin: Pin, path: Path, cache: Path) -> None:
    """Download the file of a pin to `path`, verified; errors as in `fetch`."""
    if pin.origin == "pypi":
        with web.Session() as session:
            download(index_url(pin, session), path, size=pin.size, digest=pin.sha256, session=session)
    elif pin.origin == "debian" and apt.available() and not _fetched_without_apt(pin):
        _download_by_apt(pin, path, cache)
    else:
        download(pin.url or pin.snapshot, path, size=pin.size, digest=pin.sha256)


def place(pin: Pin, cache: Path) -> Path:
    """Return the path of a pin's file in the cache."""
    return cache / "downloads" / pin.sha256 / pin.file


def tree_of(pin: Pin, cache: Path) -> Path:
    """Return the path of a pin's source tree in the cache."""
    return cache / "sources" / f"{pin.name}-{pin.sha256[:16]}"


def source_tree(pin: Pin, cache: Path) -> Path:
    """Unpack the source tree of a pin that `fetch` returned, unless it is in the cache; builds never write to it.

    Raises:
        ZosiaError: the archive is unavailable or damaged.
    """
    tree = tree_of(pin, cache)
    with locked(tree):
        if not tree.is_dir():
            archive = fetch_recorded(pin, cache)
            style.say("UNTAR", pin.file)
            check_room(tree.parent, 12 * pin.size, f"Unpacking {pin.file}")
            extract_tree(archive, pin.member, tree)
    return tree


def index_url(pin: Pin, session: requests.Session) -> str:
    """Return the address of a file in pip's package index; session and errors as those of `index_file`."""
    return index_file(pin, session)[0]


def index_file(pin: Pin, session: requests.Session) -> tuple[str, str]:
    """Return address and SHA-256 of a file in pip's package index; "" for a digest that the index doesn't tell.

    The session gets pip's proxy and certificates.

    Raises:
        ZosiaError: the index is unreachable, or lacks the file.
    """
    import pypi_simple  # imported late: a quarter of a second, for downloads only

    settings = pip_settings()
    index = settings.get("index-url", "")
    session.verify = settings.get("cert", True)
    if "proxy" in settings:
        session.proxies = {"http": settings["proxy"], "https": settings["proxy"]}
    try:
        client = pypi_simple.PyPISimple(index or pypi_simple.PYPI_SIMPLE_ENDPOINT, session=session)
        packages = client.get_project_page(pin.project, timeout=30).packages
    except (OSError, pypi_simple.NoSuchProjectError, pypi_simple.UnsupportedContentTypeError) as error:
        general = "Check the network, or pip's index-url (pip config list)"
        hint = web.hint(error, general) if isinstance(error, OSError) else general
        reason = type(error).__name__ if hint == general else plain(error)
        raise ZosiaError(f"The Python package index could not be queried for {pin.project}: {reason}", hint) from error
    for package in packages:
        if package.filename == pin.file:
            return package.url, package.digests.get("sha256", "")
    raise ZosiaError(f"The Python package index has no {pin.file}", "Check pip's index-url (pip config list)")


def _architecture(pin: Pin) -> str:
    """Return the architecture of a package, in Debian's terms; arm64 for one of all architectures."""
    architecture = pin.file.removesuffix(".deb").rpartition("_")[2]
    return "arm64" if architecture == "all" else architecture


def _package(pin: Pin) -> str:
    """Return the package of a file; if it is not the pin's project, it is a dependency of it."""
    return pin.file.partition("_")[0]


def offered_by_apt(pin: Pin, cache: Path, *, fresh: bool = False) -> Pin:
    """Return the pin with version, size, digest and address of today's signed package lists.

    With `fresh`, older lists that are here won't do. apt uses these where it can't fetch or verify others.

    Raises:
        ZosiaError: apt does not offer the package.
    """
    with locked(cache / "apt"):
        options = apt.options(cache / "apt", _architecture(pin))
        update = run(["apt-get", *options, "update"], check=False)
        trouble = re.search(r"^(?:W|E|Err):.*", update.stdout + update.stderr, re.MULTILINE)
        if fresh and (trouble or update.returncode != 0):
            why = trouble[0] if trouble else f"status {update.returncode}"
            raise ZosiaError(f"Debian's lists could not be brought up to date ({why})", "Check the network")
        package = _package(pin)
        if package != pin.project:
            depends = run(["apt-cache", *options, "depends", pin.project], check=False).stdout
            found = re.search(r"^ +Depends: ([\w.+-]+)$", depends, re.MULTILINE)
            package = found[1] if found else pin.project  # apt then reports the error
        # It prints nothing for a file that exists in the current folder, so it runs in a folder without packages.
        asked = run(["apt-get", *options, "download", "--print-uris", package], cwd=cache / "apt", check=False)
    for line in asked.stdout.splitlines():
        words = shlex.split(line) if line.startswith("'") else []
        if len(words) == 4 and words[3].startswith("SHA256:"):
            version = words[1].split("_")[1].replace("%3a", ":")
            digest = words[3].removeprefix("SHA256:")
            return replace(pin, version=version, file=words[1], size=int(words[2]), sha256=digest, url=words[0])
    reason = apt.reason([done.stdout + done.stderr for done in (update, asked)])
    raise ZosiaError(
        f"apt does not offer {pin.project} of Debian 13 for {_architecture(pin)} ({reason})",
        "Check the network, and that this host's mirror of Debian has Debian 13; or set KERNEL= and BUSYBOX=",
    )


def _fetched_without_apt(pin: Pin) -> bool:
    """Return True if a file of apt's has a plain address, for `download`, which resumes where apt would start over.

    Either way the digest is that of apt's signed lists.
    """
    proxy = re.search(r'(?i)::Proxy[^"\n]* "[^"]+"', run(["apt-config", "dump", "Acquire"]).stdout)
    return pin.url.startswith(("http://", "https://")) and proxy is None


def _download_by_apt(pin: Pin, path: Path, cache: Path) -> None:
    """Let apt download the file of a pin, with its own proxies and transports."""
    # apt writes under the final name from the first byte on, so it gets a folder of its own.
    part = path.parent / "partial" / path.name
    part.parent.mkdir(parents=True, exist_ok=True)
    check_room(part.parent, pin.size, pin.file)
    style.say("FETCH", f"{pin.file} (apt)")
    quiet = [] if sys.stderr.isatty() else ["-qq"]
    options = apt.options(cache / "apt", _architecture(pin))
    words = ["apt-get", *options, *quiet, "download", f"{_package(pin)}={pin.version}"]
    done = run(words, cwd=part.parent, shown=True, check=False)
    if done.returncode != 0 or not part.is_file():
        raise ZosiaError(f"apt could not download {pin.project} {pin.version}", "Check the network and run it again")
    if sha256(part) != pin.sha256:
        part.unlink()
        raise ZosiaError(f"{pin.file} from apt does not match its package list", "Run it again")
    part.replace(path)
