"""The notice of an image's licences is about what is in it, and its texts are the ones that its parts come with."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from zosia.base import apt as debian
from zosia.base import process
from zosia.base.errors import ZosiaError
from zosia.base.version import VERSION
from zosia.inputs import fetch
from zosia.inputs.catalogue import Pin, read_models, read_sources
from zosia_build.release import licences, source_packages


@pytest.fixture
def pins(root: Path) -> list[Pin]:
    """Pins of an ISO for x86_64."""
    sources = read_sources(root / "sources.toml")
    names = ("linux", "llama-cpp", "busybox-x86_64", "grub-efi-x86_64", "grub-bios-x86_64")
    return [sources[name] for name in names]


def test_each_source_of_an_image_is_a_part(root: Path) -> None:
    sources = read_sources(root / "sources.toml")
    tools = {"buildroot"}  # is in no image
    for name, pin in sources.items():
        parts = [part for part in licences.PARTS if licences.used(part, [pin])]
        assert len(parts) == (0 if name in tools else 1), name
        for part in parts:
            assert part.licence.startswith(pin.licence), name
            assert bool(part.source) == ("GPL" in pin.licence), "the GPL gives a right to the source"


def test_the_notice(pins: list[Pin]) -> None:
    text = licences.notice(pins, model={"name": "tiny", "licence": "Apache-2.0"})
    linux, *_ = (pin for pin in pins if pin.name == "linux")
    for said in (
        f"zosia {VERSION}",
        f"- Linux: GPL-2.0-only WITH Linux-syscall-note\n  the kernel, Image\n  from {linux.file}, SHA-256 ",
        f"https://snapshot.debian.org/package/linux/{linux.version}/\n",
        "https://snapshot.debian.org/package/busybox/1:1.37.0-6/\n",
        "- the model tiny: Apache-2.0\n",
        "GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991",
        "GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007",
        "Copyright (c) 2026 zosia contributors",
        "Copyright (c) 2017 yhirose",
    ):
        assert said in text
    assert text.count("===== GPL-2.0 =====") == 1


def test_upstreams_kernel_is_upstreams_source(root: Path) -> None:
    upstream = replace(read_sources(root / "sources.toml")["linux-upstream"], name="linux")
    text = licences.notice([upstream])
    assert f"  from linux-6.12.104.tar.xz, SHA-256 {upstream.sha256}\n  source: {upstream.url}\n" in text
    assert "package/linux/" not in text


def test_parts_of_ones_own(pins: list[Pin]) -> None:
    text = licences.notice([pin for pin in pins if not pin.name.startswith("busybox")], own=("BUSYBOX",))
    said = "supplied by the person who built this image (BUSYBOX=): ask them"
    assert f"- busybox: GPL-2.0-only\n  /bin/busybox in the initramfs\n  {said}\n" in text
    assert "package/busybox" not in text
    assert "package/glibc" not in text
    assert "the model" not in licences.notice(pins)


def test_without_grub_nothing_is_said_of_it(pins: list[Pin]) -> None:
    assert "GRUB" not in licences.notice([pin for pin in pins if "grub" not in pin.name]).split("=====")[0]


def test_the_texts_are_those_of_the_parts(llama_source: Path) -> None:
    (zig,) = importlib.util.find_spec("ziglang").submodule_search_locations  # type: ignore[union-attr, misc]
    originals = {
        "llama.cpp": llama_source / "LICENSE",
        "json": llama_source / "licenses/LICENSE-jsonhpp",
        "httplib": llama_source / "vendor/cpp-httplib/LICENSE",
        "zig": Path(zig) / "LICENSE",
        "musl": Path(zig) / "lib/libc/musl/COPYRIGHT",
        "LLVM": Path(zig) / "lib/libcxx/LICENSE.TXT",
    }
    for name, path in originals.items():
        assert (licences.TEXTS / f"{name}.txt").read_bytes() == path.read_bytes(), name
    sgemm = (llama_source / "ggml/src/ggml-cpu/llamafile/sgemm.cpp").read_text(encoding="utf-8").split("\n\n")[0]
    assert (licences.TEXTS / "llamafile.txt").read_text().strip() == re.sub(r"^// ?", "", sgemm, flags=re.M)
    yarn = "Copyright (c) 2023 Jeffrey Quesnelle and Bowen Peng"
    assert yarn in (llama_source / "ggml/src/ggml-cpu/ops.cpp").read_text(encoding="utf-8")
    assert yarn in (licences.TEXTS / "yarn.txt").read_text()
    used = {f"{text}.txt" for part in licences.PARTS for text in part.texts} - {"zosia.txt"}
    assert used == {path.name for path in licences.TEXTS.iterdir()}


def test_the_documentation_has_each_part_and_each_licence_of_a_model(root: Path) -> None:
    text = (root / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = [(part.name, part.licence, part.source or "") for part in licences.PARTS]
    assert re.findall(r"^\| (.+?) \| (.+?) \| .* \| (.*?) ?\|$", text, re.M)[1:] == rows
    for model in read_models(root / "models.toml").values():
        assert model.licence in text


class Apt:
    """Programs that only note what they are called with."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.missing = self.changed = ""
        self.built_using = "glibc (= 2.36-9), libxcrypt (= 1:4.4.33-2)"

    def __call__(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        words, output = [str(word) for word in argv], ""
        self.calls.append(words)
        if words[0] == "dpkg-deb":
            output = self.built_using if "busybox" in words[2] else ""
        elif "source" in words:
            self.sources = Path(next(word for word in words if "sourcelist=" in word).split("=")[1]).read_text()
            name = words[-1].split("=")[0]
            if name == self.missing:
                return subprocess.CompletedProcess(words, 100, "E: nothing", "")
            (options["cwd"] / f"{name}.dsc").write_text(name)
        elif "status" in words:
            output = self.changed
        elif words[0] == "git":
            Path(words[words.index("-o") + 1]).write_bytes(b"zosia")
        return subprocess.CompletedProcess(words, 0, output, "")


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Apt:
    def fetched(pin: Pin, cache: Path) -> Path:
        path = tmp_path / pin.file
        path.write_text(pin.name)
        return path

    programs = Apt()
    monkeypatch.setattr(source_packages, "run", programs)
    monkeypatch.setattr(debian, "available", lambda: True)
    monkeypatch.setattr(debian, "mirrors", lambda state: {"Debian": "http://a/", "Debian-Security": "http://b/"})
    monkeypatch.setattr(debian, "KEYS", [Path(__file__)])
    monkeypatch.setattr(fetch, "fetch_recorded", fetched)
    return programs


def packed(archive: Path) -> list[str]:
    listed = process.run(["tar", "-tf", archive]).stdout.split()
    return [name.removeprefix(f"zosia-{VERSION}-sources/") for name in listed]


def test_the_sources(apt: Apt, pins: list[Pin], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    written = source_packages.write(pins, tmp_path / "out", tmp_path)
    asked = [words[-1] for words in apt.calls if "source" in words]
    busybox, grub = "busybox=1:1.37.0-6", "grub2=2.12-9+deb13u4"
    assert asked == [busybox, "glibc=2.36-9", grub, "libxcrypt=1:4.4.33-2"]
    assert re.findall(r"^Types: (.*)\nURIs: (.*)\nSuites: (.*)$", apt.sources, re.MULTILINE) == [
        ("deb-src", "http://a/", "trixie trixie-updates"),
        ("deb-src", "http://b/", "trixie-security"),
    ]
    names = ["busybox.dsc", "glibc.dsc", "grub2.dsc", "libxcrypt.dsc", pins[0].file, f"zosia-{VERSION}.tar"]
    assert packed(written) == names
    first = written.read_bytes()
    assert source_packages.write(pins, tmp_path / "out", tmp_path).read_bytes() == first
    assert [path.name for path in (tmp_path / "out").iterdir()] == [licences.SOURCES]


def test_the_archive_of_a_wheel_has_what_its_notice_offers(apt: Apt, root: Path, tmp_path: Path) -> None:
    """For each part whose licence gives a right to the source, and of the versions that the wheel was built from."""
    sources = read_sources(root / "sources.toml")
    pins = [sources[name] for name in ("linux", "llama-cpp", "busybox-aarch64", "busybox-x86_64")]
    (tmp_path / "out").mkdir()
    written = source_packages.write(pins, tmp_path / "out", tmp_path)
    notice = licences.notice(pins, introduction=licences.OF_A_WHEEL)
    assert f"in {written.name}, and so are the configuration" in " ".join(notice.split())
    entitled = [part for part in licences.parts(pins) if "GPL" in part.licence]
    assert [part.source for part in entitled] == ["linux", "busybox", "glibc"]
    names = packed(written)
    assert {part.name for part in entitled if not any(name.startswith(part.source) for name in names)} == set()
    assert f"  from {unquote(sources['linux'].file)}, SHA-256 {sources['linux'].sha256}" in notice.splitlines()
    assert sources["linux"].file in names, "the very file that the kernel was built from"
    versions = {licences.source_version(sources[f"busybox-{arch}"]) for arch in ("aarch64", "x86_64")}
    asked = [words[-1] for words in apt.calls if "source" in words]
    assert {f"busybox={version}" for version in versions} == {word for word in asked if word.startswith("busybox=")}


def test_changes_that_git_does_not_have(apt: Apt, pins: list[Pin], tmp_path: Path) -> None:
    apt.changed = " M buildroot/board/zosia/linux-common.config\n M b\n"
    with pytest.raises(ZosiaError, match=r"^buildroot/board/zosia/linux-common\.config differs .* lack the change\."):
        source_packages.write(pins, tmp_path, tmp_path)
    assert not (tmp_path / licences.SOURCES).exists()


def test_a_distributions_kernel_has_its_source_package(apt: Apt, root: Path, tmp_path: Path) -> None:
    sources = read_sources(root / "sources.toml")
    distro = sources["linux-distro-aarch64"]
    assert source_packages.wanted([distro], tmp_path) == {("linux", distro.version)}


def test_each_version_of_a_source_package_is_there(apt: Apt, root: Path, pins: list[Pin], tmp_path: Path) -> None:
    distro = replace(read_sources(root / "sources.toml")["linux-distro-aarch64"], version="6.1.1-1+b2")
    older = replace(pins[2], name="busybox-aarch64", file="busybox_arm64.deb", version="1:1.35.0-4")
    apt.built_using = "glibc (= 2.36-9), glibc (= 2.36-8)"
    (tmp_path / "out").mkdir()
    for given in ([*pins[:3], older, distro], [distro, older, *pins[:3]]):
        apt.calls = []
        written = source_packages.write(given, tmp_path / "out", tmp_path)
        assert [words[-1] for words in apt.calls if "source" in words] == [
            *("busybox=1:1.35.0-4", "busybox=1:1.37.0-6"),
            *("glibc=2.36-8", "glibc=2.36-9", "linux=6.1.1-1"),
        ]
        assert pins[0].file in packed(written), "zosia's own has its source already"


@pytest.mark.parametrize("arguments", [[], ["out"]])
def test_it_says_what_it_wants(root: Path, tmp_path: Path, arguments: list[str]) -> None:
    argv = [sys.executable, "-m", "zosia_build.release.source_packages", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ("zosia: error: A folder and records are needed. Type: ./scripts/make-sources.sh FOLDER\n")
    assert not list(tmp_path.iterdir())


def test_sources_that_are_not_to_be_had(
    apt: Apt, pins: list[Pin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt.missing = "grub2"
    (tmp_path / "out").mkdir()
    with pytest.raises(ZosiaError, match=r"no source of grub2 2\.12-9\+deb13u4.*snapshot\.debian\.org/package/grub2/"):
        source_packages.write(pins, tmp_path / "out", tmp_path)
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr(debian, "available", lambda: False)
    with pytest.raises(ZosiaError, match="Use Debian"):
        source_packages.write(pins, tmp_path / "out", tmp_path)


Release = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def release(root: Path, tmp_path: Path) -> Release:
    """Run scripts/release.sh in a clone, with programs around it that make what they should."""
    programs = {
        "scripts/bootstrap.sh": "exit 0",
        ".venv/bin/python": '[ "$1" = -c ] && echo 1.2.3 && exit\n'
        ': >"$3"/licences.txt && shift 3 && echo "$@" >records',
        ".venv/bin/scons": "mkdir -p build/sbom; : >build/sbom/zosia-1.2.3-wheel.cdx.json; [ $1 != sbom ] || exit 0\n"
        "[ $1 != wheel ] || { mkdir build/dist; :>build/dist/zosia-1.2.3-py3-none-any.whl; exit; }\n"
        "for a in $*; do arch=${a#ARCH=}; done; mkdir -p build/$arch build/sources\n"
        ": >build/sbom/zosia-1.2.3-$arch.cdx.json\n"
        "for f in Image initramfs.cpio.gz zosia-smollm2-135m.iso; do echo $arch $f >build/$arch/$f; done\n"
        "for n in linux llama-cpp busybox-$arch grub-efi-$arch linux-distro-$arch; do : >build/sources/$n.json; done",
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "scripts/release.sh").write_bytes((root / "scripts/release.sh").read_bytes())
    (tmp_path / "scripts/release.sh").chmod(0o755)
    (tmp_path / ".gitignore").write_text("/build/\n/records\n")
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.3] - x\n\nNew.\n\n## [1.2.2] - x\n\nOld.\n")
    (tmp_path / "models.toml").write_text("serial = 1\n")
    git: list[str | Path] = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", tmp_path]
    for words in ("init --quiet", "add --all", "commit --quiet --message x"):
        argv: list[str | Path] = [*git, *words.split()]
        subprocess.run(argv, check=True)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tmp_path / "scripts/release.sh", *arguments], capture_output=True, text=True, check=False
        )

    return run


def test_a_release(release: Release, tmp_path: Path) -> None:
    done = release("v1.2.3")
    assert done.returncode == 0, done.stderr
    images = [f"zosia-1.2.3-{a}{b}" for a in ("aarch64", "x86_64") for b in ("-Image", "-initramfs.cpio.gz", ".iso")]
    out = tmp_path / "build/release"
    wheel = "zosia-1.2.3-py3-none-any.whl"
    bills = [f"zosia-1.2.3-{name}.cdx.json" for name in ("aarch64", "wheel", "x86_64")]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["SHA256SUMS", "licences.txt", "models.toml", wheel, *images, *bills]
    )
    assert (out / "zosia-1.2.3-x86_64.iso").read_text() == "x86_64 zosia-smollm2-135m.iso\n"
    assert process.run(["sha256sum", "--check", "SHA256SUMS"], cwd=out).stdout.count(": OK\n") == 12
    assert (tmp_path / "build/release-notes.md").read_text().strip() == "New."
    records = (tmp_path / "records").read_text().split()
    assert {"build/sources/linux.json", "build/sources/grub-efi-x86_64.json"} <= set(records)
    assert not [record for record in records if "distro" in record]


@pytest.mark.parametrize("name", ["linux", "busybox-x86_64", "grub-efi-aarch64"])
def test_a_release_without_a_record(release: Release, tmp_path: Path, name: str) -> None:
    scons = tmp_path / ".venv/bin/scons"
    scons.write_text(f"{scons.read_text()}rm -f build/sources/{name}.json\n")
    for words in (["add", "--all"], ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "y"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    done = release()
    assert done.returncode == 1
    missing = name.replace("efi", "*")
    assert f"zosia: error: build/sources/{missing}.json is missing, so its source would be missing too\n" in done.stderr
    assert not (tmp_path / "records").exists()
    assert not (tmp_path / "build/release/SHA256SUMS").exists()


def test_releases_that_are_refused(release: Release, tmp_path: Path) -> None:
    done = release("v1.2.4")
    assert done.stderr == "zosia: error: the tag v1.2.4 does not match the version of this tree, v1.2.3\n"
    (tmp_path / "CHANGELOG.md").write_text("")
    done = release()
    assert "there are uncommitted changes" in done.stderr
    assert done.returncode == 1
