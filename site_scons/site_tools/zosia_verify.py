"""Second build: the alias `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SCons.Node.Alias import default_ans

from zosia.base.errors import ZosiaError
from zosia_build.release import verify
from zosia_scons import action, refuse

DEFAULT = ["kernel", "llama", "initramfs", "model.img"]
COMPARED = (*DEFAULT, "iso", "ui", "wheel", "docs")
RECORD = ".img.json"  # of a disk: it has the time at which that was made
INDEX = "index.html"  # of a folder


def _verify(targets: list[Path], sources: list[Path], env: Any) -> None:
    verify.again(results=env["RESULTS"], words=env["AGAIN"], cache=env["CACHE"], launched=Path(env.GetLaunchDir()))


def _result(node: Any) -> Path:
    path = Path(str(node))
    if path.name.endswith(RECORD):
        return path.with_suffix("")
    return path.parent if path.name == INDEX else path


def verification(env: Any, targets: list[str], arguments: Mapping[str, str]) -> Any:
    """env.Verify(targets, arguments): the alias `verify`: the other targets are built again, and compared."""
    compared = [name for name in targets if name != "verify"] or DEFAULT
    for name in compared:
        if name not in COMPARED:
            refuse(ZosiaError(f"`scons verify` can't compare {name}", f"Choose of: {', '.join(COMPARED)}"))
    nodes = [node for name in compared for node in default_ans.lookup(name).sources]
    words = [*compared, *(f"{name}={value}" for name, value in arguments.items())]
    results = list(dict.fromkeys(map(_result, nodes)))
    alias = env.Alias("verify", [], action(_verify, "AGAIN"), RESULTS=results, AGAIN=words)
    env.Requires(alias, nodes)
    env.Clean(alias, f"#{verify.FOLDER}")
    return env.AlwaysBuild(alias)


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(verification, "Verify")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
