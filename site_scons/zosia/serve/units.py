"""Service of this user that serves whenever it is asked: files for systemd (systemd.socket(5)) or launchd
(launchd.plist(5)), which listen, and start zosia with the first request.
"""

from __future__ import annotations

import os
import plistlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import cache_root, locked, replacing
from zosia.base.process import missing, run
from zosia.serve.listen import LABEL, LISTENERS
from zosia.serve.service import Service

KEPT = ("PATH", "ZOSIA_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")  # of the environment: where all is
SOCKET_UNIT, SERVICE_UNIT = "zosia.socket", "zosia.service"
SOCKET = """[Unit]
Description=zosia: an OpenAI-compatible API to {model}, which runs without a network

[Socket]
ListenStream={address}
ListenStream={path}
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""
SERVICE = """[Unit]
Description=zosia: {model}, in a machine without a network
Requires=zosia.socket

[Service]
{environment}
ExecStart={command}
KillMode=mixed
SuccessExitStatus=143
TimeoutStopSec=30
UMask=0077
"""


def files(service: Service, command: Sequence[str]) -> Mapping[Path, str]:
    """Return the files of the service, by their paths; `command` serves what `service` says."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    if sys.platform == "darwin":
        return {_plist(): _launchd(service, command, environment)}
    folder = _folder()
    host = f"[{service.host}]" if ":" in service.host else service.host
    quoted = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()]
    return {
        folder / SOCKET_UNIT: SOCKET.format(
            model=_escaped(service.model), address=f"{host}:{service.port}", path=_escaped(str(service.socket))
        ),
        folder / SERVICE_UNIT: SERVICE.format(
            model=_escaped(service.model),
            environment="\n".join(quoted),
            command=" ".join([_quoted(command[0]), *(_quoted(word).replace("$", "$$") for word in command[1:])]),
        ),
    }


def install(service: Service, command: Sequence[str]) -> None:
    """Show the files of the service, write them, and start to listen.

    Raises:
        ZosiaError: a file can't be written, or systemd or launchd refuses it.
    """
    if missing([_stop()[0]]):
        raise ZosiaError(f"{_stop()[0]} was not found, and a service needs it", "Start it yourself: zosia serve")
    made = files(service, command)
    with _alone():
        _install(made)
    style.say("SERVE", f"http://{service.host}:{service.port}, from now on; the first request starts the machine")
    style.say("SERVE", "to end this, type: zosia serve --uninstall")


def _install(made: Mapping[Path, str]) -> None:
    before = {path: path.read_bytes() for path in made if path.is_file()}
    try:
        for path, text in made.items():
            style.say("WRITE", path)
            style.show("\n".join(f"    {line}".rstrip() for line in text.splitlines()))
            _write(path, text.encode())
        if before:  # launchd starts no second one of a name, and systemd no socket of a service that runs
            run(_stop(), check=False)
        for words in _start():
            style.show(f"  $ {' '.join(words)}")
            run(words)
    except BaseException:
        _restore(made, before)
        raise


def uninstall() -> None:
    """Stop listening, and remove the files.

    Raises:
        ZosiaError: there are none.
    """
    paths = [_plist()] if sys.platform == "darwin" else [_folder() / unit for unit in (SOCKET_UNIT, SERVICE_UNIT)]
    with _alone():
        there = [path for path in paths if path.is_file()]
        if not there:
            raise ZosiaError(
                f"No service is installed: {paths[0]} is not there", "To install one: zosia serve --install"
            )
        _remove(there)
    for path in there:
        style.say("GONE", path)
    if sys.platform != "darwin":
        run(["systemctl", "--user", "daemon-reload"], check=False)


def _alone() -> AbstractContextManager[None]:
    """Return a lock: who fails at the same time as another one succeeds would put back what was before both."""
    return locked(cache_root() / "service")


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.touch(0o600)  # a key may be in it
        temporary.write_bytes(data)


def _restore(paths: Iterable[Path], before: Mapping[Path, bytes]) -> None:
    """Put back what was at these paths, and listen again as then, as far as that goes."""
    _remove(path for path in paths if path not in before)
    if before:
        for path, data in before.items():
            if not path.is_file() or path.read_bytes() != data:
                _write(path, data)
        listens = [run(words, check=False).returncode == 0 for words in _start()]
        back = "is back" if all(listens) else "has its files again, and could not be started"
        style.say("NOTE", f"the service that was installed before {back}")


def _remove(paths: Iterable[Path]) -> None:
    """Stop listening, as far as that goes, and remove files."""
    run(_stop(), check=False)
    for path in paths:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _plist() -> Path:
    return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def _start() -> list[list[str]]:
    if sys.platform == "darwin":
        return [["launchctl", "bootstrap", f"gui/{os.getuid()}", str(_plist())]]
    return [
        ["systemctl", "--user", *words]
        for words in (["daemon-reload"], ["enable", SOCKET_UNIT], ["restart", SOCKET_UNIT])
    ]


def _stop() -> list[str]:
    if sys.platform == "darwin":
        return ["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"]
    return ["systemctl", "--user", "disable", "--now", SOCKET_UNIT, SERVICE_UNIT]


def _escaped(text: str) -> str:
    """Return text in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return a word of a command line, or an assignment, as systemd.syntax(7) quotes it."""
    if re.fullmatch(r"[\w@+=:,./-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{_escaped(escaped)}"'


def _launchd(service: Service, command: Sequence[str], environment: Mapping[str, str]) -> str:
    listeners = [
        {"SockNodeName": service.host, "SockServiceName": str(service.port), "SockType": "stream"},
        {"SockPathName": str(service.socket), "SockPathMode": 0o600},
    ]
    log = service.log or Path.home() / "Library" / "Logs" / "zosia.log"
    job = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "Sockets": {LISTENERS: listeners},
        "StandardErrorPath": str(log),
        "ProcessType": "Interactive",
    }
    return plistlib.dumps(job).decode()
