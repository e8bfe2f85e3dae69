"""Drawings of the manual, as inline SVG: graphs by Graphviz, plots by matplotlib.

Lines and texts have the colours of the page, light or dark, from docs/assets/zosia.css.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.process import run

FONT = "DejaVu Sans"  # for Graphviz's and matplotlib's text metrics
STYLE = (
    *("-Gbgcolor=transparent", "-Gpad=0.05", "-Granksep=0.3", "-Gnodesep=0.2", "-Glabeljust=l"),
    *(f"-{kind}fontname={FONT}" for kind in "GNE"),
    *("-Gfontsize=11", "-Nfontsize=11", "-Efontsize=10"),
    *("-Nshape=box", "-Nstyle=rounded", "-Nmargin=0.12,0.06", "-Nheight=0.3", "-Earrowsize=0.7"),
)
# Placeholder colours for matplotlib, replaced by CSS variables in the page.
TEXT = "#010203"
SERIES = {"#010204": "var(--zosia-series-1)", "#010205": "var(--zosia-series-2)", "#010206": "var(--zosia-series-3)"}


def graph(source: str) -> str:
    """Draw a graph in the DOT language as a figure; its name is the text for screen readers.

    Raises:
        ZosiaError: Graphviz is missing, or rejects the graph.
    """
    with temporary_folder() as folder:
        dot, svg = folder / "graph.dot", folder / "graph.svg"
        # Without spaces a label touches its line.
        spaced = re.sub(r'(->.*label=")([^"]+)(")', r"\1 \2 \3", source)
        dot.write_text(spaced, encoding="utf-8")
        done = run(["dot", "-Tsvg", *STYLE, f"-o{svg}", dot], check=False)
        if done.returncode != 0:
            raise ZosiaError(f"dot can't draw a graph: {done.stderr.replace(str(dot), 'it').splitlines()[0]}")
        text = svg.read_text(encoding="utf-8")
    name = re.match(r'\s*digraph\s+"([^"]+)"', source)
    if not name:
        raise ZosiaError("A graph has no name", 'Begin it with: digraph "What it shows" {')
    # Titles would be tooltips with generated names, and ids would not be unique on a page with two graphs.
    return _figure(re.sub(r"<title>.*?</title>\n| id=\"[^\"]*\"|<!--.*?-->\n", "", text), "graph", name[1])


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Measured value: its text, its number, and the range, which is the number itself if there is none."""

    text: str
    value: float
    least: float
    most: float


def bar(cell: str) -> Bar | None:
    """Return the value of a table's cell such as "0.50 s (0.49 to 0.53)"; None if there is none."""
    found = re.match(r"([\d.]+)[^\d(]*(?:\(([\d.]+) to ([\d.]+)\))?", cell.replace(",", ""))
    if not found:
        return None
    value = float(found[1])
    return Bar(text=found[1], value=value, least=float(found[2] or value), most=float(found[3] or value))


def plot(title: str, rows: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    """Plot the cells of a table as bars, a group for each row and a bar for each column, with ranges as lines.

    Args:
        rows: the cells of each row, as text.
        names: of the columns.

    Raises:
        ZosiaError: there are more columns than colours.
    """
    if len(names) > len(SERIES):
        raise ZosiaError(
            f"The plot {title!r} has {len(names)} columns, and at most three are possible", "Name fewer of them"
        )
    import matplotlib as mpl  # imported late: slow, and few pages have a plot

    mpl.use("svg")
    coloured = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    plain = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": FONT, "font.size": 8}
    settings: dict[Any, Any] = {**dict.fromkeys(coloured, TEXT), **plain}
    with mpl.rc_context(settings):
        text = _bars(title, {name: [bar(cell) for cell in cells] for name, cells in rows.items()}, names)
    for colour, instead in {TEXT: "currentColor", **SERIES}.items():
        text = text.replace(colour, instead)
    text = re.sub(r' id="[a-z]+_\d+"|<metadata>.*?</metadata>| (?:width|height)="[\d.]+pt"', "", text, flags=re.DOTALL)
    return _figure(text, "plot", title)


def _bars(title: str, rows: Mapping[str, Sequence[Bar | None]], names: Sequence[str]) -> str:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(3.7, 0.9 + len(rows) * (0.12 + 0.17 * len(names))), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(names)
    for number, colour in zip(range(len(names)), SERIES, strict=False):
        for row, cells in enumerate(rows.values()):
            if measured := cells[number]:
                at = row + (number - (len(names) - 1) / 2) * height
                axes.barh(at, measured.value, height * 0.85, color=colour)
                axes.plot([measured.least, measured.most], [at, at], color=TEXT, linewidth=1, solid_capstyle="butt")
                end = (measured.most, at)
                axes.annotate(measured.text, end, (4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlabel(title)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.tick_params(left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    patches = [Patch(color=colour, label=name) for name, colour in zip(names, SERIES, strict=False)]
    figure.legend(handles=patches, frameon=False, loc="outside upper left", ncols=len(names))
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _figure(svg: str, kind: str, title: str) -> str:
    """Wrap an SVG, without its file header, in a figure that scrolls on narrow pages."""
    svg = svg[svg.index("<svg") :]
    name = html.escape(title, quote=True)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
    return f'<figure class="zosia-{kind}" tabindex="0" aria-label="{name}">{svg.strip()}</figure>'
