"""Versions that the package index, Debian, the hub and upstream have today of what is pinned."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.version import InvalidVersion, Version

from zosia.base import apt
from zosia.base.errors import ZosiaError
from zosia.base.process import run
from zosia.inputs import fetch, hub
from zosia.inputs.catalogue import Model, Part, Pin
from zosia.inputs.pins import Offer
from zosia.inputs.references import offers
from zosia_build.supply import signed_list, tracker


@dataclass(frozen=True, kw_only=True)
class Today:
    """Today's version of a pin; `security` if it comes from Debian's archive of security updates.

    `pin` has what its origin says of it beside the version; None if that needs another question.
    """

    version: str
    security: bool = False
    pin: Pin | None = None


def of(pin: Pin, cache: Path) -> Today:
    """Return today's version of a pin.

    Raises:
        ZosiaError: its origin can't be asked, or doesn't have it.
    """
    if isinstance(pin, Model) and pin.origin == "hub":
        found = of_the_hub(pin)
        return Today(version=found.version, pin=found)
    if pin.origin == "debian":
        return _of_debian(pin, cache)
    if pin.origin == "pypi":
        return Today(version=_of_the_index(pin))
    return Today(version=signed_list.newest(pin))


def older(version: str, pin: Pin) -> bool:
    """Return whether a version is older than the pin's, as that of a mirror that is behind; the hub's have no order."""
    if pin.origin == "debian":
        return tracker.older(version, pin.version)
    try:
        return pin.origin != "hub" and Version(version) < Version(pin.version)
    except InvalidVersion:
        return False


def _of_debian(pin: Pin, cache: Path) -> Today:
    if not apt.available():
        raise ZosiaError("Debian's lists are read by apt, and this is another system", "Use Debian")
    found = fetch.offered_by_apt(pin, cache, fresh=True)
    security = apt.mirrors(cache / "apt")[apt.SECURITY]
    return Today(version=found.version, security=found.url.startswith(security), pin=found)


def _of_the_index(pin: Pin) -> str:
    said, why = _pip("index", "versions", pin.project)
    found = re.match(r"\S+ \((\S+)\)$", said.partition("\n")[0])
    if not found:
        raise ZosiaError(
            f"The package index has no version of {pin.project}: {why}", "Check the network (pip config list)"
        )
    return found[1]


def _pip(*words: str) -> tuple[str, str]:
    """Return what pip says, and its last error, to be shown where the former is not what it should be.

    Raises:
        ZosiaError: there is no pip, as in an environment that uv has made.
    """
    if not importlib.util.find_spec("pip"):
        raise ZosiaError(
            "The package index is asked by pip, and this Python has none",
            f"Type: {shlex.quote(sys.executable)} -m ensurepip",
        )
    done = run([sys.executable, "-m", "pip", *words], check=False)
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return done.stdout, errors[-1] if errors else "pip says nothing"


def of_the_hub(model: Model) -> Model:
    """Return a model as the newest revision of its repository has it; the same if its files are.

    Raises:
        ZosiaError: the hub can't be reached, or no longer has a file, or doesn't say what it is.
    """
    files, _ = offers(hub.listing(model), model.project)
    found = [files.get(part.file, Offer(sha256="", size=0)) for part in model.files]
    for part, offer in zip(model.files, found, strict=True):
        if not re.fullmatch("[0-9a-f]{64}", offer.sha256) or offer.size <= 0:
            raise ZosiaError(
                f"The hub has no {part.file} of {model.project}, or doesn't say what it is", "Look at its page"
            )
    if [(part.sha256, part.size) for part in model.files] == [(offer.sha256, offer.size) for offer in found]:
        return model
    if model.parts:
        return replace(
            model,
            version=found[0].commit,
            parts=tuple(Part(size=offer.size, sha256=offer.sha256) for offer in found),
        )
    return replace(model, version=found[0].commit, size=found[0].size, sha256=found[0].sha256)


def outdated() -> dict[str, tuple[str, str]]:
    """Return the installed Python packages that are not the index's newest: their version, and that one.

    Raises:
        ZosiaError: the index can't be asked.
    """
    said, why = _pip("list", "--outdated", "--format=json")
    try:
        return {one["name"]: (one["version"], one["latest_version"]) for one in json.loads(said)}
    except (ValueError, KeyError, TypeError) as error:
        raise ZosiaError(f"pip can't list outdated packages: {why}", "Check the network (pip config list)") from error
