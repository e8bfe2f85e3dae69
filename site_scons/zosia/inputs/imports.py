"""Import of model files that were not downloaded here, such as from a stick."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, sha256, size_text
from zosia.inputs import copies, model_files, pins, verified
from zosia.inputs.catalogue import Model
from zosia.inputs.pins import Offer, pinned
from zosia.model.header import MAGIC


@dataclass(frozen=True)
class _Wanted:
    """Form in which a model can be imported, and its path in the cache; size 0 and digest "" if unknown."""

    model: Model
    path: Path
    size: int
    sha256: str


def import_path(path: Path, catalogue: Mapping[str, Model], cache: Path) -> list[Model]:
    """Import a file, or every .gguf in a folder; return the models of the catalogue that they are, or are parts of.

    Raises:
        ZosiaError: as `import_file`; or the folder has no .gguf.
    """
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if not files:
        raise ZosiaError(f"{path} has no .gguf", "Type: scons import-model FILE=path of a .gguf, or of its folder")
    names = dict.fromkeys(import_file(file, catalogue, cache).name for file in files)
    return [catalogue[name] for name in names]


def import_file(path: Path, catalogue: Mapping[str, Model], cache: Path) -> Model:
    """Copy a .gguf, or the wheel that contains one, into the cache, as the model or part of the catalogue that it is.

    A model without a pin is recognized by its file name, and pinned to this file.

    Raises:
        ZosiaError: the file can't be read, is not a model of the catalogue, or is damaged.
    """
    if not path.is_file():
        raise ZosiaError(f"{path} is not a file", "Type: scons import-model FILE=path of a .gguf")
    known = [part for model in catalogue.values() for part in pinned(model, cache).files]
    wanted = _wanted(path, known, cache)
    model = wanted.model
    with model_files.exclusive(model, cache):
        here = verified.read(model_files.place_of(model, cache), model.gguf_sha256)
        if here:
            if path.name != wanted.path.name:  # recognized by its size only
                _check(path, wanted, _digest(path))
            style.say("HERE", f"{model.name} is already in the cache: {here}")
            return model
        if wanted.path == model_files.place_of(model, cache):
            _check_magic(path)
        style.say("COPY", f"{path} as {model.name} ({size_text(path.stat().st_size)})")
        with replacing(wanted.path) as temporary:
            found = copies.copy(path, temporary)
            _check(path, wanted, found)
        if not wanted.sha256:
            offer = Offer(sha256=found, size=wanted.path.stat().st_size)
            model = pins.pin(model, cache, offer, f"computed from {path}, which nothing else confirms")
            model_files.adopt(wanted.path, model, cache)
        elif wanted.path == model_files.place_of(model, cache):
            verified.write(wanted.path, wanted.path, found)
        model_files.part_of(wanted.path).unlink(missing_ok=True)
    return model


def _check(path: Path, wanted: _Wanted, found: str) -> None:
    """Refuse a file whose digest `found` is not the expected one."""
    if wanted.sha256 and found != wanted.sha256:
        raise ZosiaError(
            f"{path} is not {wanted.model.name}: its SHA-256 is {found}, expected {wanted.sha256}",
            f"Copy it again, or, to use it anyway, type: scons run MODEL={shlex.quote(str(path))}",
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
    """Recognize a file by its size, then its name, and its digest only if these are not enough.

    A form without a digest is recognized by its name, and by its size if that is known.
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
    unknown = f"To use it anyway, type: scons run MODEL={shlex.quote(str(path))}"
    if named:
        raise ZosiaError(
            f"{path} is not {named[0].model.name}: it has {size} bytes, expected {named[0].size}",
            f"Copy it again. {unknown}",
        )
    raise ZosiaError(f"{path} is not a model of the catalogue (scons models)", unknown)


def _forms(model: Model, cache: Path) -> list[_Wanted]:
    """Return the forms in which a model can be imported."""
    gguf = _Wanted(model, model_files.place_of(model, cache), model.gguf_size, model.gguf_sha256)
    return (
        [gguf, _Wanted(model, model_files.wheel_of(model, cache), model.size, model.sha256)] if model.member else [gguf]
    )
