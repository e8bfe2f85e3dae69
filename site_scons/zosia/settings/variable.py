"""Variable: a setting by name, of `scons` and of `zosia`."""

from __future__ import annotations

from dataclasses import dataclass

SWITCH = ("0", "1")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable that is set as NAME=value on SCons' command line, and as --name value on that of `zosia`.

    Attributes:
        form, path: form of a value, with its unit; whether it is a path.
        text: meaning.
        choices: every possible value; empty if other values are possible too.
        default, otherwise: value of a variable that isn't set, or its description where it isn't a fixed one.
        named: name of the option of `zosia`, where it is not the variable's.
        several: it is a list, quoted as in a shell; the option has one value each time that it is given.
        only: commands of `zosia`, or targets of `scons`, that take it; empty for all that take its group.
    """

    name: str
    form: str
    text: str
    choices: tuple[str, ...] = ()
    default: str = ""
    otherwise: str = ""
    path: bool = False
    named: str = ""
    several: bool = False
    only: tuple[str, ...] = ()

    @property
    def switch(self) -> bool:
        """True for a variable that is 0 or 1: --name sets 1, and --no-name 0."""
        return self.choices == SWITCH

    @property
    def option(self) -> str:
        """Option of `zosia`."""
        return f"--{self.named or self.name.lower().replace('_', '-')}"

    @property
    def off(self) -> str:
        """Option of `zosia` that sets a switch to 0."""
        return f"--no-{self.option[2:]}"

    @property
    def summary(self) -> str:
        """Meaning, values and default in one line."""
        default = self.default or self.otherwise
        return f"{self.text} ({self.form}{f'; default: {default}' if default else ''})"


def switch(*, name: str, text: str, default: str = "", otherwise: str = "", only: tuple[str, ...] = ()) -> Variable:
    """Return a variable that is 0 or 1."""
    form = ", ".join(SWITCH)
    return Variable(name=name, form=form, text=text, choices=SWITCH, default=default, otherwise=otherwise, only=only)
