"""Model files in the cache.

models/SHA256/FILE is the .gguf, and FILE.json beside it names the verified file: this one, or one of the user's own
Hugging Face cache, which is used in place. Wheels that contain a model are in downloads/.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, locked, sha256
from zosia.inputs import pins, verified
from zosia.inputs.catalogue import Model
from zosia.inputs.pins import Offer, pinned

KEPT = 100  # last characters of a file's name that the cache keeps: temporary names are longer

# hub, fetch and archives are imported late: they are slow to import, and unnecessary once a file is in the cache.

__all__ = ["Stored", "gguf_files", "missing", "model_file", "pinned", "remove", "stored", "strays"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Model in the cache, or a part of it; `size` is the number of bytes that `remove` would free.

    A file of the Hugging Face cache is recognized by name and size, and verified when first used.
    """

    model: Model
    path: Path
    size: int
    state: str  # here, Hugging Face cache, elsewhere, partial


def gguf_files(model: Model, cache: Path) -> list[Path]:
    """Return the verified .gguf of a model of the catalogue, or all parts of a split one in order.

    A part that is here is not fetched again, and an incomplete one is resumed.

    Raises:
        ZosiaError: a file is unavailable, or is not the pinned one; there is no room for what is missing.
    """
    if model.parts:
        for part in pinned(model, cache).files:
            if not part.sha256:  # the sizes of all are needed first
                with exclusive(part, cache):
                    if not pinned(part, cache).sha256:
                        _first_seen(part, cache)
        cache.mkdir(parents=True, exist_ok=True)
        check_room(cache, missing(pinned(model, cache), cache), model.name)
    return [model_file(part, cache) for part in model.files]


def model_file(model: Model, cache: Path) -> Path:
    """Return the verified .gguf of a model of one file, from the cache, the Hugging Face cache, or its origin.

    Raises:
        ZosiaError: the file is unavailable, or is not the pinned one.
    """
    with exclusive(model, cache):
        known, offer = pinned(model, cache), None
        if not known.sha256:
            known, offer = _first_seen(model, cache)
        place = place_of(known, cache)
        good = verified.read(place, known.gguf_sha256)
        if good:
            return good
        if place.is_file():
            if _verify(place, known, place):
                return place
            style.say("BAD", f"{place} is damaged; fetching it again")
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
    """Pin a model that has no pin: by the Hugging Face cache, the hub's metadata, or else the hub's file."""
    from zosia.inputs import hub

    for path in hub.cached(model):
        offer = hub.cached_offer(path)
        if not (offer.sha256 and offer.size) or model.size not in (0, offer.size):
            continue
        known = replace(model, size=offer.size, sha256=offer.sha256)
        if _usable(path, known, place_of(known, cache)):
            return pins.pin(model, cache, offer, "according to the Hugging Face cache"), None
    offer = hub.ask(model)
    pins.check(model, offer, cache, recorded=False)
    offer = replace(offer, size=offer.size or model.size)
    if not offer.size:
        raise ZosiaError(
            f"The hub reports no size for {model.file}",
            f"Add size and sha256 to {model.where}",
        )
    if offer.sha256:
        return pins.pin(model, cache, offer, "according to the hub"), offer
    arrived = place_of(model, cache)
    for old in _files(model, cache):
        old.unlink()  # it may be a part of another version
    hub.bring(replace(model, size=offer.size), arrived, commit=offer.commit)
    offer = replace(offer, sha256=sha256(arrived))
    known = pins.pin(model, cache, offer, "computed from the download, as the hub reports no digest")
    adopt(arrived, known, cache)
    return known, None


def adopt(arrived: Path, known: Model, cache: Path) -> None:
    """Move a file whose digest has just become known to its place."""
    place = place_of(known, cache)
    place.parent.mkdir(parents=True, exist_ok=True)
    arrived.replace(place)
    verified.write(place, place, known.gguf_sha256)


def _in_hub_cache(model: Model, place: Path) -> Path | None:
    if model.origin != "hub":
        return None
    from zosia.inputs import hub

    for path in hub.cached(model):
        if _usable(path, model, place):
            return path
        style.say("BAD", f"{path} is not {model.name}, or damaged or unreadable; not used")
    return None


def _bring_from_hub(model: Model, place: Path, cache: Path, offer: Offer | None, *, recorded: bool) -> None:
    """Download a model; `offer` is the hub's metadata if known; `recorded`: the pin is from the cache."""
    from zosia.inputs import hub

    offer = offer or hub.ask(model)
    pins.check(model, offer, cache, recorded=recorded)
    hub.bring(model, place, commit=offer.commit)


def _bring(model: Model, place: Path, cache: Path) -> None:
    from zosia.inputs import archives, fetch

    if not model.member:
        fetch.bring(model, place, cache)
        return
    archive = fetch.fetch(model, cache).path
    place.parent.mkdir(parents=True, exist_ok=True)
    check_room(place.parent, model.gguf_size, place.name)
    archives.extract_file(archive, model.member, place)
    found = sha256(place)
    if found != model.gguf_sha256:
        place.unlink()
        raise ZosiaError(f"{model.member} in {archive.name} has the SHA-256 {found}, expected {model.gguf_sha256}")


def _verify(path: Path, model: Model, place: Path) -> bool:
    return verified.verify(path, place, size=model.gguf_size, digest=model.gguf_sha256)


def _usable(path: Path, model: Model, place: Path) -> bool:
    """Return True if a file outside the cache is the model and readable."""
    try:
        return _verify(path, model, place)
    except verified.Unreadable:
        return False


def exclusive(model: Model, cache: Path) -> AbstractContextManager[None]:
    """Lock a model in the cache; a second process waits."""
    return locked(cache / "models" / model.name)


def place_of(model: Model, cache: Path) -> Path:
    """Return the path of the .gguf in the cache; a temporary one until its digest is known."""
    digest = model.gguf_sha256 or hashlib.sha256("\n".join(pins.entry_of(model)).encode()).hexdigest()
    name = Path(model.member or model.file).name[-KEPT:]
    return cache / "models" / digest / name


def wheel_of(model: Model, cache: Path) -> Path:
    """Return the path of the wheel with the .gguf in the cache."""
    return cache / "downloads" / model.sha256 / model.file


def part_of(path: Path) -> Path:
    """Return the path of an incomplete download of a file."""
    return path.with_name(path.name + ".part")


def _files(model: Model, cache: Path) -> list[Path]:
    """Return all files of a model in the cache, complete or not."""
    place = place_of(model, cache)
    wanted = [place, part_of(place)]
    if model.member:
        wanted += [wheel_of(model, cache), part_of(wheel_of(model, cache))]
    left = place.parent.glob(f".{glob.escape(place.name)}.*")  # left by a killed import
    return [path for path in [*wanted, *left] if path.is_file()]


def stored(models: Mapping[str, Model], cache: Path) -> list[Stored]:
    """Return the models that are in the cache, even in part, or in the Hugging Face cache."""
    found = []
    for model in [pinned(model, cache) for model in models.values()]:
        parts = [_stored(part, cache) for part in model.files]
        here = [part for part in parts if part]
        if here:
            states = {part.state for part in here}
            whole = len(here) == len(parts) and "partial" not in states
            state = "partial" if not whole else "here" if "here" in states else here[0].state
            found.append(Stored(model=model, path=here[0].path, size=sum(part.size for part in here), state=state))
    return found


def _stored(model: Model, cache: Path) -> Stored | None:
    place, files = place_of(model, cache), _files(model, cache)
    good = place if place.is_file() else _elsewhere(model, place)
    path = good or next(iter(files), None)
    if not path:
        return None
    state = "partial" if not good else "here" if good == place else _owner(good)
    return Stored(model=model, path=path, size=sum(file.stat().st_size for file in files), state=state)


def missing(model: Model, cache: Path) -> int:
    """Return the bytes of a pinned model that are not on this machine."""
    parts = [(part, _stored(part, cache)) for part in model.files]
    return sum(
        part.gguf_size - (found.size if found else 0) for part, found in parts if not found or found.state == "partial"
    )


def strays(models: Mapping[str, Model], cache: Path) -> list[tuple[Path, int]]:
    """Return files in models/ that belong to no model of the catalogue any more, with their sizes in bytes."""
    known = {path for model in models.values() for part in pinned(model, cache).files for path in _files(part, cache)}
    others = [path for path in (cache / "models").glob("*/*") if path.suffix not in (".json", ".lock")]
    return sorted((path, path.stat().st_size) for path in others if path.is_file() and path not in known)


def _elsewhere(model: Model, place: Path) -> Path | None:
    """Return the file outside the cache that was verified for a place, or a candidate in the Hugging Face cache."""
    used = verified.read(place, model.gguf_sha256)
    if used and used != place:
        return used
    if model.origin != "hub":
        return None
    from zosia.inputs import hub

    return next((path for path in hub.cached(model) if model.size in (0, path.stat().st_size)), None)


def _owner(path: Path) -> str:
    from zosia.inputs import hub

    return "Hugging Face cache" if hub.owns(path) else "elsewhere"


def remove(model: Model, cache: Path) -> int:
    """Remove a model from the cache, and return the number of bytes freed.

    A file of the Hugging Face cache stays, and so does the pin, so that a later download is the same model.
    """
    with exclusive(model, cache):
        return sum(_remove(part, cache) for part in pinned(model, cache).files)


def _remove(known: Model, cache: Path) -> int:
    place = place_of(known, cache)
    kept = _elsewhere(known, place)
    freed = 0
    for path in _files(known, cache):
        freed += path.stat().st_size
        path.unlink()
    verified.record_of(place).unlink(missing_ok=True)
    if kept:
        why = "outside this cache" if _owner(kept) == "elsewhere" else "in the Hugging Face cache (hf cache rm)"
        style.say("KEPT", f"{kept}: it is {why}")
    return freed
