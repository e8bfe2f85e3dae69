"""Source code in the terminal's own colours, which are legible on dark and on light."""

from __future__ import annotations

from functools import cache

from pygments import token
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text

BATCH = 16  # lines that are finished at once
# Lines above a batch that are read again, so that its colours are right in a long string or comment. Each drawing of
# the last batch reads them, and Pygments takes a millisecond for five.
BEFORE = 48
TAB = 4


@cache
def _theme() -> ANSISyntaxTheme:
    return ANSISyntaxTheme(
        {
            token.Token: Style(),
            token.Comment: Style(dim=True),
            token.Comment.Preproc: Style(color="magenta"),
            token.Keyword: Style(color="magenta"),
            token.Operator.Word: Style(color="magenta"),
            token.Name.Builtin: Style(color="cyan"),
            token.Name.Function: Style(bold=True),
            token.Name.Class: Style(bold=True),
            token.Name.Decorator: Style(color="cyan"),
            token.Name.Attribute: Style(color="cyan"),
            token.Name.Tag: Style(color="magenta"),
            token.Name.Variable: Style(color="cyan"),
            token.String: Style(color="green"),
            token.Number: Style(color="cyan"),
            token.Generic.Deleted: Style(color="red"),
            token.Generic.Inserted: Style(color="green"),
            token.Generic.Heading: Style(bold=True),
            token.Generic.Subheading: Style(bold=True),
        }
    )


def coloured(lines: list[str], start: int, end: int, language: str) -> list[Text]:
    """Return some lines of a program. Lines behind them don't count, so their colours stay when more lines come."""
    above = max(start - BEFORE, 0)
    program = "\n".join(lines[above:end]).expandtabs(TAB)
    text = Syntax("", language or "text", theme=_theme()).highlight(program)
    if text.plain.removesuffix("\n") != program.removesuffix("\n"):  # the words count, not their colours
        text = Text(program)
    return list(text.split("\n", allow_blank=True)[start - above : end - above])
