"""`scons wheel`: what is in the Python package, what it says of itself, and that it is the same wherever it is made."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.build.conftest import Scons
from tests.unit.test_version import EVERYTHING
from zosia.base.version import VERSION
from zosia.machine.boards import BOARDS
from zosia_build import kernel
from zosia_build.release import licences
from zosia_build.release.wheel import readme

NAME = f"zosia-{VERSION}-py3-none-any.whl"
ABOUT = f"zosia-{VERSION}.dist-info"
BIG = 60 << 20  # bytes: more than that nobody wants to wait for
IMAGES = ("Image", "initramfs.cpio.gz", "initramfs-stub.cpio.gz")
# Everything in it: zosia, its images and the web page. tests/build/test_ui.py has the licences of the page.
EXPRESSION = (
    "(MPL-2.0 OR Apache-2.0) AND Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-3-Clause AND GPL-2.0-only AND "
    "GPL-2.0-only WITH Linux-syscall-note AND ISC AND LGPL-2.1-or-later AND MIT AND Unlicense"
)
# Makes the wheel in another folder, of the same images.
AGAIN = """
import os, sys
from pathlib import Path
from zosia.inputs.catalogue import read_record
from zosia_build.release import wheel
os.umask(0o077)
built, target, names, *records = sys.argv[1:]
images = {name: Path(built, name) for name in names.split()}
wheel.build(images=images, page=Path(built, "ui"), pins=[read_record(Path(r)) for r in records], target=Path(target))
"""


@pytest.fixture(scope="session")
def built(root: Path, scons: Scons) -> Path:
    """The wheel, up to date."""
    done = scons(root, "wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "build/dist" / NAME


@pytest.fixture
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(built)


@pytest.fixture
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_string(wheel.read(f"{ABOUT}/METADATA").decode())


def test_all_that_is_in_it(root: Path, wheel: zipfile.ZipFile) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "site_scons/zosia"]
    package = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    files = {name.removeprefix("site_scons/"): root / name for name in package if (root / name).is_file()}
    files |= {f"zosia/{name}": root / name for name in ("models.toml", "allowed_signers")}
    files |= {f"zosia/images/{arch}/{name}": root / "build" / arch / name for arch in BOARDS for name in IMAGES}
    page = [path for path in (root / "build/ui").rglob("*") if path.is_file()]
    assert len(page) > 10
    files |= {f"zosia/images/ui/{path.relative_to(root / 'build/ui')}": path for path in page}
    files[f"{ABOUT}/licenses/LICENSE"] = root / "LICENSE"
    made = {f"{ABOUT}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/licences.txt")}
    assert sorted(wheel.namelist()) == sorted({*files, *made, "zosia/images/licences.txt"})
    for name, path in files.items():
        assert wheel.read(name) == path.read_bytes(), name


def test_the_images_are_those_of_their_architectures(root: Path, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    for arch in BOARDS:
        image = Path(wheel.extract(f"zosia/images/{arch}/Image", tmp_path))
        assert kernel.read_image(image, arch=arch)
        full, stub = (wheel.getinfo(f"zosia/images/{arch}/{name}").file_size for name in IMAGES[1:])
        assert full > 2 * stub


def test_it_is_small_and_everybody_may_read_it(built: Path, wheel: zipfile.ZipFile) -> None:
    assert built.stat().st_size < BIG
    assert {member.external_attr >> 16 & 0o7777 for member in wheel.infolist()} == {0o644}
    assert {member.date_time for member in wheel.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_it_says_of_itself(root: Path, wheel: zipfile.ZipFile, metadata: Message) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (metadata["Name"], metadata["Version"], metadata["Requires-Python"]) == ("zosia", VERSION, ">=3.11")
    assert metadata["Metadata-Version"] == "2.4", "an older one has no such expression, and package indexes lag behind"
    assert metadata["License-Expression"] == EXPRESSION
    assert metadata.get_all("License-File") == ["LICENSE", "licences.txt"]
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {str(need) for need in needed if need.marker is None} == {
        str(Requirement(text.replace("_", "-"))) for text in project["dependencies"]
    }
    assert wheel.read(f"{ABOUT}/entry_points.txt").decode() == "[console_scripts]\nzosia = zosia.cli:main\n"
    assert "Tag: py3-none-any\n" in wheel.read(f"{ABOUT}/WHEEL").decode()
    assert readme((root / "README.md").read_text(encoding="utf-8")).strip() == str(metadata.get_payload()).strip()
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_the_licences_and_where_the_source_is(root: Path, wheel: zipfile.ZipFile) -> None:
    """The source is that of scripts/make-sources.sh, which collects it by the records of the build."""
    notice = wheel.read("zosia/images/licences.txt").decode()
    assert wheel.read(f"{ABOUT}/licenses/licences.txt").decode() == notice
    listed = re.findall(r"^- (.+): (.+)$", notice.split("=====")[0], re.M)
    assert listed == [(part.name, part.licence) for part in licences.PARTS if part.name not in ("GRUB", "GNU Unifont")]
    beginning = " ".join(notice.split("\n- ")[0].split())
    assert f"in zosia-{VERSION}-sources.tar, and so are the configuration and the scripts of the build" in beginning
    assert "gives a copy to anyone who asks" in beginning
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (root / "build/sources").glob("*.json")]
    known = {record["sha256"]: record["name"] for record in records}
    used = [known[digest] for digest in re.findall(r"^  from .*, SHA-256 (\w+)$", notice, re.M)]
    assert used == ["linux", *(f"busybox-{arch}" for arch in BOARDS), "llama-cpp"]
    assert '"$top"/build/sources/*.json' in (root / "scripts/make-sources.sh").read_text(encoding="utf-8")


def test_pip_installs_it_and_it_needs_nothing_of_a_build(built: Path, tmp_path: Path) -> None:
    words = [
        "install",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
    ]
    argv: list[str | Path] = [sys.executable, "-m", "pip", *words, "--target", tmp_path / "installed", built]
    subprocess.run(argv, capture_output=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{VERSION} {tmp_path}/installed/zosia\n", "")


def test_two_folders_give_the_same_bytes(root: Path, built: Path, tree: Path, tmp_path: Path) -> None:
    """With another umask, locale, time zone, date, and modes of files."""
    for path in (tree / "site_scons/zosia").rglob("*.py"):
        path.chmod(0o700)
    names = " ".join(f"{arch}/{name}" for arch in reversed(BOARDS) for name in IMAGES)
    records = [
        root / f"build/sources/{name}.json" for name in ("linux", "llama-cpp", *map("busybox-{}".format, BOARDS))
    ]
    argv: list[str | Path] = [sys.executable, "-c", AGAIN, root / "build", tmp_path / NAME, names, *records]
    other = {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1700000000", "HOME": str(tmp_path)}
    environment = {**os.environ, **other, "PYTHONPATH": str(tree / "site_scons"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(argv, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / NAME).read_bytes() == built.read_bytes()


def test_it_is_not_made_again_for_the_other_architecture(root: Path, built: Path, scons: Scons) -> None:
    for arch in BOARDS:
        assert scons(root, "wheel", f"ARCH={arch}").stdout == "scons: `wheel' is up to date.\n"


def test_each_step_is_done_once(tree: Path, scons: Scons) -> None:
    done = scons(tree, "-n", "wheel")
    assert done.returncode == 0, done.stderr
    steps = Counter(re.findall(r"^  [A-Z]+ +(\S+)", done.stdout, re.M))
    assert set(steps.values()) == {1}
    images = {f"build/{arch}/{name}" for arch in BOARDS for name in IMAGES}
    sources = {f"build/sources/{name}.json" for name in ("linux", "llama-cpp", *map("busybox-{}".format, BOARDS))}
    assert {*images, *sources, f"build/dist/{NAME}", "build/ui/index.html"} < set(steps)
    assert not [name for name in steps if "models" in name]


def test_a_clone_is_installed_in_place(tree: Path, tmp_path: Path) -> None:
    """By `pip install -e .`: its licence is that of what is in git."""
    argv: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel:editable", "-d", tmp_path]
    subprocess.run(argv, cwd=tree, capture_output=True, check=True)
    wheel = zipfile.ZipFile(tmp_path / NAME)
    (path,) = (name for name in wheel.namelist() if name.endswith(".pth"))
    assert wheel.read(path).decode().strip() == str(tree / "site_scons")
    assert not [name for name in wheel.namelist() if name.startswith("zosia/")]
    metadata = email.message_from_string(wheel.read(f"{ABOUT}/METADATA").decode())
    assert (metadata["Version"], metadata["License-Expression"]) == (VERSION, "MIT")


@pytest.mark.parametrize("words", [["BASE=distro"], ["BUSYBOX=README.md"]])
def test_a_wheel_of_ones_own_is_refused(tree: Path, scons: Scons, words: list[str]) -> None:
    done = scons(tree, "wheel", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"zosia: error: [^\n]*wheel[^\n]*\n", done.stderr)
    assert not (tree / "build").exists()
