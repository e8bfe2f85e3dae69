"""Build of the web page by npm, in a scratch folder; that of the pinned sources is kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked, sha256
from zosia.base.version import ROOT
from zosia_build.ui import licences, npm

PAGE = "tools/ui"  # in llama.cpp
PARTS = ROOT / "ui"
CONFIGS = {"vite.config.ts": "zosia.vite.config.ts", "svelte.config.js": "svelte.config.js"}
UPSTREAM = "upstream.svelte.config.js"  # upstream's svelte.config.js, beside ours
BUNDLED = "bundled.json"  # files that the bundle is made from, as vite.config.ts writes them
DIST = "dist"
GENERATED = (DIST, "node_modules", ".svelte-kit")  # in a tree of the user's own
# Pictures that a telephone shows while it starts the page as a program, which needs the service worker.
SPLASH = "static/apple-splash-*"
ROOM = 1_300_000_000  # bytes: the packages, npm's downloads of them, and the page
MADE_BY = (Path(__file__), Path(npm.__file__), Path(licences.__file__), *(PARTS / name for name in CONFIGS))


def key(source: str) -> str:
    """Return the name of a page in the cache: a digest of all that it is made from, with that of its `source`."""
    parts = [source, npm.version(), *(sha256(path) for path in MADE_BY)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def cached(source: Path, name: str, *, version: str, cache: Path, log: Path) -> Path:
    """Return the folder of a page in the cache, `name` (see `key`), and build it there first if needed.

    Raises:
        ZosiaError: as `compiled`.
    """
    folder, work = cache / "ui" / name, cache / "ui" / "work"
    if folder.is_dir():
        return folder
    with locked(work):
        if not folder.is_dir():  # by another clone, meanwhile
            style.say("NOTE", "the web page is built once: about 5 min on 2 cores, 160 MB of packages, 3 GB of memory")
            with compiled(source, work, version=version, stamp=name, log=log) as built:
                built.rename(folder)
    return folder


@contextmanager
def compiled(source: Path, work: Path, *, version: str, stamp: str, log: Path) -> Iterator[Path]:
    """Build the page of llama.cpp's `source` in the folder `work`, and yield the result; `work` is removed afterwards.

    After a failure npm's downloads stay in it, for the next attempt.

    Args:
        version: the version of llama.cpp that the page shows.
        stamp: the version of the page itself; when it changes, an open page says that there is a newer one.

    Raises:
        ZosiaError: the sources have no page, its packages can't be had, or the build fails.
    """
    if not (source / PAGE / "package-lock.json").is_file():
        raise ZosiaError(f"{source} has no {PAGE}/package-lock.json, so no web page can be built from it")
    page, log = work / "page", log.absolute()
    shutil.rmtree(page, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    check_room(work, ROOM, "Building the web page")
    log.unlink(missing_ok=True)
    try:
        shutil.copytree(source / PAGE, page, symlinks=True, ignore=shutil.ignore_patterns(*GENERATED))
        (page / "svelte.config.js").rename(page / UPSTREAM)
        for name, copied in CONFIGS.items():
            shutil.copyfile(PARTS / name, page / copied)
        npm.install(page, cache=work / "npm", log=log)
        _bundle(page, version, stamp, log)
        files = json.loads((page / BUNDLED).read_text(encoding="utf-8"))
        notice = licences.notice(licences.packages(source, page, files))
        (page / DIST / licences.NAME).write_text(notice, encoding="utf-8")
        yield page / DIST
    finally:
        shutil.rmtree(page, ignore_errors=True)
    shutil.rmtree(work)


def _bundle(page: Path, version: str, stamp: str, log: Path) -> None:
    """Do what upstream's `npm run build` does, without the splash pictures and with our configurations."""
    for config in ("pwa-assets.config.ts", "pwa-assets-dark.config.ts"):
        generator = "@vite-pwa/assets-generator/bin/pwa-assets-generator.mjs"
        npm.script(page, generator, "--root", ".", "--config", config, log=log, label="ICONS")
    for picture in page.glob(SPLASH):
        picture.unlink()
    env = {"LLAMA_UI_OUT_DIR": DIST, "LLAMA_BUILD_NUMBER": version, "PAGE_VERSION": stamp}
    npm.script(page, "vite/bin/vite.js", "build", "--config", "zosia.vite.config.ts", log=log, label="VITE", env=env)
    if not (page / DIST / "index.html").is_file():
        raise ZosiaError(f"The web page can't be built from these sources: no index.html was made; whole log: {log}")
