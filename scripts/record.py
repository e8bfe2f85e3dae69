#!/usr/bin/env python3
"""Record a real chat as an animated picture: docs/chat.svg, which README shows, or docs/kept-chat.svg.

    .venv/bin/scons                                     # builds what is booted
    .venv/bin/python scripts/record.py [NAME [FILE]]    # default: chat docs/chat.svg

It types a chat of SCRIPTS into a shell on a terminal of its own; the picture replays the output at its original speed.
The frames are one strip that moves behind a window, so no script is needed; with reduced motion, only the last frame is
shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from pyte.screens import Char

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site_scons"))

from zosia.base import style  # noqa: E402
from zosia.base.errors import ZosiaError  # noqa: E402
from zosia.base.files import replacing, temporary_folder  # noqa: E402

ROWS, COLUMNS = 16, 96
SHELL, PROMPT = "$", ">"
# Prompt to wait for, and text to type then.
SCRIPTS = {
    "chat": (
        (SHELL, "scons run"),
        (PROMPT, "What is 2+2?"),
        (PROMPT, "Write a haiku about rain."),
        (PROMPT, "/exit"),
        (SHELL, ""),
    ),
    "kept-chat": (
        (SHELL, "scons chat CHAT=garden"),
        (PROMPT, "What is 2+2?"),
        (PROMPT, "/exit"),
        (SHELL, "scons chat CHAT=garden"),
        (PROMPT, "And 3+3?"),
        (PROMPT, "/exit"),
        (SHELL, ""),
    ),
}
LABELS = {
    "chat": "zosia starts, answers two questions and powers off",
    "kept-chat": "A chat with a name is kept: zosia powers off, resumes it, and answers another question",
}
LONGEST = 120  # seconds until the next prompt
KEY, LOOK = 0.04, 0.6  # seconds between keys, and of looking at the output before typing
FRAME = 0.1  # seconds that a frame is shown at least
END = 4.0  # seconds that the last frame is shown
WIDTH, HEIGHT, MARGIN = 8.4, 19, 14  # pixels: width of a character, height of a line, margin around the text
COLOURS = {
    "default": "#d5d9e0",
    "black": "#6b7280",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#ffffff",
    "brightblack": "#8b949e",
    "brightred": "#ffa198",
    "brightgreen": "#a5f0ab",
    "brightbrown": "#f2cc60",
    "brightblue": "#a5d6ff",
    "brightmagenta": "#e2c5ff",
    "brightcyan": "#b3f0f5",
    "brightwhite": "#ffffff",
}
GROUND = "#14171c"
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">
<style>
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }}
.strip {{ animation: run {seconds:.2f}s step-end infinite; transform: translateY(-{last:g}px) }}
@keyframes run {{ {keyframes} }}
@media (prefers-reduced-motion: reduce) {{ .strip {{ animation: none }} }}
</style>
<defs>
{lines}
</defs>
<rect width="100%" height="100%" rx="8" fill="{ground}"/>
<svg x="{margin}" y="{margin}" width="{inner_width:g}" height="{inner_height:g}" overflow="hidden"><g class="strip">
{frames}
</g></svg>
</svg>
"""


@dataclass(frozen=True)
class Moment:
    """Output of the terminal, and its time in seconds from the start."""

    seconds: float
    text: str


class Recorder:
    """A terminal that answers as one, and notes what it shows."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        """Show what the child writes."""
        self.moments: list[Moment] = []
        self._child, self._start = child, time.monotonic()
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._screen.write_process_input = child.send  # type: ignore[assignment] # where its cursor is, for one
        self._stream = pyte.Stream(self._screen)

    def look(self, seconds: float) -> None:
        """Show what comes in some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                text = self._child.read_nonblocking(4096, timeout=left)
            except pexpect.TIMEOUT:
                return
            self.moments.append(Moment(time.monotonic() - self._start, text))
            self._stream.feed(text)

    def prompted(self, mark: str) -> None:
        """Wait for an empty prompt.

        Raises:
            ZosiaError: there is none.
        """
        end = time.monotonic() + LONGEST
        while self._screen.display[self._screen.cursor.y].rstrip() != mark:
            if time.monotonic() > end:
                raise ZosiaError("There is no prompt:\n" + "\n".join(self._screen.display), "Try the commands by hand")
            self.look(KEY)


def record(script: Sequence[tuple[str, str]]) -> list[Moment]:
    """Type a script into a shell, and return its output. Chats that are kept go with it.

    Raises:
        ZosiaError: an expected prompt did not appear.
    """
    programs = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    with temporary_folder() as folder:
        own = {"PATH": programs, "PS1": f"{SHELL} ", "TERM": "xterm-256color", "ENV": "", "XDG_DATA_HOME": str(folder)}
        child = pexpect.spawn(
            "/bin/sh",
            ["-i"],
            cwd=str(ROOT),
            env={**os.environ, **own},
            encoding="utf-8",
            dimensions=(ROWS, COLUMNS),
        )
        recorder = Recorder(child)
        with child:
            for mark, typed in script:
                recorder.prompted(mark)
                recorder.look(LOOK)
                for key in typed:
                    child.send(key)
                    recorder.look(KEY)
                recorder.look(LOOK / 2)
                child.send("\r" if typed else "")
                recorder.look(LOOK / 2)
    return recorder.moments


Line = tuple[tuple[int, Char], ...]


def frames(moments: list[Moment]) -> list[tuple[float, tuple[Line, ...]]]:
    """Return the screens that differ, each with the time at which it appears, in seconds."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    shown: list[tuple[float, tuple[Line, ...]]] = []
    for moment in moments:
        stream.feed(moment.text)
        lines = tuple(
            tuple((x, char) for x, char in sorted(screen.buffer[y].items()) if char.data.strip() or char.reverse)
            for y in range(ROWS)
        )
        if shown and moment.seconds - shown[-1][0] < FRAME:
            shown[-1] = (shown[-1][0], lines)
        elif not shown or shown[-1][1] != lines:
            shown.append((moment.seconds, lines))
    return shown


def picture(shown: list[tuple[float, tuple[Line, ...]]], label: str = "") -> str:
    """Return the frames as an SVG."""
    inner_width, inner_height = COLUMNS * WIDTH, ROWS * HEIGHT
    start, seconds = shown[0][0], shown[-1][0] - shown[0][0] + END
    known: dict[Line, int] = {(): 0}
    strip = []
    for number, (_, lines) in enumerate(shown):
        used = [(y, known.setdefault(line, len(known))) for y, line in enumerate(lines) if line]
        strip += [f'<use href="#l{line}" y="{number * inner_height + y * HEIGHT}"/>' for y, line in used]
    offsets = ((100 * (when - start) / seconds, number * inner_height) for number, (when, _) in enumerate(shown))
    return SVG.format(
        label=label,
        width=inner_width + 2 * MARGIN,
        height=inner_height + 2 * MARGIN,
        margin=MARGIN,
        ground=GROUND,
        inner_width=inner_width,
        inner_height=inner_height,
        seconds=seconds,
        last=(len(shown) - 1) * inner_height,
        keyframes=" ".join(f"{part:.3f}% {{ transform: translateY(-{y}px) }}" for part, y in offsets),
        lines="\n".join(f'<g id="l{number}">{_line(line)}</g>' for line, number in known.items() if line),
        frames="\n".join(strip),
    )


def _line(line: Line) -> str:
    """Return the SVG of one line: a piece for each run of characters that look alike."""

    def look(cell: tuple[int, Char]) -> tuple[str, bool, bool]:
        return COLOURS.get(cell[1].fg) or f"#{cell[1].fg}", cell[1].bold, cell[1].reverse

    pieces = []
    for (colour, bold, reverse), run in groupby(line, look):
        cells = list(run)
        if reverse:  # the colour fills the background, and the text has the ground's
            size = f'width="{WIDTH:g}" height="{HEIGHT}" fill="{colour}" shape-rendering="crispEdges"'
            pieces += [f'<rect x="{x * WIDTH:g}" {size}/>' for x, _ in cells]
        first = cells[0][0]
        text = [" "] * (cells[-1][0] - first + 1)
        for x, char in cells:
            text[x - first] = char.data
        weight = ' font-weight="bold"' if bold else ""
        place = f'x="{first * WIDTH:g}" y="{HEIGHT * 0.75:g}" textLength="{len(text) * WIDTH:g}"'
        place += f' fill="{GROUND if reverse else colour}"{weight}'
        pieces.append(f'<text {place} xml:space="preserve">{escape("".join(text))}</text>')
    return "".join(pieces)


def main(name: str, target: Path) -> None:
    """Record a chat, and write the picture."""
    drawn = picture(frames(record(SCRIPTS[name])), LABELS[name])
    with replacing(target) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    style.say("SVG", target)


if __name__ == "__main__":
    name, *file = sys.argv[1:] or ["chat"]
    try:
        main(name, Path(file[0]) if file else ROOT / "docs" / f"{name}.svg")
    except (ZosiaError, OSError) as error:
        sys.exit(style.error(error))
