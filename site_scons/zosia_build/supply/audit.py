"""Audit of the pins: which are old, and which have known flaws, as far as today's lists say so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import Pin
from zosia_build.release import licences
from zosia_build.supply import today, tracker

HEADER = ("INPUT", "PINNED", "TODAY", "STATE")
# Origins each of whose pins would wait in vain for what one could not reach, and what the message of that one has.
UNREACHABLE = {"hub": "could not be fetched", "debian": "could not be brought up to date"}
SHOWN = 3  # names of flaws in a line
SHORT = 24  # characters of a version; those of the hub are commits


def report(sources: Mapping[str, Pin], models: Mapping[str, Pin], cache: Path) -> str:
    """Return what today's lists say of the pins, as a table and lines; what can't be asked is said to be unknown."""
    pins = [*sources.values(), *models.values()]
    rows, unknown = [HEADER], dict[str, list[str]]()
    away = dict[str, str]()  # why, by origin
    for pin in pins:
        try:
            if pin.origin in away:
                raise ZosiaError(away[pin.origin])
            rows.append(_row(pin, today.of(pin, cache)))
        except ZosiaError as error:
            rows.append((pin.name, pin.version[:SHORT], "?", "unknown"))
            unknown.setdefault(error.message, []).append(pin.name)
            if pin.origin in UNREACHABLE and UNREACHABLE[pin.origin] in error.message:
                away[pin.origin] = error.message
    lines = [f"Unknown of {', '.join(names)}: {why}" for why, names in unknown.items()]
    return "\n".join([*style.columns(rows), "", *lines, *_python(), *_flaws(sources.values())])


def _row(pin: Pin, now: today.Today) -> tuple[str, str, str, str]:
    state = "current"
    if now.version != pin.version:
        state = f"a security update; type: scons repin {pin.name}" if now.security else "newer"
        state = "older than the pin" if today.older(now.version, pin) else state
    return pin.name, pin.version[:SHORT], now.version[:SHORT], state


def _python() -> Iterator[str]:
    try:
        old = today.outdated()
    except ZosiaError as error:
        yield f"Unknown of the Python packages: {error.message}"
        return
    if not old:
        yield "The Python packages are the newest."
    for name, (here, newest) in sorted(old.items()):
        yield f"The Python package {name} is {here}, and the index has {newest}"


def _flaws(pins: Collection[Pin]) -> Iterator[str]:
    """Yield a line for each source package of Debian with known flaws; nobody tells of the other inputs' flaws here."""
    try:
        known = tracker.data()
    except ZosiaError as error:
        yield f"Unproven which flaws are known: {error.message}"
        return
    for part in licences.PARTS:
        used = [pin for pin in licences.used(part, pins) if pin.origin == "debian"]
        for version in sorted({licences.source_version(pin) for pin in used} if part.source else ()):
            found = tracker.flaws(known, part.source, version)
            fixed = f"{len(found.fixed)} fixed in a newer version{_some(found.fixed)}"
            yield f"Flaws of {part.source} {version}: {fixed}, {len(found.open)} not fixed yet{_some(found.open)}"
    yield "Unproven: flaws of llama.cpp, upstream's Linux, Buildroot and the Python packages. No list of them is read."


def _some(names: Collection[str]) -> str:
    shown = ", ".join([*names][:SHOWN])
    return f" ({shown}{', …' if len(names) > SHOWN else ''})" if names else ""
