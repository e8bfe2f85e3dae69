"""Inputs by each of their routes: a package index, apt, a snapshot, a URL; all on loopback or made up."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.web import Answer, Web
from zosia.base import apt as debian
from zosia.base.errors import ZosiaError
from zosia.inputs import fetch
from zosia.inputs.catalogue import Pin

available = debian.available
BODY = random.Random(2).randbytes(10_000)
APT = """#!/bin/sh
case " $* " in
  *"/host-lists "*" indextargets "*) cat "$ZOSIA_TEST_APT/host-lists/targets" 2>/dev/null; exit ;;
  *" indextargets "*) cat "$ZOSIA_TEST_APT/targets" 2>/dev/null; exit ;;
esac
echo "$*" >>"$ZOSIA_TEST_APT/calls"
case " $* " in
  *" update "*) cat "$ZOSIA_TEST_APT/update" ;;
  *" --print-uris "*) cat "$ZOSIA_TEST_APT/uris" ;;
  *" download "*) cp "$ZOSIA_TEST_APT"/packages/* . ;;
esac
"""


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pin(origin: str, content: bytes = BODY, /, **fields: str) -> Pin:
    given = {"project": "tiny", "version": "1.0", "file": "tiny-1.0.tar.gz", "licence": "MIT", **fields}
    return Pin(name="tiny", origin=origin, size=len(content), sha256=digest(content), **given)


@pytest.fixture(autouse=True)
def quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this host's own settings."""
    monkeypatch.setattr(debian, "available", lambda: False)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def index(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A package index with one project, as pip would be told of it."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple/")
    files = ["tiny-0.9.tar.gz", "tiny-1.0.tar.gz"]
    links = "".join(f'<a href="../../files/{file}#sha256={digest(BODY)}">{file}</a>' for file in files)
    web.files |= {"/simple/tiny/": f"<!DOCTYPE html><html><body>{links}</body></html>".encode()}
    web.files |= {"/files/tiny-1.0.tar.gz": BODY}
    return web


def test_from_the_package_index(index: Web, cache: Path) -> None:
    fetched = fetch.fetch(pin("pypi"), cache)
    assert fetched.pin == pin("pypi")
    assert fetched.path == cache / "downloads" / digest(BODY) / "tiny-1.0.tar.gz"
    assert fetched.path.read_bytes() == BODY
    assert [path for path, _ in index.requests] == ["/simple/tiny/", "/files/tiny-1.0.tar.gz"]
    fetch.fetch(pin("pypi"), cache)
    assert len(index.requests) == 2, "it is in the cache"


def test_from_an_index_that_redirects(index: Web, cache: Path) -> None:
    index.files["/new/simple/tiny/"] = index.files.pop("/simple/tiny/")
    index.files["/new/files/tiny-1.0.tar.gz"] = b""
    index.files["/store/tiny"] = index.files.pop("/files/tiny-1.0.tar.gz")
    index.pages["/simple/tiny/"] = [Answer(location="/new/simple/tiny/", status=308)]
    index.pages["/new/files/tiny-1.0.tar.gz"] = [Answer(location="../../store/tiny", status=308)]
    assert fetch.fetch(pin("pypi"), cache).path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("fields", "answer", "message"),
    [
        ({"project": "missing"}, Answer(), "index could not be queried for missing: NoSuchProjectError"),
        ({"file": "tiny-2.0.tar.gz"}, Answer(), "index has no tiny-2.0.tar.gz"),
        ({}, Answer(status=403), "index could not be queried for tiny: HTTPError"),
        ({}, Answer(location="/files/tiny-1.0.tar.gz"), "index could not be queried for tiny: UnsupportedContentType"),
        ({}, Answer(body=b"<html>Please log in</html>"), "index has no tiny-1.0.tar.gz"),
    ],
)
def test_an_index_without_it(
    index: Web, cache: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], answer: Answer, message: str
) -> None:
    settings = {"index-url": os.environ["PIP_INDEX_URL"]}  # pip itself takes most of a second to say so
    monkeypatch.setattr(fetch, "pip_settings", lambda: settings)
    index.answers = [answer, Answer()]
    with pytest.raises(ZosiaError, match=rf"{message}.*\(pip config list\)"):
        fetch.fetch(pin("pypi", **fields), cache)


def test_an_index_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple/")
    with pytest.raises(ZosiaError, match="index could not be queried for tiny: ConnectionError"):
        fetch.fetch(pin("pypi"), cache)


@pytest.mark.parametrize("origin", ["url", "debian"])
def test_by_address(web: Web, cache: Path, origin: str) -> None:
    web.files["/tiny"] = BODY
    wanted = pin(origin, **{"url" if origin == "url" else "snapshot": f"{web.url}/tiny"})
    assert fetch.fetch(wanted, cache) == fetch.Fetched(
        pin=wanted, path=cache / "downloads" / wanted.sha256 / wanted.file
    )
    assert web.requests == [("/tiny", "")]


def test_a_size_that_only_the_server_knows(web: Web, cache: Path) -> None:
    web.files["/tiny"] = BODY
    wanted = replace(pin("url", url=f"{web.url}/tiny"), size=0)
    fetched = fetch.fetch(wanted, cache)
    assert (fetched.path.read_bytes(), fetched.pin) == (BODY, replace(wanted, size=len(BODY)))
    assert [method for method, *_ in web.asked] == ["HEAD", "GET"]
    assert fetch.fetch(wanted, cache) == fetched
    assert len(web.asked) == 2, "it is in the cache"
    fetched.path.write_bytes(BODY[::-1])
    assert fetch.fetch(wanted, cache).path.read_bytes() == BODY
    del web.files["/tiny"]
    fetched.path.unlink()
    with pytest.raises(ZosiaError, match=r"/tiny could not be fetched: HTTP status 404"):
        fetch.fetch(wanted, cache)


def test_wrong_bytes(web: Web, cache: Path) -> None:
    web.files["/tiny"] = BODY[::-1]
    with pytest.raises(ZosiaError, match="SHA-256"):
        fetch.fetch(pin("url", url=f"{web.url}/tiny"), cache)
    assert not list(cache.rglob("tiny-1.0.tar.gz"))


@pytest.mark.parametrize("damage", [BODY[::-1], BODY[:-1], b""], ids=["bytes", "shorter", "empty"])
def test_a_damaged_file_is_fetched_again(web: Web, cache: Path, damage: bytes) -> None:
    web.files["/tiny"] = BODY
    wanted = pin("url", url=f"{web.url}/tiny")
    fetch.fetch(wanted, cache).path.write_bytes(damage)
    assert fetch.fetch(wanted, cache).path.read_bytes() == BODY


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for apt, which offers version 1:1.1 of tiny; the folder of what it says and gives."""
    folder = tmp_path / "apt"
    (folder / "packages").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "apt-get").write_text(APT)
    (folder / "bin" / "apt-get").chmod(0o755)
    file = "tiny_1%3a1.1_arm64.deb"
    (folder / "packages" / file).write_bytes(BODY)
    (folder / "update").write_text("Hit:1 http://mirror.example/debian trixie InRelease\n")
    (folder / "uris").write_text(f"'copy:/pool/{file}' {file} {len(BODY)} SHA256:{digest(BODY)}\n")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("ZOSIA_TEST_APT", str(folder))
    monkeypatch.setattr(debian, "KEYS", [folder / "keys"])
    (folder / "keys").touch()
    (folder / "targets").write_text("Debian|http://mirror.example/debian/\n")
    monkeypatch.setattr(debian, "available", lambda: True)
    return folder


OLD = pin("debian", b"older", version="1:1.0", file="tiny_1%3a1.0_arm64.deb", snapshot="http://127.0.0.1:1/")


def test_apt_gives_a_newer_version_and_it_is_recorded(apt: Path, cache: Path) -> None:
    fetched = fetch.fetch(OLD, cache)
    file = "tiny_1%3a1.1_arm64.deb"
    assert fetched.pin == replace(
        OLD, version="1:1.1", file=file, size=len(BODY), sha256=digest(BODY), url=f"copy:/pool/{file}"
    )
    assert fetched.path.read_bytes() == BODY
    update, uris, download = (apt / "calls").read_text().splitlines()
    for call in (update, uris, download):
        assert f"-o Dir::State::Lists={cache}/apt/lists" in call, "the system's apt sees nothing"
        assert "-o APT::Architecture=arm64" in call
    assert download.endswith("download tiny=1:1.1")
    assert fetch.fetch(fetched.pin, cache) == fetched
    assert len((apt / "calls").read_text().splitlines()) == 3, "it is in the cache"


@pytest.mark.parametrize(("suffix", "asked"), [("arm64", "arm64"), ("amd64", "amd64"), ("all", "arm64")])
def test_apt_is_asked_for_the_architecture_of_the_pin(apt: Path, cache: Path, suffix: str, asked: str) -> None:
    file = f"tiny_1%3a1.1_{suffix}.deb"
    (apt / "packages" / "tiny_1%3a1.1_arm64.deb").rename(apt / "packages" / file)
    (apt / "uris").write_text(f"'copy:/pool/{file}' {file} {len(BODY)} SHA256:{digest(BODY)}\n")
    fetch.fetch(replace(OLD, file=f"tiny_1%3a1.0_{suffix}.deb"), cache)
    calls = (apt / "calls").read_text().splitlines()
    assert len(calls) == 3
    for call in calls:
        assert f"-o APT::Architecture={asked} " in call
        assert f"-o APT::Architectures={asked} " in call


KERNEL = replace(OLD, project="tiny-image", file="tiny-1.0-5-cloud_1.0_arm64.deb")


@pytest.fixture
def metapackage(apt: Path) -> Path:
    """apt-cache, by which tiny-image depends on tiny today."""
    cache = apt / "bin" / "apt-cache"
    cache.write_text('#!/bin/sh\necho "cache $*" >>"$ZOSIA_TEST_APT/calls"\ncat "$ZOSIA_TEST_APT/depends"\n')
    cache.chmod(0o755)
    (apt / "depends").write_text("tiny-image\n PreDepends: odd\n |Depends: other\n  Depends: tiny\n  Suggests: odd\n")
    return apt


def test_a_package_with_another_name_each_time(metapackage: Path, cache: Path) -> None:
    fetched = fetch.fetch(KERNEL, cache)
    assert (fetched.pin.project, fetched.pin.file) == ("tiny-image", "tiny_1%3a1.1_arm64.deb")
    assert (fetched.pin.version, fetched.pin.sha256) == ("1:1.1", digest(BODY))
    assert fetched.path.read_bytes() == BODY
    update, depends, uris, download = (metapackage / "calls").read_text().splitlines()
    assert update.endswith("update")
    assert depends.startswith("cache ")
    assert depends.endswith(" depends tiny-image")
    assert f"-o Dir::State::Lists={cache}/apt/lists" in depends
    assert "-o APT::Architecture=arm64" in depends
    assert uris.endswith("--print-uris tiny")
    assert download.endswith("download tiny=1:1.1")
    assert fetch.fetch_recorded(fetched.pin, cache) == fetched.path
    assert len((metapackage / "calls").read_text().splitlines()) == 4, "it is in the cache"


def test_a_recorded_package_of_another_name_is_gone(metapackage: Path, cache: Path) -> None:
    with pytest.raises(ZosiaError, match=r"tiny-image 1:1.0 is no longer available; 1:1.1 is.*rm build/sources/tiny"):
        fetch.fetch_recorded(KERNEL, cache)


def test_apt_does_not_know_what_it_depends_on(metapackage: Path, cache: Path) -> None:
    (metapackage / "depends").write_text("")
    (metapackage / "uris").write_text("E: Unable to locate package tiny-image\n")
    with pytest.raises(ZosiaError, match=r"apt does not offer tiny-image of Debian 13 for arm64 \(E: Unable to locate"):
        fetch.fetch(KERNEL, cache)
    assert "--print-uris tiny-image" in (metapackage / "calls").read_text()


def test_a_plain_address_from_apts_lists_is_resumed(apt: Path, web: Web, cache: Path) -> None:
    file = "tiny_1%3a1.1_arm64.deb"
    web.files["/tiny.deb"] = BODY
    (apt / "uris").write_text(f"'{web.url}/tiny.deb' {file} {len(BODY)} SHA256:{digest(BODY)}\n")
    part = cache / "downloads" / digest(BODY) / f"{file}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:5])
    assert fetch.fetch(OLD, cache).path.read_bytes() == BODY
    assert web.requests == [("/tiny.deb", "bytes=5-")]
    assert "download tiny" not in (apt / "calls").read_text()


def test_apts_proxy_is_apts_business(apt: Path, web: Web, cache: Path) -> None:
    (apt / "uris").write_text(f"'{web.url}/tiny.deb' tiny_1%3a1.1_arm64.deb {len(BODY)} SHA256:{digest(BODY)}\n")
    config = apt / "bin" / "apt-config"
    config.write_text("#!/bin/sh\necho 'Acquire::http::Proxy \"http://proxy.example:3142\";'\n")
    config.chmod(0o755)
    assert fetch.fetch(OLD, cache).path.read_bytes() == BODY
    assert not web.requests


def test_apt_does_not_offer_it(apt: Path, cache: Path) -> None:
    (apt / "update").write_text("Ign:1 http://mirror.example/debian\nErr:1 http://mirror.example/debian No network\n")
    (apt / "uris").write_text("E: Unable to locate package tiny\n")
    with pytest.raises(
        ZosiaError,
        match=r"apt does not offer tiny of Debian 13 for arm64 \(Err:1 .* No network\).*KERNEL= and BUSYBOX=",
    ):
        fetch.fetch(OLD, cache)


def test_apt_gives_something_else(apt: Path, cache: Path) -> None:
    (apt / "packages" / "tiny_1%3a1.1_arm64.deb").write_bytes(b"else")
    with pytest.raises(ZosiaError, match=r"tiny_1%3a1.1_arm64.deb from apt does not match its package list"):
        fetch.fetch(OLD, cache)
    assert not list(cache.rglob("*.deb"))


def test_apt_gives_nothing(apt: Path, cache: Path) -> None:
    (apt / "packages" / "tiny_1%3a1.1_arm64.deb").unlink()
    with pytest.raises(ZosiaError, match=r"apt could not download tiny 1:1.1"):
        fetch.fetch(OLD, cache)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ({"ID": "debian", "VERSION_ID": "12"}, True),
        ({"ID": "debian"}, True),  # sid
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, False),  # its apt names no mirror of Debian
        (None, False),
    ],
)
def test_on_a_debian(
    apt: Path, monkeypatch: pytest.MonkeyPatch, release: dict[str, str] | None, expected: bool
) -> None:
    def read() -> dict[str, str]:
        if release is None:
            raise FileNotFoundError("no os-release")
        return release

    monkeypatch.setattr(platform, "freedesktop_os_release", read)
    assert available() is expected
    (apt / "keys").unlink()
    assert not available(), "what comes could not be verified"


def test_no_apt(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    assert available()
    monkeypatch.setenv("PATH", "/nowhere")
    assert not available()


TARGETS = """\
Debian Backports|http://mirror.example/backports/
Debian|http://mirror.example/debian/
Docker CE|https://other.example/linux/debian/
Debian|http://second.example/debian/
"""


@pytest.mark.parametrize("lists", ["targets", "host-lists/targets"], ids=["of the host", "of its own"])
@pytest.mark.parametrize(
    ("more", "security"),
    [
        ("Debian-Security|http://security.example/debian-security/\n", "http://security.example/debian-security/"),
        ("", "http://mirror.example/debian-security/"),  # sid has none
    ],
)
def test_mirrors_are_the_hosts(apt: Path, lists: str, more: str, security: str) -> None:
    (apt / "targets").unlink()
    (apt / lists).parent.mkdir(exist_ok=True)
    (apt / lists).write_text(TARGETS + more)
    main = "http://mirror.example/debian/"
    assert debian.mirrors(apt / "state") == {"Debian": main, "Debian-Security": security}
    assert not (apt / "calls").exists(), "no lists are fetched where there are some"
    options = debian.options(apt / "state", "arm64")
    (sources,) = (word.partition("=")[2] for word in options if word.startswith("Dir::Etc::sourcelist="))
    keys = apt / "keys"
    assert Path(sources).read_text() == (
        f"Types: deb\nURIs: {main}\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: {keys}\n\n"
        f"Types: deb\nURIs: {security}\nSuites: trixie-security\nComponents: main\nSigned-By: {keys}\n"
    )


def test_no_mirror(apt: Path, cache: Path) -> None:
    (apt / "targets").write_text("Other|http://other.example/\n")
    (apt / "update").write_text("Err:1 http://other.example No network\n")
    with pytest.raises(ZosiaError, match=r"apt names no mirror of Debian \(Err:1 .* No network\).*sudo apt-get update"):
        fetch.fetch(OLD, cache)


def test_the_hosts_sources_and_pins_do_not_matter(apt: Path) -> None:
    options = debian.options(apt / "state", "arm64")
    for name in ("sourceparts", "preferences", "preferencesparts"):
        assert f"Dir::Etc::{name}=/dev/null" in options
    assert "APT::Default-Release=" in options


def source(web: Web, name: str = "tiny-1.0/src") -> Pin:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"{name}/main.c")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"int"))
    web.files["/tiny"] = raw.getvalue()
    return pin("url", raw.getvalue(), url=f"{web.url}/tiny", member="tiny-1.0/src")


def test_source_tree(web: Web, cache: Path) -> None:
    wanted = source(web)
    tree = fetch.source_tree(wanted, cache)
    assert tree.parent == cache / "sources"
    assert (tree / "main.c").read_bytes() == b"int"
    (cache / "downloads").rename(cache / "gone")
    assert fetch.source_tree(wanted, cache) == tree
    assert len(web.requests) == 1


def test_a_source_tree_that_is_not_offered_any_more(apt: Path, cache: Path) -> None:
    with pytest.raises(ZosiaError, match=r"tiny 1:1.0 is no longer available; 1:1.1 is.*rm build/sources/tiny.json"):
        fetch.source_tree(OLD, cache)
    assert not (cache / "sources").exists() or not any(path.is_dir() for path in (cache / "sources").iterdir())
