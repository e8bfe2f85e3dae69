"""Commands for models: `scons models`, `import-model`, `remove-model` and `trust`."""

from __future__ import annotations

import ast
import glob
import shlex
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import locked, size_text
from zosia.base.places import DISKS
from zosia.disk import record, verity
from zosia.inputs import imports, model_files
from zosia.inputs.catalogue import Model
from zosia.machine import host
from zosia.model.plan import gib, guest_share
from zosia.settings.hardware import expected
from zosia.settings.settings import Settings
from zosia.settings.settle import settle, wish

HEADER = ("MODEL", "SIZE", "LICENCE", "CONTEXT", "GUEST", "SHARED", "FITS", "HERE")


def listing(settings: Settings) -> str:
    """Return the catalogue as a table: the requirements of each model, and its files on this machine.

    With WORKERS= it is the table of the machines over which MODEL= is spread.
    """
    if settings.workers.names:
        from zosia.settings import workers  # slow to import, and only needed here

        return workers.table(settings)
    total, _ = host.memory()
    stored = {found.model.name: found for found in model_files.stored(settings.models, settings.cache)}
    disks = {path.stem: path.stat().st_size for path in sorted(DISKS.glob("*.img"))}
    rows = [HEADER]
    for name, model in settings.models.items():
        requirements = _requirements(settings.of(model_files.pinned(model, settings.cache)), total)
        rows.append((name, *requirements, _here(stored.get(name), disk=name in disks)))
    others = [
        f"{name}: the disk of a file, {size_text(size)}. To remove it, type: rm {DISKS}/{name}.img*"
        for name, size in disks.items()
        if name not in settings.models
    ]
    others += [
        f"{path}: {size_text(size)}, of no model above. To remove it, type: rm {shlex.quote(str(path))}"
        for path, size in model_files.strays(settings.models, settings.cache)
    ]
    twice = [
        f"{name} is stored twice, as a file and as a disk. To keep only the disk, type: "
        f"scons remove-model MODEL={name} KEEP=disk"
        for name, file in stored.items()
        if name in disks and file.size
    ]
    summary = [
        f"This machine has {gib(total)} GiB; a guest can have up to {gib(guest_share(total))} GiB.",
        f"Files take {size_text(sum(file.size for file in stored.values()))} in {settings.cache}, "
        f"disks {size_text(sum(disks.values()))} in {DISKS}.",
    ]
    if settings.catalogue:
        summary.insert(0, f"The catalogue is {settings.catalogue}.")
    return "\n".join([*style.columns(rows), *others, "", *summary, *twice])


def chats(settings: Settings) -> str:
    """Return the chats that are kept as a table, or where SEARCH= was said in them."""
    from zosia.chat.kept import listing as tables  # slow to import, and only needed here
    from zosia.chat.kept.chats import Chats

    wanted = settings.chat.search
    return tables.found(Chats(), wanted) if wanted else tables.listing(Chats())


def _here(file: model_files.Stored | None, *, disk: bool) -> str:
    """Return which files of a model are on this machine, as text."""
    words = {None: "", "here": "file", "partial": f"part of the file, {size_text(file.size)}" if file else ""}
    state = file.state if file else None
    return ", ".join(filter(None, (words.get(state, state), "disk" if disk else ""))) or "-"


def _requirements(settings: Settings, total: int) -> tuple[str, str, str, str, str, str]:
    """Return size, licence, context, memory of each guest, memory that guests share, and whether it fits."""
    hardware, model = expected(settings), settings.model.entry
    assert model
    wanted = wish(settings, hardware.bus)
    size = size_text(model.gguf_size) if model.gguf_size else "?"
    if not wanted.weights:
        return size, model.licence, str(wanted.context), "?", "?", "?"
    needed = wanted.takes()
    guest, shared = wanted.guest(needed), needed.on_host
    try:
        context = settle(settings, hardware).plan.context
        fits = "yes" if context == wanted.context else f"with CTX={context}"
    except ZosiaError:
        short = guest - settings.memory if settings.memory else guest + shared - guest_share(total)
        fits = f"no, {gib(short)} GiB short" if short > 0 else "no"
    if 0 < wanted.shape.context_length < wanted.context:
        fits = f"trained for {wanted.shape.context_length}"
    memory = (f"{gib(guest)} GiB", f"{gib(shared)} GiB" if shared else "-")
    return size, model.licence, str(wanted.context), *memory, fits


def import_model(settings: Settings) -> str:
    """Import FILE= into the cache, and return a line for each model, with the parts that are still missing.

    Raises:
        ZosiaError: no file is set, it can't be read, or it is no model of the catalogue.
    """
    if settings.file is None:
        raise ZosiaError("A file to import is needed", "Type: scons import-model FILE=/path/to/model.gguf")
    models = imports.import_path(settings.file, settings.models, settings.cache)
    return "\n".join(style.line("MODEL", _imported(model, settings.cache)) for model in models)


def trust(settings: Settings) -> str:
    """Trust the public key in FILE=, and return a line that says so.

    Raises:
        ZosiaError: no file is set, or it is no public key.
    """
    if settings.file is None:
        raise ZosiaError("A public key is needed", "Type: scons trust FILE=/path/to/KEY.pub")
    from zosia.inputs.signed import trust as keys  # most runs do without

    return keys.trust(settings.file)


def _imported(model: Model, cache: Path) -> str:
    missing = [
        Path(part.file).name
        for part in model_files.pinned(model, cache).files
        if not any(found.state != "partial" for found in model_files.stored({part.name: part}, cache))
    ]
    if model.parts and missing:
        many = f"{len(model.parts) - len(missing)} of {len(model.parts)} parts"
        return f"{model.name}: {many} are imported. To run it, import {', '.join(missing)}, too, or let it download"
    return f"{model.name} is imported. To run it, type: scons run MODEL={model.name}"


def remove_model(settings: Settings) -> str:
    """Remove the file and the disk of MODEL=, except the one that KEEP= names; return a line with the bytes freed.

    Raises:
        ZosiaError: no model is set, or it has no disk to keep.
    """
    if not settings.model.named:
        raise ZosiaError("A model to remove is needed", "Type: scons remove-model MODEL=NAME; scons models lists them")
    freed = 0
    if settings.keep != "disk":
        freed += _remove_disk(settings.model.image)
    elif not settings.model.image.is_file():
        name = settings.model.name
        raise ZosiaError(f"{name} has no disk to keep", f"Make it with: scons model.img MODEL={name}")
    if settings.keep != "file" and settings.model.entry:
        freed += model_files.remove(settings.model.entry, settings.cache)
    result = f"{size_text(freed)} freed" if freed else "nothing to remove"
    return style.line("MODEL", f"{settings.model.name}: {result}")


def remove_disks(settings: Settings, *, orphans: bool = False) -> int:
    """Remove the disks of models that have no name, or only those whose file has gone; return the bytes freed."""
    unnamed = {disk: _made_of(disk) for disk in DISKS.glob("*.img") if disk.stem not in settings.models}
    return sum(
        _remove_disk(disk)
        for disk, content in unnamed.items()
        if (_has_gone(content) if orphans else not isinstance(content, tuple))
    )


def _made_of(disk: Path) -> object:
    """Return what Choice.content wrote: a list of files; a tuple for a model that has a name, such as one of the hub
    that was pinned in another cache; None without a legible record.
    """
    made = record.read(disk)
    try:
        return ast.literal_eval(made.content) if made else None
    except (ValueError, TypeError, SyntaxError):
        return None


def _has_gone(content: object) -> bool:
    """Return whether a file has gone, so that nothing brings the disk made of it into use."""
    try:
        return isinstance(content, list) and not all(Path(path).exists() for path, *_ in content)
    except (OSError, ValueError, TypeError):  # of a folder that can't be looked into
        return False


def _remove_disk(image: Path) -> int:
    """Remove a disk, its record, and temporary files of killed builds; return the bytes freed."""
    size = 0
    with locked(image):
        left = image.parent.glob(f".{glob.escape(image.name)}.*")
        for path in filter(Path.is_file, (image, verity.path_of(image), *left)):
            size += path.stat().st_blocks * 512
            path.unlink()
        image.with_suffix(".img.json").unlink(missing_ok=True)
    return size
