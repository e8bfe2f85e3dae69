"""Python packages of a lock file, as components; their licences are those that the installed ones name."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection
from dataclasses import dataclass

from packageurl import PackageURL
from packaging.utils import canonicalize_name

from zosia_build.supply.component import Component, Role

PINNED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)[^\n]*\\\n"
    r"(?P<hashes>(?:    --hash=[^\n]+\n)+)(?P<via>(?:    #[^\n]*\n?)+)",
    re.MULTILINE,
)
# Licences that a package only names by a classifier (Trove); the general ones say too little for an expression.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}


@dataclass(frozen=True, kw_only=True)
class Locked:
    """Package in a lock file: the SHA-256 of its files, and the packages that it is there for."""

    name: str
    version: str
    digests: tuple[str, ...]
    via: tuple[str, ...]


def read(lock: str) -> dict[str, Locked]:
    """Return the packages of a lock file that uv has made, by name."""
    found = {}
    for match in PINNED.finditer(lock):
        via = re.findall(r"^    #(?: via)?\s+([\w.-]+)", match["via"], re.MULTILINE)
        found[match["name"]] = Locked(
            name=match["name"],
            version=match["version"],
            digests=tuple(sorted(re.findall("sha256:([0-9a-f]{64})", match["hashes"]))),
            via=tuple(name for name in via if name != "via"),
        )
    return found


def needed(packages: dict[str, Locked], roots: Collection[str]) -> list[Locked]:
    """Return the packages that the roots need, and the roots."""
    chosen = {str(canonicalize_name(root)) for root in roots} & packages.keys()
    while more := {name for name, one in packages.items() if chosen.intersection(one.via)} - chosen:
        chosen |= more
    return [packages[name] for name in sorted(chosen)]


def component(package: Locked, role: Role = Role.NEEDED) -> Component:
    """Return the component of a package."""
    return Component(
        name=package.name,
        version=package.version,
        licence=licence(package.name),
        purl=PackageURL("pypi", None, package.name, package.version).to_string(),
        digests=package.digests,
        role=role,
    )


def licence(name: str) -> str:
    """Return the licence that an installed package names, "" if it is not installed or names none in a known way."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    for expression in about.get_all("License-Expression", []):
        return str(expression)
    classifiers = [
        text.rpartition(" :: ")[2] for text in about.get_all("Classifier", []) if text.startswith("License ::")
    ]
    known = sorted({CLASSIFIERS[text] for text in classifiers if text in CLASSIFIERS})
    if known:
        return " OR ".join(known)
    text = "".join(map(str, about.get_all("License", []))).strip()
    return text if re.fullmatch(r"[\w. +()-]{2,40}", text) else ""
