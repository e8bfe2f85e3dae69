"""Model files that come another way than over the network, on a stick for example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, sha256, size_text
from zosia.inputs import copies, model_files, pins, verified
from zosia.inputs.catalogue import Model
from zosia.inputs.pins import Offer, pinned
from zosia.model.shape import MAGIC


@dataclass(frozen=True)
class _Wanted:
    """A file that a model can be imported as, and its place; size 0 and no digest where they are not known."""

    model: Model
    path: Path
    size: int
    sha256: str


def import_file(path: Path, catalogue: Mapping[str, Model], cache: Path) -> Model:
    """Take a file that came another way into the cache, as the model that it is: a .gguf, or the wheel around one.

    A model that is pinned nowhere is known by the name of its file, and pinned to what the file is.

    Raises:
        ZosiaError: it can't be read, is no model of the catalogue, or not as it should be.
    """
    if not path.is_file():
        raise ZosiaError(f"{path} is no file", "Type: scons import-model FILE=path of a .gguf")
    wanted = _wanted(path, [pinned(model, cache) for model in catalogue.values()], cache)
    model = wanted.model
    with model_files.alone(model, cache):
        here = verified.read(model_files.place_of(model, cache), model.gguf_sha256)
        if here:
            if path.name != wanted.path.name:  # then only its size says what it is
                _check(path, wanted, _digest(path))
            style.say("HERE", f"{model.name} is here already: {here}")
            return model
        if wanted.path == model_files.place_of(model, cache):
            _check_magic(path)
        style.say("COPY", f"{path} as {model.name} ({size_text(path.stat().st_size)})")
        with replacing(wanted.path) as temporary:
            found = copies.copy(path, temporary)
            _check(path, wanted, found)
        if not wanted.sha256:
            offer = Offer(sha256=found, size=wanted.path.stat().st_size)
            model = pins.pin(model, cache, offer, f"as {path} has it, and nothing else vouches for it")
            model_files.adopt(wanted.path, model, cache)
        elif wanted.path == model_files.place_of(model, cache):
            verified.write(wanted.path, wanted.path, found)
        model_files.part_of(wanted.path).unlink(missing_ok=True)
    return model


def _check(path: Path, wanted: _Wanted, found: str) -> None:
    """Refuse a file with the digest `found` that is not the one that is wanted."""
    if wanted.sha256 and found != wanted.sha256:
        raise ZosiaError(
            f"{path} is not {wanted.model.name}: it has the SHA-256 {found}, not {wanted.sha256}",
            f"Copy it again, or, to use it as it is, name it: MODEL={path}",
        )


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            first = file.read(len(MAGIC))
    except OSError as error:
        raise copies.unreadable(path, error) from error
    if first != MAGIC:
        raise ZosiaError(f"{path} is no GGUF file: it begins with {first!r}", "Copy it again")


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise copies.unreadable(path, error) from error


def _wanted(path: Path, known: list[Model], cache: Path) -> _Wanted:
    """What a file is to be, by its size, then its name, and its digest only where these are not enough.

    Without a digest to compare with, only the name tells what it is; and a size, if one is known, has to be right.
    """
    every = [form for model in known for form in _forms(model, cache)]
    size = path.stat().st_size
    if not size:
        raise ZosiaError(f"{path} is empty", "Copy it again")
    named = [form for form in every if form.path.name == path.name]
    fitting = [form for form in every if form.size == size and (form.sha256 or form in named)]
    fitting = fitting or [form for form in named if not form.size]
    if len(fitting) > 1:
        fitting = [form for form in fitting if form in named] or fitting
    if len(fitting) > 1:
        digest = _digest(path)
        fitting = [form for form in fitting if form.sha256 == digest]
    if fitting:
        return fitting[0]
    unknown = f"To use it as it is, name it: MODEL={path}"
    if named:
        raise ZosiaError(
            f"{path} is not {named[0].model.name}: it has {size} bytes, not {named[0].size}",
            f"Copy it again. {unknown}",
        )
    raise ZosiaError(f"{path} is no model of the catalogue (scons models)", unknown)


def _forms(model: Model, cache: Path) -> list[_Wanted]:
    """The files that a model can be imported as."""
    gguf = _Wanted(model, model_files.place_of(model, cache), model.gguf_size, model.gguf_sha256)
    return (
        [gguf, _Wanted(model, model_files.wheel_of(model, cache), model.size, model.sha256)] if model.member else [gguf]
    )
