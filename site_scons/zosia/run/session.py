"""One run of a machine: QEMU, its console, the guest's ports, and signals, from its start to its end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.machine import clock, host
from zosia.machine.qemu import ANSWER_PORT, STATUS_PORT, STREAMS_PORT, Machine
from zosia.machine.report import Outcome, Report
from zosia.machine.task import utf8
from zosia.run import hot
from zosia.run.emulator import Emulator, EndedError
from zosia.run.lease import BROKEN
from zosia.run.loop import Level, Loop, noted
from zosia.run.monitor import Monitor, MonitorError
from zosia.run.terminal import INTERRUPT, QUIT, RESET, SUSPEND, Keys, Output, Terminal

SILENCE = 60  # seconds (times patience) without a sign of life
TAIL = 8192  # bytes of the console that are kept
ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
SIGNALS = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, BROKEN)
KEEP = signal.SIGUSR1  # in the inbox of a loop: save the machine in the place of its chat, and end it


class Way(Protocol):
    """The difference between a machine that boots, one that is saved on its way, and one that resumes.

    With `monitored` QEMU has a monitor, and keys wait until the machine begins. With `incoming` QEMU waits for a state
    instead of booting. `errors` receives QEMU's messages; None leaves them on standard error.
    """

    monitored: bool
    incoming: bool
    errors: IO[bytes] | None

    def started(self, session: Session) -> None:
        """Act when QEMU was started."""

    def reported(self, session: Session, line: bytes) -> None:
        """Act on a line of the status port."""

    def shown(self, data: bytes) -> None:
        """Take note of what the console shows."""


class Session:
    """One run of a machine. With a terminal its console is shown there; without, only the answer, on stdout.

    A machine that serves shows neither, and is no longer watched for signs of life once it is ready.
    """

    def __init__(
        self,
        machine: Machine,
        terminal: Terminal | None,
        folder: Path,
        loop: Loop,
        way: Way,
        *,
        ready: Callable[[socket.socket], None] | None = None,
        kept: Callable[[], hot.Store | None] | None = None,
        wires: Mapping[str, socket.socket] | None = None,
        progress: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            folder: for the texts of the task; nobody else may read it.
            ready: takes the host's end of the port zosia.streams of a machine that serves, when the model is loaded.
            kept: returns where the machine is saved at its end, if KEEP is signalled; it needs a monitor.
            wires: to workers, by the ports for them.
            progress: shown on standard error, if there is no terminal.
        """
        self.terminal = terminal
        self.outcome = Outcome(Report())
        self.output = Output(loop, self._end, progress=progress and not terminal)
        args, self._sampling = hot.split(machine)
        self._machine = machine.given(llama_args=args)
        self._folder, self._loop, self._way, self._ready, self._kept = folder, loop, way, ready, kept
        self._monitor: Monitor | None = None
        self._patience, self._wires = patience(), wires
        self._clock = clock.Clock()
        self._line = b""  # the beginning of a status line

    def run(self) -> Outcome:
        """Start QEMU, and wait for its end.

        Raises:
            ZosiaError: QEMU is not installed or can't be started, or the answer can't be written.
        """
        self._start()
        try:
            self._way.started(self)
            self._loop.run(self._silent, self._beat)
        except BaseException:
            self.qemu.kill()
            raise
        finally:
            self.outcome.qemu, self.outcome.replaced = self.qemu.close()
            self._loop.clear()
        self.output.progress("")
        if self.terminal and self.outcome.report.exit is None and host.terminal()[2] != "dumb":
            self.output.show(1, RESET + b"\r\n")
        return self.outcome

    def _start(self) -> None:
        way = self._way
        self.qemu = Emulator(
            self._machine,
            self._folder,
            self._machine.ports,
            self._loop,
            wires=self._wires,
            monitored=way.monitored,
            incoming=way.incoming,
            errors=way.errors,
        )
        self._loop.stream(self.qemu.console, self._from_console, level=Level.CONSOLE)
        for name, end in self.qemu.ports.items():
            if receive := RECEIVERS.get(name):
                self._loop.stream(end, partial(receive, self), level=Level.CHANNEL)
        held = way.monitored
        self._keys = Keys(self._loop, self.qemu.console, self._command, held=held) if self.terminal else None
        self._loop.signals(self._signalled)
        self._alive()

    # ---- For the ways

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor; errors as Monitor's."""
        if self._monitor is None:
            self._monitor = Monitor(self.qemu)
        return self._monitor

    def hear(self, seconds: float) -> None:
        """Wait for the guest's next status line, to detect frozen timers; errors as Emulator.wait's."""
        self.qemu.wait(self.qemu.ports[STATUS_PORT], seconds=seconds)
        self._alive()  # however long a confirmation took: see resume.run

    def tell(self, data: bytes) -> None:
        """Send to the guest's status port; errors as Emulator.wait's, and OSError when the guest has gone."""
        status = self.qemu.ports[STATUS_PORT]
        while data:
            self.qemu.wait(status, write=True)
            data = data[status.send(data) :]

    def begin(self, *, begun: bool = False) -> None:
        """Send the guest what it needs to continue: time, entropy, sizes, sampling and question; errors as `tell`.

        One that had begun when it was saved needs the first two, and the time's zone.
        """
        if begun:
            self.tell(clock.wake())
            return
        now, zone = clock.moment()
        rows, columns, _ = host.terminal()
        task = self._machine.task
        fields, question, files = self._sampling.encode(), utf8(task.question), [utf8(file.text) for file in task.loose]
        begin = f"begin {now} {rows} {columns} {len(fields)} {len(question)} {zone} {len(files)}\n"
        self.tell(begin.encode() + fields + question + b"".join(b"%d\n%b" % (len(text), text) for text in files))
        if host.terminal()[:2] != (rows, columns):  # it has changed while the port was waited for
            self._tell_size()  # for each one, /init starts a program, beside llama-cli on its way to the prompt
        if self._keys:
            self._keys.release()
        self._alive()

    def ended(self) -> bool:
        """Return whether the run was ended from outside, by now."""
        self._loop.serve(0, below=Level.CONSOLE)
        return self._loop.ending

    # ---- Signs of life, and the end

    def _alive(self) -> None:
        """Wait for the next sign of life. At its prompt a chat may be quiet until it ends."""
        quiet = (self.terminal or self._ready) and self.outcome.report.listening
        self._loop.deadline = 0 if quiet else time.monotonic() + SILENCE * self._patience

    def _silent(self) -> None:
        self.outcome.silent = SILENCE * self._patience
        self._end()

    def _beat(self) -> None:
        """Set the guest's clock again when the time has jumped: the host has slept, or its own clock was set."""
        if self.outcome.report.listening and self._clock.jumped():
            with suppress(EndedError, OSError):  # the guest has gone
                self.tell(clock.wake())

    def _end(self, number: int = 0) -> None:
        """Pull the plug: nothing that the guest has could be lost. `number` is the signal that asked for it."""
        self.outcome.signal = self.outcome.signal or number
        self._loop.deadline = 0
        self._loop.ending = True
        self.qemu.kill()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._suspend()
        elif number in ENDING:
            self._end(number)
        elif number == BROKEN:
            self.outcome.disturbed = True
            self._end()
        elif number == KEEP:
            self._keep()
        else:
            if self.terminal:
                self.terminal.take()  # a shell's fg
            self._tell_size()

    def _keep(self) -> None:
        """Save the machine, with all that was said, and end it."""
        try:
            if self._kept and (place := self._kept()):
                place.check(self.qemu.machine)
                place.write(self.monitor.save, lambda: b"")
        except (MonitorError, ZosiaError, hot.HotError, OSError, EndedError) as error:
            self.outcome.unkept = str(error) or "QEMU has ended"
        self._end(signal.SIGTERM)

    def _suspend(self) -> None:
        """Stop the machine and this program, until a shell's fg."""
        with self.qemu.stopped(), self.terminal.given_back() if self.terminal else nullcontext():
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.killpg(0, signal.SIGTSTP)  # the whole job, as the key does it; without a shell nothing happens
            signal.signal(signal.SIGTSTP, noted)
        self._alive()

    # ---- From the terminal, and from the guest

    def _command(self, keys: bytes) -> bool:
        """Take keys that are for the host."""
        report = self.outcome.report
        listens = self._keys and not self._keys.held and (report.loading is not None or report.prompted)
        if keys == SUSPEND:
            self._suspend()
        elif keys == INTERRUPT and not listens:  # nobody in the guest takes it
            self.outcome.left = True
            self._end()
        elif keys == QUIT:
            self._end(signal.SIGQUIT)
        elif not keys:
            self._end(signal.SIGHUP)
        else:
            return False
        return True

    def _tell_size(self) -> None:
        rows, columns, _ = host.terminal()
        if self.terminal:
            with suppress(OSError):  # the guest has gone
                self.qemu.ports[STATUS_PORT].send(f"size {rows} {columns}\n".encode())

    def _from_console(self, data: bytes) -> None:
        self._way.shown(data)
        self.outcome.console = (self.outcome.console + data)[-TAIL:]
        if self.terminal or self._machine.verbose:
            self.output.show(1 if self.terminal else 2, data)

    def from_answer(self, data: bytes) -> None:
        """Show a part of the answer."""
        self.output.progress("")
        self.output.show(1, data)

    def from_status(self, data: bytes) -> None:
        """Take in a part of the guest's report."""
        *lines, self._line = (self._line + data).split(b"\n")
        report = self.outcome.report
        for line in lines:
            prompted = report.prompted  # once more after each wake
            report.take(line.decode(errors="replace"))
            self._alive()
            if self._ready and report.prompted and not prompted:
                self._ready(self.qemu.ports[STREAMS_PORT])
            if line.startswith(b"init"):
                self.qemu.forget_texts()
                self._tell_size()  # it may have changed since QEMU was started
            self._way.reported(self, line)
            self.output.note(self._machine.task.left_out(line))
            self.output.progress(report.progress)


# Receivers of what the guest sends on its virtio-serial ports.
RECEIVERS: Mapping[str, Callable[[Session, bytes], None]] = {
    STATUS_PORT: Session.from_status,
    ANSWER_PORT: Session.from_answer,
}
