"""Files of a Hugging Face hub: what the hub says of one, its bytes, and what the person's own cache holds of it.

huggingface_hub is asked for what is the hub's own business: addresses (HF_ENDPOINT), the token (HF_TOKEN, the stored
login), its cache (HF_HOME, HF_HUB_CACHE), whether the network may be used (HF_HUB_OFFLINE). The bytes are brought by
`download`, because that library's own download starts from nothing after an interruption (2.4.0: its temporary file has
a new name each time). The one question before them is asked with requests, too, as the bytes are: the library's client
knows no REQUESTS_CA_BUNDLE and sleeps for as long as a server asks for, and its headers come with a request for
statistics. The library is imported late, because that takes its time.

The protocol is that of the library's file_download.py and utils/_http.py: HEAD of REPOSITORY/resolve/REVISION/FILE is
answered, mostly with a redirect to where the bytes are, with X-Repo-Commit, X-Linked-Size, X-Linked-Etag (the SHA-256
of a file in LFS) and, for a failure, X-Error-Code.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import requests

from zosia.base.errors import ZosiaError
from zosia.inputs import download
from zosia.inputs.catalogue import Pin
from zosia.inputs.pins import Offer

LOGIN = "type HF_TOKEN=hf_… before the command, or log in with `hf auth login`"
IMPORT = "bring the file from another machine and type: scons import-model FILE=path"
NO_NETWORK = f"Check the network and run it again: it goes on where it stopped. Or {IMPORT}"


class _Session(requests.Session):
    """Asks with a token, which requests drops where a redirect leads to another host."""

    def __init__(self, token: str) -> None:
        super().__init__()
        if token:  # `auth` and no header, because a .netrc would go before a header

            def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

            self.auth = authorize

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where to go on; a HEAD ends where the hub tells about the file, whose place may know GET only."""
        if resp.request.method == "HEAD" and "X-Linked-Etag" in resp.headers:
            return None
        return super().get_redirect_target(resp)


def ask(pin: Pin, *, timeout: tuple[float, float] = download.TIMEOUT, attempts: int = 0) -> Offer:
    """What the hub has for a pin now; `timeout` in seconds, as for requests, and `attempts` as for `persist`.

    Raises:
        ZosiaError: the hub can't be reached, refuses, or does not have it.
    """
    url = _address(pin, pin.version)
    token = _token()
    with _Session(token) as session:

        def head() -> requests.Response:
            headers = {"Accept-Encoding": "identity"}  # the size wanted is the file's own
            answer = session.head(url, headers=headers, allow_redirects=True, timeout=timeout)
            download.refuse_busy(answer)
            return answer

        last = download.persist(url, head, hint=NO_NETWORK, attempts=attempts)
    if not last.ok:
        raise _refusal(pin, last, authorized=bool(token))
    commits = [answer.headers["X-Repo-Commit"] for answer in [*last.history, last] if "X-Repo-Commit" in answer.headers]
    if not commits:
        raise ZosiaError(
            f"What answers at {download.shown(url)} is no Hugging Face hub",
            "Check HF_ENDPOINT=, and whether the network wants a login",
        )
    own = {} if last.is_redirect else {"etag": last.headers.get("ETag"), "size": last.headers.get("Content-Length")}
    etag = last.headers.get("X-Linked-Etag") or own.get("etag") or ""
    size = last.headers.get("X-Linked-Size") or own.get("size") or ""
    return Offer(sha256=_digest(etag), size=int(size) if size.isdecimal() else 0, commit=commits[-1])


def bring(pin: Pin, target: Path, *, commit: str = "") -> None:
    """Download the file of a pin, at `commit` where that is known better, to `target`; see `download`."""
    url = _address(pin, commit or pin.version)
    with _Session(_token()) as session:
        download.download(url, target, size=pin.size, digest=pin.sha256, session=session, hint=NO_NETWORK)


def cached(pin: Pin) -> Iterator[Path]:
    """Files of the Hugging Face cache that may be the one: the file of that revision, and the blob with that digest.

    Raises:
        ZosiaError: the pin's repository or file can't be one.
    """
    library = _library()
    try:
        found = library.try_to_load_from_cache(pin.project, pin.file, revision=pin.version)
        folder = library.file_download.repo_folder_name(repo_id=pin.project, repo_type="model")
        blob = Path(library.constants.HF_HUB_CACHE, folder, "blobs", pin.sha256 or "none")
        there = blob.is_file()
    except ValueError as error:
        raise ZosiaError(f"models.toml, entry [{pin.name}]: {str(error).splitlines()[0]}") from error
    except OSError:  # somebody else's cache
        return
    path = Path(found) if isinstance(found, str) else None
    if path:
        yield path
    if there and not (path and path.samefile(blob)):
        yield blob


def owns(path: Path) -> bool:
    """Whether a file is one of the Hugging Face cache."""
    return path.is_relative_to(Path(_library().constants.HF_HUB_CACHE).absolute())


def cached_offer(path: Path) -> Offer:
    """What the Hugging Face cache says of a file in it: the hub's digest names the blob that a snapshot links to."""
    digest = _digest(path.readlink().name) if path.is_symlink() else ""
    commit = re.search("/snapshots/([0-9a-f]{40})/", str(path))
    return Offer(sha256=digest, size=path.stat().st_size, commit=commit[1] if commit else "")


def _digest(etag: str) -> str:
    """The SHA-256 that an ETag is, or "": a file out of LFS has another one."""
    match = re.fullmatch('(?:W/)?"?([0-9a-f]{64})"?', etag)
    return match[1] if match else ""


def _library() -> ModuleType:
    """huggingface_hub, which reads the environment when it is imported.

    Raises:
        ZosiaError: it doesn't understand what it reads.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of variables that are none of zosia's
            import huggingface_hub
            import huggingface_hub.file_download
    except ValueError as error:
        raise ZosiaError(
            f"huggingface_hub can't be used with these settings: {download.shown(str(error))}",
            "Check HF_ENDPOINT=, HF_HUB_DOWNLOAD_TIMEOUT= and HF_HUB_ETAG_TIMEOUT=, or leave them out",
        ) from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return huggingface_hub


def _token() -> str:
    """The person's token, or "".

    Raises:
        ZosiaError: it can't be read, or no header can hold it.
    """
    library = _library()
    if library.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return ""
    try:
        token: str = library.get_token() or ""
    except (OSError, ValueError, library.errors.OIDCError) as error:
        raise ZosiaError(f"The token for the hub can't be read: {error}", f"To give one, {LOGIN}") from error
    if not (token.isascii() and token.isprintable()):
        raise ZosiaError("The token for the hub has characters that no token has", f"To give the right one, {LOGIN}")
    return token


def _address(pin: Pin, revision: str) -> str:
    library = _library()
    if library.is_offline_mode():
        raise ZosiaError(
            f"{pin.file} is not here, and HF_HUB_OFFLINE forbids to ask for it",
            f"Type HF_HUB_OFFLINE=0 before the command, or {IMPORT}",
        )
    _check_endpoint(library.constants.ENDPOINT)
    url: str = library.hf_hub_url(pin.project, pin.file, revision=revision)
    return url


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # for a port that is no number
        known = False
    if not known:
        raise ZosiaError(
            f"HF_ENDPOINT={endpoint.rpartition('@')[2]} is no address of a hub",
            "Write it as in HF_ENDPOINT=https://huggingface.co, or leave it out",
        )


def _refusal(pin: Pin, answer: requests.Response, *, authorized: bool) -> ZosiaError:
    """What the hub's answer to a question for a pin means, and what to do; by X-Error-Code, or else by its status."""
    endpoint = download.shown(_library().constants.ENDPOINT)
    page = f"{endpoint}/{pin.project}"
    entry = f"Check the entry [{pin.name}] of models.toml"
    gated = f"{pin.project} is gated"
    meanings = {
        "GatedRepo": (gated, f"Accept its licence at {page}, then {LOGIN}"),
        "gated for the account": (
            f"{gated}, and the account of the token that was sent may not read it",
            f"Accept its licence at {page} with that account; for another account, {LOGIN}",
        ),
        "RepoNotFound": (
            f"{endpoint} has no repository {pin.project}, or it is a private one",
            f"{entry}; for a private one, {LOGIN}",
        ),
        "RevisionNotFound": (f"{pin.project} has no revision {pin.version}", f"{entry}; {page}/commits lists them"),
        "EntryNotFound": (
            f"{pin.project} has no file {pin.file} in revision {pin.version}",
            f"{entry}; {page}/tree/{pin.version} lists them",
        ),
        "wrong token": (
            f"{endpoint} refuses the token that was sent ({_said(answer)})",
            f"Make a new one at {endpoint}/settings/tokens and {LOGIN}; for a public file, `hf auth logout` will do",
        ),
        "no token": (f"{page} wants a login ({_said(answer)})", f"If it is yours to read, {LOGIN}"),
        "other": (f"{pin.file} could not be fetched: the hub says {_said(answer)}", f"Look at {page}"),
    }
    by_status = {401: "wrong token" if authorized else "no token", 404: "EntryNotFound"}
    code = answer.headers.get("X-Error-Code", "")
    meaning = code if code in meanings else by_status.get(answer.status_code, "other")
    return ZosiaError(*meanings["gated for the account" if meaning == "GatedRepo" and authorized else meaning])


def _said(answer: requests.Response) -> str:
    message = " ".join(answer.headers.get("X-Error-Message", answer.reason).split())[:200]
    return f"{answer.status_code} {message}"
