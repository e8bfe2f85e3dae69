"""Kernel modules: what each says of itself, and in which order they can be loaded."""

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
    """A kernel's modules.

    `package` is what errors call it; `files` the content of each .ko by the module's name, perhaps compressed with xz;
    `builtin` names, and aliases, of what the kernel itself holds.
    """

    package: str
    files: Mapping[str, bytes]
    builtin: Set[str] = field(default_factory=frozenset)

    def content(self, name: str) -> bytes:
        """The module, as it is loaded.

        Raises:
            ZosiaError: it is damaged.
        """
        file = self.files[name]
        try:
            return lzma.decompress(file) if file.startswith(XZ) else file
        except lzma.LZMAError as error:
            raise ZosiaError(f"The module {name} in {self.package} is damaged: {error}") from error

    def said(self, name: str, field: str) -> list[str]:
        """What a module says of itself in one field, as modinfo(8) shows it.

        Raises:
            ZosiaError: it is no module.
        """
        try:
            section = ELFFile(io.BytesIO(self.content(name))).get_section_by_name(".modinfo")
        except ELFError as error:
            raise ZosiaError(f"The module {name} in {self.package} is damaged: {error}") from error
        # NAME=VALUE, each ended by a NUL: MODULE_INFO in the kernel's include/linux/moduleparam.h
        words = section.data().decode(errors="replace").split("\0") if section else []
        return [word.removeprefix(f"{field}=") for word in words if word.startswith(f"{field}=")]

    def order(self, wanted: Iterable[str]) -> list[str]:
        """The wanted modules and all that they need, each after what it needs; without what is built in.

        Raises:
            ZosiaError: there is no such module, or they need each other.
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
            raise ZosiaError(f"The kernel of {self.package} has no {name}{needed} neither built in nor as a module")
        if name in path:
            circle = " needs ".join((*path[path.index(name) :], name))
            raise ZosiaError(f"The modules of {self.package} can't be loaded in any order: {circle}")
        path = (*path, name)
        # What is only better to have first is passed over where it is missing, or is loading already.
        for other in self._soft(name):
            if other not in path:
                self._load(other, loaded, path)
        for other in ",".join(self.said(name, "depends")).split(","):
            if other:
                self._load(module_name(other), loaded, path)
        loaded.append(name)

    def _soft(self, name: str) -> Iterator[str]:
        """The modules that a module wants first, "pre: A B post: C", by name or by alias."""
        for text in self.said(name, "softdep"):
            pre = text.partition("pre:")[2].partition("post:")[0]
            for wish in map(module_name, pre.split()):
                if wish in self.files:
                    yield wish
                elif wish not in self.builtin:
                    yield from (other for other in sorted(self.files) if wish in self._aliases(other))

    def _aliases(self, name: str) -> set[str]:
        return set(map(module_name, self.said(name, "alias")))


def module_name(file: str) -> str:
    """The name of a module from that of its file: the kernel takes - and _ for one character."""
    return file.rpartition("/")[2].removesuffix(".xz").removesuffix(".ko").replace("-", "_")
