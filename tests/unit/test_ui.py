"""llama.cpp's web page without npm: what is kept, what is left out, what a browser may do, whose code it is."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia_build.ui import build, licences, npm, page

SCRIPT = '\n\tlet a = "<b>" && 1;\n'
HTML = f"""<!doctype html>
<head>
<link rel="icon" href="favicon.ico" sizes="48x48" />
<link rel="manifest" href="./manifest.webmanifest" />
<link href="./_app/bundle.css" rel="stylesheet">
<script src="./_app/bundle.js"></script>
</head>
<body><script>{SCRIPT}</script><a href="#">x</a></body>
"""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A page as Vite might leave it, with a service worker."""
    folder = tmp_path / "built"
    contents = {
        "index.html": HTML.encode(),
        "favicon.ico": b"\x00\x01",
        "_app/bundle.css": b"a { color: red }\n" * 100,
        "_app/bundle.js": b"let a = 1;\n" * 100,
        "_app/noise.js": os.urandom(100),
        "licences.txt": b"MIT\n" * 100,
        "pictures/logo.png": b"\x89PNG" * 100,
    }
    worker = ("sw.js", "registerSW.js", "workbox-1a2b.js", "manifest.webmanifest", "pwa-64x64.png")
    for name in (*worker, "apple-splash-portrait-dark-640x1136.png", "maskable-icon-512x512.png"):
        contents[name] = b"left out"
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_that_is_served(built: Path, tmp_path: Path) -> None:
    page.finish(built, tmp_path / "ui")
    files = ["_app/bundle.css", "_app/bundle.js", "index.html", "licences.txt"]
    plain = ["_app/noise.js", "favicon.ico", "pictures/logo.png"]
    assert listed(tmp_path / "ui") == sorted([*files, *(f"{name}.gz" for name in files), *plain])
    for name in files:
        data = (tmp_path / "ui" / name).read_bytes()
        assert gzip.decompress((tmp_path / "ui" / f"{name}.gz").read_bytes()) == data
        assert data == (built / name).read_bytes() or name == "index.html"
    index = (tmp_path / "ui/index.html").read_text()
    assert index == HTML.replace('\n<link rel="manifest" href="./manifest.webmanifest" />', "")


def test_the_same_page_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        page.finish(built, tmp_path / name)
    first, second = tmp_path / "first", tmp_path / "second"
    assert listed(first) == listed(second)
    assert [(first / name).read_bytes() for name in listed(first)] == [
        (second / name).read_bytes() for name in listed(second)
    ]
    packed = [path.read_bytes() for path in first.rglob("*.gz")]
    assert packed and all(data[3:8] == bytes(5) for data in packed), "neither a name nor a time"


@pytest.mark.parametrize("name", ["https://example.org/a.js", "//example.org/a.js", "./sw.js", "nowhere.css"])
def test_a_page_that_needs_what_is_not_there(built: Path, tmp_path: Path, name: str) -> None:
    page.finish(built, tmp_path / "ui")
    before = listed(tmp_path / "ui")
    (built / "index.html").write_text(HTML.replace("./_app/bundle.js", name))
    with pytest.raises(ZosiaError, match=f"refers to {name}, which is not a part of it"):
        page.finish(built, tmp_path / "ui")
    assert listed(tmp_path / "ui") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "ui"]


def test_a_key_is_of_all_that_makes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(path.is_file() for path in build.MADE_BY)
    assert {path.name for path in build.PARTS.iterdir()} == {"SConscript", *build.CONFIGS}
    part = tmp_path / "part"
    part.write_text("a")
    monkeypatch.setattr(build, "MADE_BY", (part,))
    keys = [build.key("1"), build.key("2")]
    part.write_text("b")
    keys.append(build.key("1"))
    monkeypatch.setattr(npm, "version", lambda: "99")
    keys.append(build.key("1"))
    assert len(set(keys)) == 4
    assert build.key("1") == keys[-1]


class Npm:
    """Programs of npm's that only make what they should."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails = ""

    def install(self, folder: Path, *, cache: Path, log: Path) -> None:
        cache.mkdir(exist_ok=True)
        (folder / "node_modules/clsx").mkdir(parents=True)
        (folder / "node_modules/clsx/package.json").write_text('{"name": "clsx", "version": "2", "license": "MIT"}')
        self.note("ci")

    def script(self, folder: Path, name: str, *arguments: str, **options: Any) -> None:
        self.note(name.rpartition("/")[2])
        if "build" not in arguments:
            (folder / "static/apple-splash-portrait-640x1136.png").touch()
            return
        assert list((folder / "static").iterdir()) == [], "splash pictures would be bundled"
        assert (folder / "svelte.config.js").read_bytes() == (build.PARTS / "svelte.config.js").read_bytes()
        assert (folder / "upstream.svelte.config.js").read_text() == "upstream's"
        assert not (folder / "dist").exists()
        self.env = options["env"]
        (folder / "dist").mkdir()
        (folder / "dist/index.html").write_text("page")
        (folder / "bundled.json").write_text(json.dumps([f"{folder}/node_modules/clsx/dist/clsx.mjs"]))

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise ZosiaError("it fails")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Npm:
    programs = Npm()
    monkeypatch.setattr(npm, "install", programs.install)
    monkeypatch.setattr(npm, "script", programs.script)
    return programs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """llama.cpp, with what a person may have built in it."""
    folder = tmp_path / "llama.cpp"
    for name in ("tools/ui/static", "tools/ui/dist", "tools/ui/node_modules"):
        (folder / name).mkdir(parents=True)
    (folder / "tools/ui/package-lock.json").touch()
    (folder / "tools/ui/svelte.config.js").write_text("upstream's")
    (folder / "tools/ui/node_modules/left").touch()
    return folder


Cached = Callable[[], Path]


@pytest.fixture
def cached(source: Path, tmp_path: Path) -> Cached:
    return lambda: build.cached(source, "k1", version="1.2", cache=tmp_path / "cache", log=tmp_path / "ui.log")


def test_a_page_is_built_once(fake: Npm, source: Path, tmp_path: Path, cached: Cached) -> None:
    before = listed(source)
    folder = cached()
    assert folder == tmp_path / "cache/ui/k1"
    assert listed(folder) == ["index.html", "licences.txt"]
    assert "- clsx, 2: MIT\n" in (folder / "licences.txt").read_text()
    assert fake.calls == ["ci", "pwa-assets-generator.mjs", "pwa-assets-generator.mjs", "vite.js"]
    assert fake.env == {"LLAMA_UI_OUT_DIR": "dist", "LLAMA_BUILD_NUMBER": "1.2", "PAGE_VERSION": "k1"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["k1", "work.lock"]
    assert listed(source) == before
    assert cached() == folder
    assert len(fake.calls) == 4


@pytest.mark.parametrize("step", ["ci", "pwa-assets-generator.mjs", "vite.js"])
def test_a_failure_leaves_only_the_downloads(fake: Npm, tmp_path: Path, cached: Cached, step: str) -> None:
    fake.fails = step
    with pytest.raises(ZosiaError, match="it fails"):
        cached()
    assert sorted(path.name for path in (tmp_path / "cache/ui").iterdir()) == ["work", "work.lock"]
    assert [path.name for path in (tmp_path / "cache/ui/work").iterdir()] == ["npm"]
    fake.fails = ""
    (tmp_path / "cache/ui/work/page/node_modules").mkdir(parents=True)  # a killed process left it
    assert listed(cached()) == ["index.html", "licences.txt"]
    assert not (tmp_path / "cache/ui/work").exists()


def test_a_build_that_makes_no_page(fake: Npm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cached: Cached) -> None:
    monkeypatch.setattr(npm, "script", lambda *words, **options: None)
    with pytest.raises(ZosiaError, match=r"no index\.html was made; whole log: .*/ui\.log"):
        cached()
    assert not (tmp_path / "cache/ui/k1").exists()


def test_sources_without_a_page(source: Path, tmp_path: Path, cached: Cached) -> None:
    (source / "tools/ui/package-lock.json").unlink()
    with pytest.raises(ZosiaError, match=r"llama\.cpp has no tools/ui/package-lock\.json"):
        cached()
    assert [path.name for path in (tmp_path / "cache/ui").iterdir()] == ["work.lock"]


def test_a_full_disk(fake: Npm, monkeypatch: pytest.MonkeyPatch, cached: Cached) -> None:
    monkeypatch.setattr(build, "ROOM", 1 << 60)
    with pytest.raises(ZosiaError, match=r"Building the web page needs .* free"):
        cached()
    assert fake.calls == []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Node that prints its arguments and variables, and fails if one of them is `fail`."""
    node = tmp_path / "package/bin/node"
    node.parent.mkdir(parents=True)
    node.write_text('#!/bin/sh\necho "in $PWD:" "$@"\nenv\nfor word; do [ "$word" != fail ] || exit 3; done\n')
    node.chmod(0o755)
    monkeypatch.setattr(npm, "folder", lambda: tmp_path / "package")
    return tmp_path / "package"


def test_npm_gets_its_own_settings_and_no_others(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://mirror.example/npm/")
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", "/ca.pem")
    monkeypatch.setenv("NODE_ENV", "production")
    monkeypatch.setenv("VITE_PUBLIC_SERVER_ORIGIN", "http://elsewhere.example")
    npm.install(tmp_path, cache=tmp_path / "npm", log=tmp_path / "ui.log")
    lines = (tmp_path / "ui.log").read_text().splitlines()
    words = lines[1].split()
    assert words[:2] == ["in", f"{tmp_path}:"]
    assert words[2:4] == [f"{programs}/lib/node_modules/npm/bin/npm-cli.js", "ci"]
    assert {"--ignore-scripts", "--include=dev"} <= set(words)
    assert words[-2:] == ["--cache", f"{tmp_path}/npm"]
    assert {"npm_config_registry=http://mirror.example/npm/", "NODE_EXTRA_CA_CERTS=/ca.pem"} <= set(lines)
    assert not [line for line in lines if line.startswith(("NODE_ENV=", "VITE_"))]
    (path,) = (line for line in lines if line.startswith("PATH="))
    assert path.startswith(f"PATH={programs}/bin:")


def test_a_failure_is_a_sentence_and_the_end_of_the_log(programs: Path, tmp_path: Path) -> None:
    log = tmp_path / "ui.log"
    with pytest.raises(ZosiaError) as caught:
        npm.script(tmp_path, "vite/bin/vite.js", "fail", log=log, label="VITE", env={"ZZ": "1"})
    said = f"The web page can't be built from these sources. node ended with status 3; whole log: {log}\n    "
    assert str(caught.value).startswith(said)
    assert f"in {tmp_path}: {tmp_path}/node_modules/vite/bin/vite.js fail\n" in log.read_text()


def test_node_is_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (npm.folder() / "bin/node").is_file()
    assert npm.version()
    monkeypatch.setattr(npm, "PACKAGE", "no-such-package")
    monkeypatch.setattr(npm, "MODULE", "no_such_module")
    assert npm.version() == ""
    with pytest.raises(ZosiaError, match=r"no-such-package is needed .* Type: \./scripts/bootstrap\.sh"):
        npm.folder()


def package(folder: Path, described: dict[str, Any], **texts: str) -> None:
    folder.mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps(described))
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)


def test_whose_code_is_in_a_bundle(tmp_path: Path) -> None:
    modules = tmp_path / "page/node_modules"
    mit = {"license": "MIT", "version": "1.0"}
    package(modules / "b", {"name": "b", **mit}, LICENSE="the text", README="no licence")
    package(modules / "@a/a", {"name": "@a/a", **mit}, license_md="the text\n", LICENCES="no", License_js="no")
    package(modules / "b/node_modules/c", {"name": "c", "version": "2"}, LICENSE="2nd", NOTICE_txt="3rd")
    package(modules / "d", {"name": "d", **mit, "author": {"name": "Dora"}})
    package(modules / "unused", {"name": "unused", **mit})
    package(tmp_path / "page/src/lib/vendors/e", {}, LICENCE_md="4th")
    (tmp_path / "LICENSE").write_text("llama.cpp's")
    files = [
        "b/x.js",
        "\0" + f"{modules}/@a/a/y.css?inline",
        f"{modules}/b/node_modules/c/z.js",
        "node_modules",
        "src/x",
    ]
    files += [f"{modules}/b/x.js", f"{modules}/d/x.js", f"{modules}/missing/x.js", f"{tmp_path}/page/src/x.js"]
    found = licences.packages(tmp_path, tmp_path / "page", files)
    assert [(item.name, item.version, item.licence, item.text) for item in found] == [
        ("llama.cpp", "the page itself", "MIT", "llama.cpp's"),
        ("@a/a", "1.0", "MIT", "the text"),
        ("b", "1.0", "MIT", "the text"),
        ("c", "2", "", "2nd\n\n3rd"),
        ("d", "1.0", "MIT", "By Dora"),
        ("e", "copied by llama.cpp", "", "4th"),
    ]
    notice = licences.notice(found)
    assert "- b, 1.0: MIT\n- c, 2: see its text\n" in notice
    assert notice.count("the text") == 1
    assert "\n\n===== @a/a, b =====\n\nthe text\n" in notice
    assert licences.notice(licences.packages(tmp_path, tmp_path / "page", files[::-1])) == notice
