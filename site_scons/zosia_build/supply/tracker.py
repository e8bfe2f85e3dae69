"""Debian's security tracker: which known flaws a version of a source package has."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zosia.base import apt
from zosia.base.errors import ZosiaError
from zosia.base.process import find, missing
from zosia.inputs import web
from zosia.inputs.download import plain, shown

ADDRESS = "https://security-tracker.debian.org/tracker/data/json"
TIMEOUT = (15, 60)  # seconds: to connect, and between two bytes
IGNORED = ("unimportant", "end-of-life")  # urgencies of what is no flaw in Debian's eyes, or nobody looks at
Older = Callable[[str, str], bool]


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """Names of flaws: `fixed` in a newer version, and still `open` in Debian."""

    fixed: tuple[str, ...]
    open: tuple[str, ...]


def data() -> dict[str, Any]:
    """Return what the tracker knows, by source package and name of the flaw.

    Raises:
        ZosiaError: it can't be reached, or this is no Debian.
    """
    if missing(["dpkg"]):
        raise ZosiaError("Debian's versions are compared by dpkg, and this is another system", "Use Debian")
    try:
        with web.Session() as session:
            answer = session.get(ADDRESS, timeout=TIMEOUT)
            answer.raise_for_status()
            known = answer.json()
    except (OSError, ValueError) as error:
        raise ZosiaError(f"{shown(ADDRESS)} could not be fetched: {plain(error)}", "Check the network") from error
    if not isinstance(known, dict):
        raise ZosiaError(f"{shown(ADDRESS)} is not what it was", "Look at its page")
    return known


@lru_cache(maxsize=4096)
def older(one: str, other: str) -> bool:
    """Return whether a version of a Debian package is older than another."""
    argv = [find("dpkg"), "--compare-versions", one, "lt", other]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def flaws(known: dict[str, Any], source: str, version: str, *, before: Older = older) -> Flaws:
    """Return the flaws that a version of a source package has in this release of Debian."""
    fixed, still = [], []
    for name, flaw in known.get(source, {}).items():
        here = flaw.get("releases", {}).get(apt.RELEASE, {})
        if here.get("urgency") in IGNORED:
            continue
        if here.get("status") == "open":
            still.append(name)
        elif here.get("status") == "resolved" and before(version, here.get("fixed_version", "0")):
            fixed.append(name)
    return Flaws(fixed=tuple(sorted(fixed)), open=tuple(sorted(still)))
