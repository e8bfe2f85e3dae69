"""Filters of system calls for programs that compute outside of a guest (seccomp; Linux, linux/seccomp.h).

Two kinds: zosia's own program needs a few calls, and gets no others. A program of the person's own may be anything,
with drivers of its own, and only what leads out of its fence is refused.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zosia.base.errors import ZosiaError
from zosia.machine import host

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32 = 0x40000000  # another numbering on x86_64
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h
ARGUMENTS = 16  # bytes of struct seccomp_data before them
PERMIT, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
THREAD = 0x00010000  # CLONE_THREAD
NAMESPACES = 0x7E020080  # all flags CLONE_NEW*
INTERNET = (2, 10)  # AF_INET, AF_INET6
TIOCSTI = 0x5412

# Numbers on x86_64 and aarch64, None where there is no such call.
Numbers = dict[str, tuple[int | None, int | None]]
# All that llama.cpp's RPC server and the relay do, which are linked with musl. They open no files and make no sockets
# but pairs; connections come over one that they have inherited.
NEEDED: Numbers = {
    **{"read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67)},
    **{"pwrite64": (18, 68), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "fcntl": (72, 25)},
    **{"poll": (7, None), "ppoll": (271, 73), "shutdown": (48, 210), "socketpair": (53, 199)},
    **{"sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212)},
    **{"mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216)},
    **{"madvise": (28, 233), "futex": (202, 98), "membarrier": (324, 283), "rseq": (334, 293)},
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132)},
    **{"execve": (59, 221), "exit": (60, 93), "exit_group": (231, 94), "set_tid_address": (218, 96)},
    **{"set_robust_list": (273, 99), "arch_prctl": (158, None), "getpid": (39, 172), "gettid": (186, 178)},
    **{"sched_yield": (24, 124), "sched_getaffinity": (204, 123), "nanosleep": (35, 101), "sysinfo": (99, 179)},
    **{"clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "gettimeofday": (96, 169), "getrandom": (318, 278)},
}
# What the relay needs as well to reach a server by TCP, in a network that has nothing else.
CONNECTING: Numbers = {"connect": (42, 203), "setsockopt": (54, 208), "getsockopt": (55, 209)}
# What Landlock does not refuse, or not in all of its versions.
LEADING_OUT: Numbers = {
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"kill": (62, 129), "rt_sigqueueinfo": (129, 138), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438)},
    **{"io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
    **{"unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40)},
    **{"umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442)},
    **{"open_by_handle_at": (304, 265), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218)},
    **{"shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)},
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54)},
    **{"utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466)},
}
CLONE, CLONE3 = (56, 220), (435, 435)
MMAP, SHARED = (9, 222), 1  # MAP_SHARED, and MAP_SHARED_VALIDATE has that bit as well
SOCKET, IOCTL = (41, 198), (16, 29)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Answer to one system call: `then` if an argument, the one at `place`, has a bit of `bits` or is one of `values`,
    `other` otherwise; always `then` without either.
    """

    number: int
    then: int
    other: int = PERMIT
    place: int = 0
    bits: int = 0
    values: Sequence[int] = ()


def strict(*, connects: bool = False) -> bytes:
    """Return the filter of zosia's own programs; `connects`: by TCP or UDP, to what the network has."""
    here = _machine()
    known = {**NEEDED, **(CONNECTING if connects else {})}
    rules = [Rule(number=number, then=PERMIT) for number in _here(known.values(), here)]
    rules += [
        Rule(number=_one(CLONE, here), then=PERMIT, other=_refusal(errno.EPERM), bits=THREAD),
        Rule(number=_one(MMAP, here), then=_refusal(errno.EPERM), place=3, bits=SHARED),  # no limit counts that memory
    ]
    if connects:
        rules.append(_internet(here))
    return assemble(ARCHES[here], rules, otherwise=_refusal(errno.EPERM))


def lenient() -> bytes:
    """Return the filter of the person's own program, which may listen by TCP in a network that has nothing else."""
    here = _machine()
    rules = [Rule(number=number, then=_refusal(errno.EPERM)) for number in _here(LEADING_OUT.values(), here)]
    rules += [
        _internet(here),
        Rule(number=_one(CLONE, here), then=_refusal(errno.EPERM), bits=NAMESPACES),
        Rule(number=_one(CLONE3, here), then=_refusal(errno.ENOSYS)),  # its flags can't be seen; libraries take clone()
        Rule(number=_one(IOCTL, here), then=_refusal(errno.EPERM), place=1, values=(TIOCSTI,)),
    ]
    return assemble(ARCHES[here], rules, otherwise=PERMIT)


def _internet(here: str) -> Rule:
    number = _one(SOCKET, here)
    return Rule(number=number, then=PERMIT, other=_refusal(errno.EPERM), values=INTERNET)


def _refusal(number: int) -> int:
    return REFUSE | number


def _machine() -> str:
    here = host.arch()
    if here not in ARCHES:
        raise ZosiaError(f"WORKERS=host is for {' and '.join(ARCHES)}, and this machine is {here}", "Leave host out")
    return here


def _one(numbers: tuple[int | None, int | None], here: str) -> int:
    found = numbers[list(ARCHES).index(here)]
    assert found is not None
    return found


def _here(calls: Iterable[tuple[int | None, int | None]], here: str) -> list[int]:
    place = list(ARCHES).index(here)
    return [number for numbers in calls if (number := numbers[place]) is not None]


def assemble(arch: int, rules: Iterable[Rule], *, otherwise: int) -> bytes:
    """Return the instructions of a filter. Another architecture's numbering ends the program."""
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if arch == ARCHES["x86_64"]:
        code += [(ANY_BIT, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for rule in rules:
        tests = [(ANY_BIT, rule.bits)] if rule.bits else [(EQUAL, value) for value in rule.values]
        block = [(LOAD, 0, 0, ARGUMENTS + 8 * rule.place)] if tests else []
        for left, (kind, value) in zip(range(len(tests), 0, -1), tests, strict=True):
            block.append((kind, left, 0, value))  # over the other tests, and the return after them
        block += [(RETURN, 0, 0, rule.other)] if tests else []
        block.append((RETURN, 0, 0, rule.then))
        code += [(EQUAL, 0, len(block), rule.number), *block]
    code.append((RETURN, 0, 0, otherwise))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def filtering(code: bytes) -> Callable[[], None]:
    """Return a function for a new process to call: it and all that it starts can do no more than the filter permits."""
    library = ctypes.CDLL(None, use_errno=True)
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))  # struct sock_fprog

    def hold() -> None:
        if library.prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
            raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
        if library.prctl(PR_SET_SECCOMP, ctypes.c_ulong(FILTER), program):
            raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
        assert kept  # for as long as the kernel reads it

    return hold
