"""Notes before a first build. tests/build/test_scons.py has when they are printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zosia.inputs import fetch
from zosia.run import probe
from zosia.settings.variables import DEFAULTS
from zosia_build import first_build, settings
from zosia_build.settings import Build

Typed = Callable[..., Build]
LINUX, LLAMA = {"LINUX": ("build/aarch64/Image",)}, {"LLAMA": ("build/aarch64/llama-cli-i8mm",)}


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of a build in an empty folder, on so many processors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "")
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))

    def read(jobs: int = 2) -> Build:
        return replace(settings.read({**DEFAULTS, "ACCEL": "tcg"}, [], root, launched=tmp_path), jobs=jobs)

    return read


@pytest.mark.parametrize(
    ("steps", "jobs", "compiled"),
    [
        (LINUX, 2, "the kernel: about 5 min"),
        (LLAMA, 2, "llama.cpp: about 5 min"),
        ({**LLAMA, **LINUX}, 2, "the kernel and llama.cpp: about 10 min"),
        ({**LLAMA, **LINUX}, 1, "the kernel and llama.cpp: about 20 min"),
        ({**LLAMA, **LINUX}, 16, "the kernel and llama.cpp: about 2 min"),
        ({**LLAMA, **LINUX}, 64, "the kernel and llama.cpp: about 1 min"),
        ({"LINUX": ("Image", "Image-iso")}, 2, "the kernel: about 10 min"),
        ({"BUILDROOT": ("build/aarch64/buildroot/Image",), **LLAMA}, 4, "Buildroot and llama.cpp: about 33 min"),
    ],
)
def test_how_long_it_takes(typed: Typed, steps: dict[str, tuple[str, ...]], jobs: int, compiled: str) -> None:
    first, _ = first_build.notes(typed(jobs), steps)
    assert first == f"the first build compiles {compiled} on this machine. Later runs take seconds"


def test_what_is_downloaded(typed: Typed) -> None:
    build = typed()
    sizes = [build.sources[name].size for name in ("linux", "llama-cpp")]
    _, said = first_build.notes(build, {**LINUX, **LLAMA})
    assert said == f"it downloads {sum(sizes) / 1e6:.1f} MB"
    _, said = first_build.notes(build, LINUX)
    assert said == f"it downloads {sizes[0] / 1e6:.1f} MB"
    place = fetch.place(build.sources["linux"], build.run.cache)
    place.parent.mkdir(parents=True)
    place.touch()
    assert len(list(first_build.notes(build, LINUX))) == 1, "it is there"


def test_nothing_is_compiled(typed: Typed) -> None:
    assert list(first_build.notes(typed(), {"INPUT": ("build/sources/linux.json",), "EXT4": ("a.img",)})) == []


def test_a_damaged_record_is_no_reason_to_fail(typed: Typed, tmp_path: Path) -> None:
    """The build makes it again."""
    (tmp_path / "build/sources").mkdir(parents=True)
    (tmp_path / "build/sources/linux.json").write_text("garbage")
    assert len(list(first_build.notes(typed(), LINUX))) == 1
