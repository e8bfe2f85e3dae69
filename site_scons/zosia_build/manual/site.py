"""Site of the manual: built by MkDocs in one step, or served while it is edited.

`scons docs-serve` ends as `python -m zosia_build.manual.site PORT`. hooks.py inserts content that comes from the code.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing_folder
from zosia.base.process import find, run

ROOT = Path(__file__).parents[3]
HOST, PORT = "127.0.0.1", 8000
WATCHED = ("CHANGELOG.md", "models.toml", ".ci/hosts.toml")  # beside docs/ and mkdocs.yml
PACKAGES = ("mkdocs", "material", "matplotlib")
QUIET = "NO_MKDOCS_2_WARNING"  # in the environment: Material's notice about another version of MkDocs


def check() -> None:
    """Check that the packages and programs for the manual are installed.

    Raises:
        ZosiaError: one is missing; the error says how to install it.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ZosiaError(
                f"The manual needs the Python package {package}, which was not found",
                "Type: ./scripts/bootstrap.sh --dev",
            )
    find("dot")


def build(site: Path, log: Path) -> None:
    """Build the site, and replace the folder `site` only on success.

    Raises:
        ZosiaError: MkDocs reports a warning or an error, such as a dead link or a page without a menu entry.
    """
    check()
    with replacing_folder(site) as new:
        options: list[str | Path] = ["--strict", "--config-file", ROOT / "mkdocs.yml", "--site-dir", new.absolute()]
        environment = {QUIET: "1", "PYTHONPATH": str(ROOT / "site_scons")}  # for hooks.py
        done = run([sys.executable, "-m", "mkdocs", "build", *options], env=environment, check=False)
        shown = done.stdout + done.stderr
        if os.strerror(errno.ENOSPC) in shown:
            raise ZosiaError(f"The disk is full: {site} could not be written", "Make room, then run it again")
        log.write_text(shown, encoding="utf-8")
        if done.returncode != 0:
            faults = re.findall(r"^(?:WARNING|ERROR) +-  ?(.*)", shown, re.MULTILINE) or shown.split("\n")
            lines = "\n".join(f"    {line}" for line in faults[-20:])
            raise ZosiaError(f"The manual has errors; whole log: {log}\n{lines}")
        for sitemap in new.glob("sitemap.xml*"):  # has today's date, and no addresses, since it is for any place
            sitemap.unlink()


def check_port(port: int) -> None:
    """Check that a port is free.

    Raises:
        ZosiaError: the port is in use.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise ZosiaError(
                f"The manual can't be served on http://{HOST}:{port}: {error.strerror}",
                "End the other program, or run scons docs and open build/site/index.html",
            ) from error


def serve(port: int) -> int:
    """Serve the manual, rebuilt at each change of a page, until Ctrl+C or SIGTERM; both are a normal end."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # scons docs-serve blocked it before exec
        os.environ[QUIET] = "1"
        from mkdocs.commands import serve as mkdocs

        print(f"Serving on http://{HOST}:{port}/ (Ctrl+C ends it)", flush=True)
        watch = [str(ROOT / name) for name in WATCHED]
        mkdocs.serve(str(ROOT / "mkdocs.yml"), livereload=True, watch=watch, dev_addr=f"{HOST}:{port}")
    except KeyboardInterrupt:
        pass
    return 0


def main(argv: list[str]) -> int:
    """Serve on the given port."""
    try:
        check()
        check_port(int(argv[0]))
        return serve(int(argv[0]))
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
