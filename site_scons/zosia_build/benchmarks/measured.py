"""Measured values: series of several rounds, their text in the manual, and their budgets."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zosia.base import style
from zosia.base.errors import ZosiaError

Way = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Series:
    """Values of one measure in all rounds; its name ends with its unit, as in "prompt, s"."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of the values."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        shown = [_number(value) for value in (self.median, min(self.values), max(self.values))]
        return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _number(value: float) -> str:
    """Format a number with three significant digits; large numbers are whole, with thousands separated."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Ways that were compared, with the measures of each."""

    what: str  # a sentence or two: the test, and its conditions
    ways: Mapping[str, Mapping[str, Series]]
    seen: str = ""  # date, rounds and host
    plot: str = ""  # columns that the manual plots (zosia_build.manual.hooks): COLUMN | COLUMN: TITLE

    def table(self) -> str:
        """Return a table in Markdown, with a row for each way."""
        measures = list(dict.fromkeys(name for way in self.ways.values() for name in way))
        rows = [["", *measures], ["---"] * (len(measures) + 1)]
        rows += [[name, *(str(way.get(measure, "")) for measure in measures)] for name, way in self.ways.items()]
        return "".join(re.sub(r"  (?=\|)", " ", f"| {' | '.join(row)} |\n") for row in rows)

    def text(self) -> str:
        """Return the section's text in the manual, without its title."""
        drawn = f"<!-- plot: {self.plot} -->\n\n" if self.plot else ""
        return f"{textwrap.fill(self.what, 120, break_on_hyphens=False)}\n\n{drawn}{self.table()}\n{self.seen}.\n"

    def ratio(self, measure: str, way: str, other: str) -> float:
        """Return the ratio of `way` to `other` in a measure: the quotient of their medians."""
        return self.ways[way][measure].median / self.ways[other][measure].median


def alternate(ways: Mapping[str, Way], rounds: int, show: Callable[[str], None]) -> Mapping[str, Mapping[str, Series]]:
    """Measure each way once a round, so that a disturbance of the host affects all of them."""
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            values = way()
            for measure, value in values.items():
                seen[name].setdefault(measure, []).append(value)
            text = ", ".join(f"{measure} {_number(value)}" for measure, value in values.items())
            show(f"{number + 1}/{rounds} {name}: {text}")
    return {name: {measure: Series(tuple(values)) for measure, values in way.items()} for name, way in seen.items()}


def to_json(sections: Mapping[str, Section]) -> dict[str, Any]:
    """Return the sections as data for JSON."""
    return {name: asdict(section) for name, section in sections.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, Section]:
    """Return the sections that `to_json` made this data of."""
    return {
        name: Section(
            what=section["what"],
            seen=section["seen"],
            plot=section["plot"],
            ways={
                way: {measure: Series(tuple(series["values"])) for measure, series in measures.items()}
                for way, measures in section["ways"].items()
            },
        )
        for name, section in data.items()
    }


def over(budgets: Mapping[str, Any], sections: Mapping[str, Section]) -> Iterator[str]:
    """Yield a sentence for each budget that is exceeded.

    Args:
        budgets: tables by section, of entries with `measure`, `way`, and `most` or `least`. With `to`, another way, the
            value is the ratio of the two medians. Without it, the value is the least of all rounds, since a disturbance
            only adds to a count. Budgets are for ratios and counts only: seconds would depend on the host.

    Raises:
        ZosiaError: a budget is for something that was not measured.
    """
    for name, entries in budgets.items():
        for entry in entries:
            found = _found(name, entry, sections)
            what = f"{name}: {entry['way']}, {entry['measure']}" + (f" to {entry['to']}" if "to" in entry else "")
            if "most" in entry and found > entry["most"]:
                yield f"{what}: {_number(found)} exceeds the budget of {_number(entry['most'])}"
            if "least" in entry and found < entry["least"]:
                yield f"{what}: {_number(found)} is below the budget of at least {_number(entry['least'])}"


def _found(name: str, entry: Mapping[str, Any], sections: Mapping[str, Section]) -> float:
    try:
        if "to" in entry:
            return sections[name].ratio(entry["measure"], entry["way"], entry["to"])
        return min(sections[name].ways[entry["way"]][entry["measure"]].values)
    except KeyError as error:
        message = f"A budget of {name} is for {error.args[0]}, which was not measured"
        raise ZosiaError(message, "Correct .ci/budgets.toml") from error


def tables(page: str, texts: Mapping[str, str]) -> str:
    """Return a page of the manual with its measured parts replaced by new texts, where there are any.

    A part begins with <!-- measured: NAME --> and ends with <!-- end -->.

    Raises:
        ZosiaError: a part has no end.
    """
    first, *parts = page.split("<!-- measured: ")
    made = [first]
    for part in parts:
        name, _, rest = part.partition(" -->\n")
        old, mark, after = rest.partition("<!-- end -->")
        if not mark:
            raise ZosiaError(f"The measured part {name} has no end in the page", "Close it with <!-- end -->")
        text = f"{texts[name]}\n" if name in texts else old
        made.append(f"{name} -->\n{text}{mark}{after}")
    return "<!-- measured: ".join(made)


def compare(ways: Mapping[str, Way], rounds: int) -> Mapping[str, Mapping[str, Series]]:
    """Measure these ways in turn, and show the progress."""
    return alternate(ways, rounds, lambda text: style.say("BENCH", text))
