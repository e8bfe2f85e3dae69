"""Manual and ServeManual: the targets of `scons docs` and `scons docs-serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zosia.base import style
from zosia_build.manual import site
from zosia_scons import action, become

SOURCES = (
    "mkdocs.yml",
    "models.toml",
    ".ci/hosts.toml",
    "CHANGELOG.md",
    "requirements-dev.lock",
    "site_scons/zosia_build/manual/hooks.py",
)
PATTERNS = ("docs/*.*", "docs/assets/*", "site_scons/*/*.py", "site_scons/*/*/*.py")


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    folder = targets[0].parent
    site.build(folder, folder.with_suffix(".log"))


def manual_site(env: Any) -> Any:
    """env.Manual(): build/site/index.html, and the rest of the site beside it."""
    sources = [*(f"#{name}" for name in SOURCES), *(node for pattern in PATTERNS for node in env.Glob(f"#{pattern}"))]
    index = env.Command("#build/site/index.html", sources, action(_build, "SITE"))
    env.Clean(index, ["#build/site", "#build/site.log"])
    return env.NoCache(env.Precious(index))  # the old site stays until the new one is complete


def _serve(targets: list[Path], sources: list[Path], env: Any) -> None:
    site.check()
    site.check_port(site.PORT)
    become("zosia_build.manual.site", str(site.PORT))


def _shown(env: Any) -> str:
    shown = style.line("SERVE", f"http://{site.HOST}:{site.PORT}/")
    return shown if env.GetOption("no_exec") else ""  # else the server prints it itself


def serve_manual(env: Any) -> Any:
    """env.ServeManual(): the alias `docs-serve`."""
    return env.AlwaysBuild(env.Alias("docs-serve", [], action(_serve, "SERVE", _shown)))


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(manual_site, "Manual")
    env.AddMethod(serve_manual, "ServeManual")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
