"""Completion of command lines: `python -m zosia.settings.completion TOP WORD`, which scripts/completion.* call.

It prints a line for each candidate: the completed word (or only the value after NAME=), a tab, and a description. The
line FILES asks the shell to complete the names of files, or of those with the ending that follows the tab.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from zosia.settings.variables import TARGETS, VARIABLES

FILES = ":files"


def candidates(top: Path, word: str) -> Iterator[tuple[str, str]]:
    """Yield candidates and their descriptions, for a word of a command line in the tree `top`."""
    name, equals, start = word.partition("=")
    if not equals:
        offered = dict(TARGETS)
        offered |= {f"{variable.name}=": variable.summary for variable in VARIABLES}
        yield from ((text, what) for text, what in offered.items() if text.startswith(word))
        return
    for variable in VARIABLES:
        if variable.name == name:
            values = {**dict.fromkeys(variable.choices, ""), **(_models(top) if name == "MODEL" else {})}
            yield from ((text, what) for text, what in values.items() if text.startswith(start))
            if variable.path or name == "MODEL":
                yield FILES, ".gguf" if name == "MODEL" else ""


def _models(top: Path) -> dict[str, str]:
    """Return the names and titles of the catalogue, or none if it is damaged, which the build reports."""
    try:
        tables = tomllib.loads((top / "models.toml").read_text(encoding="utf-8"))
        return {name: str(table["title"]) for name, table in tables.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main(argv: list[str]) -> int:
    """Print the candidates."""
    for text, what in candidates(Path(argv[0]), argv[1]):
        print(f"{text}\t{what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
