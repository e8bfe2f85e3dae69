"""The channel between host and guest, measured alone: a server that echoes in place of llama-server."""

from __future__ import annotations

import asyncio
import stat
import statistics
import time
from dataclasses import replace

from zosia.base.files import cache_root
from zosia.machine.qemu import Machine
from zosia.serve.guest import Guest
from zosia.serve.record import Counts
from zosia.serve.service import Stream
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build import cpio, llama, relay
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER, ROOT

SIZE = 20_000_000  # bytes
PIECE = 1 << 16
TURNS = 200  # of one byte


def echoing(machine: Machine) -> Machine:
    """Return the machine with bench/echo.c in place of llama-server, by appending an archive: the last one wins."""
    program, own = FOLDER / f"echo-{machine.arch}", FOLDER / "echo.cpio.gz"
    relay.build(ROOT / "bench/echo.c", program, arch=machine.arch, cache=cache_root())
    mode, data = stat.S_IFREG | 0o755, program.read_bytes()
    levels = llama.LEVELS[machine.arch]
    cpio.write_gz([cpio.Entry(name=f"bin/llama-server-{level.name}", mode=mode, data=data) for level in levels], own)
    target = FOLDER / "initramfs-echo.cpio.gz"
    target.write_bytes(machine.initramfs.read_bytes() + own.read_bytes())
    return replace(machine, initramfs=target, hot=None)


async def _read(stream: Stream, size: int) -> None:
    while size:
        got = await stream.read(min(size, PIECE))
        if not got:
            raise ConnectionError("the stream has ended")
        size -= len(got)


async def _write(stream: Stream, size: int) -> None:
    for at in range(0, size, PIECE):
        await stream.write(bytes(min(PIECE, size - at)))


async def _values(guest: Guest) -> dict[str, float]:
    async def begun(kind: bytes) -> tuple[Stream, float]:
        stream = await guest.stream()
        await stream.write(kind + SIZE.to_bytes(8, "little") if kind != b"e" else kind)
        return stream, time.monotonic()

    values = {}
    stream, start = await begun(b"d")
    await _write(stream, SIZE)
    await _read(stream, 1)
    values["there, MB/s"] = SIZE / (time.monotonic() - start) / 1e6
    stream, start = await begun(b"s")
    await _read(stream, SIZE)
    values["back, MB/s"] = SIZE / (time.monotonic() - start) / 1e6
    stream, start = await begun(b"e")
    await asyncio.gather(_write(stream, SIZE), _read(stream, SIZE))
    values["echoed, MB/s"] = SIZE / (time.monotonic() - start) / 1e6
    seen = []
    for _ in range(TURNS):
        start = time.monotonic()
        await stream.write(b"x")
        await _read(stream, 1)
        seen.append(1000 * (time.monotonic() - start))
    values["one byte and back, ms"] = statistics.median(seen)
    stream.close()
    return values


async def _run(machine: Machine) -> dict[str, float]:
    guest = Guest(machine, Counts(), ready=lambda seconds: None)
    await guest.start()
    try:
        return await _values(guest)
    finally:
        await guest.off()


def channel(settings: Settings, rounds: int) -> Section:
    """Measure how fast bytes go there and back, without HTTP and without a model at their end."""
    machine = echoing(machines.serve_machine(settings))
    ways: dict[str, Way] = {"an emulated guest": lambda: asyncio.run(_run(machine))}
    return Section(
        what=f"{SIZE // 1_000_000} MB over one stream, each way by itself and both at once, with a program in place of "
        "llama-server that only reads and writes.",
        ways=compare(ways, rounds),
    )
