"""Command line of `zosia`: words become values of variables, and the command that was named is done."""

from __future__ import annotations

import gc
import getopt
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError, near, shown
from zosia.base.files import refused
from zosia.base.places import CLONE, INSTALLED, ROOT
from zosia.base.version import VERSION
from zosia.command import spelling, table
from zosia.command.again import Starting
from zosia.command.table import COMMANDS
from zosia.machine.status import Status
from zosia.settings.variable import Variable

HELP = ("-h", "--help")


def main(words: Sequence[str], *, launched: Path | None = None, start: Starting | None = None) -> int:
    """Act on the words, and return the exit status.

    Args:
        launched: folder that relative paths start from, if not the current one.
        start: what is done with the machine of a chat, in place of running it; what takes long is left out then.

    Raises:
        BrokenPipeError: nobody reads standard output any more.
    """
    style.spelling = spelling.command
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files are any bytes
    try:
        status = act(words, launched or Path.cwd(), start)
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print(style.painted("zosia: interrupted; the next run carries on", sys.stderr), file=sys.stderr)
        return 128 + signal.SIGINT
    except (ZosiaError, OSError) as error:
        return refused(error)


def act(words: Sequence[str], launched: Path, start: Starting | None = None) -> int:
    """Do what the words say, as `main`, and return the exit status.

    Raises:
        ZosiaError: they say nothing that can be done.
    """
    name, rest = command(words)
    given, flags = parse(name, rest)
    if "help" in flags:
        from zosia.command.help import help_text

        print(help_text(name if name in words[:2] else ""), end="")
        return Status.OK
    if "version" in flags:
        print(f"zosia {VERSION}")
        return Status.OK
    if name == "completion":
        from zosia.command import completion

        print(completion.script(given.get("SHELL", "")), end="")
        return Status.OK
    from zosia.command import actions

    gc.freeze()  # see zosia.cli
    gc.enable()
    if not INSTALLED:
        os.chdir(CLONE)
    return actions.do(name, given, launched, flags, words=words, start=start)


def command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the command that the words begin with, `run` if there is none, and the words behind it.

    Raises:
        ZosiaError: it is unknown.
    """
    if words and words[0] == "help":
        name, rest = command(words[1:])
        return name, [HELP[0], *rest]
    if not words or words[0].startswith("-") or _setting(words[0]):
        return "run", words
    name, *rest = words
    if name not in COMMANDS:
        from zosia.inputs import catalogue  # slow to import, and only needed here

        named = "/" in name or name.endswith(".gguf") or name in catalogue.read_models(ROOT / "models.toml")
        why = "run that model" if named else "ask that" if _is_question(name) else ""
        typed = f"To {why}, type: zosia run {shlex.quote(name)}"
        hint = typed if why and name.isprintable() else near(name, COMMANDS)
        raise ZosiaError(f"{shown(name)} is not a command of zosia", hint)
    return name, rest


def _setting(word: str, known: Container[str] = spelling.OPTIONS) -> bool:
    return "=" in word and word.partition("=")[0] in known


def parse(name: str, words: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Return the values that the words of a command give to variables, and the flags among them, such as help.

    NAME=value, as in guests' messages, is --name value. A word without an option is the first value that has none.

    Raises:
        ZosiaError: an option is not one of the command, or lacks its value; or a word is one too many.
    """
    known = {item.name: item for items in COMMANDS[name].variables(name).values() for item in items}
    forms = _forms(known.values())
    flags = ["help", "version", *COMMANDS[name].flags]
    short = {letter: flag for flag, letter in table.SHORT.items() if flag in flags}
    words = spread(words, [item.option for item in known.values() if item.several])
    try:
        found, loose = getopt.gnu_getopt(words, "".join(short), [*(text for text, _, _ in forms), *flags])
    except getopt.GetoptError as error:
        raise _refusal(name, error, [f"--{text.rstrip('=')}" for text, _, _ in forms]) from None
    values = {f"--{text.rstrip('=')}": (item.name, fixed) for text, item, fixed in forms}
    given, asked = {}, set()
    many: dict[str, list[str]] = {}
    for option, value in found:
        if option in values:
            variable, fixed = values[option]
            given[variable] = value if fixed is None else fixed
            if known[variable].several:
                many[variable] = [*many.get(variable, []), value]
        else:
            asked.add(short.get(option[1:], option[2:]))
    given |= {variable: shlex.join(each) for variable, each in many.items()}
    given |= {word.partition("=")[0]: word.partition("=")[2] for word in loose if _setting(word, known)}
    places = [place for place in COMMANDS[name].words if place not in given]
    for word in loose:
        if _setting(word, known):
            continue
        if _setting(word) and not (places[:1] == ["PROMPT"] and " " in word):  # such as "V=IR, what is V?"
            variable = word.partition("=")[0]
            raise ZosiaError(f"{variable}= is not for `zosia {name}`", near(variable, known))
        if places[:1] == ["MODEL"] and (other := re.match(r"([A-Z][A-Z_]+)=\S*$", word)):
            raise ZosiaError(f"{other[1]}= is not for `zosia {name}`", near(other[1], known))
        if not places:
            hint = "Put the prompt in quotation marks" if "PROMPT" in COMMANDS[name].words else "Leave it out"
            raise ZosiaError(f"{shown(word)} is a word too many for `zosia {name}`", hint)
        asks = places == ["MODEL", "PROMPT"] and _is_question(word)
        given[places.pop(-1 if asks else 0)] = word
    return given, asked


def spread(words: Sequence[str], several: Container[str]) -> list[str]:
    """Return the words with one of the `several` options before each file that comes after its value.

    So `--file *.md`, which a shell has made into many words, is `--file` for each.
    """
    made: list[str] = []
    option = ""  # which the next file belongs to
    for word in words:
        name = word.partition("=")[0]
        if name in several:
            option = name
        elif made and made[-1] == option:  # its value
            pass
        elif option and os.path.isfile(word) and not word.endswith(".gguf"):  # noqa: PTH113 - any text
            made.append(option)
        else:
            option = ""
        made.append(word)
    return made


def _is_question(word: str) -> bool:
    """Return whether a word in a model's place is a prompt: no model's name has a blank."""
    return " " in word.strip() and not word.endswith(".gguf") and not os.path.exists(word)  # noqa: PTH110 - any text


def _forms(variables: Iterable[Variable]) -> list[tuple[str, Variable, str | None]]:
    """Return the long options of variables, as getopt takes them, and the value that one without a value sets."""
    forms: list[tuple[str, Variable, str | None]] = []
    for item in variables:
        if item.switch:
            forms += [(item.option[2:], item, "1"), (item.off[2:], item, "0")]
        else:
            forms.append((f"{item.option[2:]}=", item, None))
    return forms


def _refusal(name: str, error: getopt.GetoptError, known: list[str]) -> ZosiaError:
    dashed = shown(f"--{error.opt}" if f"--{error.opt}" in error.msg else f"-{error.opt}")
    if "requires argument" in error.msg:
        return ZosiaError(f"{dashed} needs a value", f"To see which, type: zosia {name} --help")
    if "must not have an argument" in error.msg:
        return ZosiaError(f"{dashed} takes no value", f"To see its use, type: zosia {name} --help")
    others = [other for other in COMMANDS if dashed in _options(other)]
    hint = f"`zosia {others[0]}` has it" if others else near(dashed, [*known, "--help", "--version"])
    return ZosiaError(f"{dashed} is not an option of `zosia {name}`", hint)


def _options(name: str) -> list[str]:
    """Return the long options of a command, with their dashes."""
    items = (item for items in COMMANDS[name].variables(name).values() for item in items)
    return [f"--{text.rstrip('=')}" for text, _, _ in _forms(items)] + [f"--{flag}" for flag in COMMANDS[name].flags]
