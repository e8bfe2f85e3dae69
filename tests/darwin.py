"""A Python that plays macOS on Apple Silicon: python -m tests.darwin MODULE [ARGUMENT…], or -c TEXT.

What Linux has and macOS lacks is taken away before anything of ours is imported. Programs that it starts see Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import runpy
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

# Names that CPython has on Linux only, by module, of those that a program like this one may reach for.
LACKS: dict[Any, tuple[str, ...]] = {
    os: (
        *("copy_file_range", "eventfd", "fdatasync", "getrandom", "getxattr", "memfd_create", "pidfd_open", "pipe2"),
        *("posix_fadvise", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "setxattr", "splice"),
        *("O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE"),
    ),
    fcntl: ("F_ADD_SEALS", "F_GETLEASE", "F_GETPIPE_SZ", "F_NOTIFY", "F_SETLEASE", "F_SETPIPE_SZ"),
    signal: ("SIGPOLL", "SIGPWR", "SIGRTMIN", "SIGSTKFLT", "sigtimedwait", "sigwaitinfo"),
    socket: ("AF_NETLINK", "AF_VSOCK", "MSG_NOSIGNAL", "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK"),
}
FOREIGN = ("/proc/", "/sys/", "/dev/kvm")
LARGEST = 1 << 20  # bytes that a socket may hold: a kern.ipc.maxsockbuf that is less than is asked for


def play() -> None:
    """Have this process see macOS from now on."""
    for module, names in LACKS.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    # What has another extension module on each system: only Linux' is here.
    import sysconfig
    import urllib.request

    import psutil
    import truststore

    assert urllib.request and truststore
    sysconfig.get_config_vars()

    stat, setsockopt = os.stat, socket.socket.setsockopt

    def no_stat(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike) and str(path).startswith(FOREIGN):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return stat(path, *arguments, **named)

    def no_open(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(FOREIGN):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])

    def no_sendfile(*arguments: Any) -> int:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))

    class Socket(socket.socket):
        def setsockopt(self, level: int, name: int, value: Any) -> None:  # type: ignore[override]
            if name in (socket.SO_SNDBUF, socket.SO_RCVBUF) and value > LARGEST:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            setsockopt(self, level, name, value)

    uname = os.uname_result(("Darwin", "mac.local", "24.6.0", "Darwin Kernel Version 24.6.0", "arm64"))
    setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 << 30, available=9 << 30))  # noqa: B010
    setattr(os, "stat", no_stat)  # noqa: B010 - mypy knows their exact types
    setattr(os, "sendfile", no_sendfile)  # noqa: B010
    setattr(os, "uname", lambda: uname)  # noqa: B010
    setattr(socket, "socket", Socket)  # noqa: B010
    setattr(platform, "_uname_cache", None)  # noqa: B010
    sys.addaudithook(no_open)
    sys.platform = "darwin"


if __name__ == "__main__":
    sys.argv[:] = sys.argv[1:]
    play()
    if sys.argv[0] == "-c":
        exec(sys.argv[1])
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
