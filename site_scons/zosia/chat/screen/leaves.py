"""Leaves of a Markdown text: paragraphs, headings, fences, tables and rules, each with the lists that it is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit
from markdown_it.token import Token
from rich.text import Text

from zosia.chat.screen.letters import visible

BULLET, QUOTE = " • ", "│ "  # a Linux console's font has both
DEEPEST = 100  # block within another; markdown-it shows no text of those below, and its own limit is 20
# Kinds of leaves
PARAGRAPH, HEADING, FENCE, CODE, TABLE, RULE, EMPTY = (
    "paragraph_open",
    "heading_open",
    "fence",
    "code_block",
    "table_open",
    "hr",
    "empty",
)
LEAVES = {PARAGRAPH, HEADING, FENCE, CODE, TABLE, RULE}
LISTS = {"bullet_list_open", "ordered_list_open"}


@dataclass(frozen=True)
class Holder:
    """A quotation, or an entry of a list: the prefix of its first row, and of all others."""

    first: str
    rest: str
    line: int


@dataclass(frozen=True)
class Leaf:
    """One block of text; `start` and `end` are its lines in the source, `top` is the one of its outermost block."""

    kind: str
    tokens: list[Token]
    source: str
    holders: tuple[Holder, ...]
    new: int  # holders that begin with this leaf
    start: int
    end: int
    top: int

    @property
    def first(self) -> str:
        """Prefix of the first row."""
        old = len(self.holders) - self.new
        return "".join(holder.rest for holder in self.holders[:old]) + "".join(
            holder.first for holder in self.holders[old:]
        )

    @property
    def rest(self) -> str:
        """Prefix of all other rows."""
        return "".join(holder.rest for holder in self.holders)


class _Parser(MarkdownIt):
    def normalizeLink(self, url: str) -> str:
        return url  # as it was written


@cache
def _parser(*, within: bool) -> MarkdownIt:
    """Return a parser of Markdown whose blocks never change once the next has begun.

    So it has no references, which name a link far above. A line of dashes is a rule, and no underline: models separate
    with it. HTML is text. What is within a block is parsed apart: most blocks of a long list are shown already.
    """
    parser = _Parser("commonmark", {"html": False, "maxNesting": DEEPEST})
    parser.enable("table").disable(["reference", "lheading"])
    return parser if within else parser.disable("inline")


@dataclass
class _Walk:
    tokens: list[Token]
    lines: list[str]
    holders: list[Holder] = field(default_factory=list)
    used: int = 0  # holders that have a leaf already
    top: int = 0

    def __iter__(self) -> Iterator[Leaf]:
        numbers: list[int | None] = []
        inside: list[Token] = []
        for token in self.tokens:
            start = token.map[0] if token.map else 0
            if token.level == 0 and token.nesting >= 0:
                self.top = start
            if inside or token.type in LEAVES:
                inside.append(token)
                if token.level == inside[0].level and token.nesting <= 0:
                    yield self._leaf(inside[0].type, inside, *(inside[0].map or (0, 0)))
                    inside = []
            elif token.type in LISTS:
                numbers.append(int(token.attrs.get("start", 1)) if token.type == "ordered_list_open" else None)
            elif token.type in ("bullet_list_close", "ordered_list_close"):
                numbers.pop()
            elif token.type == "list_item_open":
                marker = BULLET if numbers[-1] is None else f"{f'{token.info}{token.markup}':>3} "
                self.holders.append(Holder(marker, " " * len(marker), start))
            elif token.type == "blockquote_open":
                self.holders.append(Holder(QUOTE, QUOTE, start))
            elif token.type in ("list_item_close", "blockquote_close"):
                if self.used < len(self.holders):
                    line = self.holders[-1].line
                    yield self._leaf(EMPTY, [], line, line + 1)
                self.holders.pop()
                self.used = len(self.holders)

    def _leaf(self, kind: str, tokens: list[Token], start: int, end: int) -> Leaf:
        new, self.used = len(self.holders) - self.used, len(self.holders)
        source = "\n".join(self.lines[start:end])
        return Leaf(kind, tokens, source, tuple(self.holders), new, start, end, self.top)


def excess(source: str, columns: int) -> bool:
    """Return True for the lines of a table if one has more cells than the first: they would be left out."""
    lines = (line.strip(" \t>").removeprefix("|").removesuffix("|") for line in source.split("\n"))
    return any(len(escapedSplit(line)) > columns for line in lines)


def leaves(source: str) -> list[Leaf]:
    """Return the leaves of a text."""
    return list(_Walk(_parser(within=False).parse(source), source.split("\n")))


def inline(source: str, style: str = "") -> Text:
    """Return a text with its emphasis. A link shows its address; newlines stay, for poems and postal addresses."""
    text = Text(style=style)
    styles: list[str] = []
    links: list[tuple[int, str]] = []
    for token in _parser(within=True).parseInline(source)[0].children or []:
        match token.type:
            case "softbreak" | "hardbreak":
                text.append("\n")
            case "code_inline":
                text.append(visible(token.content), " ".join([*styles, "cyan"]))
            case "strong_open" | "em_open":  # a Linux console has no italics
                styles.append("bold" if token.type == "strong_open" else "underline")
            case "strong_close" | "em_close":
                styles.pop()
            case "link_open":
                links.append((len(text), visible(str(token.attrs["href"]))))
            case "link_close":
                start, address = links.pop()
                if address not in ("", text.plain[start:], f"mailto:{text.plain[start:]}"):
                    text.append(f" ({address})")
            case "image":
                text.append(visible(f"![{token.content}]({token.attrs['src']})"))
            case _:
                text.append(visible(token.content), " ".join(styles))
    return text
