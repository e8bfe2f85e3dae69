"""Output of `scons doctor`: a line for each finding, and a summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from zosia.base import style
from zosia.doctor.checks import Finding, Verdict, look


def examine(checks: Iterable[Callable[[], Iterable[Finding]]]) -> int:
    """Print the findings of the checks as they come, and return 1 if a run can't work, else 0."""
    counts = dict.fromkeys(Verdict, 0)
    for check in checks:
        for finding in look(check):
            counts[finding.verdict] += 1
            print(style.painted(style.line(finding.verdict.value, finding.text), sys.stdout), flush=True)
    failed, warned = counts[Verdict.FAIL], counts[Verdict.WARN]
    if failed:
        print(f"`scons run` can't work yet: {failed} check{'s' * (failed != 1)} failed.")
    else:
        print(f"`scons run` can work{f', with {warned} warning' * bool(warned)}{'s' * (warned > 1)}.")
    return 1 if failed else 0
