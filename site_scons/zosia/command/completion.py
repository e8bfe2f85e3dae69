"""Completion of command lines: candidates for a word, and the scripts of shells that ask for them.

`python -m zosia.command.completion TOP WORD` is for `scons`, and called by scripts/completion.*. `… -- WORD…` is for
`zosia`, with all words up to the cursor; completion.* beside this file call it, which `zosia completion` prints. What
both need of bash is in files.bash.

It prints a line for each candidate: the completed word (or only the value after NAME= or --name=), a tab, and a
description. The line FILES asks the shell to complete the names of files, or of those with the ending that follows the
tab.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from zosia.base.errors import ZosiaError, near
from zosia.settings.usage import TARGETS
from zosia.settings.variable import Variable
from zosia.settings.variables import VARIABLES

FILES = ":files"
SHELLS = ("bash", "zsh", "fish")
PROGRAM = "PROGRAM"  # in the scripts, for what they call
Candidates = Iterator[tuple[str, str]]


def candidates(top: Path, word: str) -> Candidates:
    """Yield candidates and their descriptions, for a word of a command line of `scons` in the tree `top`."""
    name, equals, start = word.partition("=")
    if not equals:
        offered = dict(TARGETS)
        offered |= {f"{variable.name}=": variable.summary for variable in VARIABLES}
        yield from _starting(word, offered)
        return
    for variable in VARIABLES:
        if variable.name == name:
            yield from _values(variable, start, top)


def _starting(start: str, offered: Mapping[str, str]) -> Candidates:
    return ((text, what) for text, what in offered.items() if text.startswith(start))


def _values(variable: Variable, start: str, top: Path) -> Candidates:
    values = {**dict.fromkeys(variable.choices, ""), **(_models(top) if variable.name == "MODEL" else {})}
    yield from _starting(start, values)
    if variable.path or (variable.name == "MODEL" and not start.startswith("hf:")):
        yield FILES, ".gguf" if variable.name == "MODEL" else ""


def _models(top: Path) -> dict[str, str]:
    """Return the names and titles of the catalogue, or none if it is damaged, which the build reports."""
    import tomllib  # slow to import, and only needed here

    try:
        tables = tomllib.loads((top / "models.toml").read_text(encoding="utf-8"))
        return {name: str(table["title"]) for name, table in tables.items() if isinstance(table, dict)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def candidates_of_zosia(top: Path, words: Sequence[str]) -> Candidates:
    """Yield candidates for the last of the words behind `zosia`; `top` is the folder of models.toml."""
    from zosia.command import table

    *before, word = joined(words)
    if not before and not word.startswith("-"):
        yield from _starting(word, {name: command.text for name, command in table.COMMANDS.items()})
        return
    if before and before[0] == "help":
        yield from _starting(word, dict.fromkeys(table.COMMANDS if len(before) == 1 else (), ""))
        return
    name = before.pop(0) if before and before[0] in table.COMMANDS else "run"
    variables = {item.option: item for items in table.COMMANDS[name].variables(name).values() for item in items}
    option, equals, start = word.partition("=")
    if equals and option in variables:
        yield from _values(variables[option], start, top)
    elif before and before[-1] in variables and not variables[before[-1]].switch:
        yield from _values(variables[before[-1]], word, top)
    elif word.startswith("-"):
        yield from _options(name, word, variables.values(), first=len(words) == 1)
    else:
        yield from _word(name, before, word, variables, top)


def joined(words: Sequence[str]) -> list[str]:
    """Return the words as they were before bash split them at = and :."""
    found: list[str] = []
    for place, word in enumerate(words):
        if found and (word in ("=", ":") or (words[place - 1] in ("=", ":") and place > 1)):
            found[-1] += word
        else:
            found.append(word)
    return found


def _options(name: str, start: str, variables: Iterable[Variable], *, first: bool) -> Candidates:
    from zosia.command import spelling, table

    offered: dict[str, str] = {}
    for item in variables:
        texts = (item.option, item.off) if item.switch else (f"{item.option}=",)
        offered |= dict.fromkeys(texts, spelling.command(table.summary(item)))
    offered |= {f"--{flag}": text for flag, text in table.COMMANDS[name].flags.items()}
    offered |= {"--help": "show the options"} | ({"--version": "show the version"} if first else {})
    yield from _starting(start, offered)


def _word(name: str, before: Sequence[str], word: str, variables: Mapping[str, Variable], top: Path) -> Candidates:
    """Yield candidates for a word that is no option."""
    from zosia.command import table

    takers = [option for option, item in variables.items() if not item.switch]
    loose = [
        text for place, text in enumerate(before) if text[:1] != "-" and not (place and before[place - 1] in takers)
    ]
    wanted = table.COMMANDS[name].words[len(loose) :][:1]
    if wanted == ("SHELL",):
        yield from _starting(word, dict.fromkeys(SHELLS, ""))
    for item in variables.values():
        if wanted == (item.name,):
            yield from _values(item, word, top)


def script(shell: str) -> str:
    """Return the script that makes a shell complete command lines of `zosia`.

    Raises:
        ZosiaError: there is none for it.
    """
    if shell not in SHELLS:
        what = f"{shell} is not a shell that zosia knows" if shell else "A shell is needed"
        raise ZosiaError(what, near(shell, SHELLS))
    shared = [Path(__file__).with_name("files.bash")] if shell == "bash" else []
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*shared, Path(__file__).with_suffix(f".{shell}")))
    return text.replace(PROGRAM, shlex.join([sys.executable, "-P", "-m", "zosia.command.completion", "--"]))


def main(argv: Sequence[str]) -> int:
    """Print the candidates."""
    if argv[0] == "--":
        from zosia.base.places import ROOT

        found = candidates_of_zosia(ROOT, argv[1:])
    else:
        found = candidates(Path(argv[0]), argv[1])
    for text, what in found:
        print(f"{text}\t{what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
