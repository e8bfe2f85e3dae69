"""Catalogue from elsewhere: a models.toml at an address or in a file, with its signature in NAME.sig beside it.

Nothing of it is read before its signature is verified. In the data folder, catalogues/seen.json has the newest edition
that was seen of each, so that no older one is taken for it, and catalogues/ADDRESS.json the copy of one from the web.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs
import requests
import urllib3

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import explained, locked, replacing
from zosia.inputs import catalogue, web
from zosia.inputs.catalogue import Model
from zosia.inputs.download import plain, shown
from zosia.inputs.signed import signatures, trust

MOST = 1 << 20  # bytes of a catalogue
TIMEOUT = (10, 10)  # seconds: to connect, and between two bytes
PATIENCE = 30.0  # seconds for a file
FRESH = 3600.0  # seconds in which a copy is as good as its original
SIGNING = f"ssh-keygen -Y sign -n {trust.NAMESPACE} -f KEY FILE"
PLACE = "Give the path or the https address of a catalogue"
PUBLISHER = "Nothing of it is used; ask who publishes it"


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A catalogue as it is published, and its signature."""

    text: str
    signature: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Models of a verified catalogue, and its `title` for people."""

    title: str
    models: dict[str, Model]


def read(address: str, start: Path, *, dry_run: bool = False) -> Elsewhere:
    """Return a catalogue from an address or a file; a dry run takes one that was verified before, and starts nothing.

    Raises:
        ZosiaError: it can't be had, is not signed by a trusted key, is an older edition than one that was seen, or has
            what no catalogue has.
    """
    try:
        from_web = urlsplit(address).scheme in ("http", "https")
        path = Path() if from_web else start / Path(address).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ZosiaError(f"CATALOGUE={shown(address)} can't be read: {error}", PLACE) from error
    signed = _from_web(address, dry_run=dry_run) if from_web else _from_file(path)
    key = _known_key(address, signed) if dry_run else _verified_key(address, signed)
    tables = _tables(address, signed)
    models = catalogue.entries(
        tables, Model, catalogue.EDITION, where=shown(address), hint=f"{PUBLISHER}, or try a newer zosia"
    )
    for name, model in models.items():
        if not all(part.sha256 and part.size for part in model.files):
            raise ZosiaError(f"{shown(address)}, entry [{name}]: size or sha256 is missing", PUBLISHER)
    if not models:
        raise ZosiaError(f"{shown(address)} has no models", PUBLISHER)
    if not dry_run:
        _remember(address, key, tables, signed)
        if from_web:
            _keep(address, signed)
    return Elsewhere(title=f"{tables['catalogue']} {tables['serial']}, signed by {key}", models=models)


def _verified_key(address: str, signed: Signed) -> str:
    """Return the fingerprint of the trusted key that has signed a catalogue."""
    name = shown(address)
    try:
        claimed = signatures.read(signed.signature.encode())
    except ValueError as error:
        raise ZosiaError(f"{name}.sig is no signature of OpenSSH", f"It is made by: {SIGNING}") from error
    if claimed.namespace != trust.NAMESPACE:
        wrong = f"{name} is signed for {claimed.namespace!r} and not for {trust.NAMESPACE}"
        raise ZosiaError(wrong, f"It is signed by: {SIGNING}")
    keys = trust.keys()
    if claimed.key not in keys:
        none = "a key that you don't trust" if keys else "and no key is trusted yet"
        hint = "If that is the key of who publishes it, type: scons trust FILE=KEY.pub"
        raise ZosiaError(f"{name} is signed by {claimed.key}, {none}", hint)
    own = [keys[claimed.key]]
    if not signatures.verified(signed.text.encode(), signed.signature.encode(), own, namespace=trust.NAMESPACE):
        raise ZosiaError(f"{name} is not what {claimed.key} has signed: it was changed, or is damaged", PUBLISHER)
    return claimed.key


def _known_key(address: str, signed: Signed) -> str:
    """Return the fingerprint of the key that has signed a catalogue, as it was verified by an earlier run."""
    keys = trust.keys()
    for edition, seen in _seen().items():
        key = edition.split(" ")[0]
        if seen["sha256"] == signed.sha256 and key in keys:
            return key
    raise _unverified(address)


def _unverified(address: str) -> ZosiaError:
    return ZosiaError(
        f"CATALOGUE={shown(address)} was not verified yet", f"Type: scons models CATALOGUE={shlex.quote(address)}"
    )


def _tables(address: str, signed: Signed) -> dict[str, Any]:
    """Return what a verified catalogue has; its name and its serial number are there."""
    try:
        tables = tomllib.loads(signed.text)
    except ValueError as error:
        raise ZosiaError(f"{shown(address)} can't be read: {error}", PUBLISHER) from error
    name, serial = (tables.get(field) for field in catalogue.EDITION)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise ZosiaError(f'{shown(address)} doesn\'t say which catalogue it is: catalogue = "NAME"', PUBLISHER)
    if type(serial) is not int or serial < 1:
        raise ZosiaError(f"{shown(address)} doesn't say which edition it is: serial = NUMBER", PUBLISHER)
    return tables


def _folder() -> Path:
    return platformdirs.user_data_path("zosia") / "catalogues"


def _seen() -> dict[str, Any]:
    """Return serial number and SHA-256 of the newest edition of each catalogue, by the signer's key and its name."""
    path = _folder() / "seen.json"
    try:
        seen = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {str(name): {"serial": int(of["serial"]), "sha256": str(of["sha256"])} for name, of in seen.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = f"To forget which editions were seen, type: rm {shlex.quote(str(path))}"
        raise ZosiaError(f"{path} is damaged", hint) from error


def _remember(address: str, key: str, tables: dict[str, Any], signed: Signed) -> None:
    """Remember the edition of a catalogue; refuse one that is older than the newest, or another of the same number."""
    path, edition = _folder() / "seen.json", f"{key} {tables['catalogue']}"
    now = {"serial": tables["serial"], "sha256": signed.sha256}
    with locked(path):
        seen = _seen()
        last = seen.get(edition, now)
        if now["serial"] < last["serial"]:
            raise ZosiaError(
                f"{shown(address)} is an old edition of {tables['catalogue']}: its serial is {now['serial']}, and "
                f"{last['serial']} was seen before",
                f"{PUBLISHER} for the newest one",
            )
        if now["serial"] == last["serial"] and now != last:
            raise ZosiaError(
                f"{shown(address)} has the serial {now['serial']} of {tables['catalogue']}, and other contents than "
                "the one with that number that was seen before",
                f"{PUBLISHER} for one with a serial of its own",
            )
        if seen.get(edition) != now:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({**seen, edition: now}, indent=2) + "\n", encoding="utf-8")


def _from_file(path: Path) -> Signed:
    signature = path.with_name(f"{path.name}.sig")
    if not path.is_file():
        raise ZosiaError(f"CATALOGUE={path} is no file", PLACE)
    if not signature.is_file():
        raise ZosiaError(f"{path} is not signed: there is no {signature.name} beside it", f"It is signed by: {SIGNING}")
    try:
        return Signed(text=_text(path.read_bytes(), str(path)), signature=_text(signature.read_bytes(), str(signature)))
    except OSError as error:
        raise explained(error) from error


def _text(content: bytes, name: str) -> str:
    try:
        if len(content) <= MOST:
            return content.decode()
    except UnicodeDecodeError:
        pass
    raise ZosiaError(f"{shown(name)} is no catalogue: it is no UTF-8 text of at most {MOST >> 20} MiB", PUBLISHER)


def _copy(address: str) -> Path:
    return _folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.json"


def _keep(address: str, signed: Signed) -> None:
    kept = _copy(address)
    if _kept(kept) != signed:
        with locked(kept), replacing(kept) as temporary:
            temporary.write_text(json.dumps(asdict(signed)) + "\n", encoding="utf-8")
    elif not _is_fresh(kept):
        kept.touch()  # its server is asked again in an hour, also if it could not be reached


def _kept(path: Path) -> Signed | None:
    """Return a copy, if there is one of which an earlier run has verified these bytes."""
    try:
        copy = Signed(**json.loads(path.read_text(encoding="utf-8")))
        return copy if any(seen["sha256"] == copy.sha256 for seen in _seen().values()) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _is_fresh(copy: Path) -> bool:
    """Return whether a copy was made, or its server was asked, within the hour; not if the clock was set back since."""
    return 0 <= time.time() - copy.stat().st_mtime < FRESH


def _from_web(address: str, *, dry_run: bool) -> Signed:
    """Return a catalogue from its server, or the copy of it: for an hour, and where the server can't be reached."""
    path = _copy(address)
    copy = _kept(path)
    if copy and (dry_run or _is_fresh(path)):
        return copy
    if dry_run:
        raise _unverified(address)
    parts = urlsplit(address)
    signature = parts._replace(path=f"{parts.path}.sig").geturl()
    try:
        with web.Session() as session:
            text = _get(session, address)
            if text is None:
                raise ZosiaError(f"{shown(address)} could not be fetched: HTTP status 404", "Check the address")
            signed = _get(session, signature)
    except OSError as error:  # requests' errors are of this kind
        if copy:
            style.say("NOTE", f"{shown(address)} can't be reached ({plain(error)}); its copy is used")
            return copy
        hint = web.hint(error, "Check the address and the network")
        raise ZosiaError(f"{shown(address)} could not be fetched: {plain(error)}", hint) from error
    if signed is None:
        raise ZosiaError(f"{shown(address)} is not signed: the server has no .sig of it", f"It is signed by: {SIGNING}")
    return Signed(text=_text(text, address), signature=_text(signed, signature))


def _get(session: requests.Session, url: str) -> bytes | None:
    """Return what an address has, None where there is nothing.

    Raises:
        OSError: the server can't be reached, or is too slow.
    """
    until, content = time.monotonic() + PATIENCE, b""
    with session.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as answer:
        if answer.status_code in (404, 410):
            return None
        answer.raise_for_status()
        while len(content) <= MOST:
            try:
                piece: bytes = answer.raw.read1(1 << 16, decode_content=True)
            except urllib3.exceptions.HTTPError as error:
                raise requests.ConnectionError(error) from error
            if not piece:
                break
            content += piece
            if time.monotonic() > until:
                raise requests.ConnectionError("timed out")
        return content
