"""The disk image of the chosen model, made from its file and recorded."""

from __future__ import annotations

from pathlib import Path

from zosia.base import style
from zosia.base.files import check_room, locked
from zosia.disk import ext4, record
from zosia.inputs import copies, model_files
from zosia.inputs.catalogue import Model
from zosia.model import shape
from zosia.settings.settings import Settings
from zosia.settings.settle import alike, doubt, likeness


def make(settings: Settings) -> None:
    """Make the image and its record; the model's file is downloaded where it is missing.

    Raises:
        ZosiaError: the file can't be had, llama.cpp can't load it, or there is no room for the image.
    """
    model, image = settings.model.entry, settings.model.image
    settings.model.measures()  # refuses what llama.cpp can't load, before a download
    if problem := doubt(settings):
        style.say("NOTE", problem)
    if model and _only_copy(image, model, settings.cache):
        style.say("KEEP", f"{image}: made by an older zosia, from a file that is no longer here")
        return
    if model:
        check_room_for_both(model_files.pinned(model, settings.cache), settings.cache, image)
    with locked(image):
        parts = [model_files.model_file(model, settings.cache)] if model else settings.model.parts
        found = shape.read(parts, any_engine=settings.model.own_engine)
        like = alike(settings, found)
        if like and settings.model.measures()[0] != found:  # else the notes of a run have said so
            style.show(likeness(settings.model.title, like))
        digest = ext4.build(
            parts=parts,
            info=settings.model.info,
            target=image,
            digest=model_files.pinned(model, settings.cache).gguf_sha256 if model else "",
            tool=settings.image_tool,
        )
        weights = sum(part.stat().st_size for part in parts)
        record.write(image, content=settings.model.content, sha256=digest, weights=weights, shape=found)


def _only_copy(image: Path, model: Model, cache: Path) -> bool:
    """Return whether an image holds the model, and no file on this machine does."""
    here = model_files.stored({model.name: model}, cache)
    digest = model_files.pinned(model, cache).gguf_sha256
    made = record.read_current(image)
    return not here and made is not None and bool(digest) and made.sha256 == digest


def check_room_for_both(model: Model, cache: Path, image: Path) -> None:
    """Refuse a download that would leave no room for the image.

    Raises:
        ZosiaError: there is no room for both.
    """
    here = model_files.stored({model.name: model}, cache)
    if any(found.state != "partial" for found in here):
        return
    cache.mkdir(parents=True, exist_ok=True)
    image.parent.mkdir(parents=True, exist_ok=True)
    if cache.stat().st_dev == image.parent.stat().st_dev and not copies.shares(cache, image.parent):
        size = model.gguf_size
        both = size - sum(found.size for found in here) + ext4.image_size([size])
        check_room(image.parent, both, f"{model.name}, as a file and as a disk,")
