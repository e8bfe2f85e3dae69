"""The ways to a prompt: a machine boots; it boots and is saved when the model is loaded; or it resumes from there."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import IO

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.machine.boards import Maps
from zosia.machine.qemu import Machine
from zosia.machine.report import Outcome
from zosia.machine.task import Mode
from zosia.run import hot
from zosia.run.emulator import EndedError
from zosia.run.hot import DamagedError, HotError, RefutedError, Store
from zosia.run.loop import Loop
from zosia.run.monitor import GoneError, Monitor, MonitorError
from zosia.run.session import Session, Way
from zosia.run.terminal import Terminal

LABEL = "HOT"
FRAMES = re.compile(rb"\r[^\r\n\x1b]*\x1b\[K")  # how far it has loaded, drawn again and again, and at last taken away
NEXT = {False: "This one boots", True: "The chat is evaluated again"}
AWAKE = 5  # seconds that a resumed guest has for its first word
ANY = "linux"  # a TERM for the console of a guest of which only the answer is shown: that of most chats


def run(
    machine: Machine,
    terminal: Terminal | None,
    folder: Path,
    loop: Loop,
    ready: Callable[[socket.socket], None] | None = None,
    *,
    kept: Callable[[Store], Store | None] | None = None,
    confirm: Iterator[None] | None = None,
    progress: bool = True,
) -> Outcome:
    """Run the machine, from its saved state where there is one that fits, else from its start.

    With `confirm` it may be the wrong one. It is asked twice: for what takes long, while QEMU starts, and before
    anything is shown; then it may raise RefutedError. A machine that can't be resumed is refuted here.

    Other arguments and errors are those of Session. `kept` returns the place for a machine with a chat in it, which is
    like that of another state of the machine, or None; it is tried first.
    """
    keep: Callable[[], Store | None] | None = None

    def session(way: Way, wires: Mapping[str, socket.socket] | None = None) -> Session:
        kept = keep if way.monitored else None
        return Session(machine, terminal, folder, loop, way, ready=ready, kept=kept, wires=wires, progress=progress)

    if machine.task.workers:  # a wire can't be saved
        from zosia.run.workers import near  # most runs do without

        return near.run(machine, terminal, loop, partial(session, Cold()))
    cold = session(Cold())
    # A diagnosis boots, and VERBOSE=1 is there to show how.
    states = machine.hot
    if states is None or machine.task.mode not in (Mode.CHAT, Mode.SERVE) or machine.verbose:
        return cold.run()
    machine = machine if terminal else machine.given(terminal=(*machine.terminal[:2], ANY))
    try:
        store = hot.store(machine, states)
    except OSError:  # QEMU will say what it can't read
        if confirm:
            raise RefutedError from None
        return cold.run()
    keep = partial(kept, store) if kept else None
    place = keep() if keep else None
    for source in (place, store):
        if source is None or store.refused or not (state := source.open()):
            continue
        with state, (folder / "errors").open("w+b") as errors:
            resumed = session(Resuming(source, state, errors, begun=source is place, confirm=confirm))
            try:
                outcome = resumed.run()
                errors.seek(0)
                resumed.output.show(2, errors.read())
                return outcome
            except HotError as error:
                _say(terminal, f"the saved machine is not used: {error}. {NEXT[source is place]}")
    if confirm:
        raise RefutedError
    if store.refused:
        return cold.run()
    return session(Saving(store, quick=hot.quick(machine))).run()


@contextmanager
def checking(file: IO[bytes], key: str) -> Iterator[Callable[[], bytes]]:
    """Check a file in another thread, and yield a function that waits for the result: the console's text.

    Raises:
        DamagedError: the function, and the end of the block, as hot.check. No other error of the block counts then.
        OSError: likewise, if it can't be read.
    """
    texts: list[bytes] = []
    errors: list[Exception] = []

    def look() -> None:
        try:
            texts.append(hot.check(file, key)[1])
        except (HotError, OSError) as error:
            errors.append(error)

    def checked() -> bytes:
        thread.join()
        for error in errors:
            raise error
        return texts[0]

    thread = Thread(target=look)
    thread.start()
    try:
        yield checked
    finally:
        checked()


def _say(terminal: Terminal | None, text: str) -> None:
    with terminal.given_back() if terminal else nullcontext():
        style.say(LABEL, text)


class Cold:
    """A machine that boots, and begins as soon as the model is loaded."""

    monitored, incoming = False, False
    errors: IO[bytes] | None = None

    def started(self, session: Session) -> None:
        """Do nothing."""

    def reported(self, session: Session, line: bytes) -> None:
        """Begin."""
        if line.startswith(b"loaded"):
            with suppress(EndedError, OSError):  # the guest has gone
                session.begin()

    def shown(self, data: bytes) -> None:
        """Keep nothing."""


class Saving:
    """A machine that boots, and is saved on its way, if that is worth it."""

    monitored, incoming = True, False
    errors: IO[bytes] | None = None

    def __init__(self, store: Store, *, quick: bool) -> None:
        """Save to `store`; a `quick` machine warms up before, and evaluates what all chats begin with."""
        self._store, self._quick = store, quick
        self._shown = b""
        self._begun = False

    def started(self, session: Session) -> None:
        """Do nothing."""

    def shown(self, data: bytes) -> None:
        """Keep what the console shows until it is saved."""
        if not self._begun:
            self._shown = FRAMES.sub(b"", self._shown + data)

    def reported(self, session: Session, line: bytes) -> None:
        """Warm the machine up, save it, and begin."""
        word, _, used = line.partition(b" ")
        if word not in (b"loaded", b"warmed"):
            return
        worth = used.isdigit() and self._store.worth(int(used) << 10)
        with suppress(EndedError, OSError):  # the guest has gone
            if worth and word == b"loaded" and self._quick:
                session.tell(b"warm\n")
                return
            if worth:
                self._save(session)
            self._begun = True
            session.begin()

    def _save(self, session: Session) -> None:
        def console() -> bytes:
            session.qemu.read_console()
            return self._shown

        monitor, problem = None, ""
        try:
            monitor = session.monitor
            self._store.check(session.qemu.machine)
            self._store.write(monitor.save, console)
        except (MonitorError, ZosiaError, HotError, OSError) as error:
            problem = str(error)
            if isinstance(error, MonitorError) and not isinstance(error, GoneError):
                self._store.refuse(problem)
        if problem:
            with suppress(OSError):  # standard error is closed
                _say(session.terminal, f"this machine is not saved for the next start: {problem}")
        if monitor:
            with suppress(MonitorError, OSError):  # it has ended, or is stuck
                monitor.command("cont")


class Resuming:
    """A machine that resumes where it was saved."""

    monitored, incoming = True, True
    errors: IO[bytes] | None

    def __init__(
        self,
        store: Store,
        state: IO[bytes],
        errors: IO[bytes],
        *,
        begun: bool = False,
        confirm: Iterator[None] | None = None,
    ) -> None:
        """Resume from `state`, an open file of `store`; `errors` is for QEMU's messages.

        A machine that had `begun` when it was saved does not wait for what it is asked.
        """
        self._store, self._state, self._begun = store, state, begun
        self.errors = self._errors = errors
        self._confirm = confirm or iter(())
        self._monitor: Monitor | None = None

    def started(self, session: Session) -> None:
        """Load the state.

        Raises:
            HotError: it can't be used now; nothing was answered, and at most the banner was shown.
        """
        try:
            self._load(session)
        except EndedError:
            return
        except (HotError, MonitorError, OSError) as error:
            if session.ended():
                return
            status, reason = session.qemu.give_up(), str(error)
            if isinstance(error, DamagedError):
                self._store.discard()
                raise  # what QEMU says of a state that was cut off is of no use
            if isinstance(error, MonitorError) and self._monitor and (status > 0 or not isinstance(error, GoneError)):
                self._store.discard()  # it was whole, and QEMU does not take it: the next one would be no better
                if not self._begun:
                    self._store.refuse(reason)
            raise HotError(f"{reason}{self._last_words()}") from error

    def _load(self, session: Session) -> None:
        sealed = self._store.parts(self._state)
        # QEMU starts meanwhile, and takes in the memory.
        with nullcontext(bytes) if sealed else checking(self._state, self._store.key) as checked:
            next(self._confirm, None)
            self._monitor = monitor = session.monitor
            session.qemu.forget_texts()
            self._store.check(session.qemu.machine)  # QEMU has opened its files
            if sealed:
                monitor.feed(sealed)
            else:
                monitor.load(self._state.fileno(), hot.extent(self._state), checked)
            console = checked()
        monitor.command("cont")
        session.begin(begun=self._begun)  # it wakes while the rest is found out
        with session.terminal.given_back() if session.terminal else nullcontext():
            next(self._confirm, None)
        session.outcome.console = console
        if session.terminal:
            session.output.show(1, console)
        try:
            session.hear(AWAKE)  # it has slept a moment: with some machines the timers stand still
        except TimeoutError as error:
            raise MonitorError("the guest does not wake up") from error

    def reported(self, session: Session, line: bytes) -> None:
        """End a machine that can't power off by itself."""
        # Linux asks a virtio-pmem once more before it powers off, and waits: a resumed one never answers, for QEMU
        # saves nothing of it. So it is the host that ends such a machine, when the guest has reported all.
        machine = session.qemu.machine
        virtio_pmem = machine.pmem and machine.board.maps is Maps.VIRTIO_PMEM
        if line.startswith(b"exit ") and virtio_pmem and self._monitor:
            with suppress(MonitorError, EndedError, OSError):
                self._monitor.command("quit")

    def shown(self, data: bytes) -> None:
        """Keep nothing."""

    def _last_words(self) -> str:
        self._errors.seek(0)
        *_, last = ["", *self._errors.read().decode(errors="replace").strip().splitlines()]
        return f" ({last})" if last else ""
