"""Measured values: what was seen in several rounds, how it is written down, and what it may not be worse than."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zosia.base.errors import ZosiaError

Way = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Series:
    """What one measure gave in all rounds; its name ends with its unit, as in "prompt, s"."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of them."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        shown = [_number(value) for value in (self.median, min(self.values), max(self.values))]
        return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _number(value: float) -> str:
    """A number as a person reads it: three digits that count, and those of large whole numbers in threes."""
    if value >= 1000:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Ways that were compared: of each what was measured."""

    what: str  # in a sentence or two: what was done, and with what
    ways: Mapping[str, Mapping[str, Series]]
    seen: str = ""  # when, how often and where
    plot: str = ""  # what the manual draws of it, as zosia.manual has it: COLUMN | COLUMN: TITLE

    def table(self) -> str:
        """The section as a table in Markdown, a row for each way."""
        measures = list(dict.fromkeys(name for way in self.ways.values() for name in way))
        rows = [["", *measures], ["---"] * (len(measures) + 1)]
        rows += [[name, *(str(way.get(measure, "")) for measure in measures)] for name, way in self.ways.items()]
        return "".join(re.sub(r"  (?=\|)", " ", f"| {' | '.join(row)} |\n") for row in rows)

    def text(self) -> str:
        """The section as the manual has it, below its title."""
        drawn = f"<!-- plot: {self.plot} -->\n\n" if self.plot else ""
        return f"{textwrap.fill(self.what, 120, break_on_hyphens=False)}\n\n{drawn}{self.table()}\n{self.seen}.\n"

    def ratio(self, measure: str, way: str, other: str) -> float:
        """How `way` compares with `other` in a measure: the quotient of their medians."""
        return self.ways[way][measure].median / self.ways[other][measure].median


def alternate(ways: Mapping[str, Way], rounds: int, show: Callable[[str], None]) -> Mapping[str, Mapping[str, Series]]:
    """Measure each way once a round: what disturbs the machine for a while disturbs all of them."""
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            values = way()
            for measure, value in values.items():
                seen[name].setdefault(measure, []).append(value)
            said = ", ".join(f"{measure} {_number(value)}" for measure, value in values.items())
            show(f"{number + 1}/{rounds} {name}: {said}")
    return {name: {measure: Series(tuple(values)) for measure, values in way.items()} for name, way in seen.items()}


def to_json(sections: Mapping[str, Section]) -> dict[str, Any]:
    """Sections as JSON has them."""
    return {name: asdict(section) for name, section in sections.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, Section]:
    """What `to_json` made."""
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
    """What is worse than its budget, a sentence each.

    Args:
        budgets: tables by section, of entries with `measure`, `way`, and `most` or `least`; with `to`, another way,
            it is the ratio to that, of the medians; without, the least of all rounds, since what disturbs a count adds
            to it. Only ratios and counts: seconds would depend on the machine.

    Raises:
        ZosiaError: a budget is for what was not measured.
    """
    for name, entries in budgets.items():
        for entry in entries:
            found = _found(name, entry, sections)
            what = f"{name}: {entry['way']}, {entry['measure']}" + (f" to {entry['to']}" if "to" in entry else "")
            if "most" in entry and found > entry["most"]:
                yield f"{what}: {_number(found)}, and its budget is {_number(entry['most'])}"
            if "least" in entry and found < entry["least"]:
                yield f"{what}: {_number(found)}, and it should be {_number(entry['least'])} at least"


def _found(name: str, entry: Mapping[str, Any], sections: Mapping[str, Section]) -> float:
    try:
        if "to" in entry:
            return sections[name].ratio(entry["measure"], entry["way"], entry["to"])
        return min(sections[name].ways[entry["way"]][entry["measure"]].values)
    except KeyError as error:
        raise ZosiaError(f"A budget of {name} is for {error.args[0]}, which was not measured", "Correct it") from error


def tables(page: str, texts: Mapping[str, str]) -> str:
    """A page of the manual, the parts that have a text made anew: from <!-- measured: NAME --> to <!-- end --> each.

    Raises:
        ZosiaError: a part has no end.
    """
    first, *parts = page.split("<!-- measured: ")
    made = [first]
    for part in parts:
        name, _, rest = part.partition(" -->\n")
        old, mark, after = rest.partition("<!-- end -->")
        if not mark:
            raise ZosiaError(f"What was measured of {name} has no end in the page", "Close it with <!-- end -->")
        text = f"{texts[name]}\n" if name in texts else old
        made.append(f"{name} -->\n{text}{mark}{after}")
    return "<!-- measured: ".join(made)
