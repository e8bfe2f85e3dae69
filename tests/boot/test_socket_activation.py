"""A server that systemd starts with the first connection, by the files of `zosia serve --install`."""

from __future__ import annotations

import configparser
import shlex
import socket
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests import parrot
from zosia.base.process import find
from zosia.machine.qemu import Machine
from zosia.serve import main, units

from .conftest import environment
from .server import QUESTION, Server, folder, served, server, service, start

__all__ = ["folder", "served", "server", "start"]


def unit(text: str) -> configparser.ConfigParser:
    """Return the settings of a unit; of those that are there twice, the first."""
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(text)
    return parsed


def test_the_first_request_starts_it_and_an_idle_machine_is_off(
    server: Server, served: Machine, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    wanted = replace(service(idle=1.0, guests=2), port=port, socket=tmp_path / "s")
    file = tmp_path / "serve.json"
    file.write_text(main.to_json(served, wanted), encoding="utf-8")
    made = units.files(wanted, [sys.executable, "-m", "zosia.serve.main", str(file)])
    listening, serving = (text for _, text in sorted(made.items(), key=lambda item: item[0].suffix, reverse=True))
    addresses = [line.partition("=")[2] for line in listening.splitlines() if line.startswith("ListenStream=")]
    assert addresses == [f"127.0.0.1:{port}", str(tmp_path / "s")]
    argv = [find("systemd-socket-activate"), *(word for address in addresses for word in ("-l", address))]
    argv += ["-E", f"PYTHONPATH={root / 'site_scons'}", *shlex.split(unit(serving)["Service"]["ExecStart"])]
    with Server(argv, tmp_path / "err", cwd=root, env=environment(root)) as own:
        own.says("Listening on")
        assert not own.machines()
        with socket.create_connection(("127.0.0.1", port)):  # nothing is asked yet
            own.says("guest 1: ready after")
        own.says("off after 1 s without a request")
        assert not own.machines()
        answer = own.ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})
        assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER
        assert len(own.machines()) == 1
        assert own.end(15) == 143, "the unit takes it for a success"
    assert (tmp_path / "s").exists(), "it is systemd's"
