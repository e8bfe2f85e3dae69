"""Signatures of files by keys of OpenSSH, as `ssh-keygen -Y sign` makes them.

The system's own `ssh-keygen` checks them, so that who trusts that needn't trust code of ours. What is read here of a
signature (PROTOCOL.sshsig in OpenSSH's sources) only goes into messages, and decides nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from zosia.base.files import temporary_folder
from zosia.base.process import find, run

MAGIC = b"SSHSIG"
ARMOUR = re.compile(rb"\s*-----BEGIN SSH SIGNATURE-----\s+([A-Za-z0-9+/=\s]+?)-----END SSH SIGNATURE-----\s*")
SIGNER = "signer"  # stands for whoever has a key: which keys are trusted is decided by the keys


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Content of a signature: the fingerprint of the key that it says it is of, and its namespace."""

    key: str
    namespace: str


def fingerprint(key: bytes) -> str:
    """Return the fingerprint of a public key, as ssh-keygen shows it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def read(text: bytes) -> Signature:
    """Return what a signature says of itself.

    Raises:
        ValueError: it is no signature of OpenSSH.
    """
    found = ARMOUR.fullmatch(text)
    if not found:
        raise ValueError("no signature of OpenSSH")
    blob = base64.b64decode(found[1])
    if not blob.startswith(MAGIC):
        raise ValueError("no signature of OpenSSH")
    key, rest = _string(blob[len(MAGIC) + 4 :])  # behind the version
    namespace, _ = _string(rest)
    return Signature(key=fingerprint(key), namespace=namespace.decode(errors="replace"))


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Return a string of the SSH protocol (RFC 4251, section 5), and what is behind it."""
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size:
        raise ValueError("it is cut off")
    return data[4 : 4 + size], data[4 + size :]


def verified(content: bytes, signature: bytes, keys: list[str], *, namespace: str) -> bool:
    """Return whether one of the keys has signed the content for this namespace.

    Args:
        keys: public keys, each as type and base64.

    Raises:
        ZosiaError: there is no ssh-keygen.
    """
    find("ssh-keygen")
    with temporary_folder() as folder:
        text, signed, signers = folder / "text", folder / "text.sig", folder / "allowed_signers"
        text.write_bytes(content)
        signed.write_bytes(signature)
        signers.write_text("".join(f"{SIGNER} {key}\n" for key in keys), encoding="utf-8")
        return _verify(text, signed, signers, namespace)


def _verify(text: Path, signed: Path, signers: Path, namespace: str) -> bool:
    words: list[str | Path] = ["ssh-keygen", "-Y", "verify", "-q", "-f", signers, "-I", SIGNER, "-n", namespace]
    return run([*words, "-s", signed], check=False, given=text).returncode == 0
