"""llama/console/, compiled for this machine, on a terminal emulator."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pexpect
import pyte
import pytest
from wcwidth import wcwidth

from zosia.base.files import cache_root
from zosia.base.patience import patience
from zosia.inputs import fetch
from zosia.inputs.catalogue import read_sources
from zosia_build import llama

WAIT = 20  # seconds, times patience
LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[3~"
BACKSPACE, ENTER, CTRL_LEFT, CTRL_RIGHT = "\x7f", "\r", "\x1b[1;5D", "\x1b[1;5C"
PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"
# The driver tells on descriptor 3 what it read; 4 is the host's status port. The shell outlives Ctrl+C.
WRAPPER = """trap : INT TERM; stty -g >{folder}/before
{command} 3>{folder}/report 4>{folder}/status
echo $? >{folder}/code; stty -g >{folder}/after"""


def ctrl(letter: str) -> str:
    return chr(ord(letter.upper()) - 64)


def busy() -> str:
    """Seconds that loading and slow answers take."""
    return str(max(2, round(2 * patience())))


@pytest.fixture(scope="session")
def driver(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """console-driver, with the libraries that llama-cli is linked with."""
    program = tmp_path_factory.mktemp("console") / "console-driver"
    upstream = fetch.source_tree(read_sources(root / "sources.toml")["llama-cpp"], cache_root())
    zig = llama.zig_home(cache_root())
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(cache_root() / "zig"))
    compiler = [str(zig / "zig"), "c++", "-target", f"{platform.machine()}-linux-musl"]
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    folders = [f"-I{upstream / name}" for name in ("common", "include", "ggml/include", "tools/cli")]
    files = [root / "llama" / "console" / "console.cpp", root / "tests" / "build" / "console-driver.cpp"]
    subprocess.run(
        [*compiler, *options, *folders, *files, "-o", program],
        env={**os.environ, **caches, "ZIG_LIB_DIR": str(zig / "lib")},
        check=True,
    )
    return program


class Screen(pyte.Screen):
    """pyte's, with what real terminals do: wrap a wide character early, add a zero-width one to the cell before it."""

    def draw(self, data: str) -> None:
        for char in data:
            width = wcwidth(char)
            if width == 2 and self.cursor.x == self.columns - 1:
                self.cursor.x = self.columns
            if width > 0:
                super().draw(char)
            elif self.cursor.x > 0:
                line = self.buffer[self.cursor.y]
                column = self.cursor.x - (1 if line[self.cursor.x - 1].data else 2)
                line[column] = line[column]._replace(data=normalize("NFC", line[column].data + char))


class Terminal:
    """The driver on a terminal."""

    def __init__(
        self, driver: Path, folder: Path, *options: str, rows: int = 24, columns: int = 80, **env: str
    ) -> None:
        self.folder = folder
        self.screen = Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ended = False
        self.keyboard = ThreadPoolExecutor(1)
        script = WRAPPER.format(folder=shlex.quote(str(folder)), command=shlex.join([str(driver), *options]))
        environment: Any = {**os.environ, "TERM": "xterm-256color", "ZOSIA_STATUS": "4", "BUSY": busy(), **env}
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            "/bin/sh", ["-c", script], env=environment, dimensions=(rows, columns), timeout=None
        )

    @property
    def shown(self) -> str:
        """The screen without what is empty at its right and at its bottom."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n")

    @property
    def cursor(self) -> tuple[int, int]:
        return self.screen.cursor.y, self.screen.cursor.x

    @property
    def told(self) -> list[str]:
        """Decoded messages of the driver."""
        lines = (self.folder / "report").read_text().splitlines() if (self.folder / "report").exists() else []
        return [bytes.fromhex(line[4:]).decode() if line.startswith("got ") else f"<{line}>" for line in lines]

    def type(self, *keys: str | bytes) -> None:
        """Type at the prompt; in the background, since the terminal's buffers are small."""
        data = b"".join(key if isinstance(key, bytes) else key.encode() for key in keys)
        self.keyboard.submit(self._write, data)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.child.child_fd, data) :]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Follow the screen until the condition holds."""
        deadline = time.monotonic() + WAIT * patience()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"told {self.told}, cursor {self.cursor}, and the screen shows\n{self.shown}")
            try:
                part = self.child.read_nonblocking(1 << 16, timeout=0.02)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                self.ended = True
                time.sleep(0.02)
                continue
            self.raw += part
            self.stream.feed(part)

    def shows(self, text: str, cursor: tuple[int, int] | None = None) -> None:
        """Wait until the screen, below the first line, which is empty, shows the text and nothing else."""
        self.wait(lambda: self.shown.removeprefix("\n") == text and cursor in (None, self.cursor))

    def reads(self, *messages: str) -> None:
        """Wait until the driver has read these messages."""
        self.wait(lambda: self.told == list(messages))

    def ends(self) -> int:
        """Wait until the driver has ended; its status."""
        self.wait(lambda: self.ended)
        return int((self.folder / "code").read_text())

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(request: pytest.FixtureRequest, driver: Path, tmp_path: Path) -> Open:
    """Start the driver on a terminal; it is at its prompt."""

    def start(*options: str, **settings: Any) -> Terminal:
        started = Terminal(driver, tmp_path, *options, **settings)
        request.addfinalizer(lambda: started.child.close(force=True))
        if "spin" not in options and "preset" not in options:
            started.wait(lambda: started.cursor[1] == 2)
        return started

    return start
