"""Certificates: a server with one of an authority of its own, and each way to say that it is trusted."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.hub import BODY, PROJECT, on_loopback, sha256, tiny, told
from tests.web import Answer, Web, serving
from zosia.base.errors import ZosiaError
from zosia.doctor import reach
from zosia.inputs import fetch, model_files
from zosia.inputs.catalogue import Pin

VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
HINT = r"certificate verify failed\. Set REQUESTS_CA_BUNDLE= or SSL_CERT_FILE= to the certificates of this network"
HINT_SHOWN = "Set REQUESTS_CA_BUNDLE= or SSL_CERT_FILE="
PAGE = f"/{PROJECT}/resolve/{tiny().version}/tiny.gguf"


@dataclass(frozen=True)
class Authority:
    """An authority's certificate, in a folder as OpenSSL reads it, and that of its server on loopback."""

    file: Path
    folder: Path
    server: ssl.SSLContext


def openssl(folder: Path, words: str) -> str:
    done = subprocess.run(["openssl", *words.split()], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> list[Authority]:
    """Two, so that one can be the wrong one."""
    return [made(tmp_path_factory.mktemp("authority")) for _ in range(2)]


def made(folder: Path) -> Authority:
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256"
    # From Python 3.13 on, they are checked by all rules of RFC 5280: each says who signed it, and what it is for.
    uses = "-addext keyUsage=critical,keyCertSign,cRLSign"
    openssl(folder, f"req -x509 {key} {uses} -days 2 -subj /CN=authority -keyout authority.key -out authority.pem")
    openssl(folder, f"req {key} -subj /CN=server -keyout server.key -out server.csr")
    (folder / "names").write_text("subjectAltName = IP:127.0.0.1\nauthorityKeyIdentifier = keyid\n")
    signed = "-CA authority.pem -CAkey authority.key -CAcreateserial -extfile names"
    openssl(folder, f"x509 -req -sha256 -in server.csr {signed} -days 2 -out server.pem")
    hashed = folder / "hashed"
    hashed.mkdir()
    shutil.copy(folder / "authority.pem", hashed / f"{openssl(folder, 'x509 -hash -noout -in authority.pem')}.0")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    return Authority(folder / "authority.pem", hashed, server)


@pytest.fixture
def site(authorities: list[Authority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A hub, a package index and a file, over TLS; and no certificates in the environment."""
    with serving(authorities[0].server) as site, on_loopback(site, tmp_path, monkeypatch):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        settings = {"index-url": f"{site.url}/simple/"}
        monkeypatch.setattr(fetch, "pip_settings", lambda: settings)
        site.pages[PAGE] = [Answer(location="/file/tiny.gguf", headers=told())]
        site.files = {"/simple/tiny/": b'<a href="../../file/tiny.gguf">tiny.gguf</a>', "/file/tiny.gguf": BODY}
        yield site


def pin(site: Web, origin: str) -> Pin:
    return Pin(
        name="tiny",
        origin=origin,
        project="tiny",
        version="1",
        file="tiny.gguf",
        licence="MIT",
        size=len(BODY),
        sha256=sha256(BODY),
        url=f"{site.url}/file/tiny.gguf" if origin == "url" else "",
    )


def bring(site: Web, origin: str, cache: Path) -> Path:
    if origin == "hub":
        return model_files.model_file(tiny(), cache)
    return fetch.fetch(pin(site, origin), cache).path


@pytest.mark.parametrize(
    ("given", "trusted"),
    [
        ({}, False),
        ({"REQUESTS_CA_BUNDLE": "right"}, True),
        ({"CURL_CA_BUNDLE": "right"}, True),
        ({"SSL_CERT_FILE": "right"}, True),
        ({"SSL_CERT_DIR": "right"}, True),  # Linux' way to name another store than the system's
        ({"REQUESTS_CA_BUNDLE": "right", "SSL_CERT_FILE": "wrong"}, True),
        ({"REQUESTS_CA_BUNDLE": "wrong", "SSL_CERT_FILE": "right"}, False),
        ({"CURL_CA_BUNDLE": "wrong", "SSL_CERT_FILE": "right"}, False),
        ({"REQUESTS_CA_BUNDLE": "wrong", "SSL_CERT_DIR": "right"}, False),
        ({"SSL_CERT_FILE": "wrong", "SSL_CERT_DIR": "right"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("origin", ["url", "hub", "pypi"])
def test_certificates(
    site: Web,
    authorities: list[Authority],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    origin: str,
    given: dict[str, str],
    trusted: bool,
) -> None:
    for name, which in given.items():
        authority = authorities[which == "wrong"]
        monkeypatch.setenv(name, str(authority.folder if name == "SSL_CERT_DIR" else authority.file))
    question = reach.questions([tiny() if origin == "hub" else pin(site, origin)])
    if trusted:
        assert bring(site, origin, tmp_path / "cache").read_bytes() == BODY
        assert list(reach.failures(question).values()) == [""]
        return
    with pytest.raises(ZosiaError, match=HINT):
        bring(site, origin, tmp_path / "cache")
    assert [HINT_SHOWN in shown for shown in reach.failures(question).values()] == [True]
    assert not site.asked


@pytest.mark.parametrize("name", VARIABLES[:3])
@pytest.mark.parametrize("origin", ["url", "hub", "pypi"])
def test_certificates_that_are_missing(
    site: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, name: str
) -> None:
    monkeypatch.setenv(name, "/nowhere.pem")
    missing = r"invalid path: /nowhere\.pem\. Check .*REQUESTS_CA_BUNDLE=.*SSL_CERT_FILE="
    with pytest.raises(ZosiaError, match=missing):
        bring(site, origin, tmp_path / "cache")
    (found,) = reach.failures(reach.questions([tiny() if origin == "hub" else pin(site, origin)])).values()
    assert re.search(missing, found)


@pytest.mark.parametrize("which", [0, 1], ids=["right", "wrong"])
def test_the_certificates_of_pip_come_before_ssl_cert_file(
    site: Web, authorities: list[Authority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    settings = {"index-url": f"{site.url}/simple/", "cert": str(authorities[which].file)}
    monkeypatch.setattr(fetch, "pip_settings", lambda: settings)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities[1 - which].file))
    if which == 0:
        assert bring(site, "pypi", tmp_path / "cache").read_bytes() == BODY
    else:
        with pytest.raises(ZosiaError, match=HINT):
            bring(site, "pypi", tmp_path / "cache")


class Tunnel(BaseHTTPRequestHandler):
    """A proxy that connects to where it is asked to."""

    asked: ClassVar[list[str]] = []

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        host, port = self.path.split(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=copy, args=(there, self.connection))
            back.start()
            copy(self.connection, there)
            back.join()

    def log_message(self, format: str, *args: object) -> None:
        pass


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", ""])
def test_certificates_behind_a_proxy(
    site: Web, authorities: list[Authority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, str(authorities[0].folder if name == "SSL_CERT_DIR" else authorities[0].file))
    Tunnel.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Tunnel) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        try:
            if name:
                assert bring(site, "url", tmp_path / "cache").read_bytes() == BODY
            else:
                with pytest.raises(ZosiaError, match=HINT):
                    bring(site, "url", tmp_path / "cache")
        finally:
            proxy.shutdown()
    assert Tunnel.asked == [site.url.removeprefix("https://")]
