"""Iso: an image for CDs and disks, with a small record that stands for it in SCons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.files import locked
from zosia.base.version import VERSION
from zosia.disk import record
from zosia.inputs.catalogue import read_record
from zosia.settings.settings import Settings
from zosia_build import iso
from zosia_build.release import licences
from zosia_build.settings import Build, iso_texts
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import fetch, model_files  # slow to import, and only needed here
    from zosia.model import reader  # slow to import, and only needed here

    build: Build = env["BUILD_SETTINGS"]
    run = build.run
    image = targets[0].with_suffix("")
    kernel, initramfs, efi, *records = sources
    pins = {pin.name: pin for pin in map(read_record, records)}
    bios = pins.get(f"grub-bios-{run.arch}")
    with locked(image):
        parts = model_files.gguf_files(run.model.entry, run.cache) if run.model.entry else run.model.parts
        found = reader.read(parts, any_engine=run.model.own_engine)
        weights = sum(part.stat().st_size for part in parts)
        texts = dict(iso_texts(run, found, weights))
        info: Mapping[str, str] = {}
        if build.iso_model:
            info = {**run.model.info, "sha256": _digest(run, parts)}
            texts["model"] = info["sha256"]
        content = iso.Content(
            arch=run.arch,
            kernel=kernel,
            initramfs=initramfs,
            efi=efi,
            bios=fetch.source_tree(bios, run.cache) if bios else None,
            texts=texts,
            notice=licences.notice(pins.values(), own=build.own, model=info),
            parts=parts if build.iso_model else (),
            info=info,
            verbose=run.verbose,
        )
        iso.build(content, image)
        record.write(image)


def _digest(run: Settings, parts: Sequence[Path]) -> str:
    """Return the SHA-256 of the model's concatenated parts."""
    from zosia.inputs import model_files

    if run.model.entry and (known := model_files.pinned(run.model.entry, run.cache).gguf_sha256):
        return known
    disk = record.read(run.model.image)
    if disk and disk.sha256 and disk.content == run.model.content:
        return disk.sha256
    sha = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while data := file.read(1 << 23):
                sha.update(data)
    return sha.hexdigest()


def _shown(env: Any) -> str:
    return style.line("ISO", env["BUILD_SETTINGS"].iso)


def iso_image(env: Any, build: Build, parts: list[Any]) -> Any:
    """env.Iso(build, [kernel, initramfs, GRUB, record...]): $BUILD/zosia-MODEL.iso.json, and the ISO.

    The records are of everything that the image contains: they name the licences, and GRUB for BIOS.

    As with a model's disk, the record is the target, so that SCons never reads gigabytes.
    """
    target = env.Command(
        f"#{record.path_of(build.iso)}",
        [*parts, env.Value(build.iso_content)],
        action(_build, "ISO", _shown),
        BUILD_SETTINGS=build,
    )
    texts = [env.File("#LICENSE"), *env.Glob("#licences/*.txt"), env.Value((VERSION, sorted(build.own)))]
    env.Depends(
        target, [*library(env, "zosia_build.iso", "zosia_build.release.licences", "zosia_build.settings"), *texts]
    )
    env.Clean(target, [f"#{build.iso}", f"#{build.iso}.lock"])
    if not record.read_current(Path(target[0].abspath).with_suffix("")):
        env.AlwaysBuild(target)
    return env.NoCache(env.Precious(target))


def generate(env: Any) -> None:
    """Add the method to an environment."""
    env.AddMethod(iso_image, "Iso")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
