"""Findings of the doctor, and their output: a line for each, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.places import repair

Check = Callable[[], "Iterable[Finding]"]


class Verdict(Enum):
    """Severity of a finding; its value is shown."""

    OK = "ok"
    WARN = "warn"  # a run works, with limitations
    FAIL = "fail"  # a run does not work


@dataclass(frozen=True)
class Finding:
    """One line of output: the result of a check, and a remedy unless all is well."""

    verdict: Verdict
    text: str


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Verdict.OK, text)


def warn(text: str) -> Finding:
    """Return a finding that does not stop a run."""
    return Finding(Verdict.WARN, text)


def fail(text: str) -> Finding:
    """Return a finding that stops a run."""
    return Finding(Verdict.FAIL, text)


def look(check: Check) -> Iterator[Finding]:
    """Yield the findings of a check; an error that it raises becomes a finding, too."""
    try:
        yield from check()
    except ZosiaError as error:
        yield fail(str(error).splitlines()[0])
    except ImportError as error:
        yield fail(f"the Python package {error.name} is needed and was not found. {repair()}")
    except OSError as error:
        yield fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def examine(checks: Iterable[Check]) -> int:
    """Print the findings of the checks as they come, and return 1 if a run can't work, else 0."""
    counts = dict.fromkeys(Verdict, 0)
    for check in checks:
        for finding in look(check):
            counts[finding.verdict] += 1
            print(style.painted(style.line(finding.verdict.value, finding.text), sys.stdout), flush=True)
    failed, warned = counts[Verdict.FAIL], counts[Verdict.WARN]
    if failed:
        text = f"`scons run` can't work yet: {failed} check{'s' * (failed != 1)} failed."
    else:
        text = f"`scons run` can work{f', with {warned} warning' * bool(warned)}{'s' * (warned > 1)}."
    style.show(text, sys.stdout)
    return 1 if failed else 0
