"""Worker on the host itself, outside of a guest: llama.cpp's RPC server as a process, held by Landlock and seccomp.

zosia's own program opens no file and no socket: its connections come from the relay beside it, as file descriptors. A
program of the person's own (RPC_SERVER=), which may need libraries and a graphics card, listens by TCP in a network of
its own, where nothing else is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from zosia.base import style
from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.files import explained, refused, temporary_folder
from zosia.base.patience import patience
from zosia.base.version import VERSION
from zosia.machine import fence
from zosia.machine.fence import Fence
from zosia.run.workers import calls, far, programs, speeds
from zosia.run.workers.near import LABEL, MACHINE
from zosia.run.workers.wire import Offer, Ready, SilenceError

PORT = 50052  # in a network of its own
BEGINS = 60  # seconds (times patience) until the server listens
SPARE = 512  # MiB, for a program and its threads
FILES = 256  # file descriptors
PULSE = 8  # bytes of the file that has it
NEW_USER, NEW_NET, NEW_IPC = 0x10000000, 0x40000000, 0x08000000  # linux/sched.h
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # linux/sockios.h, net/if.h
PASSED = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "VK_", "GGML_")
READS = ("/usr", "/opt", "/sys", "/proc", "/etc/OpenCL", "/etc/vulkan", "/etc/glvnd", "/run/opengl-driver")
DEVICES = ("dri", "kfd", "nvidia*", "zero", "shm")


@dataclass(frozen=True, kw_only=True)
class Native:
    """Worker of this host: its `memory` in MiB, the `initramfs` of the host's architecture, and the person's `server`,
    "" for zosia's own.
    """

    memory: int
    initramfs: str
    server: str = ""

    def to_json(self) -> str:
        """Return it for `main`."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Ends:
    """Files that the relay inherits for zosia's own server: where it hands over connections, and where the pulse is."""

    handing: int = -1
    pulse: int = -1

    @property
    def all(self) -> tuple[int, ...]:
        """Return both, or none for another server."""
        return () if self.handing < 0 else (self.handing, self.pulse)


def refusal(server: Path | None) -> ZosiaError | None:
    """Return the reason why a program can't be held on this host, None if it can."""
    if sys.platform != "linux":
        return ZosiaError("WORKERS=host needs Linux, which holds the program that computes", "Leave host out")
    if not fence.abi():
        return ZosiaError("WORKERS=host needs Landlock, and this kernel has none, or does not use it", "Leave host out")
    if server and not os.access(server, os.X_OK):
        return ZosiaError(f"RPC_SERVER={server} is no program", "Give the path of llama.cpp's rpc-server")
    if server and Path.home().resolve().is_relative_to(server.parent.resolve()):
        return ZosiaError(
            f"RPC_SERVER={server} could read all that is in {server.parent}, as its libraries may be there",
            "Move it and them to a folder of their own",
        )
    return None


def work(native: Native) -> int:
    """Offer this host's processors on standard input and output, until the other end hangs up; return the status."""
    try:
        offer = Offer(version=VERSION, memory=native.memory, speed=speeds.recall(speeds.here()))
        order = far.ordered(offer)
    except SilenceError:
        return 0
    try:
        with temporary_folder() as folder, ExitStack() as stack:
            own, relay = programs.unpack(Path(native.initramfs), folder)
            if native.server:
                _enter_own_network()
                server = _start_other(Path(native.server), stack)
                place, ends = str(PORT), Ends()
            else:
                server, ends = _start_own(own, order.memory, stack)
                place = f"@{ends.handing}"
            held, code = Fence(filtered=False, bare=True, tcp=not ends.all), calls.strict(connects=not ends.all)
            pulse = {"ZOSIA_PULSE": str(ends.pulse)} if ends.all else {}
            far.tell(vars(Ready()))
            style.say(LABEL, "ready")
            relayed = _start([str(relay), "-", place], held, code, stack, pulse, stdin=0, inherited=ends.all)
            return _until_one_ends({"the RPC server": server, "the relay": relayed})
    except (ZosiaError, OSError) as failure:
        return far.fails(str(explained(failure) if isinstance(failure, OSError) else failure))


def _start_own(program: Path, memory: int, stack: ExitStack) -> tuple[Child, Ends]:
    """Start zosia's own server, wait until it serves, and return it, and the relay's ends.

    Raises:
        ZosiaError: it can't be started.
    """
    here, there = (stack.enter_context(end) for end in socket.socketpair())
    pulse = stack.enter_context(tempfile.TemporaryFile()).fileno()  # noqa: SIM115 - the stack closes it
    status, theirs = os.pipe()
    stack.callback(os.close, status)
    environment = {"ZOSIA_PULSE": str(pulse), "ZOSIA_STATUS": str(theirs)}
    inherited = (there.fileno(), pulse, theirs)
    most = {resource.RLIMIT_DATA: memory + SPARE << 20, resource.RLIMIT_NOFILE: FILES, resource.RLIMIT_FSIZE: PULSE}
    held = Fence(filtered=False, bare=True)
    try:
        argv = [str(program), f"@{there.fileno()}"]
        server = _start(argv, held, calls.strict(), stack, environment, inherited=inherited, most=most)
    finally:
        os.close(theirs)
        there.close()
    _wait(lambda seconds: _listens(status, seconds), server)
    return server, Ends(here.fileno(), pulse)


def _listens(status: int, seconds: float) -> bool:
    """Return whether the program says within so many seconds that it serves."""
    if not select.select([status], [], [], seconds)[0]:
        return False
    words = os.read(status, 4096).split()
    if b"speed" in words[:-1]:
        speeds.note(speeds.here(), int(words[words.index(b"speed") + 1]))
    return b"prompt" in words


def _start_other(program: Path, stack: ExitStack) -> Child:
    """Start the person's own server in this network, and wait until it listens; errors as `_start_own`."""
    devices = [path for name in DEVICES for path in Path("/dev").glob(name)]
    held = Fence(reads=(*map(Path, READS), program.parent), devices=tuple(devices), filtered=False, tcp=True)
    environment = {name: text for name, text in os.environ.items() if name.startswith(PASSED)}
    argv = [str(program), "-H", "127.0.0.1", "-p", str(PORT)]
    server = _start(argv, held, calls.lenient(), stack, environment)
    _wait(_takes_connections, server)
    return server


def _takes_connections(seconds: float) -> bool:
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", PORT)) == 0:
            return True
    time.sleep(min(seconds, 0.05))
    return False


def _wait(serves: Callable[[float], bool], server: Child) -> None:
    end = time.monotonic() + BEGINS * patience()
    while not serves(0.2):
        if server.poll() is not None:
            raise ZosiaError(f"the RPC server {_status(server)}", "See its messages above")
        if time.monotonic() > end:
            raise ZosiaError("the RPC server does not begin to serve", "Start it again")


def _start(
    argv: Sequence[str],
    held: Fence,
    code: bytes,
    stack: ExitStack,
    environment: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    inherited: Sequence[int] = (),
    most: Mapping[int, int] | None = None,
) -> Child:
    """Start a program that is held, and that ends with the stack.

    Raises:
        ZosiaError: it can't be started, or not be held.
    """
    filtered = calls.filtering(code)
    try:
        with fence.around(argv[0], held) as hold:

            def enclose() -> None:
                for limit, value in {resource.RLIMIT_CORE: 0, **(most or {})}.items():
                    resource.setrlimit(limit, (value, value))
                if hold:
                    hold()
                filtered()

            child = Child(
                argv, hold=enclose, stdin=stdin, stdout=subprocess.DEVNULL, env=environment, pass_fds=inherited
            )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it can't be held"
        raise ZosiaError(f"{argv[0]} can't be started: {reason}", "Leave host out of WORKERS=") from error
    stack.callback(_end, child)
    return child


def _end(child: Child) -> None:
    child.kill()
    child.wait()


def _until_one_ends(children: Mapping[str, Child]) -> int:
    """Wait until the other end hangs up, status 0, or a program ends, which is shown, status 2."""
    poll = select.poll()
    hung_up = select.POLLRDHUP  # type: ignore[attr-defined,unused-ignore]  # of Linux
    poll.register(0, hung_up)  # and what poll always reports
    opened = os.pidfd_open  # type: ignore[attr-defined,unused-ignore]  # of Linux
    ends = {opened(child.pid): name for name, child in children.items()}
    for end in ends:
        poll.register(end, select.POLLIN)
    found = {end for end, _ in poll.poll()}
    for end in ends:
        os.close(end)
    if 0 in found:
        return 0
    name = next(name for end, name in ends.items() if end in found)
    print(style.error(ZosiaError(f"{name} {_status(children[name])}")), file=sys.stderr)
    return 2


def _status(child: Child) -> str:
    status = child.wait()
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _enter_own_network() -> None:
    """Have a network that has nothing but a loopback interface, for this process and all that it starts.

    Raises:
        ZosiaError: this system doesn't let users make one.
    """
    user, group = os.geteuid(), os.getegid()
    library = ctypes.CDLL(None, use_errno=True)
    try:
        if library.unshare(NEW_USER | NEW_NET | NEW_IPC):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for name, text in {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}.items():
            Path("/proc/self", name).write_text(text, encoding="ascii")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            asked = struct.pack("16sH14x", b"lo", 0)
            (flags,) = struct.unpack_from("16xH", fcntl.ioctl(one, GET_FLAGS, asked))
            fcntl.ioctl(one, SET_FLAGS, struct.pack("16sH14x", b"lo", flags | UP))
    except OSError as error:
        raise ZosiaError(
            f"RPC_SERVER= needs a network of its own, which this system does not let users make: {error.strerror}",
            "Leave RPC_SERVER= out",
        ) from error


def main() -> int:
    """Work for the machine that has started this."""
    return work(Native(**json.loads(os.environ.pop(MACHINE))))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ZosiaError, OSError) as error:
        sys.exit(refused(error))
