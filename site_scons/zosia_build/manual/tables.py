"""Tables of the manual that are generated, in Markdown: targets, variables, commands, options, models and hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zosia.base.files import size_text
from zosia.chat.commands import COMMANDS as CHAT
from zosia.command import spelling
from zosia.command.table import ALWAYS, COMMANDS, PACKAGED, meaning, shown_flag, shown_option, shown_words, usual
from zosia.inputs.catalogue import Model
from zosia.model.plan import Wish, gib
from zosia.settings.usage import TARGETS
from zosia.settings.variable import Variable
from zosia.settings.variables import GROUPS
from zosia_build.hosts import Host, Line


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; cells may have any text without newlines."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def targets() -> str:
    """Return the table of targets."""
    return table(("target", "description"), ((f"`{name}`", text) for name, text in TARGETS.items()))


def variables() -> str:
    """Return a heading and a table of variables for each group."""
    parts = []
    for group, members in GROUPS.items():
        header = ("variable", "description", "values", "default")
        parts.append(f"### {group}\n\n{table(header, map(_variable, members))}")
    return "\n".join(parts)


def _variable(variable: Variable) -> tuple[str, str, str, str]:
    default = f"`{variable.default}`" if variable.default else variable.otherwise or "none"
    return f"`{variable.name}=`", variable.text, _values(variable), default


def _values(variable: Variable) -> str:
    plain = ", ".join(variable.choices) == variable.form  # otherwise the form says more than the choices
    return ", ".join(f"`{choice}`" for choice in variable.choices) if plain else variable.form


def commands() -> str:
    """Return the table of the commands of `zosia`, with the targets of `scons` that do the same."""
    header = ("command", "description", "in a clone")
    rows = (
        (f"`zosia {name}{shown_words(command)}`", command.text, f"`scons {command.target}`" if command.target else "")
        for name, command in COMMANDS.items()
    )
    return table(header, rows)


def chat() -> str:
    """Return the table of the commands of the chat program."""
    rows = ((f"`{name} {command.takes}`".replace(" `", "`"), command.text) for name, command in CHAT.items())
    return table(("command", "action"), rows)


def options() -> str:
    """Return a heading, the commands and a table for each group of the options of an installed `zosia`."""
    parts = []
    for group, members in GROUPS.items():
        takers = [name for name, command in COMMANDS.items() if group in command.groups]
        rows = [_option(item) for item in members if (set(item.only) & COMMANDS.keys() if item.only else takers)]
        if rows:
            names = ", ".join(f"`{name}`" for name in takers)
            header = ("option", "description", "values", "default")
            parts.append(f"### {group}\n\nFor {names}.\n\n{table(header, rows)}")
    flags = {
        shown_flag(flag): f"{text}; for `{name}` only"
        for name, command in COMMANDS.items()
        for flag, text in command.flags.items()
    }
    others = [(f"`{option.replace(', ', '`, `')}`", text) for option, text in {**ALWAYS, **flags}.items()]
    return "\n".join([*parts, f"### Others\n\n{table(('option', 'description'), others)}"])


def _option(variable: Variable) -> tuple[str, str, str, str]:
    names = [f"`{option}`" for option in shown_option(variable).split(", ")]
    if any(variable.name in command.words for command in COMMANDS.values()):
        names.insert(0, f"`{variable.name}`")  # which needs no option
    only = f"; for {', '.join(f'`{name}`' for name in variable.only)} only" if variable.only else ""
    value = PACKAGED.get(variable.name, variable.default)
    default = usual(variable, value)
    shown = f"`{default}`" if value or default.startswith("-") else default or "none"
    values = "" if variable.switch else _values(variable)
    return ", ".join(names), f"{spelling.command(meaning(variable))}{only}", values, shown


def models(catalogue: Mapping[str, Model]) -> str:
    """Return the table of models, with the memory of a guest and the memory that guests share, on dax."""
    header = ("name", "model", "licence", "download", "context", "guest", "shared", "reasoning")
    return table(header, map(_model, catalogue.values()))


def _model(model: Model) -> tuple[str, ...]:
    size = size_text(size) if (size := model.size or model.gguf_size) else "?"
    guest, shared = "unknown until downloaded", "?"
    if model.shape and model.gguf_size:
        wish = Wish(name=model.name, shape=model.shape, weights=model.gguf_size, context=model.context, mapped=True)
        needed = wish.takes()
        guest, shared = f"{gib(wish.guest(needed))} GiB", f"{gib(needed.on_host)} GiB"
    reasoning = ", ".join(model.reasoning) or "no"
    return f"`{model.name}`", model.title, model.licence, size, str(model.context), guest, shared, reasoning


def hosts(plan: Mapping[str, Host], lines: Mapping[str, Line]) -> str:
    """Return the table of hosts, with those that were not tried yet."""
    header = ("host", "system", "QEMU", "guests", "commands", "date")
    return table(header, (_host(host, lines.get(name)) for name, host in plan.items()))


def _host(host: Host, line: Line | None) -> tuple[str, ...]:
    if line is None:
        return host.title, "", "", "", _commands("not yet run", host.commands), "not yet"
    left = [command for command in host.commands if command not in (*line.passed, *line.failed)]
    parts = [_commands("passed", line.passed), _commands("**failed**", line.failed), _commands("not yet run", left)]
    system = f"{line.system}, {line.processor}"
    return host.title, system, line.qemu, "; ".join(line.guests), "; ".join(filter(None, parts)), line.date


def _commands(verdict: str, commands: Sequence[str]) -> str:
    return f"{verdict}: {', '.join(f'`{command}`' for command in commands)}" if commands else ""
