"""`scons sbom`: the bills of a build, and that they are the same wherever they are made."""

from __future__ import annotations

import json
from pathlib import Path

from tests.build.conftest import Scons
from zosia.base.version import VERSION

SUBJECTS = ("aarch64", "aarch64-iso", "inputs", "smollm2-135m.img", "wheel")


def bills(tree: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tree / "build" / "sbom").iterdir()}


def test_two_builds_give_the_same_bytes(tree: Path, scons: Scons) -> None:
    """With another time zone, locale and order of sets; the time is a fixed one, or that of SOURCE_DATE_EPOCH."""
    done = scons(tree, "sbom")
    assert done.returncode == 0, done.stdout + done.stderr
    first = bills(tree)
    assert set(first) == {f"zosia-{VERSION}-{name}.{form}.json" for name in SUBJECTS for form in ("cdx", "spdx")}
    for name, content in first.items():
        (tree / "build" / "sbom" / name).write_bytes(b"old")
        assert "1980-01-01T00:00:00" in content.decode()
    again = scons(tree, "sbom", TZ="Asia/Tokyo", LC_ALL="tr_TR.UTF-8", PYTHONHASHSEED="7")
    assert again.returncode == 0, again.stderr
    assert bills(tree) == first
    dated = scons(tree, "sbom", SOURCE_DATE_EPOCH="1700000000")
    assert dated.returncode == 0, dated.stderr
    assert all("2023-11-14T22:13:20" in content.decode() for content in bills(tree).values())
    wrong = scons(tree, "sbom", SOURCE_DATE_EPOCH="today")
    assert wrong.returncode == 2
    assert "zosia: error: SOURCE_DATE_EPOCH=today is no number of seconds" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_it_is_of_what_was_fetched(tree: Path, scons: Scons) -> None:
    """And a dry run writes nothing."""
    assert scons(tree, "-n", "sbom").returncode == 0
    assert not (tree / "build" / "sbom").exists()
    assert scons(tree, "sbom", "ARCH=x86_64", "ISO_MODEL=no").returncode == 0
    linux = json.loads((tree / "build/sources/linux.json").read_text(encoding="utf-8"))
    for form, kind in (("cdx", "components"), ("spdx", "packages")):
        document = json.loads((tree / f"build/sbom/zosia-{VERSION}-x86_64-iso.{form}.json").read_text(encoding="utf-8"))
        names = {part["name"]: part for part in document[kind]}
        assert {"linux", "llama-cpp", "busybox-x86_64", "grub-efi-x86_64", "grub-bios-x86_64"} <= set(names)
        assert not {"busybox-aarch64", "smollm2-135m"} & set(names)
        assert linux["sha256"] in json.dumps(names["linux"])


def test_a_base_with_a_bill_of_its_own(tree: Path, scons: Scons) -> None:
    done = scons(tree, "sbom", "BASE=buildroot")
    assert done.returncode == 2
    assert done.stderr.startswith("zosia: error: BASE=buildroot has a bill of materials of its own. Type: make -C ")
