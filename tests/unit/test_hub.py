"""Models from a hub on loopback that does all the things that hubs and networks do."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, get_hf_file_metadata

from tests.hub import BODY, COMMIT, OTHER, Hub, on_loopback, sha256, start, tiny, told, until
from tests.web import Answer, Web
from zosia.base.errors import ZosiaError
from zosia.inputs import download
from zosia.inputs.download import ATTEMPTS, CHUNK
from zosia.inputs.hub import ask


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_downloaded_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub.get() == hub.place
    assert hub.place.read_bytes() == BODY
    assert [(method, path) for method, path, _ in hub.web.asked] == [("HEAD", hub.page()), ("GET", hub.page())]
    assert len(hub.cdn.asked) == 1
    assert capsys.readouterr().err == f"  FETCH tiny.gguf ({len(BODY)} bytes)\n"
    assert hub.get() == hub.place
    assert (len(hub.web.asked), len(hub.cdn.asked)) == (2, 1)
    assert hub.held == [hub.place]


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        ([Answer(cut=2 * CHUNK), Answer(cut=CHUNK), Answer(cut=CHUNK)], [0, 2, 3, 4]),
        ([Answer(lie=1000)], [0, 0]),
        ([Answer(cut=CHUNK), Answer(lie=1000)], [0, 1]),
        ([Answer(cut=CHUNK), Answer(lie=3 * CHUNK - len(BODY))], [0, 1, 3]),
        ([Answer(cut=CHUNK), Answer(ranges=False)], [0, 1]),
        ([Answer(cut=CHUNK), Answer(body=b"<html>Log in</html>", ranges=False)], [0, 1, 1]),
        ([Answer(status=503), Answer(cut=CHUNK), Answer(status=503)], [0, 0, 1, 1]),
        ([Answer(cut=CHUNK, stall=True)], [0, 1]),
    ],
    ids=["cut", "wrong", "longer", "shorter", "no ranges", "a page", "503", "stalls"],
)
def test_bad_connections(hub: Hub, answers: list[Answer], ranges: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (5, 1))
    hub.cdn.answers = [*answers, Answer()]
    assert hub.get().read_bytes() == BODY
    assert hub.cdn.ranges == [f"bytes={chunks * CHUNK}-" if chunks else "" for chunks in ranges]
    assert len(hub.web.requests) == len(ranges), "addresses of the bytes hold for a while only: each is asked for anew"
    assert hub.heads == 1


@pytest.mark.parametrize("where", ["hub", "cdn"])
def test_busy(hub: Hub, slept: list[float], where: str, capsys: pytest.CaptureFixture[str]) -> None:
    busy = [
        Answer(status=429, headers={"Retry-After": "7"}),
        Answer(status=429, headers={"RateLimit": '"resolvers";r=0;t=55'}),
        Answer(status=429, headers={"RateLimit": '"resolvers";r=9;t=55', "Retry-After": "soon"}),
        Answer(status=503),
    ]
    if where == "hub":
        hub.says(*busy, *hub.web.pages[hub.page()])
    else:
        hub.cdn.answers = [*busy, Answer()]
    assert hub.get().read_bytes() == BODY
    assert slept == [7, 55, 0, 0]
    assert "WAIT  HTTP status 429 Too Many Requests; retrying in 7 seconds" in capsys.readouterr().err


def test_a_date_to_ask_again(hub: Hub, slept: list[float]) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    hub.says(Answer(status=503, headers={"Retry-After": date}), *hub.web.pages[hub.page()])
    hub.get()
    assert slept == [pytest.approx(30, abs=3)]


def test_busy_for_too_long(hub: Hub, slept: list[float]) -> None:
    hub.says(Answer(status=429, headers={"Retry-After": "4000"}))
    with pytest.raises(ZosiaError, match=r"429 Too Many Requests\)\. Run it again in 67 minutes"):
        hub.get()
    assert not slept


def test_busy_for_ever(hub: Hub) -> None:
    hub.says(Answer(status=503))
    with pytest.raises(ZosiaError, match=r"503 Service Unavailable\)\. Check the network.*scons import-model FILE="):
        hub.get()
    assert hub.heads == ATTEMPTS
    assert not hub.cdn.asked


@pytest.mark.parametrize(
    ("status", "code", "token", "message"),
    [
        (
            401,
            "GatedRepo",
            "",
            r"tiny-GGUF is gated\. Accept its licence at http.*/maker/tiny-GGUF, then set HF_TOKEN=",
        ),
        (
            403,
            "GatedRepo",
            "hf_x",
            "gated, and the account of the token has no access to it. Accept its licence at http",
        ),
        (401, "RepoNotFound", "", "has no repository maker/tiny-GGUF, or it is private.*HF_TOKEN=hf_…"),
        (404, "RepoNotFound", "hf_x", r"has no repository maker/tiny-GGUF.*entry \[tiny\] of models.toml"),
        (404, "RevisionNotFound", "", f"maker/tiny-GGUF has no revision {COMMIT}"),
        (404, "EntryNotFound", "", f"maker/tiny-GGUF has no file tiny.gguf in revision {COMMIT}"),
        (404, "", "", "has no file tiny.gguf"),
        (
            401,
            "",
            "hf_x",
            r"rejects the token \(401 Invalid\)\. Make a new one at http.*/settings/tokens",
        ),
        (401, "", "", "requires a login .*hf auth login"),
        (403, "", "hf_x", "tiny.gguf could not be fetched: the hub answers 403 Invalid"),
        (451, "Whatever", "", "tiny.gguf could not be fetched: the hub answers 451 Invalid"),
    ],
)
def test_refused(hub: Hub, status: int, code: str, token: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.says(Answer(status=status, headers={"X-Error-Code": code, "X-Error-Message": "Invalid"}))
    with pytest.raises(ZosiaError, match=message) as caught:
        hub.get()
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert len(hub.web.asked) == 1


def test_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = hub.cache.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.get()
    assert [token for _, _, token in hub.web.asked] == ["Bearer hf_secret"] * 2
    assert "hf_secret" not in str(hub.cdn.asked)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_token_is_not_forwarded(hub: Hub, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another port, and to another name of the same machine; neither for the question nor for the bytes."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    elsewhere = hub.cdn.url.replace("127.0.0.1", host) + "/other"
    hub.says(Answer(location=elsewhere))
    hub.cdn.pages["/other"] = [Answer(headers=told())]
    hub.cdn.files["/other"] = BODY
    assert hub.get().read_bytes() == BODY
    assert [(method, token) for method, _, token in hub.cdn.asked] == [("HEAD", ""), ("GET", "")]


def test_a_renamed_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect within the hub keeps the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.web.pages["/new/name"] = hub.web.pages[hub.page()]
    hub.says(Answer(location="/new/name"))
    assert hub.get().read_bytes() == BODY
    assert {token for _, _, token in hub.web.asked} == {"Bearer hf_secret"}
    assert {token for _, _, token in hub.cdn.asked} == {""}


def test_the_stored_login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(constants.HF_TOKEN_PATH).parent.mkdir()
    Path(constants.HF_TOKEN_PATH).write_text("hf_stored\n")
    hub.get()
    assert hub.web.asked[0][2] == "Bearer hf_stored"
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hub.place.unlink()
    hub.get()
    assert hub.web.asked[-1][2] == ""


@pytest.mark.parametrize("token", ["hf_…", "hf_a\x00b"])
def test_a_token_that_is_none(hub: Hub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(ZosiaError, match=r"invalid characters.*HF_TOKEN="):
        hub.get()


def test_one_wrong_byte(hub: Hub) -> None:
    hub.serve(sent=OTHER)
    with pytest.raises(ZosiaError, match=f"wrong SHA-256: {sha256(OTHER)}, expected {sha256(BODY)}"):
        hub.get()
    assert not hub.held
    hub.serve()
    assert hub.get().read_bytes() == BODY


@pytest.mark.parametrize("content", [OTHER, BODY + b"x"], ids=["digest", "size"])
def test_the_hub_has_another_one(hub: Hub, content: bytes) -> None:
    hub.serve(content)
    message = (
        f"has {len(content)} bytes and the SHA-256 {sha256(content)}; expected {len(BODY)} bytes "
        rf"and {sha256(BODY)}\. Compare the entry \[tiny\]"
    )
    with pytest.raises(ZosiaError, match=message):
        hub.get()
    assert not hub.web.requests, "refused before the first byte"


@pytest.mark.parametrize("etag", ['"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"', "", "W/"])
def test_a_hub_without_a_digest(hub: Hub, etag: str) -> None:
    hub.says(Answer(headers={"X-Repo-Commit": COMMIT, "ETag": etag}))
    hub.web.files[hub.page()] = BODY
    assert hub.get().read_bytes() == BODY


def test_a_hub_with_a_size_only(hub: Hub) -> None:
    hub.says(Answer(headers={"X-Repo-Commit": COMMIT}))
    hub.web.files[hub.page()] = BODY + b"x"
    with pytest.raises(ZosiaError, match=rf"now has {len(BODY) + 1} bytes and the SHA-256 \(unknown\); expected"):
        hub.get()
    assert not hub.web.requests


def test_a_digest_that_is_no_linked_one(hub: Hub) -> None:
    """A mirror may serve the bytes itself, with the digest as their ETag."""
    hub.says(Answer(headers={"X-Repo-Commit": COMMIT, "ETag": f'W/"{sha256(OTHER)}"'}))
    hub.web.files[hub.page()] = OTHER
    with pytest.raises(ZosiaError, match=f"the SHA-256 {sha256(OTHER)}; expected"):
        hub.get()


def test_the_library_reads_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    hub.web.pages["/plain"] = [Answer(headers={"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(OTHER)}"'})]
    hub.web.files["/plain"] = OTHER
    for page in (hub.page(), "/plain"):
        theirs = get_hf_file_metadata(hub.web.url + page)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.web.url + page)
        offer = ask(tiny())
        assert (offer.sha256, offer.size, offer.commit) == (theirs.etag, theirs.size, theirs.commit_hash)


def test_no_hub(hub: Hub) -> None:
    hub.says(Answer(body=b"<html>Log in</html>"))
    with pytest.raises(
        ZosiaError, match=r"is not a Hugging Face hub and offers 19 bytes instead of \d+\. Check HF_ENDPOINT="
    ):
        hub.get()
    assert not hub.web.requests


def test_no_hub_for_a_model_without_a_pin(hub: Hub) -> None:
    hub.says(Answer())
    hub.web.files[hub.page("main")] = BODY
    with pytest.raises(ZosiaError, match=r"is not a Hugging Face hub\. Check HF_ENDPOINT="):
        hub.get(tiny(None, version="main"))
    assert not hub.web.requests


@pytest.mark.parametrize(
    "answer",
    [
        Answer(),
        Answer(length=False),
        Answer(headers={"ETag": f'"{sha256(OTHER)}"'}),
        Answer(location="/files/tiny.gguf", status=308),
        Answer(location="/files/tiny.gguf", status=308, headers={"X-Linked-Etag": f'"{sha256(BODY)}"'}),
    ],
    ids=["plain", "no length", "an ETag of its own", "redirect", "redirect with a digest"],
)
def test_a_mirror_that_names_no_commit(hub: Hub, answer: Answer) -> None:
    hub.says(answer)
    hub.web.files[hub.page()] = hub.web.files["/files/tiny.gguf"] = BODY
    assert hub.get().read_bytes() == BODY


def test_a_commit_behind_a_redirect_that_has_the_digest(hub: Hub) -> None:
    page = hub.page("main")
    linked = {name: value for name, value in told().items() if name != "X-Repo-Commit"}
    hub.says(Answer(location="/new" + page, status=308, headers=linked), revision="main")
    hub.web.pages["/new" + page] = hub.web.pages[hub.page()]
    assert hub.get(tiny(None, version="main")).read_bytes() == BODY
    assert [path for path, _ in hub.web.requests] == [hub.page()], "the bytes are those of the commit"


def test_a_mirror_that_names_no_commit_has_another_file(hub: Hub) -> None:
    """The digest of what arrives decides, or before it that of the metadata."""
    hub.says(Answer())
    hub.web.files[hub.page()] = OTHER
    with pytest.raises(ZosiaError, match=f"wrong SHA-256: {sha256(OTHER)}, expected {sha256(BODY)}"):
        hub.get()
    assert not hub.held
    hub.says(Answer(headers={"X-Linked-Etag": f'"{sha256(OTHER)}"'}))
    asked = len(hub.web.requests)
    with pytest.raises(ZosiaError, match=rf"the SHA-256 {sha256(OTHER)}; expected.*Compare the entry \[tiny\]"):
        hub.get()
    assert len(hub.web.requests) == asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative ones within the hub, for the metadata and the bytes, and those of the file's server."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    blob = f"{hub.cdn.url}/blob?{sha256(BODY)}"
    hub.says(Answer(location="../../../../new/name", status=status))
    hub.web.pages["/new/name"] = [Answer(location="/newer/name?a=b", status=status)]
    hub.web.pages["/newer/name?a=b"] = [Answer(location=blob, status=status, headers=told())]
    hub.cdn.pages[f"/blob?{sha256(BODY)}"] = [Answer(location="there", status=status)]
    hub.cdn.files["/there"] = BODY
    hub.cdn.pages["/there"] = [Answer(cut=CHUNK), Answer()]
    assert hub.get().read_bytes() == BODY
    pages = [hub.page(), "/new/name", "/newer/name?a=b"]
    assert [(method, path) for method, path, _ in hub.web.asked] == [
        *(("HEAD", page) for page in pages),
        *(("GET", page) for page in pages * 2),
    ]
    assert {token for _, _, token in hub.web.asked} == {"Bearer hf_secret"}
    assert [given for path, given in hub.cdn.requests if path == "/there"] == ["", f"bytes={CHUNK}-"]


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    with pytest.raises(ZosiaError, match=r"\(Connection refused\)\. Check the network.* scons import-model FILE="):
        hub.get()


def test_no_tls(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    url = hub.web.url.replace("http:", "https:") + "/{repo_id}/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    with pytest.raises(ZosiaError, match="REQUESTS_CA_BUNDLE="):
        hub.get()


def test_certificates_that_are_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "https://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    with pytest.raises(ZosiaError, match=r"invalid path: /nowhere\.pem"):
        hub.get()


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for model in (tiny(), tiny(None)):
        with pytest.raises(ZosiaError, match=r"HF_HUB_OFFLINE forbids.*HF_HUB_OFFLINE=0.*scons import-model FILE="):
            hub.get(model)
    kept = hub.keep(BODY)
    assert hub.get() == kept
    assert hub.get(tiny(None)) == kept
    assert not hub.web.asked


@pytest.mark.parametrize(
    "project",
    ["a/b/c", "-x/y"],
)
def test_an_entry_that_can_be_none(hub: Hub, project: str) -> None:
    hub.keep(BODY)
    with pytest.raises(ZosiaError, match=r"^The repository of the entry \[tiny\] of models.toml is invalid: "):
        hub.get(tiny(project=project))


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("hf-mirror.com", "HF_ENDPOINT=hf-mirror.com is not the address of a hub"),
        ("ftp://x", "HF_ENDPOINT=ftp://x is not the address of a hub"),
        ("http://somebody:hidden@x:port", "HF_ENDPOINT=x:port is not the address of a hub"),
        ("", "HF_ENDPOINT= is not the address of a hub"),
    ],
)
def test_an_endpoint_that_is_none(hub: Hub, endpoint: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(ZosiaError, match=f"^{message}. Write it as in HF_ENDPOINT=https://"):
        hub.get()
    hub.keep(BODY)
    hub.get()


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_ENDPOINT", "http://[::1"), ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"), ("HF_HUB_ETAG_TIMEOUT", "abc")],
)
def test_settings_that_the_library_does_not_read(
    hub: Hub, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(hub, tiny(), **{name: value}) as child:
        said = child.communicate(timeout=30)[1]
    assert said.startswith("zosia: error: huggingface_hub can't be used with these settings: ")
    assert said.count("\n") == 1
    assert f"{name}=" in said


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_a_password_is_never_shown(
    hub: Hub, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = hub.web.url.replace("//", "//somebody:hidden@")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    page = hub.web.pages[hub.page()]
    hub.says(Answer(status=status, body=b"<html>"))
    with pytest.raises(ZosiaError) as caught:
        hub.get()
    said = str(caught.value)
    hub.says(*page, Answer(status=status, body=b"<html>"))  # the question is answered, and then not the bytes
    with pytest.raises(ZosiaError) as caught:
        hub.get()
    said += str(caught.value) + capsys.readouterr().err
    assert "hidden" not in said
    assert hub.web.url.removeprefix("http://") in said
    assert hub.web.asked[0][2].startswith("Basic "), "it is sent"


def test_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - 1))
    with pytest.raises(ZosiaError, match=r"tiny.gguf needs .* which has .* free"):
        hub.get()
    assert not hub.web.requests
    monkeypatch.undo()


def test_a_disk_that_fills_up(hub: Hub) -> None:
    hub.part.parent.mkdir(parents=True)
    hub.part.symlink_to("/dev/full")
    with pytest.raises(ZosiaError, match="could not be written: No space left"):
        hub.get()
    assert not hub.place.exists()


def test_killed_and_started_again(hub: Hub) -> None:
    hub.cdn.answers = [Answer(pause=0.1), Answer()]
    with start(hub, tiny()) as child:
        until(lambda: hub.part.exists() and hub.part.stat().st_size >= 2 * CHUNK)
        child.send_signal(signal.SIGKILL)
    here = hub.part.stat().st_size
    assert 0 < here < len(BODY)
    assert not hub.place.exists()
    with start(hub, tiny()) as child:
        assert child.communicate(timeout=30) == (
            f"{hub.place}\n",
            f"  FETCH tiny.gguf ({len(BODY)} bytes, resuming at {here} bytes)\n",
        )
    assert hub.place.read_bytes() == BODY
    assert hub.cdn.ranges == ["", f"bytes={here}-"]


def test_interrupted(hub: Hub) -> None:
    hub.cdn.answers = [Answer(pause=0.1), Answer()]
    with start(hub, tiny()) as child:
        until(lambda: hub.part.exists() and hub.part.stat().st_size > 0)
        child.send_signal(signal.SIGINT)
    here = hub.part.stat().st_size
    hub.get()
    assert hub.cdn.ranges == ["", f"bytes={here}-"]


@pytest.mark.parametrize("content", [BODY, None], ids=["pinned", "not yet"])
def test_two_at_once(hub: Hub, content: bytes | None) -> None:
    hub.cdn.answers = [Answer(pause=0.02)]
    children = [start(hub, tiny(content)) for _ in range(2)]
    said = [child.communicate(timeout=30) for child in children]
    assert [out for out, _ in said] == [f"{hub.place}\n"] * 2, said
    assert (len(hub.cdn.requests), hub.heads) == (1, 1)


def test_offline_by_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with start(hub, tiny()) as child:
        assert "HF_HUB_OFFLINE forbids" in child.communicate(timeout=30)[1]
    kept = hub.keep(BODY)
    with start(hub, tiny()) as child:
        assert child.communicate(timeout=30) == (f"{kept}\n", "")
    assert not hub.web.asked
