"""Listening sockets: a port, and a UNIX socket that only the user reaches; or those that systemd or launchd opened."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import sys
from pathlib import Path

from zosia.base.errors import ZosiaError

BACKLOG = 128
FIRST_FILE = 3  # of those that systemd hands over
LABEL = "zosia"  # of the service in launchd
LISTENERS = "Listeners"  # name of its sockets there
LONGEST = 103  # bytes of a UNIX socket's path that every system has room for (macOS)


def sockets(host: str, port: int, path: Path | None) -> list[socket.socket]:
    """Return sockets that listen on a port, and at a path if there is one; errors as `tcp` and `unix`."""
    with contextlib.ExitStack() as undo:
        found = [undo.enter_context(tcp(host, port))]
        if path:
            found.append(undo.enter_context(unix(path)))
        undo.pop_all()
    return found


def inherited() -> list[socket.socket]:
    """Return the sockets that systemd (sd_listen_fds(3)) or launchd has opened for this process, and does listen on."""
    named = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if named["LISTEN_PID"] == str(os.getpid()) and named["LISTEN_FDS"].isdigit():
        files = range(FIRST_FILE, FIRST_FILE + int(named["LISTEN_FDS"]))
    else:
        files = range(0)
    found = [socket.socket(fileno=file) for file in (*files, *_launched())]
    for each in found:
        each.set_inheritable(False)  # QEMU has no use for them
    return found


def _launched() -> list[int]:
    """Return the files that launchd has opened for this process (launch_activate_socket(3))."""
    if sys.platform != "darwin" or not os.environ.get("XPC_SERVICE_NAME", "").startswith(LABEL):
        return []
    files, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    name = LISTENERS.encode()
    if ctypes.CDLL(None).launch_activate_socket(name, ctypes.byref(files), ctypes.byref(count)):
        return []
    return list(files[: count.value])


def tcp(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port.

    Raises:
        ZosiaError: it can't be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = port + 1 if port < 65535 else port - 1
            raise ZosiaError(f"Port {port} of {host} is in use", f"Set another: PORT={free}") from error
        if error.errno == errno.EACCES:
            raise ZosiaError(f"Port {port} is for root only", "Set one from 1024 on: PORT=8080") from error
        raise ZosiaError(
            f"HOST={host} is no address of this computer ({os.strerror(error.errno or 0)})", "Leave HOST= out"
        ) from error


def unix(path: Path) -> socket.socket:
    """Return a UNIX socket that listens, in place of one that is left over.

    Raises:
        ZosiaError: it can't be had, or others than the user could reach it.
    """
    if len(os.fsencode(path)) > LONGEST:
        raise ZosiaError(f"{path} is too long for a socket: more than {LONGEST} bytes", "Set a shorter XDG_STATE_HOME")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = path.parent.stat()
        if folder.st_uid != os.geteuid() or folder.st_mode & 0o077:
            raise ZosiaError(f"Others than you can enter {path.parent}", f"Type: chmod 700 {path.parent}")
        _replace(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ZosiaError(f"{path} can't be made: {error.strerror}", "Remove it, or set another PORT=") from error
    return listening


def address(listening: socket.socket) -> str:
    """Return the address of a socket as text."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _replace(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ZosiaError(f"{path} exists, and is no socket", "Remove it, or set another PORT=")
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(1)
        try:
            other.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # so busy that it takes no more: alive
    raise ZosiaError(f"Another server listens on {path}", "Stop it, or set another PORT=")
