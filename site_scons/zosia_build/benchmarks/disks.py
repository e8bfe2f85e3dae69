"""Section on making a model's disk image."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from zosia.base.files import cache_root
from zosia.base.process import run
from zosia.disk import ext4
from zosia.inputs import catalogue, model_files
from zosia.settings.settings import Settings
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER, ROOT


def made_disk(make: Callable[[Path], object]) -> dict[str, float]:
    """Return the seconds that `make` takes until its file is synced to the disk; the file is removed."""
    target = FOLDER / "disk"
    os.sync()
    start = time.monotonic()
    make(target)
    with target.open("rb") as made:
        os.fsync(made.fileno())
    took = time.monotonic() - start
    target.unlink()
    return {"s": took}


def disk_ways(file: Path, digest: str) -> dict[str, Way]:
    """Return two ways: copying a model, and making its disk when its digest is known already."""

    def image(target: Path) -> None:
        ext4.build(parts=[file], info={"name": "m"}, target=target, digest=digest)

    return {
        "cp": partial(made_disk, lambda target: run(["cp", file, target])),
        "zosia": partial(made_disk, image),
    }


def disks(settings: Settings, rounds: int) -> Section:
    """Compare making the model's disk with a copy."""
    model = catalogue.read_models(ROOT / "models.toml")["smollm2-135m"]
    file = model_files.model_file(model, cache_root())
    return Section(
        what=f"{file.stat().st_size:,} bytes, synced to disk in both cases.",
        ways=compare(disk_ways(file, model.gguf_sha256), rounds),
    )
