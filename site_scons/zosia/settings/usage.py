"""The help text of `scons -h`, made of the table of variables and targets."""

from __future__ import annotations

import itertools
import textwrap

from zosia.base.files import cache_root
from zosia.settings.variables import EXAMPLES, TARGETS, VARIABLES

_HELP = """
{examples}

Targets (default: the kernel, the initramfs and the model disk)
{targets}
{clean}

Variables, set as NAME=value
{variables}
"""


def help_text(width: int = 100) -> str:
    """Return the help text for a terminal of `width` columns."""
    column = 20

    def entry(name: str, text: str) -> str:
        lines = textwrap.wrap(text, max(width, 50) - column, break_on_hyphens=False)
        return f"  {name:{column - 2}}" + f"\n{' ' * column}".join(lines)

    variables = []
    for group, members in itertools.groupby(VARIABLES, lambda variable: variable.group):
        variables += [f"\n {group}", *(entry(variable.name, variable.summary) for variable in members)]
    return _HELP.format(
        examples="\n".join(f"  {typed}\n{' ' * column}{text}" for typed, text in EXAMPLES.items()),
        targets="\n".join(entry(name, text) for name, text in TARGETS.items()),
        clean=entry(
            "-c", f"remove everything built, including model disks; downloads stay in {cache_root()} (ZOSIA_CACHE)"
        ),
        variables="\n".join(variables),
    )
