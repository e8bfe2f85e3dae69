"""Record of requests: the log, the figures, and the tokens that an answer says it took. No prompt, no key."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from zosia.base.errors import ZosiaError

# The first and the last bytes of an answer say its tokens: an embedding the former, all others the latter.
HEAD, TAIL = 4096, 16384
# Not in a text of the answer: JSON has a backslash before a quotation mark in it.
NUMBER = rb'"(?:%s)"\s*:\s*([0-9]{1,9})\b'
# OpenAI's names, Anthropic's and OpenAI's newer ones, and llama-server's timings, which have apart what was cached
TAKEN, READ, CACHED = ([re.compile(NUMBER % name)] for name in (b"prompt_tokens|input_tokens", b"prompt_n", b"cache_n"))
GIVEN = [re.compile(NUMBER % name) for name in (b"completion_tokens|output_tokens", b"predicted_n")]


@dataclass
class Usage:
    """Tokens of one answer, read as its bytes pass."""

    head: bytes = b""
    tail: bytes = b""

    def feed(self, part: bytes) -> None:
        """Take some bytes of the answer."""
        if len(self.head) < HEAD:
            self.head += part[: HEAD - len(self.head)]
        self.tail = (self.tail + part)[-TAIL:]

    @property
    def tokens(self) -> tuple[int, int] | None:
        """Tokens of the prompt and of the answer, if it says them."""
        taken, given = self._last(TAKEN), self._last(GIVEN)
        if taken is None and (taken := self._last(READ)) is not None:
            taken += self._last(CACHED) or 0
        return None if taken is None and given is None else (taken or 0, given or 0)

    def _last(self, patterns: list[re.Pattern[bytes]]) -> int | None:
        found = [int(number) for p in patterns for text in (self.tail, self.head) for number in p.findall(text)[-1:]]
        return found[0] if found else None


@dataclass(frozen=True, kw_only=True)
class Done:
    """A request that is answered, or given up: status 499, as nginx has it."""

    method: str
    path: str
    status: int
    seconds: float
    tokens: tuple[int, int] | None = None
    guest: int = 0  # number of the one that had it; 0 for none, or the only one


class Log:
    """Lines of requests, in a file or on stderr.

    Raises:
        ZosiaError: the file can't be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._full = False
        try:
            self._file: TextIO | None = path.open("a", encoding="utf-8", buffering=1) if path else None
        except OSError as error:
            raise ZosiaError(f"{path} can't be written: {error.strerror}", "Set another LOG=") from error

    def write(self, done: Done) -> None:
        """Write the line of a request."""
        tokens = f"{done.tokens[0]}+{done.tokens[1]} tokens" if done.tokens else "-"
        now = time.strftime("%Y-%m-%dT%H:%M:%S")
        guest = f" guest {done.guest}" if done.guest else ""
        self.line(f"{now} {done.method} {done.path} {done.status} {tokens} {done.seconds:.3f} s{guest}")

    def line(self, text: str) -> None:
        """Write a line. If that fails, a full disk for one, a note says so once, and serving goes on."""
        try:
            print(text, file=self._file or sys.stderr, flush=True)
        except (OSError, ValueError) as error:
            if not self._full and self._file:
                print(f"zosia: note: the log has gaps: {error}", file=sys.stderr)
            self._full = True

    def close(self) -> None:
        """Close the file."""
        if self._file:
            try:
                self._file.close()
            except OSError:
                self._full = True


Family = tuple[str, str, list[tuple[str, float]]]  # name, kind, and values by their labels


@dataclass
class Counts:
    """Figures of a machine, counted by who starts it."""

    starts: int = 0
    crashes: int = 0
    ready_at: float = 0.0  # time of time.monotonic() when it was ready last


@dataclass
class Figures(Counts):
    """Figures of one of several guests."""

    requests: int = 0  # that it had, those included that went on to another
    running: int = 0
    ready: bool = False


@dataclass
class Metrics(Counts):
    """Figures for Prometheus. All labels are the gate's own words."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by path and status
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by path
    tokens_in: int = 0
    tokens_out: int = 0
    moved: int = 0  # requests that went on to another guest
    guests: list[Figures] = field(default_factory=list)  # in the order of their numbers, if there are several

    @property
    def last_ready(self) -> float:
        """Time of time.monotonic() when a machine was ready last."""
        return max(each.ready_at for each in (self, *self.guests))

    def count(self, done: Done) -> None:
        """Count a request."""
        self.requests[done.path, done.status] += 1
        self.seconds[done.path] += done.seconds
        taken, given = done.tokens or (0, 0)
        self.tokens_in += taken
        self.tokens_out += given

    def text(self, **gauges: int) -> str:
        """Return all figures in Prometheus' text format, with some that the gate has at this moment."""
        families: list[Family] = [
            (
                "requests_total",
                "counter",
                [(f'{{path="{path}",status="{status}"}}', n) for (path, status), n in sorted(self.requests.items())],
            ),
            ("seconds_total", "counter", [(f'{{path="{path}"}}', n) for path, n in sorted(self.seconds.items())]),
        ]
        totals = {
            "prompt_tokens_total": self.tokens_in,
            "completion_tokens_total": self.tokens_out,
            "machine_starts_total": self.starts + sum(guest.starts for guest in self.guests),
            "machine_crashes_total": self.crashes + sum(guest.crashes for guest in self.guests),
        }
        families += [(name, "counter", [("", value)]) for name, value in totals.items()]
        families += [(name, "gauge", [("", value)]) for name, value in gauges.items()]
        families += self._of_guests() if self.guests else []
        lines = []
        for name, kind, values in families:
            lines.append(f"# TYPE zosia_{name} {kind}")
            lines += [f"zosia_{name}{label} {value:.10g}" for label, value in values]
        return "\n".join([*lines, ""])

    def _of_guests(self) -> list[Family]:
        """Return the figures by which several guests are told apart."""
        kinds = {"starts": "counter", "crashes": "counter", "requests": "counter", "running": "gauge", "ready": "gauge"}
        families: list[Family] = [("requests_moved_total", "counter", [("", self.moved)])]
        for name, kind in kinds.items():
            values = [(f'{{guest="{n}"}}', float(getattr(each, name))) for n, each in enumerate(self.guests, 1)]
            families.append((f"guest_{name}{'_total' * (kind == 'counter')}", kind, values))
        return families
