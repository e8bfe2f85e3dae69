"""Far end: a guest that computes for another machine, over standard input and output, or over a UNIX socket."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from zosia.base import style
from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.base.files import temporary_folder
from zosia.base.patience import patience
from zosia.base.version import VERSION
from zosia.machine.qemu import Machine
from zosia.machine.report import ending
from zosia.run import resume, supervisor
from zosia.run.loop import CHUNK, Loop
from zosia.run.session import SIGNALS
from zosia.run.workers import speeds, wire
from zosia.run.workers.near import ANSWERS, LABEL, MACHINE
from zosia.run.workers.wire import Offer, Order, Ready, SilenceError

PLANS = 4  # times ANSWERS: meanwhile the other machine asks its other workers


def work(offer: Offer, machine_of: Callable[[Order], Machine]) -> int:
    """Offer a guest on standard input and output, run it until the other end hangs up, and return the exit status.

    Args:
        machine_of: returns the machine that is ordered.

    Raises:
        ZosiaError: the other end orders nothing that makes sense. Later errors are told to it.
    """
    try:
        order = ordered(offer)
    except SilenceError:  # it wanted to know the offer
        return 0
    loop = Loop()
    loop.catch(SIGNALS)
    try:
        if order.memory > offer.memory:
            raise ZosiaError(f"{order.memory} MiB were ordered, and it has {offer.memory} MiB for a guest")
        machine = machine_of(order)
        carrier = Carrier(Ready(weights=machine.task.has_weights))
        with temporary_folder() as folder:
            outcome = resume.run(machine, None, folder, loop, carrier.carry)
    except ZosiaError as failure:
        return fails(str(failure))
    if outcome.report.speed:
        speeds.note(speeds.of(machine), outcome.report.speed)
    status, error = ending(outcome)
    if carrier.hung_up:
        return 0
    if error and not carrier.ready:
        return fails(str(error))
    if error:
        print(style.error(error), file=sys.stderr)
    return status


def ordered(offer: Offer) -> Order:
    """Make an offer, and return what is ordered; errors as wire.hear and wire.read."""
    tell(vars(offer))
    return wire.read(Order, wire.hear(partial(os.read, 0), _waits, PLANS * ANSWERS * patience()))


def _waits(seconds: float) -> bool:
    return bool(select.select([0], [], [], max(0.0, seconds))[0])


def tell(said: dict[str, object]) -> None:
    """Tell the other end a line."""
    with suppress(OSError):  # it has hung up
        os.write(1, wire.line(said))


def fails(reason: str) -> int:
    """Tell the other end why this worker can't be started, and return the exit status."""
    tell(vars(Ready(error=reason[:1000])))
    return 2


class Carrier:
    """Carrier of bytes between standard input and output and the guest's port, from when the guest is ready."""

    def __init__(self, result: Ready) -> None:
        """Carry nothing yet; `result` is what the other end is told."""
        self._result = result
        self.ready = self.hung_up = False

    def carry(self, port: socket.socket) -> None:
        """Tell the other end that the guest is ready, and carry in the background until one of them has gone."""
        self.ready = True
        end = port.dup()
        end.setblocking(True)
        tell(vars(self._result))
        style.say(LABEL, "ready")
        threading.Thread(target=self._to_guest, args=(end,), daemon=True).start()
        threading.Thread(target=_from_guest, args=(end,), daemon=True).start()

    def _to_guest(self, end: socket.socket) -> None:
        with suppress(OSError):
            while data := os.read(0, CHUNK):
                end.sendall(data)
            self.hung_up = True
        os.kill(os.getpid(), signal.SIGTERM)


def _from_guest(end: socket.socket) -> None:
    with suppress(OSError):
        while data := end.recv(CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]


def listen(path: Path, argv: Sequence[str]) -> int:
    """Offer a guest at a UNIX socket, to one machine at a time, until Ctrl+C; return the exit status.

    Args:
        argv: a program that offers a guest on its standard input and output.

    Raises:
        ZosiaError: the socket can't be made.
    """
    with socket.socket(socket.AF_UNIX) as server:
        _bind(server, path)
        style.say(LABEL, f"offered at {path}; Ctrl+C ends it")
        try:
            while True:
                connection, _ = server.accept()
                with connection:
                    child = Child(argv, stdin=connection, stdout=connection)
                child.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            path.unlink(missing_ok=True)


def main() -> int:
    """Work for the machine that has started this, on the same host."""
    machine = supervisor.from_json(os.environ.pop(MACHINE))
    speed = speeds.recall(speeds.of(machine))
    return work(Offer(version=VERSION, memory=machine.memory, speed=speed), lambda order: machine)


def _bind(server: socket.socket, path: Path) -> None:
    """Listen at a path that only this user can reach; a socket that nobody listens at any more is replaced."""
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as one:
                one.setblocking(False)
                if one.connect_ex(str(path)) not in (0, errno.EAGAIN):  # its queue may be full
                    path.unlink()
        mask = os.umask(0o177)
        try:
            server.bind(str(path))
        finally:
            os.umask(mask)
        server.listen(1)
    except OSError as error:
        raise ZosiaError(f"The socket {path} can't be made: {error.strerror or error}", "Give another path") from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ZosiaError as error:
        print(style.error(error), file=sys.stderr)
        sys.exit(2)
