"""Download of one file over HTTP: with progress and retries, resumable, verified before it gets its name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import requests
import urllib3

from zosia.base import progress, style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked, size_text
from zosia.inputs import web

CHUNK = 1 << 16  # bytes to read at most at a time
TIMEOUT = (15, 60)  # seconds: to connect, and between two bytes
FLOOR = 1024  # bytes per second; a slower connection is as good as none
SPAN = 60.0  # seconds over which the rate of a connection is measured
ATTEMPTS = 5  # in a row without progress
PAUSE = 1.0  # seconds before the second attempt, doubled for each one after
PATIENCE = 300  # longest Retry-After that is obeyed, in seconds
AGAIN = "Check the network and run it again: it resumes where it stopped"
REFUSED = "Open the address in a browser: the file may be gone, need a login, or be blocked on this network"
Result = TypeVar("Result")


class Busy(requests.ConnectionError):
    """Temporary refusal by a server; `wait` is its Retry-After in seconds, 0 without one."""

    def __init__(self, answer: requests.Response) -> None:
        super().__init__(f"HTTP status {answer.status_code} {answer.reason}")
        self.wait = _wait(answer.headers)


class Slow(requests.ConnectionError):
    """Connection over which almost nothing arrives, although it never stays silent for long."""


def refuse_busy(answer: requests.Response) -> None:
    """Raise `Busy` for a response that is worth a retry."""
    if answer.status_code in (429, 500, 502, 503, 504):
        raise Busy(answer)


def _wait(headers: Mapping[str, str]) -> float:
    """Return the seconds of Retry-After, or of an exhausted RateLimit (draft-ietf-httpapi-ratelimit-headers)."""
    limit = re.search(r";\s*r=0;\s*t=(\d+)", headers.get("RateLimit", ""))
    try:
        return urllib3.Retry().parse_retry_after(headers["Retry-After"])
    except (KeyError, urllib3.exceptions.InvalidHeader):
        return float(limit[1]) if limit else 0


def shown(url: str) -> str:
    """Return an address, or a text with one, without user name and password."""
    return re.sub(r"//[^/\s]*@", "//", url)


def retry(
    url: str,
    work: Callable[[], Result | None],
    *,
    reached: Callable[[], int] = lambda: 0,
    size: int = 0,
    hint: str,
    attempts: int = 0,
) -> Result:
    """Call `work`, which requests `url`, until it returns a result.

    Args:
        work: may raise the errors of requests; returns None if the response was cut short.
        reached: bytes that are here; an attempt that adds some at a rate of FLOOR or more does not count as failed.
        size: bytes of the whole, for the error.
        hint: hint of the error.
        attempts: failed attempts in a row before giving up; 0 for ATTEMPTS.

    Raises:
        ZosiaError: all attempts failed, or another one is pointless.
    """
    url, attempts = shown(url), attempts or ATTEMPTS
    failures, furthest = 0, reached()
    while True:
        wait, slow, began = 0.0, False, time.monotonic()
        try:
            result = work()
            if result is not None:
                return result
            reason = "connection closed early"
        except requests.exceptions.SSLError as error:  # a retry would not help
            raise ZosiaError(f"{url} could not be fetched: {plain(error)}", web.CERTIFICATES) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            reason = plain(error)
            wait = error.wait if isinstance(error, Busy) else 0
            slow = isinstance(error, Slow)
        except OSError as error:
            if error.errno is not None:  # an error of the disk
                raise
            raise ZosiaError(
                f"{url} could not be fetched: {plain(error)}",
                "Check the address, and https_proxy=, REQUESTS_CA_BUNDLE= and SSL_CERT_FILE= if they are set",
            ) from error
        # A server that sends a few bytes and then no more, each time, would otherwise be asked for ever.
        enough = reached() - furthest >= FLOOR * max(time.monotonic() - began, 1)
        failures = 0 if enough else failures + 1
        furthest = max(reached(), furthest)
        if failures >= attempts:
            state = f"; {reached()} of {size} bytes have arrived" if size else ""
            raise ZosiaError(f"{url} could not be fetched ({reason}){state}", hint)
        if wait > PATIENCE:
            raise ZosiaError(f"{url} could not be fetched ({reason})", f"Run it again in {wait / 60:.0f} minutes")
        if wait:
            style.say("WAIT", f"{reason}; retrying in {wait:.0f} seconds")
        elif slow:
            style.say("WAIT", f"{reason}; asking again")
        time.sleep(max(wait, PAUSE * 2**failures))


def download(
    url: str, target: Path, *, size: int, digest: str, session: requests.Session | None = None, hint: str = AGAIN
) -> None:
    """Download `url` to `target`, unless `target` exists.

    An incomplete download stays in `target`.part, and the next call resumes it.

    Args:
        size: of the whole file, in bytes; 0 if unknown, and then the server's word until the digest is checked.
        digest: its SHA-256; "" if unknown, and then only the size is checked.
        hint: hint of the error if the network fails.

    Raises:
        ZosiaError: the download fails, has the wrong size or digest, or does not fit on the disk.
    """
    with locked(target), session or web.Session() as client:
        if target.is_file():
            return
        size = size or _announced(url, client, hint)
        part = target.with_name(target.name + ".part")
        present = _length(part)
        if present > size:  # of another file
            part.unlink()
            present = 0
        check_room(target.parent, size - present, target.name)
        _complete(url, part, size, client, hint)
        found = progress.sha256(part) if digest else ""
        if present and found != digest:  # the resumed part may be damaged: once more from the start
            part.unlink()
            _complete(url, part, size, client, hint)
            found = progress.sha256(part)
        if found != digest:
            part.unlink()
            raise ZosiaError(
                f"{shown(url)} has the wrong SHA-256: {found}, expected {digest}",
                "It changed at its source or in transit: try again, or on another network",
            )
        part.replace(target)


def _announced(url: str, session: requests.Session, hint: str) -> int:
    """Return the size of a file in bytes, as its server announces it."""

    def ask() -> int | None:
        headers = {"Accept-Encoding": "identity"}
        with session.head(url, headers=headers, allow_redirects=True, timeout=TIMEOUT) as answer:
            refuse_busy(answer)
            if not answer.ok:
                raise ZosiaError(f"{shown(url)} could not be fetched: HTTP status {answer.status_code}", REFUSED)
            return int(answer.headers.get("Content-Length", 0)) or None

    return retry(url, ask, hint=hint)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _complete(url: str, part: Path, size: int, session: requests.Session, hint: str) -> None:
    """Complete `part` to `size` bytes, in as many requests as necessary."""
    label = part.name.removesuffix(".part")
    start = _length(part)
    style.say("FETCH", f"{label} ({size_text(size)}{f', resuming at {size_text(start)}' if start else ''})")
    with progress.bar("FETCH", label, size=size, done=start) as shown_bar:

        def work() -> bool | None:
            shown_bar.n = here = _length(part)
            if here < size:
                _request(url, part, here, size, session=session, bar=shown_bar)
                here = _length(part)
            if here > size:
                part.unlink()
                raise ZosiaError(f"{shown(url)} is longer than the expected {size} bytes", "Try again later")
            return True if here == size else None

        try:
            retry(url, work, reached=lambda: _length(part), size=size, hint=hint)
        except OSError as error:
            raise ZosiaError(
                f"{part} could not be written: {error.strerror}", "Make room, then run it again"
            ) from error


def _request(url: str, part: Path, start: int, size: int, *, session: requests.Session, bar: progress.Bar) -> None:
    """Request the missing bytes, and append them to `part`."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        refuse_busy(answer)
        status = f"HTTP status {answer.status_code} {answer.reason}"
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416:  # the file ends at `start` or before
            whole = re.fullmatch(r"bytes \*/(\d+)", span)
            if not whole or int(whole[1]) >= size:
                raise requests.ConnectionError(status)
            part.unlink(missing_ok=True)
            raise ZosiaError(
                f"{shown(url)} is shorter than the expected {size} bytes: it has {whole[1]}", "Try again later"
            )
        if not answer.ok:
            raise ZosiaError(f"{shown(url)} could not be fetched: {status}", REFUSED)
        resumed = answer.status_code == 206 and span.startswith(f"bytes {start}-")
        length = answer.headers.get("Content-Length")
        if not resumed and length != str(size) and (start or length):
            # For example the login page of a network; the part that is here must survive it.
            found = f"Content-Length {length}" if length else "no Content-Length"
            raise requests.ConnectionError(f"unexpected response: {found}, expected {size} bytes")
        with part.open("ab" if start and resumed else "wb") as file:
            bar.n = file.tell()
            for piece in _body(answer):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > size:
                    return


def _body(answer: requests.Response) -> Iterator[bytes]:
    """Yield what arrives of a body, as soon as it arrives; `iter_content` waits until a chunk is complete.

    Raises:
        requests.ConnectionError: the connection broke, or is Slow.
    """
    waited, arrived = 0.0, 0
    while True:
        before = time.monotonic()
        try:
            piece: bytes = answer.raw.read1(CHUNK, decode_content=True)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from error
        waited, arrived = waited + time.monotonic() - before, arrived + len(piece)
        if not piece:
            return
        yield piece
        if waited >= SPAN:
            if arrived < FLOOR * waited:
                raise Slow(f"the connection is too slow: {size_text(arrived)} in {waited:.0f} seconds")
            waited, arrived = 0.0, 0


def plain(error: Exception) -> str:
    """Return the innermost reason of an error that libraries wrapped."""
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
