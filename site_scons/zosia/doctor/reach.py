"""Availability of downloads: each server is asked once, all at the same time, with a short timeout."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from zosia.base import apt
from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.patience import patience
from zosia.base.process import run
from zosia.inputs import download, fetch, hub, web
from zosia.inputs.catalogue import Pin

SECONDS = 6.0  # timeout of all questions together, times patience
CONNECT = 4.0  # timeout of one question
APT_HELPER = "/usr/lib/apt/apt-helper"  # a part of apt that is not on the PATH
APT = "Debian's archive"
Question = Callable[[], None]


def questions(pins: Iterable[Pin]) -> dict[str, Question]:
    """Return a question for each server, by its name; it raises ZosiaError if the server lacks the file."""
    found: dict[str, Question] = {}
    for pin in pins:
        name, question = _question(pin)
        found.setdefault(name, question)
    return found


def _question(pin: Pin) -> tuple[str, Question]:
    if pin.origin == "pypi":
        return f"the Python package index ({pin.project})", lambda: _index(pin)
    if pin.origin == "hub":
        return f"the Hugging Face hub ({pin.project})", lambda: _hub(pin)
    if pin.origin == "debian" and apt.available():
        return APT, _apt
    url = pin.url or pin.snapshot
    return f"{urlsplit(url).hostname} ({pin.file})", lambda: _address(url)


def _index(pin: Pin) -> None:
    with web.Session() as session:
        fetch.index_url(pin, session)


def _hub(pin: Pin) -> None:
    hub.ask(pin, timeout=(CONNECT, CONNECT), attempts=1)


def _address(url: str) -> None:
    try:
        with web.Session() as session, session.head(url, allow_redirects=True, timeout=CONNECT) as answer:
            if answer.ok or answer.status_code == 405:  # 405: the server does not support HEAD
                return
            reason, hint = f"the server answers {answer.status_code} {answer.reason}", "Check the network"
    except OSError as error:
        reason, hint = download.plain(error), web.hint(error, "Check the network")
    raise ZosiaError(f"{download.shown(url)} can't be downloaded: {reason}", hint)


def _apt() -> None:
    """Let apt itself fetch the smallest file of Debian 13, so that its proxies and transports apply."""
    limits = ["-o", "Acquire::Retries=0", "-o", f"Acquire::http::Timeout={CONNECT:.0f}"]
    with temporary_folder() as folder:
        address = f"{apt.mirrors(folder)[apt.MAIN].rstrip('/')}/dists/{apt.RELEASE}/InRelease"
        target = folder / "InRelease"
        done = run([APT_HELPER, *limits, "download-file", address, target], check=False)
        if done.returncode == 0 and target.is_file():
            return
    reason = re.search(r"^E: Failed to fetch \S+ +(.*)$", done.stderr, re.MULTILINE)
    shown = download.shown(address)
    raise ZosiaError(f"apt can't fetch {shown}: {reason[1] if reason else 'no reason given'}", "Check the network")


def failures(servers: Mapping[str, Question]) -> dict[str, str]:
    """Ask all servers, and return why each one fails, or "", in the order of `servers`.

    It never takes longer than the timeout: a server that has not answered by then fails.

    Raises:
        ZosiaError: ZOSIA_TIMEOUT_FACTOR is invalid.
    """
    seconds = SECONDS * patience()
    answers: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def ask(name: str, question: Question) -> None:
        try:
            question()
        except ZosiaError as error:
            answers.put((name, str(error).splitlines()[0]))
        except OSError as error:
            answers.put((name, f"{name}: {download.plain(error)}. Check the network"))
        except Exception as error:  # of a library, which nobody expects: it has no line to say, and the others go on
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            answers.put((name, f"{name}: {what}. This is a fault of zosia or of a library: please report it"))
        else:
            answers.put((name, ""))

    for item in servers.items():
        # Never joined: looking up a host's name can't be interrupted.
        threading.Thread(target=ask, args=item, daemon=True).start()
    found: dict[str, str] = {}
    end = time.monotonic() + seconds
    while len(found) < len(servers):
        try:
            name, reason = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        found[name] = reason
    late = f"no answer within {seconds:.0f} s. Check the network"
    return {name: found.get(name, f"{name}: {late}") for name in servers}
