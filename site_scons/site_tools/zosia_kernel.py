"""Kernel: the guest's kernel image, from a source tree and configuration fragments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zosia import kernel
from zosia.files import locked, replacing
from zosia_scons import action, library, source_tree


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    image, output = targets[0], targets[0].parent / "kernel"
    log = output.with_suffix(".log")
    tree, fragments = source_tree(env["KERNEL_TREE"], sources, env)
    options = {"source": tree, "output": output, "arch": env["ARCH"], "log": log}
    with locked(output), replacing(image) as temporary:
        log.unlink(missing_ok=True)
        kernel.configure(fragments=fragments, **options)
        built = kernel.build(jobs=env["JOBS"], ccache_dir=env["CACHE"] / "ccache", **options)
        shutil.copyfile(built, temporary)


def kernel_image(env: Any, record: Any, fragments: list[str], tree: Path | None = None) -> Any:
    """env.Kernel(record, fragments): build/ARCH/Image from the recorded source, or from the user's own `tree`."""
    sources = [*([] if tree else [record]), *fragments]
    image = env.Command("$BUILD/Image", sources, action(_build, "LINUX"), KERNEL_TREE=tree)
    env.Depends(image, [*library(env, "kernel"), env.Value(str(tree))])
    env.SideEffect("$BUILD/one-heavy-build", image)
    env.Clean(image, ["$BUILD/kernel", "$BUILD/kernel.log", "$BUILD/kernel.lock"])
    if tree:  # make knows better than SCons when the user's files changed
        env.AlwaysBuild(image)
    return env.NoCache(env.Precious(image))


def generate(env: Any) -> None:
    """Add the method."""
    env.AddMethod(kernel_image, "Kernel")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
