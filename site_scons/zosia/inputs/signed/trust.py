"""Public keys whose signatures are trusted: zosia's own, and those that this user has named.

Both are files as ssh-keygen takes them (allowed signers, ssh-keygen(1)): `allowed_signers` beside models.toml, and one
in the platform's folder for settings.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from pathlib import Path

import platformdirs

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import locked, replacing
from zosia.base.places import ROOT
from zosia.inputs.signed.signatures import fingerprint

NAMESPACE = "zosia-catalogue"
OWN = ROOT / "allowed_signers"
# ssh-dss is missing, which OpenSSH no longer has, and so are certificates, which others than their owner vouch for.
KEY = re.compile(
    r"((?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-(?:ssh|ecdsa)-[\w.@-]+) [A-Za-z0-9+/]+={0,2})(?: (.*))?"
)
SIGNERS = re.compile(rf"(?:\S+ )(?:namespaces=\"(?P<spaces>[^\"]*)\" )?{KEY.pattern}")


def place() -> Path:
    """Return the path of the file of the keys that this user trusts."""
    return platformdirs.user_config_path("zosia") / "allowed_signers"


def keys() -> dict[str, str]:
    """Return the trusted keys, as type and base64, by fingerprint.

    Raises:
        ZosiaError: a line has more than a key and its namespaces, such as an end of its validity, which is not obeyed.
    """
    found: dict[str, str] = {}
    for path in (OWN, place()):
        lines = _text(path).splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            signer = SIGNERS.fullmatch(line)
            name = _fingerprint(signer[2]) if signer else ""
            if not signer or not name:
                raise ZosiaError(f"{path}, line {number}: no key, or one with options", "Remove that line")
            if NAMESPACE in (signer["spaces"] or NAMESPACE).split(","):
                found[name] = signer[2]
    return found


def _text(path: Path) -> str:
    """Return the text of a file of keys, "" if there is none; what is no UTF-8, as in a comment, stays as it is."""
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""


def _fingerprint(key: str) -> str:
    kind, encoded = key.split()
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return ""
    named = len(kind).to_bytes(4, "big") + kind.encode()  # the key begins with its own type
    return fingerprint(blob) if blob.startswith(named) else ""


def trust(path: Path) -> str:
    """Trust catalogues that a public key's owner has signed, and return a line that says so.

    Raises:
        ZosiaError: the file is no public key.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size < 1 << 16 else ""
    except UnicodeDecodeError:
        text = ""
    if "PRIVATE KEY" in text:
        raise ZosiaError(
            f"{path} is a private key, which nobody but its owner may have",
            f"Give its public half: scons trust FILE={shlex.quote(f'{path}.pub')}",
        )
    found = KEY.fullmatch(text.strip())
    name = _fingerprint(found[1]) if found else ""
    if not found or not name:
        raise ZosiaError(f"{path} is no public key of OpenSSH", "Give a file such as id_ed25519.pub, of one line")
    said = f"{name} ({found[2]})" if found[2] else name
    if name in keys():
        return style.line("TRUST", f"{said} is trusted already")
    signers = place()
    with locked(signers), replacing(signers) as temporary:
        before = _text(signers)
        if before and not before.endswith("\n"):  # by an editor; two keys in a line are one
            before += "\n"
        comment = " ".join(re.findall(r"[\w.@+-]+", found[2] or ""))
        line = f'signer namespaces="{NAMESPACE}" {found[1]} {comment}'.rstrip()
        temporary.write_text(f"{before}{line}\n", encoding="utf-8", errors="surrogateescape")
    return style.line("TRUST", f"{said} may sign catalogues from now on. To end that, remove its line in {signers}")
