"""Whether an accelerator that can be opened runs a guest, too: one is started, and has to answer soon.

Opening /dev/kvm proves little. Inside of another virtual machine it may open, make a guest, and then never bring a
kernel through its first instructions.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import selectors
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import ZosiaError
from .files import replacing
from .host import patience
from .machine import Machine
from .process import find

ANSWER = b"Linux version"
# Seconds (times host.patience) that a guest has. The second try is for what starts slowly for the first time, and for
# small computers: what they would lose by a mistake is a factor of ten or more.
TRIES = (1.0, 4.0)
TCG_TRIES = (30.0,)  # emulated; there is nothing else to fall back to
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of the host


def failure(machine: Machine, cache: Path, *, dry_run: bool = False, tries: Sequence[float] | None = None) -> str:
    """Why this machine's accelerator runs no guest here; "" when it does.

    Remembered for this QEMU and this kernel until the host starts again (macOS: until it is updated).

    Args:
        machine: one whose kernel shows its messages.
        dry_run: nothing is started; what is not known counts as working.
        tries: seconds that each try has, if not those of TRIES.
    """
    kernel = hashlib.sha256(os.fsencode(machine.kernel.absolute())).hexdigest()[:8]  # each base has its own
    memory = cache / "probes" / f"{machine.accel.value}-{machine.board.value}-{kernel}.json"
    files = [path.stat() for path in (Path(find(f"qemu-system-{machine.arch}")), machine.kernel)]
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    host = [platform.release(), boot, *(part for file in files for part in (file.st_mtime_ns, file.st_size))]
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["host"] == host:
            return str(known["failure"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first time, or damaged
    if dry_run:
        return ""
    found = ""
    for seconds in tries or TRIES:
        found = _boot(machine, seconds * patience())
        if not found:
            break
    with suppress(OSError, ZosiaError), replacing(memory) as temporary:  # it can be tried again where nothing is kept
        temporary.write_text(json.dumps({"host": host, "failure": found}) + "\n", encoding="utf-8")
    return found


def _boot(machine: Machine, seconds: float) -> str:
    """Start the machine and wait for its first words; why they did not come."""
    program, *arguments = machine.argv(Path(os.devnull))
    shown, deadline = b"", time.monotonic() + seconds
    with (
        subprocess.Popen(
            [find(program), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as qemu,
        selectors.DefaultSelector() as selector,
    ):
        assert qemu.stdout
        selector.register(qemu.stdout, selectors.EVENT_READ)
        try:
            while selector.select(max(0.0, deadline - time.monotonic())):
                part = os.read(qemu.stdout.fileno(), 4096)
                shown += part
                if ANSWER in shown:
                    return ""
                if not part:
                    *_, said = ["", *shown.decode(errors="replace").strip().splitlines()]
                    reason = said.removeprefix(f"{program}: ").rstrip(".")
                    return f"QEMU ended at once{f' ({reason})' if reason else ''}"
        finally:
            qemu.kill()
    return f"a guest said nothing for {seconds:.0f} s"
