"""The chosen model: an entry of the catalogue, or a .gguf file, with its disk image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zosia.base.places import DISKS
from zosia.disk import ext4, record
from zosia.inputs.catalogue import Model
from zosia.inputs.pins import pinned
from zosia.machine.task import word
from zosia.model import engine
from zosia.model.shape import Shape

# Characters of a file's stem in the name of its disk. The longest name made of that one, the temporary record of a bare
# ISO, has 38 more; encrypted home folders (eCryptfs) allow 143 bytes, and other filesystems 255.
STEM = 100
UNKNOWN = Shape(architecture="unknown", block_count=1, embedding_length=1)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model to run: an `entry` of the catalogue, or the `parts` of a .gguf file.

    `named`: MODEL= was set, and this is not the default model. `cache` is the folder that downloads are kept in.
    `own_engine`: LLAMA_SRC= was set, and what that llama.cpp can load is unknown.
    """

    entry: Model | None = None
    parts: tuple[Path, ...] = ()
    named: bool = False
    own_engine: bool = False
    cache: Path

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.entry.name if self.entry else self.parts[0].name

    @property
    def name(self) -> str:
        """Name of the disk image, without its ending."""
        if self.entry:
            return self.entry.name
        path = self.parts[0]
        safe = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)[:STEM]
        return f"{safe}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # other files have this name, too

    @property
    def image(self) -> Path:
        """Path of the disk image."""
        return DISKS / f"{self.name}.img"

    @property
    def content(self) -> str:
        """Cache key of the disk image."""
        if self.entry:
            model = pinned(self.entry, self.cache)
            digests = [part.gguf_sha256 for part in model.files]
            return str((model.project, model.version, model.file, *digests))
        states = [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in self.parts]
        return str(states)

    @property
    def info(self) -> Mapping[str, str]:
        """Fields of the image's model.info: /init shows them, and passes `args` to llama-cli."""
        if self.entry is None:
            return {"name": self.parts[0].name}
        args = " ".join(map(word, self.entry.llama_args))
        return {"name": self.entry.name, "title": self.entry.title, "licence": self.entry.licence, "args": args}

    def made_of(self, tool: str) -> str:
        """Return all that decides the bytes of the disk image that a tool makes."""
        return f"{self.content} {self.info} {tool} {ext4.FORMAT}"

    def is_made(self, tool: str) -> bool:
        """Return whether the disk image is there, and of what it would be made of now."""
        made = record.read_current(self.image)
        return made is not None and made.made_of == self.made_of(tool)

    def measures(self) -> tuple[Shape, int]:
        """Return the model's shape and size in bytes, from the image's record, the catalogue or the file.

        The size is 0 where neither is known before the download.

        Raises:
            ZosiaError: the file can't be read as a model, or llama.cpp can't load it.
        """
        made = record.read(self.image)
        if made and made.shape and made.content == self.content:
            self._check(made.shape)
            return made.shape, made.weights
        if self.entry:
            known = self.entry.shape
            if known:
                self._check(known)
            return known or UNKNOWN, pinned(self.entry, self.cache).gguf_size if known else 0
        from zosia.model import reader  # slow to import, and of most models there is a record

        found = reader.read(self.parts, any_engine=self.own_engine)
        return found, sum(part.stat().st_size for part in self.parts)

    def _check(self, found: Shape) -> None:
        """Refuse what only another llama.cpp loads: another zosia, or an entry of the user's, may have named it."""
        if not self.own_engine:
            engine.check_architecture(self.title, found.architecture)
