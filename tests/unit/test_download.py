"""Downloads from a server that does all the things that servers and networks do."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from tests.web import Answer, Web
from zosia.base.errors import ZosiaError
from zosia.inputs import download as downloads
from zosia.inputs.download import ATTEMPTS, CHUNK, download

BODY = random.Random(1).randbytes(5 * CHUNK + 1234)
DIGEST = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[:-1] + bytes([BODY[-1] ^ 1])
PAGE = b"<html>Log in</html>"
IN_CHUNKS = Answer(
    body=b"".join(b"%x\r\n%s\r\n" % (len(data), data) for data in (BODY[:CHUNK], BODY[CHUNK:], b"")),
    length=False,
    headers={"Transfer-Encoding": "chunked"},
)
Fetch = Callable[[], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE", 0)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "model.gguf"


@pytest.fixture
def part(target: Path) -> Path:
    return target.with_name("model.gguf.part")


@pytest.fixture
def fetch(web: Web, target: Path) -> Fetch:
    web.files["/file"] = BODY
    target.parent.mkdir()
    return lambda: download(f"{web.url}/file", target, size=len(BODY), digest=DIGEST)


def test_downloads_once(web: Web, target: Path, part: Path, fetch: Fetch) -> None:
    fetch()
    assert target.read_bytes() == BODY
    assert not part.exists()
    fetch()
    assert web.ranges == [""]


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        ([Answer(cut=2 * CHUNK)], ["", f"bytes={2 * CHUNK}-"]),
        ([Answer(cut=2 * CHUNK), Answer(cut=CHUNK)], ["", f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]),
        ([Answer(cut=2 * CHUNK), Answer(ranges=False)], ["", f"bytes={2 * CHUNK}-"]),
        ([Answer(cut=100_000)], ["", "bytes=100000-"]),
        ([Answer(cut=0), Answer(cut=0)], ["", "", ""]),
        ([Answer(lie=1000)], ["", ""]),
        ([Answer(lie=19 - len(BODY))], ["", ""]),
        ([Answer(length=False)], [""]),
        ([Answer(length=False, cut=2 * CHUNK)], ["", f"bytes={2 * CHUNK}-"]),
        ([Answer(cut=2 * CHUNK), Answer(length=False)], ["", f"bytes={2 * CHUNK}-"]),
        ([IN_CHUNKS], [""]),
        ([replace(IN_CHUNKS, cut=CHUNK + 1000 + len(b"10000\r\n\r\n404d2\r\n"))], ["", f"bytes={CHUNK + 1000}-"]),
        ([Answer(cut=2 * CHUNK), Answer(lie=1000)], ["", f"bytes={2 * CHUNK}-"]),
        ([Answer(body=PAGE)], ["", ""]),
        ([Answer(cut=CHUNK), Answer(body=PAGE, ranges=False)], ["", *[f"bytes={CHUNK}-"] * 2]),
        ([Answer(cut=CHUNK), Answer(body=PAGE, ranges=False, length=False)], ["", *[f"bytes={CHUNK}-"] * 2]),
        ([Answer(cut=CHUNK), Answer(status=416)], ["", *[f"bytes={CHUNK}-"] * 2]),
        (
            [Answer(cut=CHUNK), Answer(status=416, headers={"Content-Range": f"bytes */{len(BODY)}"})],
            ["", *[f"bytes={CHUNK}-"] * 2],
        ),
        ([Answer(status=429)], ["", ""]),
        ([Answer(status=503), Answer(cut=CHUNK), Answer(status=500)], ["", "", *[f"bytes={CHUNK}-"] * 2]),
        *(([Answer(location="/elsewhere/file", status=status)], ["", ""]) for status in (301, 302, 303, 307, 308)),
        ([Answer(location="elsewhere/file", status=308)], ["", ""]),
        ([Answer(cut=CHUNK), Answer(location="/elsewhere/file")], ["", *[f"bytes={CHUNK}-"] * 2]),
    ],
)
def test_gets_there(web: Web, target: Path, fetch: Fetch, answers: list[Answer], ranges: list[str]) -> None:
    web.files["/elsewhere/file"] = BODY
    web.answers = [*answers, Answer()]
    fetch()
    assert target.read_bytes() == BODY
    assert web.ranges == ranges


@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        (Answer(status=403), r"HTTP status 403 Forbidden\. Open the address in a browser", 1),
        (Answer(status=404), r"HTTP status 404 Not Found\. Open the address in a browser", 1),
        (Answer(status=416), "HTTP status 416", ATTEMPTS),
        (Answer(body=BODY + b"x"), f"Content-Length {len(BODY) + 1}, expected {len(BODY)} bytes", ATTEMPTS),
        (Answer(body=BODY + b"x", length=False), f"longer than the expected {len(BODY)} bytes", 1),
        (
            Answer(body=BODY[:-CHUNK], length=False),
            f"shorter than the expected {len(BODY)} bytes: it has {4 * CHUNK + 1234}",
            2,
        ),
        (Answer(body=BODY[:-CHUNK]), f"unexpected response: Content-Length {4 * CHUNK + 1234}, expected", ATTEMPTS),
        (
            Answer(body=PAGE, ranges=False, length=False),
            f"unexpected response: no Content-Length, expected {len(BODY)} bytes",
            ATTEMPTS,
        ),
        (Answer(body=OTHER), "SHA-256", 1),
        (Answer(status=503), "503 Service Unavailable", ATTEMPTS),
        (Answer(cut=0), "0 of", ATTEMPTS),
        (Answer(location="/file"), "redirects", 31),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gives_up(web: Web, target: Path, fetch: Fetch, answer: Answer, message: str, requests: int) -> None:
    web.answers = [answer]
    with pytest.raises(ZosiaError, match=message) as caught:
        fetch()
    assert f"{web.url}/file" in str(caught.value)
    assert len(web.requests) == requests
    assert not target.exists()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=PAGE, ranges=False),
        Answer(body=PAGE, ranges=False, length=False),
        Answer(status=416),
        Answer(status=416, headers={"Content-Range": f"bytes */{len(BODY)}"}),
    ],
)
def test_a_part_is_not_given_up(web: Web, part: Path, fetch: Fetch, answer: Answer) -> None:
    part.write_bytes(BODY[:CHUNK])
    web.answers = [answer]
    with pytest.raises(ZosiaError, match=f"{CHUNK} of {len(BODY)} bytes have arrived"):
        fetch()
    assert part.read_bytes() == BODY[:CHUNK]


def test_a_page_is_no_part(web: Web, part: Path, fetch: Fetch) -> None:
    web.answers = [Answer(body=PAGE)]
    with pytest.raises(ZosiaError, match=f"Content-Length 19, expected {len(BODY)} bytes"):
        fetch()
    assert not part.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://somebody:hidden@127.0.0.1:1/file", r"^http://127.0.0.1:1/file .*Connection refused"),
        ("http://somebody:hidden@/file", r"^http:///file .*No host.*Check the address"),
        ("ftp://somebody:hidden@x/file", r"^ftp://x/file .*No connection adapters.*Check the address"),
        ("//somebody:hidden@x/file", r"^//x/file .*Check the address"),
    ],
)
def test_an_address_with_a_password(target: Path, url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ZosiaError, match=message) as caught:
        download(url, target, size=1, digest=DIGEST)
    assert "hidden" not in str(caught.value)


def test_wrong_bytes_leave_nothing(web: Web, target: Path, part: Path, fetch: Fetch) -> None:
    web.answers = [Answer(body=OTHER)]
    with pytest.raises(ZosiaError, match="SHA-256"):
        fetch()
    assert not target.exists()
    assert not part.exists()


def test_connections_that_break_at_random_places_do_not_go_on_forever(web: Web, fetch: Fetch) -> None:
    web.answers = [Answer(cut=cut * CHUNK, ranges=False) for cut in (3, 1, 2, 1, 2, 1, 2)] + [Answer()]
    with pytest.raises(ZosiaError, match=r"connection closed early|IncompleteRead"):
        fetch()
    assert len(web.requests) == ATTEMPTS + 1


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that is measured after a tenth of a second instead of a minute."""
    monkeypatch.setattr(downloads, "SPAN", 0.1)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("fast", [2 * CHUNK, CHUNK // 2], ids=["once", "more often than there are attempts"])
def test_a_connection_that_gets_slow_is_dropped(
    web: Web, target: Path, fetch: Fetch, fast: int, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = [Answer(trickle=fast)] * (1 if fast > CHUNK else 2 * ATTEMPTS - 1)
    web.answers = [*slow, Answer()]
    fetch()
    assert target.read_bytes() == BODY
    starts = [0, *(int(given.removeprefix("bytes=").removesuffix("-")) for given in web.ranges[1:])]
    gained = [after - before for before, after in itertools.pairwise(starts)]
    assert len(gained) == len(slow)
    assert all(fast < bytes_ < fast + 1000 for bytes_ in gained), "the bytes that came one by one are kept as well"
    said = re.findall(
        r"^  WAIT  the connection is too slow: \d+ bytes in \d+ seconds; asking again$", capsys.readouterr().err, re.M
    )
    assert len(said) == len(slow)


@pytest.mark.usefixtures("brief")
def test_a_server_that_is_slow_for_ever(web: Web, part: Path, fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    web.answers = [Answer(trickle=0)]
    with pytest.raises(ZosiaError, match=r"\(the connection is too slow: .*\); (\d+) of .*run it again: it resumes"):
        fetch()
    assert len(web.requests) == ATTEMPTS
    assert 0 < part.stat().st_size < 1000
    assert part.read_bytes() == BODY[: part.stat().st_size]
    assert capsys.readouterr().err.count("; asking again") == ATTEMPTS - 1


@pytest.mark.usefixtures("brief")
def test_a_slow_connection_that_gets_there_is_kept(web: Web, target: Path, fetch: Fetch) -> None:
    web.answers = [Answer(pause=0.03)]
    fetch()
    assert target.read_bytes() == BODY
    assert web.ranges == [""]


def test_a_server_that_sends_a_few_bytes_each_time(web: Web, part: Path, fetch: Fetch) -> None:
    web.answers = [Answer(cut=100)]
    with pytest.raises(ZosiaError, match=f"{100 * ATTEMPTS} of {len(BODY)} bytes have arrived"):
        fetch()
    assert len(web.requests) == ATTEMPTS
    assert part.read_bytes() == BODY[: 100 * ATTEMPTS]


@pytest.mark.parametrize(
    ("old", "ranges"),
    [
        (BODY[:1000], ["bytes=1000-"]),
        (BODY, []),
        (bytes(1000), ["bytes=1000-", ""]),
        (OTHER, [""]),
        (BODY + b"x", [""]),
        (b"", [""]),
    ],
    ids=["beginning", "all", "other", "last byte", "longer", "empty"],
)
def test_goes_on_from_an_earlier_run(
    web: Web, target: Path, part: Path, fetch: Fetch, old: bytes, ranges: list[str]
) -> None:
    part.write_bytes(old)
    fetch()
    assert target.read_bytes() == BODY
    assert web.ranges == ranges
    assert not part.exists()


def test_connection_refused(target: Path, part: Path, fetch: Fetch) -> None:
    part.write_bytes(BODY[:1000])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ZosiaError, match=rf"\(Connection refused\); 1000 of {len(BODY)} bytes have arrived.*resumes"):
        download(f"http://127.0.0.1:{port}/file", target, size=len(BODY), digest=DIGEST)
    assert part.read_bytes() == BODY[:1000]


def test_a_certificate_that_is_not_trusted(target: Path) -> None:
    class Session(requests.Session):
        asked = 0

        def get(self, *words: object, **options: object) -> requests.Response:
            Session.asked += 1
            raise requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: no issuer")

    with pytest.raises(ZosiaError, match=r"could not be fetched: certificate verify failed\. .*REQUESTS_CA_BUNDLE="):
        download("https://files.example/x", target, size=1, digest="", session=Session())
    assert Session.asked == 1


def test_disk_without_room(web: Web, part: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    part.write_bytes(BODY[:CHUNK])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - CHUNK - 1))
    with pytest.raises(ZosiaError, match=r"model.gguf needs .* which has .* free"):
        fetch()
    assert web.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - CHUNK))
    fetch()


def test_disk_that_fills_up(target: Path, part: Path, fetch: Fetch) -> None:
    part.symlink_to("/dev/full")
    with pytest.raises(ZosiaError, match="could not be written: No space left"):
        fetch()
    assert not target.exists()


def test_two_at_once_fetch_once(web: Web, target: Path, fetch: Fetch) -> None:
    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == BODY
    assert len(web.requests) == 1


def test_killed_in_the_middle(web: Web, target: Path, part: Path, fetch: Fetch, root: Path) -> None:
    web.answers = [Answer(cut=2 * CHUNK, stall=True), Answer()]
    program = (
        "import sys; from pathlib import Path; from zosia.inputs.download import download;"
        f"download('{web.url}/file', Path(sys.argv[1]), size={len(BODY)}, digest='{DIGEST}')"
    )
    env = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    with subprocess.Popen([sys.executable, "-c", program, target], env=env, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    here = part.stat().st_size
    assert here
    fetch()
    assert target.read_bytes() == BODY
    assert web.ranges == ["", f"bytes={here}-"]
