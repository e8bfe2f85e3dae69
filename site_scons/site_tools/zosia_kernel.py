"""Kernel: the guest's kernel image, from a source tree and configuration fragments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zosia import kernel
from zosia.files import locked, replacing
from zosia_scons import action, compiled, library, source_tree


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    image, output = targets[0], targets[0].parent / "kernel"
    log = output.with_suffix(".log")
    tree, fragments = source_tree(env["TREE"], sources, env)
    options = {"source": tree, "output": output, "arch": env["ARCH"], "log": log}
    with locked(output), replacing(image) as temporary:
        log.unlink(missing_ok=True)
        kernel.configure(fragments=fragments, **options)
        built = kernel.build(jobs=env["JOBS"], ccache_dir=env["CACHE"] / "ccache", **options)
        shutil.copyfile(built, temporary)


def kernel_image(env: Any, record: Any, fragments: list[str], tree: Path | None = None) -> Any:
    """env.Kernel(record, fragments): build/ARCH/Image from the recorded source, or from the user's own `tree`."""
    sources = [*([] if tree else [record]), *fragments]
    act = action(_build, "LINUX")
    return compiled(env, "kernel", ["$BUILD/Image"], sources, act, tree=tree, depends=library(env, "kernel"))


def generate(env: Any) -> None:
    """Add the method."""
    env.AddMethod(kernel_image, "Kernel")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
