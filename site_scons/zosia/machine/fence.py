"""Fence around a program: the files that it may open, and no others; no sockets, and no other programs.

Landlock (Linux 5.13 and later, https://docs.kernel.org/userspace-api/landlock.html) holds a process and all that it
starts to a list of files. A filter of system calls (seccomp) refuses what Landlock does not know, or not in older
kernels: sockets of all kinds, changes of a file by its name, and what types into a terminal. Both stay until the
process ends. The packages for this on PyPI are alphas that do all the work in the calling process; here the list is
made before the fork, and the new process only takes it on, which costs a start about a millisecond.

macOS has sandbox-exec for this, with a profile that nobody has tried yet: see `command`.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LIBRARY = ctypes.CDLL(None, use_errno=True)
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all architectures
VERSION, PATH_BENEATH = 1, 1  # linux/landlock.h, as the rights and scopes below
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
ALL_FILES = (
    (1, 0x1FFF),
    (2, 1 << 13),
    (3, 1 << 14),
    (5, 1 << 15),
)  # rights that an ABI adds; REFER, TRUNCATE, IOCTL_DEV
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # all others are of folders
ALL_NET, ALL_SCOPES = (4, 3), (6, 3)  # bind and connect by TCP; abstract UNIX sockets, and signals
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
# For each machine: its AUDIT_ARCH; the number of ioctl; those of socket, socketpair, connect and io_uring_setup, whose
# rings do all that without a system call; those of truncate, fchmod, fchown, setxattr and removexattr, with all their
# variants; and of what is in no folder: keyrings (add_key, request_key, keyctl), and the shared memory, semaphores and
# messages of System V.
X86_64 = (41, 53, 42, 425, 76, 90, 91, 92, 93, 94, 188, 189, 190, 197, 198, 199, 260, 268, 452)
X86_64 += (248, 249, 250, *range(29, 32), *range(64, 72), 220)
AARCH64 = (198, 199, 203, 425, 45, 52, 53, 54, 55, 5, 6, 7, 14, 15, 16, 452, 217, 218, 219, *range(186, 198))
CALLS = {"x86_64": (0xC000003E, 16, X86_64), "aarch64": (0xC00000B7, 29, AARCH64)}
X32 = 0x40000000  # another numbering on x86_64
TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: an ioctl that types, for the shell that comes after
PERMITTED, REFUSED = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO, EPERM
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
PT_INTERP = 3
# What a program finds its libraries and its data in; nothing in there is a person's own.
SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib", "/nix/store", "/gnu/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime"),
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"),
    *("/sys/devices/system", "/sys/bus/nd/devices", "/sys/kernel/mm/transparent_hugepage", "/dev/urandom"),
)
OWN = ("lib", "lib64", "libexec", "share")  # the same beside the program's own bin
SIGNALS = 6  # the ABI that refuses them, to other programs


@dataclass(frozen=True, kw_only=True)
class Fence:
    """Rights of a program: files and folders that it may read beside its libraries, files that it may write, and
    devices. `filtered`: it also gets the filter of system calls. `bare`: it has no libraries, and reads nothing else.
    `tcp`: it may use TCP, because its network has nothing else in it.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    filtered: bool = True
    bare: bool = False
    tcp: bool = False


def abi() -> int:
    """Return the version of this kernel's Landlock, 0 if it has none or does not use it."""
    if sys.platform != "linux":
        return 0
    return max(0, int(LIBRARY.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION))))


def command(argv: Sequence[str], fence: Fence | None) -> list[str]:
    """Return the command line that starts a program in its fence: on macOS with the program that makes one."""
    if fence is None or sys.platform != "darwin":
        return list(argv)
    real = Path(argv[0]).resolve()
    writes = [os.devnull, *map(str, fence.writes)]
    reads = [*writes, *map(str, (*fence.reads, *(real.parent.parent / name for name in OWN)))]
    rules = [
        *("(version 1)", "(allow default)", "(deny network*)", "(deny process-exec*)", "(deny signal (target others))"),
        *("(deny file-write*)", '(deny file-read-data (subpath "/Users") (subpath "/Volumes"))'),
        f"(allow process-exec* {_paths([str(real)])})",
        f"(allow file-read-data {_paths([str(real), *reads])})",
        f"(allow file-write-data {_paths(writes)})",
    ]
    return ["/usr/bin/sandbox-exec", "-p", "\n".join(rules), *argv]


def _paths(paths: Sequence[str]) -> str:
    """Return files, or folders with all in them, in the profile's words; it knows no links."""
    return " ".join(f"(subpath {json.dumps(os.path.realpath(path), ensure_ascii=False)})" for path in paths)


@contextmanager
def around(program: str, fence: Fence | None) -> Iterator[Callable[[], None] | None]:
    """Yield a function for a new process to call before it becomes this program; an error there ends it.

    None where there is nothing to call. Without Landlock it is the filter alone that holds the program.
    """
    if fence is None or sys.platform != "linux":
        yield None
        return
    code, version = _filter() if fence.filtered else b"", abi()
    if not version:
        yield lambda: _enclose(None, code)
        return
    handled = sum(rights for since, rights in ALL_FILES if version >= since)
    net, scopes = (bits if version >= since else 0 for since, bits in (ALL_NET, ALL_SCOPES))
    net = 0 if fence.tcp else net
    attributes = struct.pack("=QQQ", handled, net, scopes)[: 24 if scopes else 16 if net else 8]
    rules = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        for path, rights in _rights(Path(program), fence):
            _allow(rules, path, rights & handled)
        yield lambda: _enclose(rules, code)
    finally:
        os.close(rules)


def enclose(program: str, fence: Fence | None) -> None:
    """Hold this process, which becomes that program next: for who closes all files in between; errors as `around`."""
    with around(program, fence) as hold:
        if hold:
            hold()


def _rights(program: Path, fence: Fence) -> Iterator[tuple[Path, int]]:
    """Yield all that may be opened, and how."""
    real = program.resolve()
    beside = {folder.parent / name for folder in (program.parent, real.parent) for name in OWN}
    given = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    shared = () if fence.bare else (*map(Path, SYSTEM), *beside, *(Path(name) for name in given if name))
    for path in (*shared, *fence.reads):
        yield path, READ_FILE | READ_DIR
    for path in (real, *_interpreter(real)):  # the kernel opens both to execute them
        yield path, READ_FILE | EXECUTE
    for path in fence.writes:
        yield path, READ_FILE | WRITE_FILE | TRUNCATE
    for path in (*(() if fence.bare else (Path(os.devnull),)), *fence.devices):
        yield path, READ_FILE | WRITE_FILE | IOCTL_DEV


def _interpreter(program: Path) -> list[Path]:
    """Return the dynamic linker that a 64-bit ELF file names, if it does; a script gets nothing to run it."""
    with suppress(OSError, struct.error), program.open("rb") as file:
        head = file.read(64)
        if head[:5] == b"\x7fELF\x02":
            (start,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
            for number in range(count):
                file.seek(start + number * size)
                kind, _, offset, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
                if kind == PT_INTERP:
                    file.seek(offset)
                    return [Path(os.fsdecode(file.read(length).rstrip(b"\0")))]
    return []


def _allow(rules: int, path: Path, rights: int) -> None:
    """Add a rule for what is there; what is not can't be opened anyway."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined,unused-ignore]  # of Linux
        try:
            rights &= ~0 if stat.S_ISDIR(os.fstat(file).st_mode) else OF_FILES
            rule = struct.pack("=Qi", rights, file)
            _call(ADD_RULE, ctypes.c_int(rules), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint(0))
        finally:
            os.close(file)


def _call(number: int, *arguments: object) -> int:
    done = int(LIBRARY.syscall(number, *arguments))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def _enclose(rules: int | None, code: bytes) -> None:
    """Hold this process for good."""
    if LIBRARY.prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if rules is not None:
        _call(RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint(0))
    if code:
        keep = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(keep))  # struct sock_fprog
        if LIBRARY.prctl(PR_SET_SECCOMP, ctypes.c_ulong(FILTER), program):
            raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def _filter() -> bytes:
    """Return the filter's instructions; b"" on machines whose numbers are not known here."""
    machine = os.uname().machine
    if machine not in CALLS:
        return b""
    arch, ioctl, refused = CALLS[machine]
    # Each test that decides jumps to one of the last two: offsets count from the next instruction.
    tests: list[tuple[int, int, str, str]] = [
        (LOAD, 4, "", ""),
        (EQUAL, arch, "", "refuse"),  # a system call of another machine's numbering
        (LOAD, 0, "", ""),
        *([(AT_LEAST, X32, "refuse", "")] if machine == "x86_64" else []),
        *((EQUAL, number, "refuse", "") for number in refused),
        (EQUAL, ioctl, "", "permit"),
        (LOAD, 24, "", ""),  # the low half of the second argument: these machines are little-endian
        *((EQUAL, number, "refuse", "") for number in TERMINAL),
    ]

    def steps(here: int, to: str) -> int:
        return {"": 0, "permit": len(tests) - here - 1, "refuse": len(tests) - here}[to]

    code = [(kind, steps(here, yes), steps(here, no), value) for here, (kind, value, yes, no) in enumerate(tests)]
    return b"".join(struct.pack("HBBI", *step) for step in (*code, (RETURN, 0, 0, PERMITTED), (RETURN, 0, 0, REFUSED)))
