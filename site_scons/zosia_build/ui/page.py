"""Folder of the web page as it is served: only what a browser fetches, packed too."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import deflate

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing_folder

INDEX = "index.html"
# The service worker, which would keep an old page, and what only an installed page needs.
DROPPED = (
    *("sw.js", "registerSW.js", "workbox-*.js", "manifest.webmanifest"),
    *("apple-splash-*", "maskable-icon-*", "pwa-*.png"),
)
MANIFEST = re.compile(r'\s*<link rel="manifest"[^>]*>')
LEVEL = 12  # of compression: the most, since it is done once
PACKED = (".css", ".html", ".ico", ".js", ".json", ".svg", ".txt")


class _Document(HTMLParser):
    """Files that a document needs."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.files: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag needs; a link that a reader may follow is none of it."""
        given = dict(attrs)
        self.files += [value for name in ("href", "src") if tag != "a" and (value := given.get(name))]


def finish(built: Path, output: Path) -> None:
    """Make the folder `output` from what was built, with a .gz beside each file that gets smaller.

    Raises:
        ZosiaError: the page refers to a file that is not there, or to another server.
    """
    with replacing_folder(output) as folder:
        for path in sorted(built.rglob("*")):
            if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in DROPPED):
                target = folder / path.relative_to(built)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        index = folder / INDEX
        text = MANIFEST.sub("", index.read_text(encoding="utf-8"))
        index.write_text(text, encoding="utf-8")
        if absent := missing(text, folder):
            raise ZosiaError(f"The web page can't be served: it refers to {absent[0]}, which is not a part of it")
        for path in [path for path in folder.rglob("*") if path.suffix in PACKED]:
            data = deflate.gzip_compress(path.read_bytes(), LEVEL)
            if len(data) < path.stat().st_size:
                path.with_name(f"{path.name}.gz").write_bytes(data)


def missing(text: str, folder: Path) -> list[str]:
    """Return what a document needs and `folder` lacks, or what is on another server."""
    named = [(name, urlsplit(name)) for name in _Document(text).files]
    return [name for name, url in named if url.scheme or url.netloc or not (folder / url.path).is_file()]
