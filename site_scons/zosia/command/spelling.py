"""Spelling of what one can type, as `zosia` has it: "MEM=4G" is "--mem 4G", and "scons run" is "zosia run"."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from zosia.command.table import COMMANDS
from zosia.settings.variables import VARIABLES

OPTIONS = {variable.name: variable for variable in VARIABLES}
TARGETS = {command.target: name for name, command in COMMANDS.items() if command.target}
# Variables of a build only are no options, and keep their names.
TAKEN = {item.name for name, one in COMMANDS.items() for items in one.variables(name).values() for item in items}
_QUOTED = r"""(?:'[^']*'|"[^"]*")"""
_VALUE = rf"""(?:{_QUOTED}+|(?:[^\s'"`,;()]|,(?=\S))*[^\s'"`,;().:?])?"""  # without the end of a sentence
_BEFORE = r"(?<![^\s(`])"
_SETTINGS = rf"(?: [A-Z_]+={_VALUE})"
SETTING = rf"{_BEFORE}(?P<name>{'|'.join(sorted(TAKEN))})=(?P<value>{_VALUE})"
_TARGET = "|".join(map(re.escape, TARGETS))
LINE = rf"{_BEFORE}scons (?P<dry>-n )?(?P<target>{_TARGET})(?![\w-]|\.\w)(?P<settings>{_SETTINGS}*)"
# What is quoted, or an option's value, is a text or spelt already; and `scons` without a target of these builds.
_SPELT = "|".join(variable.option for variable in VARIABLES)
KEPT = rf"(?<!\w){_QUOTED}|{_BEFORE}(?:{_SPELT}) {_VALUE}|{_BEFORE}scons{_SETTINGS}+"
TYPED = f"{KEPT}|{LINE}|{SETTING}"  # which most runs never compile


def command(text: str) -> str:
    """Return a message for people with `zosia` at hand."""
    return re.sub(TYPED, _spelt, text)


def _spelt(found: re.Match[str]) -> str:
    if found["target"]:
        return _line(found)
    return _option(found) if found["name"] else found[0]


def options(values: Mapping[str, str]) -> list[str]:
    """Return the words of a command line that give these values to variables."""
    found = []
    for name, value in values.items():
        variable = OPTIONS[name]
        switch = {"1": variable.option, "0": variable.off} if variable.switch else {}
        each = shlex.split(value) if variable.several else [value]
        found += [switch.get(one, f"{variable.option}={one}") for one in each]
    return found


def _option(found: re.Match[str]) -> str:
    variable, value = OPTIONS[found["name"]], found["value"]
    if variable.switch and value in ("0", "1"):
        return variable.option if value == "1" else variable.off
    if variable.several and value:
        return " ".join(f"{variable.option} {shlex.quote(word)}" for word in _several(value))
    return f"{variable.option} {value}".rstrip()


def _several(value: str) -> list[str]:
    """Return the values in one value as a shell has it; a message may have another one, such as "…"."""
    try:
        return shlex.split(" ".join(shlex.split(value)))
    except ValueError:
        return [value]


def _line(found: re.Match[str]) -> str:
    """Return a command line in which the words that need no option have none."""
    name = TARGETS[found["target"]]
    words: list[str] = []
    settings = found["settings"]
    for word in COMMANDS[name].words:
        value = re.search(rf" {word}=(?P<value>{_VALUE})", settings)
        odd = r"""$|['"]*(?:-|scons$|[A-Z_]+=)""" + r"|.*\s" * (word == "MODEL")  # which would be no plain word
        if not value or re.match(odd, value["value"], re.DOTALL):
            break
        words.append(value["value"])
        settings = settings.replace(value[0], "", 1)
    return " ".join(["zosia", name, *["-n"] * bool(found["dry"]), *words]) + re.sub(SETTING, _option, settings)
