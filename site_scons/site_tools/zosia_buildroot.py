"""Buildroot: kernel and busybox from one tree, with the defconfigs in buildroot/."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zosia.base.files import locked, replacing
from zosia_build import buildroot
from zosia_scons import action, compiled, library, literal, source_tree

PARTS = ("external.*", "Config.in", "configs/*", "board/zosia/*.config", "board/zosia/patches/*/*", "package/*/*")


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    output = targets[0].parent / "buildroot"
    job = buildroot.Job(
        source=source_tree(env["TREE"], sources, env)[0],
        external=Path(env.Dir("#buildroot").abspath),
        output=output,
        arch=env["ARCH"],
        extra=env["EXTRA"],
        cache=env["CACHE"],
        jobs=env["JOBS"],
        log=output.with_suffix(".log"),
    )
    with locked(output):
        job.log.unlink(missing_ok=True)
        for built, target in zip(buildroot.build(job, [target.name for target in targets]), targets, strict=True):
            with replacing(target) as temporary:
                shutil.copy(built, temporary)


def buildroot_base(env: Any, names: list[str], record: Any, *, tree: Path | None, extra: Path | None) -> Any:
    """env.Buildroot(names, record): $BASE_BUILD/NAME of each, by the recorded Buildroot or by the user's own `tree`.

    `extra` is a file with additional BR2_ settings.
    """
    targets = [f"$BASE_BUILD/{name}" for name in names]
    parts = [node for pattern in PARTS for node in env.Glob(f"#buildroot/{pattern}")]
    depends = [*library(env, "zosia_build.buildroot"), *parts, *([literal(extra)] if extra else [])]
    act = action(_build, "BUILDROOT")
    env = env.Clone(EXTRA=extra)
    # Buildroot does not rebuild a package whose recipe changed, so running it each time for the user's tree is no use.
    return compiled(env, "buildroot", targets, [] if tree else [record], act, tree=tree, depends=depends, follows=False)


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(buildroot_base, "Buildroot")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
