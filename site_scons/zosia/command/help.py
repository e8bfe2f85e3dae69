"""Help of `zosia`, as wide as the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from zosia.base.files import cache_root
from zosia.base.places import DISKS, SAVED
from zosia.command import spelling
from zosia.command.table import ALWAYS, COMMANDS, EXAMPLES, shown_flag, shown_option, shown_words, summary
from zosia.settings import usage

_HELP = """Usage: zosia [COMMAND] [OPTION...]

{examples}

Commands (default: run)
{commands}

Options
{options}

Files
{files}
"""
_COMMAND_HELP = """Usage: zosia {name}{words} [OPTION...]

{text}
{options}
"""


def help_text(name: str = "") -> str:
    """Return the help of a command, or of all of `zosia`, as wide as the terminal."""
    width = shutil.get_terminal_size((100, 24)).columns
    if name:
        return _of_command(name, width)
    commands = [(f"{name}{shown_words(command)}", command.text) for name, command in COMMANDS.items()]
    files = [(cache_root(), "downloads (ZOSIA_CACHE)"), (SAVED, "saved machines"), (DISKS, "model disks")]
    return _HELP.format(
        examples=_entries(EXAMPLES.items(), width),
        commands=_entries(commands, width),
        options=_entries(ALWAYS.items(), width),
        files=_entries(((str(path), text) for path, text in files), width),
    )


def _of_command(name: str, width: int) -> str:
    import textwrap  # slow to import, and only needed here

    command, lines = COMMANDS[name], []
    for group, members in command.variables(name).items():
        shown = [item.name if item.name in command.words else shown_option(item) for item in members]
        lines += [f"\n {group}", _entries(zip(shown, map(summary, members), strict=True), width)]
    flags = {shown_flag(flag): text for flag, text in command.flags.items()}
    lines += [_entries(flags.items(), width)] * bool(flags)
    text = textwrap.fill(f"{command.text[0].upper()}{command.text[1:]}.", max(width, 50))
    return _COMMAND_HELP.format(name=name, words=shown_words(command), text=text, options="\n".join(lines))


def _entries(entries: Iterable[tuple[str, str]], width: int) -> str:
    return "\n".join(usage.entry(name, spelling.command(text), width) for name, text in entries)
