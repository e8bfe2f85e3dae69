"""Files of a Hugging Face hub: metadata, downloads, and the user's own Hugging Face cache.

The library huggingface_hub provides addresses (HF_ENDPOINT), the token (HF_TOKEN, the stored login), its cache
(HF_HOME, HF_HUB_CACHE) and the offline switch (HF_HUB_OFFLINE). `download` fetches the files, because the library's own
download starts over after an interruption (2.4.0: its temporary file has a new name each time). The metadata is
requested by requests as well: the library's client ignores REQUESTS_CA_BUNDLE, obeys any Retry-After, and sends
statistics. The library is imported late, because its import is slow.

The protocol is that of the library's file_download.py and utils/_http.py. The response to a HEAD of
REPOSITORY/resolve/REVISION/FILE, usually a redirect to the file, has X-Repo-Commit, X-Linked-Size, X-Linked-Etag (the
SHA-256 of a file in LFS) and, for an error, X-Error-Code.
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
from zosia.inputs import download, web
from zosia.inputs.catalogue import Pin
from zosia.inputs.pins import Offer

LOGIN = "set HF_TOKEN=hf_…, or log in with `hf auth login`"
IMPORT = "copy the file from another machine and type: scons import-model FILE=path"
NO_NETWORK = f"Check the network and run it again: it resumes where it stopped. Or {IMPORT}"
BY_PATH = "copy a .gguf from another machine and set MODEL= to its path"


class _Session(web.Session):
    """Session with a token, which requests drops at a redirect to another host."""

    def __init__(self, token: str) -> None:
        super().__init__()
        if token:  # `auth` rather than a header, which a .netrc would override

            def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
                request.headers["Authorization"] = f"Bearer {token}"
                return request

            self.auth = authorize

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the target of a redirect; none for a HEAD with metadata, as the file's server may support GET only.

        The hub's own redirects, of a renamed repository for example, are relative.
        """
        target = super().get_redirect_target(resp)
        elsewhere = target is not None and urlsplit(target).netloc
        if resp.request.method == "HEAD" and "X-Linked-Etag" in resp.headers:
            return None if elsewhere or "X-Repo-Commit" in resp.headers else target
        return target


def ask(pin: Pin, *, timeout: tuple[float, float] = download.TIMEOUT, attempts: int = 0) -> Offer:
    """Return the hub's current metadata of a pin; `timeout` is as for requests, `attempts` as for `retry`.

    A mirror without X-Repo-Commit will do for a pin with a digest, unless it offers another size.

    Raises:
        ZosiaError: the hub is unreachable, refuses, or lacks the file.
    """
    url = _address(pin, pin.version)
    token = _token()
    with _Session(token) as session:

        def head() -> requests.Response:
            headers = {"Accept-Encoding": "identity"}  # for the size of the plain file
            answer = session.head(url, headers=headers, allow_redirects=True, timeout=timeout)
            download.refuse_busy(answer)
            return answer

        last = download.retry(url, head, hint=NO_NETWORK, attempts=attempts)
    if not last.ok:
        raise _refusal(pin, last, authorized=bool(token))
    commits = [answer.headers["X-Repo-Commit"] for answer in [*last.history, last] if "X-Repo-Commit" in answer.headers]
    own = {} if last.is_redirect else {"etag": last.headers.get("ETag"), "size": last.headers.get("Content-Length")}
    if not commits:
        own["etag"] = None  # of whatever that server computes
    etag = last.headers.get("X-Linked-Etag") or own.get("etag") or ""
    size = last.headers.get("X-Linked-Size") or own.get("size") or ""
    offer = Offer(
        sha256=_digest(etag), size=int(size) if size.isdecimal() else 0, commit=commits[-1] if commits else ""
    )
    if commits or (pin.sha256 and offer.size in (0, pin.size)):
        return offer
    offered = f" and offers {offer.size} bytes instead of {pin.size}" if pin.sha256 else ""
    raise ZosiaError(
        f"The server at {download.shown(url)} is not a Hugging Face hub{offered}",
        "Check HF_ENDPOINT=, and whether the network needs a login",
    )


def listing(pin: Pin) -> bytes:
    """Return the hub's JSON about the newest revision of a pin's repository, as the library's `model_info` reads it.

    Raises:
        ZosiaError: the repository's name is invalid, or the hub is unreachable or refuses.
    """
    library = _online(f"The list of files of {pin.project}", instead=BY_PATH)
    try:
        library.utils.validate_repo_id(pin.project)
    except ValueError as error:
        raise _invalid(pin, error) from error
    url = f"{library.constants.ENDPOINT}/api/models/{pin.project}?blobs=true"
    token = _token()
    with _Session(token) as session:

        def get() -> requests.Response:
            answer = session.get(url, timeout=download.TIMEOUT)
            download.refuse_busy(answer)
            return answer

        answer = download.retry(url, get, hint=f"Check the network, or {BY_PATH}")
    if answer.status_code == 404:
        answer.headers.setdefault("X-Error-Code", "RepoNotFound")
    if not answer.ok:
        raise _refusal(pin, answer, authorized=bool(token))
    return answer.content


def bring(pin: Pin, target: Path, *, commit: str = "") -> None:
    """Download the file of a pin to `target`, from `commit` if given; see `download`."""
    url = _address(pin, commit or pin.version)
    with _Session(_token()) as session:
        download.download(url, target, size=pin.size, digest=pin.sha256, session=session, hint=NO_NETWORK)


def cached(pin: Pin) -> Iterator[Path]:
    """Yield candidates in the Hugging Face cache: the file of the pin's revision, and the blob with its digest.

    Raises:
        ZosiaError: the pin's repository or file name is invalid.
    """
    library = _library()
    try:
        found = library.try_to_load_from_cache(pin.project, pin.file, revision=pin.version)
        folder = library.file_download.repo_folder_name(repo_id=pin.project, repo_type="model")
        blob = Path(library.constants.HF_HUB_CACHE, folder, "blobs", pin.sha256 or "none")
        there = blob.is_file()
    except ValueError as error:
        raise _invalid(pin, error) from error
    except OSError:  # another user's cache
        return
    path = Path(found) if isinstance(found, str) else None
    if path:
        yield path
    if there and not (path and path.samefile(blob)):
        yield blob


def owns(path: Path) -> bool:
    """Return True if a file is in the Hugging Face cache."""
    return path.is_relative_to(Path(_library().constants.HF_HUB_CACHE).absolute())


def cached_offer(path: Path) -> Offer:
    """Return the metadata of a file in the Hugging Face cache, whose snapshots link to blobs named by their digest."""
    digest = _digest(path.readlink().name) if path.is_symlink() else ""
    commit = re.search("/snapshots/([0-9a-f]{40})/", str(path))
    return Offer(sha256=digest, size=path.stat().st_size, commit=commit[1] if commit else "")


def _digest(etag: str) -> str:
    """Return the SHA-256 in an ETag; "" if it is something else, as for a file that is not in LFS."""
    match = re.fullmatch('(?:W/)?"?([0-9a-f]{64})"?', etag)
    return match[1] if match else ""


def _library() -> ModuleType:
    """Import huggingface_hub, which reads the environment then.

    Raises:
        ZosiaError: a variable is invalid.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about variables that zosia does not use
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
    """Return the user's token, or "".

    Raises:
        ZosiaError: the token can't be read, or is not valid in a header.
    """
    library = _library()
    if library.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return ""
    try:
        token: str = library.get_token() or ""
    except (OSError, ValueError, library.errors.OIDCError) as error:
        raise ZosiaError(f"The token for the hub can't be read: {error}", f"To use another, {LOGIN}") from error
    if not (token.isascii() and token.isprintable()):
        raise ZosiaError("The token for the hub has invalid characters", f"To use another, {LOGIN}")
    return token


def _address(pin: Pin, revision: str) -> str:
    url: str = _online(pin.file).hf_hub_url(pin.project, pin.file, revision=revision)
    return url


def _online(what: str, *, instead: str = IMPORT) -> ModuleType:
    """Return the library, if it may ask the hub for something; `instead` is for the error."""
    library = _library()
    if library.is_offline_mode():
        raise ZosiaError(
            f"{what} is not in the cache, and HF_HUB_OFFLINE forbids downloads",
            f"Set HF_HUB_OFFLINE=0, or {instead}",
        )
    _check_endpoint(library.constants.ENDPOINT)
    return library


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        known = False
    if not known:
        raise ZosiaError(
            f"HF_ENDPOINT={endpoint.rpartition('@')[2]} is not the address of a hub",
            "Write it as in HF_ENDPOINT=https://huggingface.co, or leave it out",
        )


def _invalid(pin: Pin, error: ValueError) -> ZosiaError:
    return ZosiaError(f"The repository of {pin.where} is invalid: {str(error).splitlines()[0]}")


def _refusal(pin: Pin, answer: requests.Response, *, authorized: bool) -> ZosiaError:
    """Return the error for the hub's response, by X-Error-Code, or else by its status."""
    endpoint = download.shown(_library().constants.ENDPOINT)
    page = f"{endpoint}/{pin.project}"
    entry = f"Check {pin.where}"
    gated = f"{pin.project} is gated"
    meanings = {
        "GatedRepo": (gated, f"Accept its licence at {page}, then {LOGIN}"),
        "gated for the account": (
            f"{gated}, and the account of the token has no access to it",
            f"Accept its licence at {page} with that account; for another account, {LOGIN}",
        ),
        "RepoNotFound": (
            f"{endpoint} has no repository {pin.project}, or it is private",
            f"{entry}; for a private repository, {LOGIN}",
        ),
        "RevisionNotFound": (f"{pin.project} has no revision {pin.version}", f"{entry}; {page}/commits lists them"),
        "EntryNotFound": (
            f"{pin.project} has no file {pin.file} in revision {pin.version}",
            f"{entry}; {page}/tree/{pin.version} lists them",
        ),
        "wrong token": (
            f"{endpoint} rejects the token ({_status(answer)})",
            f"Make a new one at {endpoint}/settings/tokens and {LOGIN}; for a public file, `hf auth logout` is enough",
        ),
        "no token": (f"{page} requires a login ({_status(answer)})", f"If you have access, {LOGIN}"),
        "other": (f"{pin.file} could not be fetched: the hub answers {_status(answer)}", f"See {page}"),
    }
    by_status = {401: "wrong token" if authorized else "no token", 404: "EntryNotFound"}
    code = answer.headers.get("X-Error-Code", "")
    meaning = code if code in meanings else by_status.get(answer.status_code, "other")
    return ZosiaError(*meanings["gated for the account" if meaning == "GatedRepo" and authorized else meaning])


def _status(answer: requests.Response) -> str:
    message = " ".join(answer.headers.get("X-Error-Message", answer.reason).split())[:200]
    return f"{answer.status_code} {message}"
