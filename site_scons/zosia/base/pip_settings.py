"""The user's settings of pip: those for reaching the package index apply, and those for where to install don't.

Standard library only: bootstrap.sh runs this module, to install what everything else needs.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Mapping

from zosia.base.process import run

SECTIONS = ("global", "download", "install", ":env:")  # each wins over those before it
# `quiet` hides the list; `user`, `global` and `site`, meant for other commands, limit it to one file of settings.
WHOLE_LIST = {"PIP_QUIET": "0", "PIP_USER": "0", "PIP_GLOBAL": "0", "PIP_SITE": "0", "PIP_PYTHON": ""}
# Options of pip for indexes, proxies and certificates. Others, such as user, target, prefix, root, python, dry-run and
# constraint, would put the packages elsewhere, or put others there.
NETWORK = re.compile(
    r"(extra-)?index-url|pypi-url|no-index|find-links|trusted-host|proxy|(client-)?cert|keyring-provider|no-input"
    r"|(default-)?timeout|(resume-)?retries|(no-)?cache-dir|use-(feature|deprecated)"
)


def pip_settings() -> dict[str, str]:
    """Return pip's settings on this machine, from files and environment: index-url, cert, proxy and others."""
    pip = _pip()
    if not pip:
        return {name[4:].lower().replace("_", "-"): text for name, text in os.environ.items() if name[:4] == "PIP_"}
    listed = run([*pip, "config", "list"], env=WHOLE_LIST).stdout
    # For example global.cert='/a.pem' of a file, and :env:.cert='/b.pem'.
    found = re.findall(rf"^({'|'.join(SECTIONS)})\.([a-z-]+)=(['\"].*)$", listed, re.MULTILINE)
    found.sort(key=lambda setting: SECTIONS.index(setting[0]))
    return {name: ast.literal_eval(value) for _, name, value in found}


def _pip() -> list[str]:
    """Return the words that start pip: this Python's, or else the one on PATH, as uv installs none; [] without any."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return next(([name] for name in ("pip3", "pip") if shutil.which(name)), [])


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a pip that installs into its own environment, with the user's network settings."""
    # PYTHONPATH: what is there would count as installed.
    kept = {name: value for name, value in inherited.items() if not re.match("PIP_|PYTHONPATH$", name)}
    wanted = {name: value for name, value in pip_settings().items() if NETWORK.fullmatch(name)}
    if not {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & kept.keys() and kept.get("SSL_CERT_FILE"):
        wanted = {"cert": kept["SSL_CERT_FILE"], **wanted}  # pip before 24.2 ignores it
    given = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in wanted.items()}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, **given}


if __name__ == "__main__":
    os.execve(sys.executable, [sys.executable, "-m", "pip", *sys.argv[1:]], environment(os.environ))
