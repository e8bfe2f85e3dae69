"""Programs: find them, and run them to their end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import FULL

# A user's PATH lacks mke2fs on Debian, and Homebrew does not link e2fsprogs.
EXTRA_PATH = ("/usr/sbin", "/sbin", "/opt/homebrew/opt/e2fsprogs/sbin", "/usr/local/opt/e2fsprogs/sbin")
LOG_LINES_SHOWN = 20
# Variables that a program inherits: paths and network settings. The rest (CFLAGS, MAKEFLAGS, KCONFIG_CONFIG…) must not
# affect the results, and a passphrase is nobody's business.
KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TERM|XDG_.*|CCACHE_.*|PIP_.*|ZOSIA_(?!PASSPHRASE).*"
    r"|SSL_CERT_.*|(REQUESTS|CURL)_CA_BUNDLE|.*_proxy|.*_PROXY"
)
# English, because output is parsed here; and always the same, because ccache hashes these variables.
PLAIN_LOCALE = dict.fromkeys(("LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES"), "C")
SHOW_COMMANDS = "ZOSIA_V"  # in the environment: `scons V=1`


def find(program: str) -> str:
    """Return the path of a program.

    Raises:
        ZosiaError: it is not installed; the error names its package.
    """
    found = _which(program)
    if found:
        return found
    from zosia.base.packages import remedy  # slow to import, and only needed here

    raise ZosiaError(f"{program} is needed and was not found on PATH", remedy([program]))


def missing(programs: Iterable[str]) -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in programs if not _which(program)]


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *EXTRA_PATH]))


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    label: str = "",
    total: int = 0,
    shown: bool = False,
    check: bool = True,
    given: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its status, stdout and stderr.

    Args:
        argv: program and arguments; the program is looked up with `find`.
        env: variables to add to the inherited ones (KEPT).
        log: file to append the output to; progress is shown, and the result's output is empty.
        label: of the progress line; the name of the log by default.
        total: expected number of output lines, if known; see progress.Steps.
        shown: pass the output through to stderr; the result's output is empty.
        check: raise if the status is not 0.
        given: file that the program has as its standard input.

    Raises:
        ZosiaError: the program is missing or failed; the error has the end of its output.
    """
    words = [find(str(argv[0])), *map(str, argv[1:])]
    inherited = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    environment = {**inherited, **PLAIN_LOCALE, **(env or {})}
    if SHOW_COMMANDS in os.environ:
        style.show(f"  $ {shlex.join(words)}")
    if log is None:
        done = _run_plain(words, cwd, environment, shown, given)
        output = (done.stdout or "") + (done.stderr or "")
    else:
        from zosia.base.progress import Steps  # imported late: Buildroot runs this module with a bare Python

        with closing(Steps(label or log.stem.upper(), total)) as steps:
            done = _run_logged(words, cwd, environment, log, steps.take)
        output = "" if done.returncode == 0 else log.read_text(encoding="utf-8", errors="replace")
    if check and done.returncode != 0:
        if any(os.strerror(number) in output for number in FULL):
            raise ZosiaError(f"The disk is full: {Path(words[0]).name} could not write", "Make room, then run it again")
        tail = "\n".join(f"    {line}" for line in output.splitlines()[-LOG_LINES_SHOWN:])
        where = f"; whole log: {log}" if log else ""
        raise ZosiaError(f"{Path(words[0]).name} ended with status {done.returncode}{where}\n{tail}")
    return done


def _run_plain(
    words: list[str], cwd: Path | None, environment: Mapping[str, str], shown: bool, given: Path | None
) -> subprocess.CompletedProcess[str]:
    """Run a program; its output is kept, or shown on stderr."""
    with (given or Path(os.devnull)).open("rb") as file:
        return subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=file,
            stdout=sys.stderr if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )


def _run_logged(
    words: list[str], cwd: Path | None, environment: Mapping[str, str], log: Path, take: Callable[[str], None]
) -> subprocess.CompletedProcess[str]:
    """Run a program; write its output to a log, and pass each line to `take`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8", buffering=1) as file,
        subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child,
    ):
        file.write(f"$ {shlex.join(words)}\n")
        try:
            for line in child.stdout or ():
                file.write(line)
                take(line)
        except BaseException:  # mostly an interrupt: make and ninja then stop their own children
            child.terminate()
            child.wait()  # Popen would only wait for a quarter of a second, and what npm writes is removed next
            raise
    return subprocess.CompletedProcess(words, child.returncode, "", "")
