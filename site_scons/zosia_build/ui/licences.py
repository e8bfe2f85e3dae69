"""Licences of the packages that are bundled into the web page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NAME = "licences.txt"
VENDORS = "src/lib/vendors"  # in the page's sources: packages that upstream has copied
PACKAGE = re.compile(r"(.*/node_modules/(?:@[^/]+/)?[^/@]+)/")
ELSEWHERE = "see its text"  # of a package that names no licence
LISTED = re.compile(r"^- .+, .+: (.+)$", re.MULTILINE)
TEXT = re.compile(r"(licen[cs]e|copying|notice)(-\w+)?(\.(md|txt))?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """Package in the bundle; `licence` is an SPDX expression, "" if only its text says it."""

    name: str
    version: str
    licence: str
    text: str


def packages(source: Path, page: Path, files: Iterable[str]) -> list[Package]:
    """Return llama.cpp (`source`), then the packages that the `files` of a bundle belong to, sorted.

    A file is a path, which may begin with a null and end with a query, as Rollup's modules do.
    """
    folders = {match[1] for file in files if (match := PACKAGE.match(file.lstrip("\0").partition("?")[0]))}
    found = {_package(Path(folder)) for folder in folders if (Path(folder) / "package.json").is_file()}
    for folder in (page / VENDORS).glob("*/"):
        found.add(Package(name=folder.name, version="copied by llama.cpp", licence="", text=_text(folder)))
    own = Package(name="llama.cpp", version="the page itself", licence="MIT", text=_text(source))
    return [own, *sorted(found)]


def _package(folder: Path) -> Package:
    described = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    text = _text(folder)
    if not text:  # some have none, and then their authors are all that there is to name
        author = described.get("author", "")
        text = f"By {author.get('name', '') if isinstance(author, dict) else author}"
    return Package(
        name=str(described["name"]),
        version=str(described.get("version", "")),
        licence=str(described.get("license", "")),
        text=text,
    )


def _text(folder: Path) -> str:
    """Return the texts of the licences in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and TEXT.fullmatch(path.name))
    return "\n\n".join(path.read_text(encoding="utf-8", errors="replace").strip() for path in files)


def notice(bundled: Iterable[Package]) -> str:
    """Return the notice: a list of packages, then their texts, each once."""
    lines = ["Licences of the parts of the web page", ""]
    names: dict[str, list[str]] = {}
    for package in bundled:
        lines.append(f"- {package.name}, {package.version}: {package.licence or ELSEWHERE}")
        names.setdefault(package.text, []).append(package.name)
    for text, owners in names.items():
        lines += ["", "", f"===== {', '.join(dict.fromkeys(owners))} =====", "", text]
    return "\n".join(lines) + "\n"


def expressions(text: str) -> set[str]:
    """Return the SPDX expressions that a notice lists; packages that only have a text are left out."""
    return set(LISTED.findall(text)) - {ELSEWHERE}
