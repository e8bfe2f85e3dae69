"""Note before a first build: how long it takes, and how much is downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from zosia.base.errors import ZosiaError
from zosia.base.files import size_text
from zosia_build import doctor
from zosia_build.settings import Build

# What is compiled, by the label of its step, and the minutes that it takes without ccache. Buildroot makes its own
# toolchain.
COMPILED = {"LINUX": ("the kernel", 5), "BUILDROOT": ("Buildroot", 60), "LLAMA": ("llama.cpp", 5)}
TIMED_ON = 2  # cores


def notes(build: Build, steps: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield what is worth saying of the first steps of a build, if something is compiled: targets by label."""
    compiled = [label for label in COMPILED if label in steps]
    if not compiled:
        return
    names = " and ".join(COMPILED[label][0] for label in compiled)
    minutes = sum(COMPILED[label][1] * len(steps[label]) for label in compiled)
    here = -(-minutes * TIMED_ON // build.jobs)
    yield f"the first build compiles {names}: about {here} min on this machine. Later runs take seconds"
    with suppress(ZosiaError):  # a step reports it
        pins = list(doctor.to_fetch(build, doctor.Todo(steps=steps)))
        if pins:
            yield f"it downloads {size_text(sum(pin.size for pin in pins))}"
