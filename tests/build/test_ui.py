"""`scons ui`: llama.cpp's web page, built by npm or taken from the cache, and what is in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.build.conftest import Scons
from zosia.base.files import cache_root
from zosia.serve.http import pages

# Licences that ask for no more than their text and the names of the authors; a choice of two has one of these.
FREE = {"Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "Unlicense", "(MPL-2.0 OR Apache-2.0)"}
# Packages that only their texts describe.
TEXTS = {
    **dict.fromkeys(
        ("decimal.js", "khroma", "nerdamer-prime", "runed", "svelte-toolbelt"), r"The MIT Licen[cs]e|MIT License"
    ),
    "big-integer": "This is free and unencumbered software released into the public domain",
}


@pytest.fixture(scope="session")
def page(root: Path, scons: Scons) -> Path:
    """build/ui, up to date."""
    done = scons(root, "ui")
    assert done.returncode == 0, done.stderr
    return root / "build/ui"


def test_what_is_served(page: Path) -> None:
    files = {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    bundles = [name for name in files if re.fullmatch(r"_app/immutable/(assets/)?bundle\.[\w-]+\.(js|css)", name)]
    assert len(bundles) == 2
    assert {"index.html", "licences.txt", "build.json", "_app/version.json", "favicon.svg"} < files
    assert not [
        name for name in files if re.search(r"sw\.js|workbox|register|manifest|splash|node_modules|\.map$", name)
    ]
    packed = [name for name in files if name.endswith(".gz")]
    assert {"index.html.gz", *(f"{name}.gz" for name in bundles)} < set(packed)
    for name in packed:
        assert gzip.decompress((page / name).read_bytes()) == (page / name.removesuffix(".gz")).read_bytes()


def test_nothing_installs_a_service_worker(page: Path) -> None:
    (bundle,) = page.glob("_app/immutable/bundle.*.js")
    text = bundle.read_text(encoding="utf-8")
    assert len(text) > 1_000_000
    assert "serviceWorker.register" not in text
    assert "apple-touch-startup-image" not in (page / "index.html").read_text(encoding="utf-8")


def test_the_gate_allows_the_inline_scripts(page: Path) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", (page / "index.html").read_text(encoding="utf-8"), re.DOTALL)
    assert scripts
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"'sha256-([^']+)'", pages.read(page)["/"].scripts) == digests


def test_everybody_is_named_whose_code_is_in_it(page: Path) -> None:
    """Another licence here needs a look, and a line in docs/licences.md."""
    notice = (page / "licences.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^- (.+), (.+): (.+)$", notice, re.MULTILINE)
    assert len(listed) > 150
    assert {"llama.cpp", "svelte", "katex", "pdfjs-dist", "highlight.js", "tailwindcss"} < {row[0] for row in listed}
    assert {row[2] for row in listed} == {*FREE, "see its text"}
    assert {row[0] for row in listed if row[2] == "see its text"} == set(TEXTS)
    for name, beginning in TEXTS.items():
        assert re.search(rf"^===== .*\b{re.escape(name)}\b.* =====\n\n({beginning})", notice, re.MULTILINE), name
    assert set(re.findall(r"^===== (.+) =====\n\nBy ", notice, re.MULTILINE)) == {"rehype-katex, remark-math"}


def test_a_second_clone_takes_it_from_the_cache(page: Path, tree: Path, scons: Scons) -> None:
    done = scons(tree, "ui")
    assert (done.returncode, done.stderr) == (0, "")
    for path in page.rglob("*"):
        assert path.is_dir() or (tree / "build/ui" / path.relative_to(page)).read_bytes() == path.read_bytes()
    assert scons(tree, "ui").stdout == "scons: `ui' is up to date.\n"
    assert not (tree / "build/ui.log").exists()
    assert scons(tree, "-c", "ui").returncode == 0
    assert not (tree / "build/ui").exists()


class _Mirror(BaseHTTPRequestHandler):
    """A registry that has nothing."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_npm_asks_the_registry_that_it_is_set_to(page: Path, tree: Path, tmp_path: Path, scons: Scons) -> None:
    _Mirror.asked = []
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("downloads", "sources"):
        (cache / name).symlink_to(cache_root() / name)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mirror) as mirror:
        threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        registry = f"http://127.0.0.1:{mirror.server_port}/npm/"
        done = scons(tree, "ui", ZOSIA_CACHE=str(cache), npm_config_registry=registry, no_proxy="127.0.0.1")
        mirror.shutdown()
    assert done.returncode == 2
    assert "zosia: error: The packages of the web page can't be installed. Check the network and npm's" in done.stderr
    assert f"404 Not Found - GET {registry}" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(_Mirror.asked) > 100
    assert [path for path in _Mirror.asked if not path.startswith("/npm/")] == []
    assert {path.name for path in (cache / "ui").iterdir()} == {"work", "work.lock"}
    assert not (tree / "build/ui/index.html").exists()


def test_a_tree_without_a_page(tree: Path, tmp_path: Path, scons: Scons) -> None:
    own = tmp_path / "llama.cpp"
    own.mkdir()
    (own / "CMakeLists.txt").touch()
    done = scons(tree, "ui", f"LLAMA_SRC={own}")
    assert done.returncode == 2
    assert (
        f"zosia: error: {own} has no tools/ui/package-lock.json, so no web page can be built from it\n" in done.stderr
    )
    assert {path.name for path in (tree / "build").iterdir()} <= {"scons.lock", "ui"}
