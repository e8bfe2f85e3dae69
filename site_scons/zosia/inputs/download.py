"""Download one file over HTTP: with progress, resumed where it broke off, and verified before it gets its name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from zosia.base import progress, style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked, size_text

CHUNK = 1 << 16  # bytes; of the last one, what had arrived is lost when the connection breaks
TIMEOUT = (15, 60)  # seconds: to connect, and without a byte
ATTEMPTS = 5  # in a row that bring no new byte
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
PATIENCE = 300  # seconds that a server may ask for before the next attempt
AGAIN = "Check the network and run it again: it goes on where it stopped"
REFUSED = "Open the address in a browser: the file may be gone, want a login, or be kept from this network"
Result = TypeVar("Result")


class Busy(requests.ConnectionError):
    """The server wants to be asked again later; `wait` is after how many seconds, 0 where it does not say."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__(f"the server says {answer.status_code} {answer.reason}")
        self.wait = _wait(answer.headers)


def refuse_busy(answer: requests.Response) -> None:
    """Raise `Busy` for an answer that may be another one later."""
    if answer.status_code in (429, 500, 502, 503, 504):
        raise Busy(answer)


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, or RateLimit (draft-ietf-httpapi-ratelimit-headers) when nothing is left."""
    limit = re.search(r";\s*r=0;\s*t=(\d+)", headers.get("RateLimit", ""))
    try:
        return urllib3.Retry().parse_retry_after(headers["Retry-After"])
    except (KeyError, urllib3.exceptions.InvalidHeader):
        return float(limit[1]) if limit else 0


def shown(url: str) -> str:
    """An address, or a text with one, without the name and the password that it may hold."""
    return re.sub(r"//[^/\s]*@", "//", url)


def persist(
    url: str,
    work: Callable[[], Result | None],
    *,
    reached: Callable[[], int] = lambda: 0,
    size: int = 0,
    hint: str,
    attempts: int = 0,
) -> Result:
    """Do `work`, which asks for `url`, until it gives a result.

    Args:
        work: raises what requests raises, or returns None when the answer was cut short.
        reached: a number that grows when an attempt brought something.
        size: what it grows to, in bytes.
        hint: what to do when it was given up.
        attempts: how many in a row that brought nothing are enough; 0 for ATTEMPTS.

    Raises:
        ZosiaError: it can't be had.
    """
    url, attempts = shown(url), attempts or ATTEMPTS
    failures, furthest = 0, reached()
    while True:
        wait = 0.0
        try:
            result = work()
            if result is not None:
                return result
            reason = "it ended too early"
        except requests.exceptions.SSLError as error:  # a certificate does not get better by trying again
            raise ZosiaError(
                f"{url} could not be fetched: {plain(error)}",
                "Name the certificates that this network needs with REQUESTS_CA_BUNDLE=",
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            reason = plain(error)
            wait = error.wait if isinstance(error, Busy) else 0
        except OSError as error:
            if error.errno is not None:  # the disk's
                raise
            raise ZosiaError(
                f"{url} could not be fetched: {plain(error)}",
                "Check the address, and https_proxy= and REQUESTS_CA_BUNDLE= where they are set",
            ) from error
        failures = 0 if reached() > furthest else failures + 1
        furthest = max(reached(), furthest)
        if failures >= attempts:
            state = f"; {reached()} of {size} bytes are here" if size else ""
            raise ZosiaError(f"{url} could not be fetched ({reason}){state}", hint)
        if wait > PATIENCE:
            raise ZosiaError(f"{url} could not be fetched ({reason})", f"Run it again in {wait / 60:.0f} minutes")
        if wait:
            style.say("WAIT", f"{reason}, and to ask again in {wait:.0f} seconds")
        time.sleep(max(wait, PAUSE * 2**failures))


def download(
    url: str, target: Path, *, size: int, digest: str, session: requests.Session | None = None, hint: str = AGAIN
) -> None:
    """Bring `url` to `target`, unless it is there.

    What has arrived stays in `target`.part when this ends early, and the next call goes on from there.

    Args:
        size: of the whole file, in bytes.
        digest: its SHA-256; "" where nobody knows it, and then only the size is checked.
        hint: what to do when the network fails.

    Raises:
        ZosiaError: it can't be had, is not what it should be, or does not fit on the disk. `target` is not made then.
    """
    with locked(target), session or requests.Session() as client:
        if target.is_file():
            return
        part = target.with_name(target.name + ".part")
        present = _length(part)
        if present > size:  # no beginning of what is wanted
            part.unlink()
            present = 0
        check_room(target.parent, size - present, target.name)
        _complete(url, part, size, client, hint)
        found = progress.sha256(part) if digest else ""
        if present and found != digest:  # the older bytes may be to blame: once more without them
            part.unlink()
            _complete(url, part, size, client, hint)
            found = progress.sha256(part)
        if found != digest:
            part.unlink()
            raise ZosiaError(
                f"{shown(url)} is not the file that is wanted: its SHA-256 is {found}, not {digest}",
                "It changed at its source or on the way; try again, or another network",
            )
        part.replace(target)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _complete(url: str, part: Path, size: int, session: requests.Session, hint: str) -> None:
    """Bring `part` to `size` bytes, in as many requests as it takes."""
    label = part.name.removesuffix(".part")
    start = _length(part)
    style.say("FETCH", f"{label} ({size_text(size)}{f', going on at {size_text(start)}' if start else ''})")
    with progress.bar("FETCH", label, size=size, done=start) as shown_bar:

        def work() -> bool | None:
            shown_bar.n = here = _length(part)
            if here < size:
                _request(url, part, here, size, session=session, bar=shown_bar)
                here = _length(part)
            if here > size:
                part.unlink()
                raise ZosiaError(f"{shown(url)} is longer than the {size} bytes that are wanted", "Try again later")
            return True if here == size else None

        try:
            persist(url, work, reached=lambda: _length(part), size=size, hint=hint)
        except OSError as error:
            raise ZosiaError(
                f"{part} could not be written: {error.strerror}", "Make room, then run it again"
            ) from error


def _request(url: str, part: Path, start: int, size: int, *, session: requests.Session, bar: progress.Bar) -> None:
    """One request for what is missing, appended to `part`."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        refuse_busy(answer)
        said = f"the server says {answer.status_code} {answer.reason}"
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:  # there is nothing after `start`
            whole = re.fullmatch(r"bytes \*/(\d+)", span)
            if not whole or int(whole[1]) >= size:
                raise requests.ConnectionError(said)
            part.unlink(missing_ok=True)
            raise ZosiaError(
                f"{shown(url)} is shorter than the {size} bytes that are wanted: it has {whole[1]}", "Try again later"
            )
        if not answer.ok:
            raise ZosiaError(f"{shown(url)} could not be fetched: {said}", REFUSED)
        resumed = answer.status_code == 206 and span.startswith(f"bytes {start}-")
        length = answer.headers.get("Content-Length")
        if not resumed and length != str(size) and (start or length):
            # A page to log in to the network, say: what is here already is not given up for it.
            raise requests.ConnectionError(f"something else came, of {length or 'no announced'} bytes, not {size}")
        with part.open("ab" if start and resumed else "wb") as file:
            bar.n = file.tell()
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    return


def plain(error: Exception) -> str:
    """The innermost reason of an error that libraries wrapped."""
    text = shown(str(error))
    for name in ("NameResolutionError", "Failed to resolve"):
        if name in text:
            return "the host's name can't be resolved"
    known = (
        r"Connection refused|Network is unreachable|Read timed out|[Tt]imed out|Connection reset"
        r"|certificate verify failed|Tunnel connection failed: [^'\"]*|[A-Z]\w+ to connect to proxy"
    )
    match = re.search(known, text)
    return match[0] if match else (text.splitlines() or [type(error).__name__])[0][:200]
