"""Wheel: the Python package, for `scons wheel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia.base.version import VERSION
from zosia.inputs.catalogue import read_record
from zosia_build.release import wheel
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    index, names = sources[0], env["IMAGE_NAMES"]
    images = dict(zip(names, sources[1:], strict=False))
    pins = [read_record(record) for record in sources[1 + len(names) :]]
    wheel.build(images=images, page=index.parent, pins=pins, target=targets[0])


def python_wheel(env: Any, images: dict[str, Any], page: Any, records: list[Any]) -> Any:
    """env.Wheel({"ARCH/NAME": file}, page, [record...]): the wheel in build/dist.

    The records are of everything that the images contain: they name the licences.
    """
    made = env.Command(
        f"#build/dist/zosia-{VERSION}-py3-none-any.whl",
        [page, *images.values(), *records],
        action(_build, "WHEEL"),
        IMAGE_NAMES=list(images),
    )
    files = [env.File(str(path)) for path in (*wheel.package(), *wheel.DESCRIBED)]
    modules = ("zosia_build.release.wheel", "zosia_build.release.licences", "zosia_build.ui.licences")
    env.Depends(made, [*library(env, *modules), *files, *env.Glob("#licences/*.txt")])
    env.Clean(made, "#build/dist")
    return env.NoCache(env.Precious(made))


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(python_wheel, "Wheel")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
