"""MkDocs' hook, named in mkdocs.yml: inserts tables, files and drawings into pages.

Marks in a page, each on a line of its own, invisible in the plain Markdown:

    <!-- table: targets -->               a table of tables.py
    <!-- file: CHANGELOG.md -->           a file of the repository, without its title
    <!-- plot: COLUMN | COLUMN: TITLE --> the named columns of the next table in the page as bars

Blocks of code in the DOT language become graphs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify
from pymdownx.superfences import SuperFencesException

from zosia.base.errors import ZosiaError
from zosia.inputs import catalogue
from zosia_build import hosts
from zosia_build.manual import drawings, tables
from zosia_build.manual.site import ROOT

MARK = re.compile(r"^<!-- (table|file|plot): (.+?) -->\n", re.MULTILINE)
TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?(?:^ *\1[`~]* *$|\Z)", re.MULTILINE | re.DOTALL)
TABLES: Mapping[str, Callable[[], str]] = {
    "targets": tables.targets,
    "variables": tables.variables,
    "commands": tables.commands,
    "options": tables.options,
    "chat": tables.chat,
    "models": lambda: tables.models(catalogue.read_models(ROOT / "models.toml")),
    "hosts": lambda: tables.hosts(hosts.read_plan(hosts.PLAN), hosts.read_lines(hosts.DATA)),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Register graphs and plots, and give headings the anchors that they have on GitHub."""
    extensions = config.mdx_configs
    extensions.setdefault("toc", {})["slugify"] = slugify(case="lower")
    fences = {"dot": drawings.graph, "plot": _plot}
    extensions.setdefault("pymdownx.superfences", {})["custom_fences"] = [
        {"name": name, "class": name, "format": _fence(draw)} for name, draw in fences.items()
    ]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the marks, and turn links to files outside the site into plain text."""

    def fill(mark: re.Match[str]) -> str:
        kind, what = mark.groups()
        if kind == "table" and what in TABLES:
            return f"{TABLES[what]()}\n"
        if kind == "file" and (ROOT / what).is_file():
            return _file(what, page.file.src_uri)
        if kind == "plot" and (found := TABLE.search(markdown, mark.end())):
            return f"```plot\n{what}\n{found[0]}```\n\n"
        raise PluginError(f"{page.file.src_uri}: unknown mark {mark[0].strip()}")

    filled = MARK.sub(fill, markdown)
    here = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", here, found[2]))
        return found[1] if not path.startswith("docs/") and (ROOT / path).exists() else found[0]

    return _linked(link, filled)


def _file(name: str, page: str) -> str:
    """Return a file of the repository without its title, with its links to pages made relative to `page`."""
    text = re.sub(r"\A# .*\n", "", (ROOT / name).read_text(encoding="utf-8"))
    up = posixpath.relpath(".", posixpath.join("docs", posixpath.dirname(page)))

    def link(found: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", found[2]):
            return found[0]
        inside = found[2].removeprefix("docs/") if found[2].startswith("docs/") else f"{up}/{found[2]}"
        return f"[{found[1]}]({inside}{found[3] or ''})"

    return _linked(link, text)


def _linked(link: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace the links in a text, except in fenced blocks of code."""
    ends = [0, *(end for block in FENCED.finditer(text) for end in block.span()), len(text)]
    parts = [text[start:end] for start, end in pairwise(ends)]
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def _fence(draw: Callable[[str], str]) -> Callable[..., str]:
    """Return a formatter for superfences whose errors end the build, instead of showing the source."""

    def format_fence(source: str, *args: Any, **kwargs: Any) -> str:
        try:
            return draw(source)
        except ZosiaError as error:
            raise SuperFencesException(str(error)) from error

    return format_fence


def _plot(source: str) -> str:
    """Draw the plot of a mark `COLUMN | COLUMN: TITLE` and the table behind it."""
    what, header, _, *rows = source.strip().split("\n")
    names, _, title = what.partition(": ")
    columns = _cells(header)
    try:
        wanted = [columns.index(name.strip()) for name in names.split("|")]
    except ValueError as error:
        raise ZosiaError(f"A plot needs the columns {names}, and the table has {', '.join(columns)}") from error
    cells = {row[0]: [row[column] for column in wanted] for row in map(_cells, rows)}
    return drawings.plot(title, cells, [columns[column] for column in wanted])


def _cells(row: str) -> Sequence[str]:
    return [cell.strip().replace("`", "") for cell in row.strip().strip("|").split("|")]
