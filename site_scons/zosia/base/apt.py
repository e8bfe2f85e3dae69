"""Debian 13's packages, through the apt of a Debian of any release, in a state of its own.

Every such host gets the same versions, and the host's own apt, its lists and its pins stay as they are.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.base.process import run

RELEASE = "trixie"  # Debian 13
KEYS = tuple(Path("/usr/share/keyrings", f"debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg"))
MAIN, SECURITY = "Debian", "Debian-Security"  # labels of its archives
SUITES = {MAIN: f"{RELEASE} {RELEASE}-updates", SECURITY: f"{RELEASE}-security"}
TARGET = "$(LABEL)|$(REPO_URI)"  # apt-get indextargets(8)


def available() -> bool:
    """Return True on a Debian with apt and the keys to verify packages with."""
    try:
        debian = platform.freedesktop_os_release().get("ID") == "debian"
    except OSError:
        return False
    return debian and shutil.which("apt-get") is not None and any(keys.is_file() for keys in KEYS)


def options(state: Path, architecture: str, *, kind: str = "deb") -> list[str]:
    """Return the options for Debian 13's packages of an architecture, and write their list of sources to `state`.

    Args:
        kind: deb, or deb-src for source packages.

    Raises:
        ZosiaError: the host's apt names no mirror of Debian.
    """
    (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    keys = next(keys for keys in KEYS if keys.is_file())
    sources = state / f"{kind}.sources"
    with replacing(sources) as temporary:  # sources.list(5), "deb822"
        stanzas = (
            f"Types: {kind}\nURIs: {address}\nSuites: {SUITES[label]}\nComponents: main\nSigned-By: {keys}\n"
            for label, address in mirrors(state).items()
        )
        temporary.write_text("\n".join(stanzas), encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Default-Release": "",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    return [*_private(state, "lists"), *_words(settings)]


def mirrors(state: Path) -> dict[str, str]:
    """Return the addresses of the host's mirrors of Debian, by label.

    They are known once there are lists: where the host has none, `state` gets them.

    Raises:
        ZosiaError: the host's apt names no mirror of Debian.
    """
    own, said = _private(state, "host-lists"), ""
    found = _mirrors([]) or _mirrors(own)
    if not found:
        done = run(["apt-get", *own, "update"], check=False)
        found, said = _mirrors(own), done.stdout + done.stderr
    if MAIN not in found:
        raise ZosiaError(
            f"apt names no mirror of Debian ({reason([said])})",
            "Check the network and /etc/apt/sources.list.d, then type: sudo apt-get update",
        )
    return {MAIN: found[MAIN], SECURITY: found.get(SECURITY, re.sub("/debian/?$", "/debian-security/", found[MAIN]))}


def _mirrors(own: Sequence[str]) -> dict[str, str]:
    listed = run(["apt-get", *own, "indextargets", "--format", TARGET, "Created-By: Packages"], check=False).stdout
    pairs = (line.split("|", 1) for line in reversed(listed.splitlines()))  # of several, the first one counts
    return {label: address for label, address in pairs if label in SUITES}


def _private(state: Path, lists: str) -> list[str]:
    """Return the options for a state that any user can write, with these lists."""
    (state / lists / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "APT::Sandbox::User": "root",
        "Dir::State::Lists": state / lists,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
    }
    return _words(settings)


def _words(settings: Mapping[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def reason(outputs: Sequence[str]) -> str:
    """Return the first error in apt's output, in one line."""
    # Its explanation may be on the next line.
    found = re.search(r"^(?:E:|Err:).*(?:\n  .*)?", "".join(outputs), re.MULTILINE)
    return " ".join(found[0].split()) if found else "no reason given"
