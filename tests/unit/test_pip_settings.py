"""Settings of pip, as pip itself reads them from the environment and from a file."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from zosia.base import pip_settings as module
from zosia.base.pip_settings import environment, pip_settings

FILE = """
[global]
quiet = 2
user = true
cert = /global's.pem
index-url = http://global/
extra-index-url =
    http://first/
    http://second/
proxy = http://proxy:3128
target = /elsewhere

[install]
index-url = http://install/
no-binary = :all:

[wheel]
proxy = http://other
"""


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings of FILE, and of the environment only those that a test makes."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pip.conf").write_text(FILE)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))


NETWORK = {
    "cert": "/environment's.pem",
    "extra-index-url": "\nhttp://first/\nhttp://second/",
    "index-url": "http://install/",
    "proxy": "http://proxy:3128",
}


@pytest.mark.usefixtures("only")
def test_pip_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CERT": NETWORK["cert"], "QUIET": "3", "USER": "1", "PYTHON": "/nowhere"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    found = pip_settings()
    assert {name: found[name] for name in (*NETWORK, "target", "no-binary")} == {
        **NETWORK,
        "target": "/elsewhere",
        "no-binary": ":all:",
    }


def test_settings_where_this_python_has_no_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an environment of uv."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PIP_INDEX_URL", "http://environment/")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pip_settings() == {"index-url": "http://environment/"}
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\necho \"global.index-url='http://$1/$2/'\"\n")
    pip.chmod(0o755)
    assert pip_settings() == {"index-url": "http://config/list/"}


def test_what_pip_installs_with(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**NETWORK, "target": "/elsewhere", "user": "1", "python": "/other", "constraint": "/x", "timeout": "9"}
    monkeypatch.setattr(module, "pip_settings", lambda: settings)
    inherited = {"HOME": "/home", "PIP_USER": "1", "PIP_INDEX_URL": "http://x/", "PYTHONPATH": "site_scons"}
    assert environment({**inherited, "https_proxy": "http://p"}) == {
        "HOME": "/home",
        "https_proxy": "http://p",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CERT": NETWORK["cert"],
        "PIP_EXTRA_INDEX_URL": NETWORK["extra-index-url"],
        "PIP_INDEX_URL": NETWORK["index-url"],
        "PIP_PROXY": NETWORK["proxy"],
        "PIP_TIMEOUT": "9",
    }


@pytest.mark.parametrize(
    ("variables", "cert", "used"),
    [
        ({"SSL_CERT_FILE": "/a.pem"}, "", "/a.pem"),
        ({"SSL_CERT_FILE": "/a.pem"}, "/pip.pem", "/pip.pem"),
        ({"SSL_CERT_FILE": "/a.pem", "REQUESTS_CA_BUNDLE": "/b.pem"}, "", ""),
        ({"SSL_CERT_FILE": "/a.pem", "CURL_CA_BUNDLE": "/b.pem"}, "", ""),
        ({"SSL_CERT_FILE": ""}, "", ""),
        ({}, "", ""),
    ],
)
def test_the_certificates_that_pip_gets(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], cert: str, used: str
) -> None:
    settings = {"cert": cert} if cert else {}
    monkeypatch.setattr(module, "pip_settings", lambda: settings)
    expected = {**variables, "PIP_CONFIG_FILE": os.devnull, **({"PIP_CERT": used} if used else {})}
    assert environment(variables) == expected
