"""Debian 13's packages, through the apt of any host that has Debian's keys, in a state of its own.

Every such host gets the same versions, and the host's own apt, its lists and its pins stay as they are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from zosia.base.files import replacing
from zosia.base.process import run

RELEASE = "trixie"  # Debian 13
KEYS = tuple(Path("/usr/share/keyrings", f"debian-archive-keyring.{suffix}") for suffix in ("pgp", "gpg"))
MIRRORS = {"Debian": "http://deb.debian.org/debian", "Debian-Security": "http://deb.debian.org/debian-security"}
TARGET = "$(LABEL)|$(REPO_URI)"  # apt-get indextargets(8)


def available() -> bool:
    """Return True if the host has apt, and Debian's keys to verify packages with."""
    return shutil.which("apt-get") is not None and any(keys.is_file() for keys in KEYS)


def options(state: Path, architecture: str, *, kind: str = "deb") -> list[str]:
    """Return the options for Debian 13's packages of an architecture, and write their list of sources to `state`.

    Args:
        kind: deb, or deb-src for source packages.
    """
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    sources = state / f"{kind}.sources"
    with replacing(sources) as temporary:
        temporary.write_text(_sources(kind), encoding="utf-8")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Default-Release": "",
        "APT::Sandbox::User": "root",
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def mirrors() -> dict[str, str]:
    """Return the addresses of Debian's archives, by their labels: the host's own mirrors, once it has their lists."""
    listed = run(["apt-get", "indextargets", "--format", TARGET, "Created-By: Packages"], check=False).stdout
    pairs = (line.split("|", 1) for line in reversed(listed.splitlines()))  # of several, the first one counts
    return MIRRORS | {label: address for label, address in pairs if label in MIRRORS}


def _sources(kind: str) -> str:
    """Return a list of sources in the format of sources.list(5), "deb822"."""
    keys = next(keys for keys in KEYS if keys.is_file())
    suites = {"Debian": f"{RELEASE} {RELEASE}-updates", "Debian-Security": f"{RELEASE}-security"}
    return "\n".join(
        f"Types: {kind}\nURIs: {address}\nSuites: {suites[label]}\nComponents: main\nSigned-By: {keys}\n"
        for label, address in mirrors().items()
    )


def reason(outputs: Sequence[str]) -> str:
    """Return the first error in apt's output, in one line."""
    # Its explanation may be on the next line.
    found = re.search(r"^(?:E:|Err:).*(?:\n  .*)?", "".join(outputs), re.MULTILINE)
    return " ".join(found[0].split()) if found else "no reason given"
