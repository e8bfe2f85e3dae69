"""A server as a service of the user: files for systemd and launchd, and the sockets that these hand over."""

from __future__ import annotations

import os
import plistlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gate import running
from zosia.base import files
from zosia.base.errors import ZosiaError
from zosia.base.process import find
from zosia.serve import listen, units
from zosia.serve.service import Service

LEGIBLE = 210  # a file's number that is free
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service of a user who has nothing yet; PATH is as short as a unit shows it."""
    for name in units.KEPT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Service(model="parrot", port=8099, socket=tmp_path / "8099.sock")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes its arguments in this file, and fails at a word in the file `fails`."""
    program, noted = tmp_path / "bin" / "systemctl", tmp_path / "noted"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{noted}\n[ -e {tmp_path}/fails ] || exit 0\n'
        f'case "$*" in *"$(cat {tmp_path}/fails)"*) echo no bus >&2; exit 1; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return noted


def test_systemd(service: Service, tmp_path: Path) -> None:
    made = units.files(service, ["/opt/zosia", "serve", "--idle=10m"])
    folder = tmp_path / "config" / "systemd" / "user"
    assert list(made) == [folder / "zosia.socket", folder / "zosia.service"]
    listening, serving = made.values()
    assert f"\nListenStream=127.0.0.1:8099\nListenStream={tmp_path}/8099.sock\nSocketMode=0600\n" in listening
    assert "\nEnvironment=PATH=/usr/bin:/bin\nExecStart=/opt/zosia serve --idle=10m\n" in serving


def test_systemd_replaces_nothing_in_words(service: Service) -> None:
    words = ["/opt/zosia", "--model=/a b/50%.gguf", "--key=$HOME", 'say "\\"', "one\ntwo"]
    _, serving = units.files(service, words).values()
    line = r'ExecStart=/opt/zosia "--model=/a b/50%%.gguf" "--key=$$HOME" "say \"\\\"" "one\ntwo"'
    assert f"\n{line}\n" in serving


def test_another_address(service: Service) -> None:
    listening, _ = units.files(Service(model="parrot", host="::1", port=80, socket=service.socket), ["x"]).values()
    assert "\nListenStream=[::1]:80\n" in listening


def test_launchd(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ((path, text),) = units.files(service, ["/opt/zosia", "serve", "--key=<&>"]).items()
    assert path == tmp_path / "Library" / "LaunchAgents" / "zosia.plist"
    job = plistlib.loads(text.encode())
    assert job["ProgramArguments"] == ["/opt/zosia", "serve", "--key=<&>"]
    tcp, unix = job["Sockets"][listen.LISTENERS]
    assert (tcp["SockNodeName"], tcp["SockServiceName"]) == ("127.0.0.1", "8099")
    assert (unix["SockPathName"], unix["SockPathMode"]) == (f"{tmp_path}/8099.sock", 0o600)


def test_install_and_uninstall(service: Service, systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units.install(service, ["/opt/zosia", "serve"])
    paths = list(units.files(service, ["x"]))
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600, 0o600], "a key may be in them"
    shown = capsys.readouterr().err
    assert all(str(path) in shown for path in paths) and "ExecStart=/opt/zosia serve" in shown
    units.uninstall()
    assert not any(path.exists() for path in paths)
    reload = "--user daemon-reload"
    started = [reload, "--user enable zosia.socket", "--user restart zosia.socket"]
    stopped = ["--user disable --now zosia.socket zosia.service", reload]
    assert systemctl.read_text().splitlines() == [*started, *stopped]
    with pytest.raises(ZosiaError, match=r"^No service is installed: .*zosia\.socket is not there\. "):
        units.uninstall()


@pytest.mark.parametrize("word", ["daemon-reload", "enable", "restart"])
def test_a_refusal_leaves_nothing(service: Service, systemctl: Path, word: str) -> None:
    systemctl.with_name("fails").write_text(word)
    with pytest.raises(ZosiaError, match="no bus"):
        units.install(service, ["/opt/zosia", "serve"])
    assert not any(path.exists() for path in units.files(service, ["x"]))
    assert systemctl.read_text().splitlines()[-1] == "--user disable --now zosia.socket zosia.service"


@pytest.mark.parametrize("word", ["daemon-reload", "enable", "restart", ""])
def test_a_refusal_leaves_the_service_that_was_there(
    service: Service, systemctl: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    units.install(service, ["/opt/zosia", "serve", "--key=old"])
    paths = list(units.files(service, ["x"]))
    paths[0].write_bytes(paths[0].read_bytes() + b"# by hand: \xff\n")
    before = {path: path.read_bytes() for path in paths}
    systemctl.unlink()
    if word:
        systemctl.with_name("fails").write_text(word)
    else:  # the second file can't be written
        folder = paths[1].parent
        (folder / f".zosia.service.{os.getpid()}").mkdir()
    with pytest.raises((ZosiaError, OSError)):
        units.install(replace(service, model="other"), ["/opt/zosia", "serve", "--key=new"])
    assert {path: path.read_bytes() for path in before} == before
    assert [path.stat().st_mode & 0o777 for path in before] == [0o600, 0o600]
    said = systemctl.read_text().splitlines()
    stopped = said.index("--user disable --now zosia.socket zosia.service")
    assert "--user restart zosia.socket" in said[stopped:], "it listens again"
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.endswith("before has its files again, and could not be started" if word else "before is back")


def test_two_at_once(service: Service, systemctl: Path) -> None:
    """One waits for the other, so that what one puts back is not what the other has replaced."""
    paths = list(units.files(service, ["x"]))
    with ThreadPoolExecutor(1) as pool:
        with files.locked(files.cache_root() / "service"):
            other = pool.submit(units.install, service, ["/opt/zosia", "serve"])
            with pytest.raises(TimeoutError):
                other.result(0.5)
            assert not any(path.exists() for path in paths)
        other.result()
        assert all(path.exists() for path in paths)
        with files.locked(files.cache_root() / "service"):
            other = pool.submit(units.uninstall)
            with pytest.raises(TimeoutError):
                other.result(0.5)
            assert all(path.exists() for path in paths)
        other.result()


def test_another_one_replaces_what_runs(service: Service, systemctl: Path) -> None:
    """systemd starts no socket whose service runs, and launchd no second service of a name."""
    units.install(service, ["/opt/zosia", "serve"])
    systemctl.unlink()
    units.install(service, ["/opt/zosia", "serve", "--parallel=2"])
    assert "ExecStart=/opt/zosia serve --parallel=2\n" in list(units.files(service, ["x"]))[1].read_text()
    assert systemctl.read_text().splitlines() == [
        "--user disable --now zosia.socket zosia.service",
        "--user daemon-reload",
        "--user enable zosia.socket",
        "--user restart zosia.socket",
    ]


def test_launchd_gets_a_job_that_it_does_not_have(
    service: Service, systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for launchctl: there is no macOS here."""
    program = systemctl.with_name("bin") / "launchctl"
    program.write_text(f'#!/bin/sh\necho "$1" >>{systemctl}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "darwin")
    for _ in range(2):
        units.install(service, ["/opt/zosia", "serve"])
    assert systemctl.read_text().split() == ["bootstrap", "bootout", "bootstrap"]


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux'")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_systemd_understands_them(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    program = tmp_path / "a b%"  # systemd refuses units whose program is not there
    program.symlink_to("/bin/true")
    words = ["serve", "--key=$HOME 100%", 'say "\\"', "one\ntwo"]
    monkeypatch.setenv("ZOSIA_CACHE", f'{tmp_path}/c "d" %h')
    made = units.files(replace(service, host=host), [str(program), *words])
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    runtime = tmp_path / "runtime"
    runtime.mkdir(0o700)
    argv = [find("systemd-analyze"), "--user", "verify", "--man=no", *map(str, made)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.fixture
def handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A port and a UNIX socket that are handed over as systemd does it."""
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as file:
        file.bind(str(tmp_path / "given.sock"))
        file.listen()
        for number, each in enumerate((port, file)):
            os.dup2(each.fileno(), LEGIBLE + number)
        monkeypatch.setattr(listen, "FIRST_FILE", LEGIBLE)
        for name, value in {"LISTEN_PID": os.getpid(), "LISTEN_FDS": 2, "LISTEN_FDNAMES": "a:b"}.items():
            monkeypatch.setenv(name, str(value))
        yield port, file


def test_the_gate_takes_what_is_handed_over(handed: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    port, _ = handed
    path = tmp_path / "given.sock"  # which the service would make for itself as well
    with running(port=1, socket=path) as up:  # a port of root's
        number = port.getsockname()[1]
        assert up.gate.addresses == [f"http://127.0.0.1:{number}", f"unix:{path}"]
        assert b"200 OK" in up.talk(REQUEST)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(REQUEST)
            assert b"200 OK" in client.recv(4096)
        assert not os.get_inheritable(LEGIBLE) and "LISTEN_FDS" not in os.environ, "QEMU gets none"
    assert path.exists(), "it is systemd's, for the next start"


def test_an_address_for_others_needs_a_key_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as port:
        monkeypatch.setattr(listen, "inherited", lambda: [port])
        with pytest.raises(ZosiaError, match=r"0\.0\.0\.0 lets other computers in"), running():
            pass


def test_what_is_for_another_process_is_left() -> None:
    code = "from zosia.serve import listen; import os; print(listen.inherited(), 'LISTEN_PID' in os.environ)"
    environment = {**os.environ, "LISTEN_PID": "1", "LISTEN_FDS": "1", "PYTHONPATH": "site_scons"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"
