"""Measured values, their tables, and their budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from zosia.base.errors import ZosiaError
from zosia_build.benchmarks import measured
from zosia_build.benchmarks.measured import Section, Series


@pytest.fixture
def section() -> Section:
    return Section(
        what="To the stub.",
        ways={
            "ours": {"s": Series((0.5, 0.4, 0.6)), "bytes": Series((6064136.0,))},
            "theirs": {"s": Series((2.0, 1.0, 3.0))},
        },
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.5, 0.4, 0.6), "0.500 (0.400 to 0.600)"),
        ((1.0, 2.0, 12.345, 100.4), "7.17 (1 to 100)"),
        ((6064136.0, 6064136.0), "6,064,136"),
        ((3.0,), "3"),
        ((0.12341, 0.12342), "0.123"),
    ],
)
def test_a_series_is_shown_with_its_range(values: tuple[float, ...], shown: str) -> None:
    assert str(Series(values)) == shown


def test_a_table_has_a_row_for_each_way_and_a_column_for_each_measure(section: Section) -> None:
    assert section.table().splitlines() == [
        "| | s | bytes |",
        "| --- | --- | --- |",
        "| ours | 0.500 (0.400 to 0.600) | 6,064,136 |",
        "| theirs | 2 (1 to 3) | |",
    ]


def test_ways_alternate() -> None:
    order: list[str] = []
    numbers: Iterator[float] = iter(range(100))

    def way(name: str) -> measured.Way:
        def measure() -> dict[str, float]:
            order.append(name)
            return {"s": next(numbers)}

        return measure

    shown: list[str] = []
    seen = measured.alternate({"a": way("a"), "b": way("b")}, 3, shown.append)
    assert order == ["a", "b"] * 3
    assert seen == {"a": {"s": Series((0, 2, 4))}, "b": {"s": Series((1, 3, 5))}}
    assert shown[3] == "2/3 b: s 3"


def test_json_and_back(section: Section) -> None:
    sections = {"boot": section}
    assert measured.from_json(json.loads(json.dumps(measured.to_json(sections)))) == sections


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"way": "ours", "measure": "s", "to": "theirs", "most": 0.25}, None),
        (
            {"way": "ours", "measure": "s", "to": "theirs", "most": 0.24},
            "ours, s to theirs: 0.250 exceeds the budget of 0.240",
        ),
        (
            {"way": "theirs", "measure": "s", "to": "ours", "least": 4.1},
            "theirs, s to ours: 4 is below the budget of at least 4.10",
        ),
        ({"way": "theirs", "measure": "s", "to": "ours", "least": 4}, None),
        ({"way": "ours", "measure": "s", "most": 0.4}, None),  # the least of them
        ({"way": "ours", "measure": "bytes", "most": 6064136}, None),
        (
            {"way": "ours", "measure": "bytes", "most": 6064135},
            "ours, bytes: 6,064,136 exceeds the budget of 6,064,135",
        ),
    ],
)
def test_a_budget(section: Section, entry: dict[str, object], said: str | None) -> None:
    assert list(measured.over({"boot": [entry]}, {"boot": section})) == ([f"boot: {said}"] if said else [])


@pytest.mark.parametrize(("name", "way"), [("boots", "ours"), ("boot", "mine")])
def test_a_budget_for_nothing(section: Section, name: str, way: str) -> None:
    with pytest.raises(ZosiaError, match="which was not measured"):
        list(measured.over({name: [{"way": way, "measure": "s", "most": 1}]}, {"boot": section}))


def test_parts_of_a_page_are_made_anew(section: Section) -> None:
    page = "# B\n\n<!-- measured: boot -->\nold\n<!-- end -->\n\nmore\n"
    made = measured.tables(page, {"boot": section.text()})
    assert made == f"# B\n\n<!-- measured: boot -->\n{section.text()}\n<!-- end -->\n\nmore\n"
    assert measured.tables(made, {"boot": section.text()}) == made
    other = "<!-- measured: disk -->\nold\n<!-- end -->\n"
    assert measured.tables(other, {"boot": section.text()}) == other
    with pytest.raises(ZosiaError, match="The measured part boot has no end in the page"):
        measured.tables("<!-- measured: boot -->\n", {"boot": section.text()})


def test_a_part_says_what_was_done_when_and_what_is_drawn(section: Section) -> None:
    drawn = replace(section, plot="s: Seconds", seen="2026-11-25, 3 rounds")
    assert drawn.text() == f"To the stub.\n\n<!-- plot: s: Seconds -->\n\n{section.table()}\n2026-11-25, 3 rounds.\n"
