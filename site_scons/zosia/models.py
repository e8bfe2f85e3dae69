"""The model files in the cache.

In the cache: models/SHA256/FILE is the .gguf, and FILE.json beside it names the file that was verified, this one or one
of the person's own Hugging Face cache, which is used where it lies. A wheel with a model in it lies in downloads/.
"""

from __future__ import annotations

import glob
import hashlib
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from . import copies, pins, verified
from .catalogue import Model
from .errors import ZosiaError
from .files import check_room, locked, replacing, sha256, size_text
from .pins import Offer, pinned

# hub, inputs and archives, which are slow to import, are imported where a file is not here.

__all__ = ["Stored", "import_file", "model_file", "pinned", "remove", "stored", "strays"]

MAGIC = b"GGUF"  # the first bytes of a .gguf (ggml/docs/gguf.md)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A model that is here, or a part of it; `size` is the bytes that `remove` would free.

    A file of a Hugging Face cache that was not used yet is told by its name and size, and verified when it is.
    """

    model: Model
    path: Path
    size: int
    state: str  # here, Hugging Face cache, elsewhere, partial


@dataclass(frozen=True)
class _Wanted:
    """A file that a model can be imported as, and its place; size 0 and no digest where they are not known."""

    model: Model
    path: Path
    size: int
    sha256: str


def model_file(model: Model, cache: Path) -> Path:
    """The .gguf of a model of the catalogue, verified: from the cache, a Hugging Face cache, or its origin.

    Raises:
        ZosiaError: it can't be had, or is not what it should be.
    """
    with _alone(model, cache):
        known, offer = pinned(model, cache), None
        if not known.sha256:
            known, offer = _first_seen(model, cache)
        place = _place(known, cache)
        good = verified.read(place, known.gguf_sha256)
        if good:
            return good
        if place.is_file():
            if _verify(place, known, place):
                return place
            print(f"  BAD   {place} is damaged, and fetched again", file=sys.stderr)
            place.unlink()
        found = _in_hub_cache(known, place)
        if not found:
            if known.origin == "hub":
                _bring_from_hub(known, place, cache, offer, recorded=not model.sha256)
            else:
                _bring(known, place, cache)
            verified.write(place, place, known.gguf_sha256)
        return found or place


def _first_seen(model: Model, cache: Path) -> tuple[Model, Offer | None]:
    """Pin a model that nobody did: by the Hugging Face cache, by what the hub says, or else by what it sends."""
    from . import hub

    for path in hub.cached(model):
        offer = hub.cached_offer(path)
        if not (offer.sha256 and offer.size) or model.size not in (0, offer.size):
            continue
        known = replace(model, size=offer.size, sha256=offer.sha256)
        if _usable(path, known, _place(known, cache)):
            return pins.pin(model, cache, offer, "as the Hugging Face cache has it"), None
    offer = hub.ask(model)
    pins.check(model, offer, cache, recorded=False)
    offer = replace(offer, size=offer.size or model.size)
    if not offer.size:
        raise ZosiaError(
            f"The hub does not say the size of {model.file}",
            f"Write size and sha256 into the entry [{model.name}] of models.toml",
        )
    if offer.sha256:
        return pins.pin(model, cache, offer, "as the hub says now"), offer
    arrived = _place(model, cache)
    for old in _files(model, cache):
        old.unlink()  # there is no telling whether it is of the same one
    hub.bring(replace(model, size=offer.size), arrived, commit=offer.commit)
    offer = replace(offer, sha256=sha256(arrived))
    known = pins.pin(model, cache, offer, "as it came from the hub, which gives no digest")
    _adopt(arrived, known, cache)
    return known, None


def _adopt(arrived: Path, known: Model, cache: Path) -> None:
    """Give a file whose digest is known only now its place."""
    place = _place(known, cache)
    place.parent.mkdir(parents=True, exist_ok=True)
    arrived.replace(place)
    verified.write(place, place, known.gguf_sha256)


def _in_hub_cache(model: Model, place: Path) -> Path | None:
    if model.origin != "hub":
        return None
    from . import hub

    for path in hub.cached(model):
        if _usable(path, model, place):
            return path
        print(f"  BAD   {path} is not {model.name}, damaged or unreadable; it is left as it is", file=sys.stderr)
    return None


def _bring_from_hub(model: Model, place: Path, cache: Path, offer: Offer | None, *, recorded: bool) -> None:
    """`offer` is what the hub said, if it was asked already; `recorded`, whether the pin is one of the cache."""
    from . import hub

    offer = offer or hub.ask(model)
    pins.check(model, offer, cache, recorded=recorded)
    hub.bring(model, place, commit=offer.commit)


def _bring(model: Model, place: Path, cache: Path) -> None:
    from . import archives, inputs

    if not model.member:
        inputs.bring(model, place, cache)
        return
    archive = inputs.fetch(model, cache).path
    place.parent.mkdir(parents=True, exist_ok=True)
    check_room(place.parent, model.gguf_size, place.name)
    archives.extract_file(archive, model.member, place)
    found = sha256(place)
    if found != model.gguf_sha256:
        place.unlink()
        raise ZosiaError(f"{model.member} in {archive.name} has the SHA-256 {found}, not {model.gguf_sha256}")


def _verify(path: Path, model: Model, place: Path) -> bool:
    return verified.verify(path, place, size=model.gguf_size, digest=model.gguf_sha256)


def _usable(path: Path, model: Model, place: Path) -> bool:
    """Whether a file that is not the cache's own can be used."""
    try:
        return _verify(path, model, place)
    except verified.Unreadable:
        return False


def _alone(model: Model, cache: Path) -> AbstractContextManager[None]:
    return locked(cache / "models" / model.name)


def _place(model: Model, cache: Path) -> Path:
    """Where the .gguf is, or would be; before its digest is known, where it arrives."""
    digest = model.gguf_sha256 or hashlib.sha256("\n".join(pins.entry_of(model)).encode()).hexdigest()
    return cache / "models" / digest / Path(model.member or model.file).name


def _wheel(model: Model, cache: Path) -> Path:
    """Where the archive with the .gguf in it is, or would be."""
    return cache / "downloads" / model.sha256 / model.file


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _files(model: Model, cache: Path) -> list[Path]:
    """All that the cache holds of a model, whole or not."""
    place = _place(model, cache)
    wanted = [place, _part(place)]
    if model.member:
        wanted += [_wheel(model, cache), _part(_wheel(model, cache))]
    left = place.parent.glob(f".{glob.escape(place.name)}.*")  # by an import that was killed
    return [path for path in [*wanted, *left] if path.is_file()]


def stored(models: Mapping[str, Model], cache: Path) -> list[Stored]:
    """The models of which something is in the cache, or that were found in a Hugging Face cache."""
    found = []
    for model in [pinned(model, cache) for model in models.values()]:
        place, files = _place(model, cache), _files(model, cache)
        good = place if place.is_file() else _elsewhere(model, place)
        path = good or next(iter(files), None)
        if path:
            state = "partial" if not good else "here" if good == place else _owner(good)
            found.append(Stored(model=model, path=path, size=sum(file.stat().st_size for file in files), state=state))
    return found


def strays(models: Mapping[str, Model], cache: Path) -> list[tuple[Path, int]]:
    """Files of models/ that belong to no model of the catalogue, with their bytes: an entry was another one before."""
    known = {path for model in models.values() for path in _files(pinned(model, cache), cache)}
    others = [path for path in (cache / "models").glob("*/*") if path.suffix not in (".json", ".lock")]
    return sorted((path, path.stat().st_size) for path in others if path.is_file() and path not in known)


def _elsewhere(model: Model, place: Path) -> Path | None:
    """The file that was verified for a place, or one of the Hugging Face cache that will be."""
    used = verified.read(place, model.gguf_sha256)
    if used and used != place:
        return used
    if model.origin != "hub":
        return None
    from . import hub

    return next((path for path in hub.cached(model) if model.size in (0, path.stat().st_size)), None)


def _owner(path: Path) -> str:
    from . import hub

    return "Hugging Face cache" if hub.owns(path) else "elsewhere"


def remove(model: Model, cache: Path) -> int:
    """Remove what the cache holds of a model, whole or not, and give the bytes that this freed.

    A file of a Hugging Face cache stays. So does a pin: the model is to be the same one when it comes back.
    """
    with _alone(model, cache):
        known = pinned(model, cache)
        place = _place(known, cache)
        kept = _elsewhere(known, place)
        freed = 0
        for path in _files(known, cache):
            freed += path.stat().st_size
            path.unlink()
        verified.record_of(place).unlink(missing_ok=True)
        if kept:
            why = "not in this cache" if _owner(kept) == "elsewhere" else "the Hugging Face cache's (hf cache rm)"
            print(f"  KEPT  {kept}: it is {why}", file=sys.stderr)
        return freed


def import_file(path: Path, models: Mapping[str, Model], cache: Path) -> Model:
    """Take a file that came another way into the cache, as the model that it is: a .gguf, or the wheel around one.

    A model that is pinned nowhere is known by the name of its file, and pinned to what the file is.

    Raises:
        ZosiaError: it can't be read, is no model of the catalogue, or not as it should be.
    """
    if not path.is_file():
        raise ZosiaError(f"{path} is no file", "Type: scons import-model FILE=path of a .gguf")
    wanted = _wanted(path, [pinned(model, cache) for model in models.values()], cache)
    model = wanted.model
    with _alone(model, cache):
        here = verified.read(_place(model, cache), model.gguf_sha256)
        if here:
            if path.name != wanted.path.name:  # then only its size says what it is
                _check(path, wanted, _digest(path))
            print(f"  HERE  {model.name} is here already: {here}", file=sys.stderr)
            return model
        if wanted.path == _place(model, cache):
            _check_magic(path)
        print(f"  COPY  {path} as {model.name} ({size_text(path.stat().st_size)})", file=sys.stderr)
        with replacing(wanted.path) as temporary:
            found = copies.copy(path, temporary)
            _check(path, wanted, found)
        if not wanted.sha256:
            offer = Offer(sha256=found, size=wanted.path.stat().st_size)
            model = pins.pin(model, cache, offer, f"as {path} has it, and nothing else vouches for it")
            _adopt(wanted.path, model, cache)
        elif wanted.path == _place(model, cache):
            verified.write(wanted.path, wanted.path, found)
        _part(wanted.path).unlink(missing_ok=True)
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


def _wanted(path: Path, models: list[Model], cache: Path) -> _Wanted:
    """What a file is to be, by its size, then its name, and its digest only where these are not enough.

    Without a digest to compare with, only the name tells what it is; and a size, if one is known, has to be right.
    """
    every = [form for model in models for form in _forms(model, cache)]
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
    gguf = _Wanted(model, _place(model, cache), model.gguf_size, model.gguf_sha256)
    return [gguf, _Wanted(model, _wheel(model, cache), model.size, model.sha256)] if model.member else [gguf]
