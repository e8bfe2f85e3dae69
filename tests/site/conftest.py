"""The manual as a site, built once, and a browser to look at it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.build.conftest import Scons, scons
from zosia.base.process import find

__all__ = ["scons"]

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def site(root: Path, scons: Scons) -> Path:
    """build/site, up to date."""
    done = scons(root, "docs")
    assert done.returncode == 0, done.stderr
    return root / "build/site"


@pytest.fixture(scope="session")
def pages(site: Path) -> list[str]:
    """The site's pages, but the one for an address that leads nowhere."""
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    return [name for name in names if name != "404.html"]


@pytest.fixture(scope="module")  # while it is there, no other test can run an asyncio loop
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find("chromium"), args=list(FLAGS))
        yield chromium
        chromium.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of the site on a server that does nothing but send files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
