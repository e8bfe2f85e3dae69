"""Pages: the files of the built web page, read once, and how they are sent."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.places import repair
from zosia.serve.http import replies
from zosia.serve.http.replies import Reply

INDEX = "index.html"
PACKED = ".gz"
TYPES = {  # Python's list depends on the computer
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".map": "application/json; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
INLINE = re.compile(rb"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
# The page talks to this server only. Svelte and KaTeX set styles of elements; pictures that a person adds are data:
# and blob: addresses, as are the workers that read PDFs. `scripts` are hashes of what SvelteKit writes into index.html.
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the page: as it is, and packed by gzip if it lies there so as well."""

    body: bytes
    type: str
    packed: bytes = b""
    scripts: str = ""

    def reply(self, *, known: str, accepted: str) -> Reply:
        """Return the reply for a client that has the versions `known` (If-None-Match) and accepts these encodings."""
        packed = bool(self.packed) and accepts_gzip(accepted)
        body = self.packed if packed else self.body
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = (
            *replies.COMMON,
            ("Content-Security-Policy", POLICY.format(scripts=self.scripts)),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cache-Control", "no-cache"),  # keep it, and ask whether it is still the same
            ("ETag", tag),
            ("Vary", "Accept-Encoding"),
        )
        if tag in re.findall(r'"[^"]*"', known) or known.strip() == "*":
            return Reply(status=304, headers=headers)
        encoding = (("Content-Encoding", "gzip"),) if packed else ()
        return Reply(status=200, body=body, headers=(*headers, ("Content-Type", self.type), *encoding))


def accepts_gzip(accepted: str) -> bool:
    """Return whether an Accept-Encoding header names gzip, other than to refuse it."""
    words = [re.sub(r"\s", "", word) for word in accepted.lower().split(",")]
    return any(re.fullmatch(r"gzip(;q=(?!0(\.0*)?$).*)?", word) for word in words)


def read(folder: Path) -> Mapping[str, File]:
    """Return the files of a folder by their paths, "/" for the index. Nothing that is no file in it has a path.

    Raises:
        ZosiaError: there is no page.
    """
    if not (folder / INDEX).is_file():
        raise ZosiaError(f"{folder} has no {INDEX}", repair("Build the page again: scons ui"))
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.resolve().is_relative_to(folder)]
    files = {}
    for path in paths:
        packed = path.with_name(path.name + PACKED)
        if path.suffix == PACKED and path.with_suffix("") in paths:
            continue
        body = path.read_bytes()
        files[f"/{path.relative_to(folder).as_posix()}"] = File(
            body=body,
            type=TYPES.get(path.suffix, "application/octet-stream"),
            packed=packed.read_bytes() if packed in paths else b"",
            scripts=_hashes(body) if path.suffix == ".html" else "",
        )
    return {"/": files[f"/{INDEX}"], **files}


def _hashes(page: bytes) -> str:
    """Return the sources of a page's own scripts, each after a blank."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE.findall(page)]
    return "".join(f" 'sha256-{digest}'" for digest in hashes)
