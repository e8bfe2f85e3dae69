"""The Python package, as far as it can be known without one; tests/build/test_wheel.py has a real one."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import deflate
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import read_sources
from zosia.run import probe
from zosia.settings.variables import DEFAULTS
from zosia_build import settings
from zosia_build.release import wheel
from zosia_build.settings import Build

Typed = Callable[..., Build]


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of a build, with these variables."""
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "")
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")
    (tmp_path / "llama.cpp").mkdir()
    for name in ("Image", "busybox", "llama.cpp/CMakeLists.txt"):
        (tmp_path / name).touch()

    def read(**given: str) -> Build:
        return settings.read({**DEFAULTS, "ACCEL": "tcg", "BASE": "direct", **given}, [], root, launched=tmp_path)

    return read


@pytest.mark.parametrize("name", ["KERNEL", "BUSYBOX", "LLAMA_SRC"])
def test_parts_of_ones_own_are_refused(typed: Typed, name: str) -> None:
    given = {"KERNEL": "Image", "BUSYBOX": "busybox", "LLAMA_SRC": "llama.cpp"}
    with pytest.raises(ZosiaError) as refused:
        typed(**{name: given[name]}).check_wheel()
    assert str(refused.value) == f"{name}= is a part of your own, and a wheel is for others. Leave {name}= out"


@pytest.mark.parametrize("base", ["distro", "buildroot"])
def test_another_base_is_refused(typed: Typed, base: str) -> None:
    with pytest.raises(ZosiaError, match=rf"^BASE={base} makes no wheel, .*\. Set BASE=direct, on Linux$"):
        replace(typed(), run=replace(typed().run, base=base)).check_wheel()


def test_hatchling_is_needed(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    build = typed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ZosiaError, match=r"package hatchling .* not found\. Type: ./scripts/bootstrap\.sh$"):
        build.check_wheel()
    replace(build, run=replace(build.run, dry_run=True)).check_wheel()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    build.check_wheel()


@pytest.mark.parametrize(("arch", "other"), [("aarch64", "x86_64"), ("x86_64", "aarch64")])
def test_the_other_architecture(typed: Typed, arch: str, other: str) -> None:
    (build,) = typed(ARCH=arch).others
    assert build == typed(ARCH=arch, ACCEL="tcg").others[0]
    assert build.places == {"ARCH": other, "BUILD": f"#build/{other}", "BASE_BUILD": f"#build/{other}"}
    assert build.sources == typed(ARCH=arch).sources


def test_the_licences_of_all_parts(root: Path, tmp_path: Path) -> None:
    sources = read_sources(root / "sources.toml")
    listed = ("a, 1: MIT", "b, 2: 0BSD OR MIT", "c, 3: (ISC OR MIT)", "d, 4: see its text")
    (tmp_path / "licences.txt").write_text("".join(f"- {line}\n" for line in listed), encoding="utf-8")
    common = "Apache-2.0 WITH LLVM-exception AND {}MIT"
    assert (
        wheel.expression([sources["llama-cpp"]], tmp_path) == f"(0BSD OR MIT) AND (ISC OR MIT) AND {common.format('')}"
    )
    gpl = "GPL-2.0-only AND LGPL-2.1-or-later AND "
    assert wheel.expression([sources["busybox-x86_64"]], tmp_path).endswith(common.format(gpl))


def test_the_project_of_a_wheel(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    changed = wheel.project(text, "MIT AND ISC")
    was, now = (set(lines.splitlines()) for lines in (text, changed))
    assert was - now == {'license = "MIT"', 'license-files = ["LICENSE"]'}
    assert now - was == {'license = "MIT AND ISC"', 'license-files = ["LICENSE", "licences.txt"]'}
    with pytest.raises(ZosiaError, match='should have one line license = "MIT"'):
        wheel.project(changed, "MIT")


def test_the_readme_of_a_wheel(root: Path) -> None:
    """On a package index none of the files are there that it links to."""
    text = (root / "README.md").read_text(encoding="utf-8")
    shown = wheel.readme(text)
    links = {token.attrGet("href") for token in _inline(shown) if token.type == "link_open"}
    assert {link for link in links if not re.match("https?:", str(link))} == set()
    assert [token.type for token in _inline(shown) if token.type == "image"] == []
    assert "<!--" not in shown
    assert "](" not in shown.replace("](http", "")
    assert "or build it from its sources" in shown
    assert "Recorded with" not in shown
    words = [re.sub(r"\s+", " ", re.sub(r"[\[\]]|\([^)]*\)|!\[.*", "", part)) for part in (text, shown)]
    assert len(words[1]) > 0.9 * len(words[0]), "nearly all of it is still there"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see [a\nb](docs/a.md#b), [c](#d)", "see a\nb, c"),
        ("[uv](https://docs.astral.sh/uv/)", "[uv](https://docs.astral.sh/uv/)"),
        ("a\n\n![A: b](docs/a.svg)\n\nRecorded with x.\nAnd y.\n\nb", "a\n\nb"),
        ("a\n\n![A: b](docs/a.svg)\n\nb", "a\n\nb"),
        ("<!-- not run: why,\nand more -->\n```sh\na\n```", "```sh\na\n```"),
    ],
)
def test_what_a_package_index_can_not_show(text: str, shown: str) -> None:
    assert wheel.readme(text) == shown


def _inline(text: str) -> list[Token]:
    return [token for block in MarkdownIt().parse(text) for token in block.children or ()]


def test_the_bytes_of_a_wheel_are_not_the_hosts_zlibs(tmp_path: Path) -> None:
    text = b"".join(b"%d\n" % number for number in range(10_000))
    with zipfile.ZipFile(tmp_path / "hatchlings.whl", "w") as made:
        made.writestr(zipfile.ZipInfo("a/b.py"), text, zipfile.ZIP_DEFLATED)
    wheel.pack(tmp_path / "hatchlings.whl", tmp_path / "ours.whl")
    with zipfile.ZipFile(tmp_path / "ours.whl") as ours:
        assert (ours.testzip(), ours.read("a/b.py")) == (None, text)
    assert deflate.deflate_compress(text, wheel.LEVEL) in (tmp_path / "ours.whl").read_bytes()
