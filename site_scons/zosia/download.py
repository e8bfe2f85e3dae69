"""Download one file over HTTP: with progress, resumed where it broke off, and verified before it gets its name."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from .errors import ZosiaError
from .files import check_room, locked, sha256, size_text

CHUNK = 1 << 16  # bytes; of the last one, what had arrived is lost when the connection breaks
TIMEOUT = (15, 60)  # seconds: to connect, and without a byte
ATTEMPTS = 5  # in a row that bring no new byte
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one


def download(
    url: str, target: Path, *, size: int, digest: str, session: requests.Session | None = None, pause: float = PAUSE
) -> None:
    """Bring `url` to `target`, unless it is there.

    What has arrived stays in `target`.part when this ends early, and the next call goes on from there.

    Args:
        size: of the whole file, in bytes.
        digest: its SHA-256.
        pause: seconds before trying again.

    Raises:
        ZosiaError: it can't be had, is not what it should be, or does not fit on the disk. `target` is not made then.
    """
    with locked(target):
        if target.is_file():
            return
        part = target.with_name(target.name + ".part")
        present = part.stat().st_size if part.is_file() else 0
        if present > size:  # no beginning of what is wanted
            part.unlink()
            present = 0
        check_room(target.parent, size - present, target.name)
        _complete(url, part, size, session or requests.Session(), pause)
        found = sha256(part)
        if present and found != digest:  # the older bytes may be to blame: once more without them
            part.unlink()
            _complete(url, part, size, session or requests.Session(), pause)
            found = sha256(part)
        if found != digest:
            part.unlink()
            raise ZosiaError(
                f"{url} is not the file that is wanted: its SHA-256 is {found}, not {digest}",
                "It changed at its source or on the way; try again, or another network",
            )
        part.replace(target)


def _complete(url: str, part: Path, size: int, session: requests.Session, pause: float) -> None:
    """Bring `part` to `size` bytes, in as many requests as it takes."""
    failures = 0
    label = part.name.removesuffix(".part")
    start = furthest = part.stat().st_size if part.exists() else 0
    print(f"  FETCH {label} ({size_text(size)}{f', going on at {size_text(start)}' if start else ''})", file=sys.stderr)
    with tqdm(
        total=size, initial=start, unit="B", unit_scale=True, desc=f"  {label}", disable=None, leave=False
    ) as progress:
        while True:
            before = part.stat().st_size if part.exists() else 0
            if before > size:
                part.unlink()
                raise ZosiaError(f"{url} is longer than the {size} bytes that are wanted", "Try again later")
            if before == size:
                return
            progress.n = before
            try:
                _request(url, part, before, size, session=session, progress=progress)
                reason = "it ended too early"
            except requests.exceptions.SSLError as error:  # a certificate does not get better by trying again
                raise ZosiaError(
                    f"{url} could not be fetched: {_plain(error)}",
                    "Name the certificates that this network needs with REQUESTS_CA_BUNDLE=",
                ) from error
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason = _plain(error)
            except OSError as error:
                if isinstance(error, requests.RequestException):
                    raise ZosiaError(f"{url} could not be fetched: {_plain(error)}") from error
                raise ZosiaError(
                    f"{part} could not be written: {error.strerror}", "Make room, then run it again"
                ) from error
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > furthest else failures + 1
            furthest = max(after, furthest)
            if failures >= ATTEMPTS:
                raise ZosiaError(
                    f"{url} could not be fetched ({reason}); {after} of {size} bytes are here",
                    "Check the network and run it again: it goes on where it stopped",
                )
            if after < size:
                time.sleep(pause * 2**failures)


def _request(url: str, part: Path, start: int, size: int, *, session: requests.Session, progress: tqdm[Any]) -> None:
    """One request for what is missing, appended to `part`."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code in (429, 500, 502, 503, 504):
            raise requests.ConnectionError(f"the server says {answer.status_code} {answer.reason}")
        if answer.status_code == 416:  # there is nothing after `start`
            part.unlink(missing_ok=True)
            raise ZosiaError(f"{url} is shorter than the {size} bytes that are wanted", "Try again later")
        if not answer.ok:
            raise ZosiaError(f"{url} could not be fetched: the server says {answer.status_code} {answer.reason}")
        resumed = re.match(rf"bytes {start}-", answer.headers.get("Content-Range", "")) is not None
        with part.open("ab" if start and answer.status_code == 206 and resumed else "wb") as file:
            progress.n = file.tell()
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
                if file.tell() > size:
                    return


def _plain(error: Exception) -> str:
    """The innermost reason of an error that libraries wrapped."""
    text = str(error)
    for name in ("NameResolutionError", "Failed to resolve"):
        if name in text:
            return "the host's name can't be resolved: no network?"
    known = (
        r"Connection refused|Network is unreachable|Read timed out|[Tt]imed out|Connection reset"
        r"|certificate verify failed"
    )
    match = re.search(known, text)
    return match[0] if match else (text.splitlines() or [type(error).__name__])[0][:200]
