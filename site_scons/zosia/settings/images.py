"""The disk image of the chosen model, made from its file and recorded."""

from __future__ import annotations

from pathlib import Path

from zosia.base import style
from zosia.base.files import check_room, locked, size_text
from zosia.disk import ext4, record, verity
from zosia.inputs import copies, model_files
from zosia.inputs.catalogue import Model
from zosia.model import reader
from zosia.settings.settings import Settings
from zosia.settings.settle import alike, doubt, likeness


def make(settings: Settings, *, again: bool = True) -> None:
    """Make the image and its record; the model's file is downloaded where it is missing.

    Without `again`, one that another process has made meanwhile is taken.

    Raises:
        ZosiaError: the file can't be had, llama.cpp can't load it, or there is no room for the image.
    """
    model, image = settings.model.entry, settings.model.image
    settings.model.measures()  # refuses what llama.cpp can't load, before a download
    if problem := doubt(settings):
        style.say("NOTE", problem)
    if model and _only_copy(image, settings, model):
        style.say("KEEP", f"{image}: made by an older zosia, from a file that is no longer here")
        return
    if model:
        check_room_for_both(model_files.pinned(model, settings.cache), settings.cache, image)
    with locked(image):
        if not again:
            if settings.model.is_made(settings.image_tool):
                return
            style.say("MODEL", _named(settings))
        parts = model_files.gguf_files(model, settings.cache) if model else settings.model.parts
        found = reader.read(parts, any_engine=settings.model.own_engine)
        like = alike(settings, found)
        if like and settings.model.measures()[0] != found:  # else the notes of a run have said so
            style.show(likeness(settings.model.title, like))
        if not again:
            style.say("EXT4", image)
        digest = ext4.build(
            parts=parts,
            info=settings.model.info,
            target=image,
            digest=model_files.pinned(model, settings.cache).gguf_sha256 if model else "",
            tool=settings.image_tool,
        )
        root = verity.write(image)
        weights = sum(part.stat().st_size for part in parts)
        record.write(
            image,
            content=settings.model.content,
            made_of=settings.model.made_of(settings.image_tool),
            sha256=digest,
            weights=weights,
            shape=found,
            root=root,
        )


def _named(settings: Settings) -> str:
    """Return a line about a model, for who sees it for the first time."""
    if settings.model.entry is None:
        return f"{settings.model.title}: its disk is made once"
    model = model_files.pinned(settings.model.entry, settings.cache)
    size = [size_text(model.gguf_size)] if model.gguf_size else []
    return f"{model.name}: {', '.join([model.title, *size, model.licence])}"


def _only_copy(image: Path, settings: Settings, model: Model) -> bool:
    """Return whether an image holds the model, and no file on this machine does."""
    known = model_files.pinned(model, settings.cache)
    made = record.read_current(image)
    if made is None or model_files.stored({model.name: model}, settings.cache):
        return False
    if known.parts:  # their digest together is unknown
        return bool(known.gguf_size) and made.content == settings.model.content
    return bool(known.gguf_sha256) and made.sha256 == known.gguf_sha256


def check_room_for_both(model: Model, cache: Path, image: Path) -> None:
    """Refuse a download that would leave no room for the image.

    Raises:
        ZosiaError: there is no room for both.
    """
    if any(found.state != "partial" for found in model_files.stored({model.name: model}, cache)):
        return
    cache.mkdir(parents=True, exist_ok=True)
    image.parent.mkdir(parents=True, exist_ok=True)
    if cache.stat().st_dev == image.parent.stat().st_dev and not copies.shares(cache, image.parent):
        both = model_files.missing(model, cache) + ext4.image_size([part.gguf_size for part in model.files])
        check_room(image.parent, both, f"{model.name}, as a file and as a disk,")
