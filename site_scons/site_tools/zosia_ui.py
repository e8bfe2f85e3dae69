"""WebPage: llama.cpp's own web page, built by npm, for `scons ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia.inputs.catalogue import read_record
from zosia_build.ui import build, npm, page
from zosia_scons import action, library, source_tree


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    folder, own = targets[0].parent, env["TREE"]
    tree, _ = source_tree(own, sources, env)
    log = folder.with_suffix(".log")
    if own:
        with build.compiled(tree, folder.with_suffix(".work"), version="0.0.0", stamp="own", log=log) as built:
            page.finish(built, folder)
    else:
        pin = read_record(sources[0])
        name = build.key(pin.sha256)
        page.finish(build.cached(tree, name, version=pin.version, cache=env["CACHE"], log=log), folder)


def web_page(env: Any, record: Any, tree: Path | None = None) -> Any:
    """env.WebPage(record): build/ui/index.html, and the rest beside it, from the record or from the user's own tree."""
    index = env.Command("#build/ui/index.html", [] if tree else [record], action(_build, "PAGE"), TREE=tree)
    names = ("zosia_build.ui.build", "zosia_build.ui.page")
    env.Depends(index, [*library(env, *names), *env.Glob("#ui/*.*"), env.Value(f"{npm.version()} {tree}")])
    env.Clean(index, [f"#build/ui{suffix}" for suffix in ("", ".log", ".work")])
    if tree:
        env.AlwaysBuild(index)
    return env.NoCache(env.Precious(index))  # the old page stays until the new one is complete


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(web_page, "WebPage")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
