"""Lists of digests that a maintainer has signed with OpenPGP: kernel.org's and Buildroot's.

gpg verifies them, by the keys that its user has, and the fingerprint here says which of these it has to be.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.process import run
from zosia.inputs import web
from zosia.inputs.catalogue import Pin
from zosia.inputs.download import plain, shown

TIMEOUT = (15, 60)  # seconds: to connect, and between two bytes


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Signer of the releases of an input.

    Attributes:
        releases: address of a page with the names of all releases, in the folder of the input; "" for the list itself.
        digests: address of the signed list, in that folder; {file} is the release.
        key: fingerprint of the primary key.
        get: command that gets the key.
    """

    releases: str = ""
    digests: str
    key: str
    get: str


SIGNERS = {
    # kernel.org/signature.html: the autosigner of the checksums
    "linux-upstream": Signer(
        digests="sha256sums.asc",
        key="B8868C80BA62A1FFFAF5FDA9632D3A06589DA6B1",
        get="gpg --locate-keys autosigner@kernel.org",
    ),
    # buildroot.org/download.html: Peter Korsgaard, who makes the releases
    "buildroot": Signer(
        releases="./",
        digests="{file}.sign",
        key="AB07D806D2CE741FB886EE50B025BA8B59C36319",
        get="gpg --recv-keys AB07D806D2CE741FB886EE50B025BA8B59C36319",
    ),
}


def versions(pin: Pin, text: str) -> list[str]:
    """Return the versions of the pin's series that a text has files of, the newest last.

    A series is all of a version but its last number: 6.12 of 6.12.104, and 2026.02 of 2026.02.3.
    """
    series, _, _ = pin.version.rpartition(".")
    before, after = pin.file.split(pin.version, 1)
    found = re.findall(rf"{re.escape(before + series)}\.(\d+){re.escape(after)}(?![\w.])", text)
    return [f"{series}.{number}" for number in sorted(set(map(int, found)))]


def newest(pin: Pin) -> str:
    """Return the newest version of the pin's series; it is a hint until its digest is verified.

    Raises:
        ZosiaError: its server can't be reached, or has none.
    """
    signer = _signer(pin)
    known = versions(pin, _get(_beside(pin, signer.releases or signer.digests)))
    if not known:
        raise ZosiaError(f"{shown(pin.url)} has no other releases beside it", "Look at its makers' page")
    return known[-1]


def digest(pin: Pin) -> str:
    """Return the SHA-256 of the pin's file as its makers have signed it.

    Raises:
        ZosiaError: there is no such list, or it is not signed by their key.
    """
    signer = _signer(pin)
    address = _beside(pin, signer.digests.format(file=pin.file))
    text = verified(_get(address), signer, address)
    found = re.findall(rf"^(?:SHA256: +)?([0-9a-f]{{64}}) +{re.escape(pin.file)}$", text, re.MULTILINE)
    if len(set(found)) != 1:
        raise ZosiaError(f"{shown(address)} has no one SHA-256 of {pin.file}", "Nothing is written")
    return str(found[0])


def verified(text: str, signer: Signer, address: str) -> str:
    """Return the part of a text that the signer has signed.

    Raises:
        ZosiaError: it is not signed, not by that key, or the key is not here.
    """
    own = {name: os.environ[name] for name in ("GNUPGHOME",) if name in os.environ}
    with temporary_folder() as folder:
        given, signed = folder / "given", folder / "signed"
        given.write_text(text, encoding="utf-8")
        words: list[str | Path] = ["gpg", "--batch", "--status-fd", "1", "--output", signed, "--decrypt", given]
        done = run(words, env=own, check=False)
        said = re.findall(r"^\[GNUPG:\] (\w+)(?: (.*))?$", done.stdout, re.MULTILINE)
        keys = [rest.split()[-1] for word, rest in said if word == "VALIDSIG"]
        good = [word for word, _ in said].count("GOODSIG") == 1  # of a key that has neither expired nor been revoked
        if done.returncode == 0 and good and keys == [signer.key] and signed.is_file():
            return signed.read_text(encoding="utf-8")
    if any(word == "NO_PUBKEY" for word, _ in said) and not keys:
        raise ZosiaError(
            f"gpg can't verify {shown(address)}, because it has no key of its signer",
            f"Type: {signer.get}; its fingerprint has to be {signer.key}",
        )
    raise ZosiaError(f"{shown(address)} is not signed by {signer.key}", "Nothing is written")


def _signer(pin: Pin) -> Signer:
    if pin.name not in SIGNERS:
        raise ZosiaError(f"{pin.name} has no signed list of releases", "Look at its makers' page, and write the pin")
    return SIGNERS[pin.name]


def _beside(pin: Pin, name: str) -> str:
    return urljoin(pin.url, name)


def _get(address: str) -> str:
    try:
        with web.Session() as session, session.get(address, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            return answer.content.decode()
    except (OSError, ValueError) as error:
        hint = web.hint(error, "Check the network") if isinstance(error, OSError) else "Check the network"
        raise ZosiaError(f"{shown(address)} could not be fetched: {plain(error)}", hint) from error
