"""LlamaCli: the static llama-cli of each level of CPU, cross-built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from zosia.base.files import locked, replacing
from zosia.inputs.catalogue import read_record
from zosia_build import llama
from zosia_scons import action, compiled, library, source_tree


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    *programs, version = targets
    own = env["TREE"]
    number = "0.0.0" if own else read_record(sources[0]).version
    tree, _ = source_tree(own, sources, env)
    output = version.parent / "llama"
    log = output.with_suffix(".log")
    with locked(output):
        log.unlink(missing_ok=True)
        options = {"jobs": env["JOBS"], "log": log, "cache": env["CACHE"], "arch": env["ARCH"]}
        built = llama.build(source=tree, output=output, version=number, **options)
        for source, target in zip(built, programs, strict=True):
            with replacing(target) as temporary:
                shutil.copy(source, temporary)
        version.write_text(f"{'of your own' if own else number}\n", encoding="utf-8")


def llama_cli(env: Any, record: Any, tree: Path | None = None) -> Any:
    """env.LlamaCli(record): $BUILD/llama-version and llama-cli-LEVEL, from the record or from the user's own `tree`."""
    levels = llama.LEVELS[env["ARCH"]]
    targets = [*(f"$BUILD/llama-cli-{level.name}" for level in levels), "$BUILD/llama-version"]
    patterns = ("*.*", "console/*", "toolchain/*")
    parts = [node for pattern in patterns for node in env.Glob(f"#llama/{pattern}")]
    depends = [*library(env, "zosia_build.llama"), *parts, env.Value(f"{levels} {llama.zig_version()}")]
    sources = [] if tree else [record]
    return compiled(env, "llama", targets, sources, action(_build, "LLAMA"), tree=tree, depends=depends)


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(llama_cli, "LlamaCli")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
