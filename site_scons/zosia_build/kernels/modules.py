"""Kernel modules: their metadata, and the order in which they can be loaded."""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from zosia.base.errors import ZosiaError

XZ = b"\xfd7zXZ\0"


@dataclass(frozen=True, kw_only=True)
class Modules:
    """Modules of a kernel.

    Attributes:
        package: name of the kernel package, for errors.
        files: content of each .ko, possibly compressed with xz, by module name.
        builtin: names and aliases of built-in modules.
    """

    package: str
    files: Mapping[str, bytes]
    builtin: Set[str] = field(default_factory=frozenset)

    def content(self, name: str) -> bytes:
        """Return a module, decompressed.

        Raises:
            ZosiaError: the module is damaged.
        """
        file = self.files[name]
        try:
            return lzma.decompress(file) if file.startswith(XZ) else file
        except lzma.LZMAError as error:
            raise ZosiaError(f"The module {name} in {self.package} is damaged: {error}") from error

    def modinfo(self, name: str, field: str) -> list[str]:
        """Return the values of a field of a module, as modinfo(8) shows them.

        Raises:
            ZosiaError: the file is not a module.
        """
        try:
            section = ELFFile(io.BytesIO(self.content(name))).get_section_by_name(".modinfo")
        except ELFError as error:
            raise ZosiaError(f"The module {name} in {self.package} is damaged: {error}") from error
        # NAME=VALUE, each ended by a NUL: MODULE_INFO in the kernel's include/linux/moduleparam.h
        words = section.data().decode(errors="replace").split("\0") if section else []
        return [word.removeprefix(f"{field}=") for word in words if word.startswith(f"{field}=")]

    def order(self, wanted: Iterable[str]) -> list[str]:
        """Return the wanted modules and their dependencies in load order, without built-in ones.

        Raises:
            ZosiaError: a module is missing, or dependencies are circular.
        """
        loaded: list[str] = []
        for name in wanted:
            self._load(name, loaded, ())
        return loaded

    def _load(self, name: str, loaded: list[str], path: tuple[str, ...]) -> None:
        if name in loaded or name in self.builtin:
            return
        if name not in self.files:
            needed = f", which {path[-1]} needs," if path else ""
            raise ZosiaError(f"The kernel of {self.package} has no {name}{needed} built in or as a module")
        if name in path:
            circle = " needs ".join((*path[path.index(name) :], name))
            raise ZosiaError(f"The modules of {self.package} can't be loaded in any order: {circle}")
        path = (*path, name)
        # Soft dependencies are skipped if they are missing, or are being loaded already.
        for other in self._soft(name):
            if other not in path:
                self._load(other, loaded, path)
        for other in ",".join(self.modinfo(name, "depends")).split(","):
            if other:
                self._load(module_name(other), loaded, path)
        loaded.append(name)

    def _soft(self, name: str) -> Iterator[str]:
        """Yield the modules that softdep "pre: A B post: C" wants first, by name or by alias."""
        for text in self.modinfo(name, "softdep"):
            pre = text.partition("pre:")[2].partition("post:")[0]
            for wish in map(module_name, pre.split()):
                if wish in self.files:
                    yield wish
                elif wish not in self.builtin:
                    yield from (other for other in sorted(self.files) if wish in self._aliases(other))

    def _aliases(self, name: str) -> set[str]:
        return set(map(module_name, self.modinfo(name, "alias")))


def module_name(file: str) -> str:
    """Return the name of a module from that of its file; the kernel treats - and _ alike."""
    return file.rpartition("/")[2].removesuffix(".xz").removesuffix(".ko").replace("-", "_")
