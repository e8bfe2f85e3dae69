"""DistroKernel: the kernel of a distribution's package, and the modules that the guest loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia.inputs.catalogue import read_record
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import fetch  # slow to import, and only needed here
    from zosia_build.kernels import distro  # slow to import, and only needed here

    image, modules = targets
    package = fetch.fetch_recorded(read_record(sources[0]), env["CACHE"])
    distro.build(package, kernel=image, modules=modules)


def distro_kernel(env: Any, record: Any) -> Any:
    """env.DistroKernel(record): $BASE_BUILD/Image and $BASE_BUILD/modules.cpio.gz, from the recorded package."""
    targets = [f"$BASE_BUILD/{name}" for name in ("Image", "modules.cpio.gz")]
    nodes = env.Command(targets, record, action(_build, "TAKE"))
    env.Depends(nodes, library(env, "zosia_build.kernels.distro"))
    return env.Precious(nodes)


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(distro_kernel, "DistroKernel")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
