"""Kernel: the guest's kernel image, from a source tree and configuration fragments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zosia.base.files import locked, replacing
from zosia_scons import action, compiled, library, literal, source_tree


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build import kernel  # slow to import, and only needed here

    image = targets[0]
    output = image.parent / env["FOLDER"]
    log = output.with_suffix(".log")
    tree, fragments = source_tree(env["TREE"], sources, env)
    options = {"source": tree, "output": output, "arch": env["ARCH"], "log": log, "cache": env["CACHE"]}
    with locked(output), replacing(image) as temporary:
        log.unlink(missing_ok=True)
        kernel.configure(fragments=fragments, **options)
        built = kernel.build(jobs=env["JOBS"], loader=env["LOADER"], **options)
        shutil.copyfile(built, temporary)


def kernel_image(
    env: Any,
    record: Any,
    fragments: list[str],
    tree: Path | None = None,
    *,
    image: str = "$BASE_BUILD/Image",
    folder: str = "kernel",
    loader: bool = False,
) -> Any:
    """env.Kernel(record, fragments): build/ARCH/Image from the recorded source, or from the user's own `tree`.

    `folder` is the build folder beside the image; with `loader` the image is for a boot loader.
    """
    sources = [*([] if tree else [record]), *fragments]
    act = action(_build, "LINUX")
    own = env.Override({"LOADER": loader})
    return compiled(own, folder, [image], sources, act, tree=tree, depends=library(env, "zosia_build.kernel"))


def _take(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build import kernel

    image = kernel.read_image(sources[0], arch=env["ARCH"])
    with replacing(targets[0]) as temporary:
        temporary.write_bytes(image)


def kernel_file(env: Any, path: Path) -> Any:
    """env.KernelFile(path): $BASE_BUILD/Image from the user's own kernel image."""
    return env.Precious(env.Command("$BASE_BUILD/Image", literal(path), action(_take, "TAKE")))


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(kernel_image, "Kernel")
    env.AddMethod(kernel_file, "KernelFile")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
