#!/usr/bin/env python3
"""Time to make a model disk against `cp` of the model on the same disk, alternating in one run.

    .venv/bin/python scripts/bench-image.py [--runs N] [--folder FOLDER] [--mke2fs-d] GGUF or SIZE

SIZE bytes of random data are made up (12.1G, 500M, 4096). Files are on the disk (fsync) when the clock stops; the page
cache is left as it is, and what it holds of the model is shown. Prints medians and ranges in seconds, their ratio to
cp, and the most memory in use. The disk needs room for twice the model; FOLDER is where (default: this one).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site_scons"))

from zosia import ext4  # noqa: E402
from zosia.files import sha256  # noqa: E402
from zosia.process import run  # noqa: E402

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def made_up(path: Path, size: int) -> Path:
    """Write a file of random bytes."""
    with path.open("wb") as file:
        for at in range(0, size, 1 << 24):
            file.write(os.urandom(min(1 << 24, size - at)))
        os.fsync(file.fileno())
    return path


def cached(path: Path) -> str:
    """How much of a file the page cache holds."""
    if not shutil.which("fincore"):
        return "unknown"
    done = subprocess.run(["fincore", "-b", "-n", "-o", "RES", path], capture_output=True, text=True, check=True)
    return f"{int(done.stdout) / path.stat().st_size:.0%}"


def mke2fs_d(model: Path, target: Path) -> None:
    """Make an image in the usual way."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        Path(folder, "model.gguf").hardlink_to(model)
        size = ext4.image_size([model.stat().st_size]) * 102 // 100 // 1024
        options = ("-q", "-F", "-t", "ext4", "-N", "16", "-m", "0", "-O", "^has_journal")
        run(["mke2fs", *options, "-d", folder, target, f"{size}k"])


def timed(make: Callable[[Path], object], target: Path) -> float:
    """Seconds until the file that `make` makes is on the disk; it is removed."""
    os.sync()
    start = time.monotonic()
    make(target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    took = time.monotonic() - start
    target.unlink()
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a .gguf, or a size")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--mke2fs-d", action="store_true", help="once mke2fs -d as well, which is slow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-image-", dir=options.folder) as name:
        target = Path(name, "target")
        size = re.fullmatch(r"([0-9.]+)([KMG]?)", options.model)
        model = made_up(Path(name, "m.gguf"), int(float(size[1]) * UNITS[size[2]])) if size else Path(options.model)
        digest = sha256(model)
        info = {"name": "m"}
        ways: dict[str, Callable[[Path], object]] = {
            "cp": lambda to: run(["cp", model, to]),
            "image": lambda to: ext4.build(parts=[model], info=info, target=to, digest=digest),
        }
        once: dict[str, Callable[[Path], object]] = {
            "image and its SHA-256": lambda to: ext4.build(parts=[model], info=info, target=to)
        } | ({"mke2fs -d": lambda to: mke2fs_d(model, to)} if options.mke2fs_d else {})
        times: dict[str, list[float]] = {name: [] for name in ways | once}
        memory = 0
        for way, make in [*(item for _ in range(options.runs) for item in ways.items()), *once.items()]:
            print(f"  {way}: {cached(model)} of the model in the page cache", end=" ", flush=True)
            times[way].append(timed(make, target))
            print(f"{times[way][-1]:.2f} s", flush=True)
            if way != "mke2fs -d":
                whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
                memory = max(resource.getrusage(who).ru_maxrss for who in whose)
        usual = statistics.median(times["cp"])
        for way, values in times.items():
            middle = statistics.median(values)
            print(f"{way:22} {middle:7.2f} s  ({min(values):.2f} to {max(values):.2f})  {middle / usual:.2f} of cp")
        print(f"most memory: {memory / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
