"""Catalogue of inputs: sources.toml and models.toml, validated; and records of the pins that were used."""

from __future__ import annotations

import json
import math
import re
import shlex
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import dacite

from zosia.base.errors import ZosiaError
from zosia.base.files import explained, replacing
from zosia.base.places import repair
from zosia.model.options import REASONING
from zosia.model.shape import Shape, split_names


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Input file of the build: its origin and expected contents. The .toml files explain the fields."""

    name: str
    origin: str
    version: str
    file: str
    licence: str
    size: int = 0
    sha256: str = ""
    project: str = ""
    url: str = ""
    snapshot: str = ""
    member: str = ""

    @property
    def where(self) -> str:
        """Place of the entry, for messages."""
        return f"the entry [{self.name}] of models.toml"

    def __post_init__(self) -> None:
        for name, pattern in (("name", r"\w[\w.-]*"), ("file", r"\w[\w.%+~-]*(/\w[\w.%+~-]*)*")):
            if not re.fullmatch(pattern, getattr(self, name), re.ASCII):
                raise ValueError(f'wrong value for field "{name}": {getattr(self, name)!r}')
        needed = {"pypi": "project", "debian": "project", "hub": "project", "url": "url"}.get(self.origin)
        if needed is None:
            raise ValueError(f'wrong value for field "origin": {self.origin!r} is none of pypi, debian, hub, url')
        if not getattr(self, needed):
            raise ValueError(f'missing value for field "{needed}"')
        if self.origin == "hub" and not self.sha256 and self.size >= 0:
            return  # pinned by the first download
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f'wrong value for field "sha256": {self.sha256!r} is not 64 hexadecimal digits')
        if self.size < 0 or (self.size == 0 and self.origin != "url"):
            raise ValueError(f'wrong value for field "size": {self.size} is not a number of bytes')


EDITION = ("catalogue", "serial")  # fields at the top of models.toml: which catalogue it is, and which edition of it
SAMPLING = ("temp", "top-p", "top-k", "min-p", "repeat-penalty", "presence-penalty")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Size in bytes and SHA-256 of a part of a split model; 0 and "" if unknown."""

    size: int = 0
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Model(Pin):
    """Model of the catalogue; `context` in tokens. models.toml explains the fields.

    A split model has `parts`, and `file` is the first of them. Each of its `files` is a model of one file.
    """

    title: str
    context: int
    shape: Shape | None = None
    member_size: int = 0
    member_sha256: str = ""
    sampling: dict[str, float | int] = field(default_factory=dict)
    reasoning: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_parts()
        if self.member and self.origin != "pypi":
            raise ValueError('wrong value for field "member": only a wheel, of origin "pypi", has one')
        if self.member and not (self.member_size > 0 and re.fullmatch("[0-9a-f]{64}", self.member_sha256)):
            raise ValueError('wrong value for field "member_size" or "member_sha256": "member" needs both')
        if self.context <= 0:
            raise ValueError(f'wrong value for field "context": {self.context} is not above 0')
        trained = self.shape.context_length if self.shape else 0
        if 0 < trained < self.context:
            raise ValueError(
                f'wrong value for field "context": {self.context} is above shape.context_length, {trained}'
            )
        for name, words, known in (("sampling", self.sampling, SAMPLING), ("reasoning", self.reasoning, REASONING)):
            for word in words:
                if word not in known:
                    raise ValueError(f'wrong value for field "{name}": {word!r} is none of {", ".join(known)}')
        for name, value in self.sampling.items():
            if isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f'wrong value for field "sampling": {name} = {value} is no number from 0 on')

    def _check_parts(self) -> None:
        if not self.parts:
            return
        names = split_names(self.file)
        if self.file != names[0] or len(names) != len(self.parts):
            raise ValueError(
                f'wrong value for field "parts": {self.file} is not the first of {len(self.parts)} parts by its name'
            )
        if self.origin != "hub" or self.size or self.sha256:
            raise ValueError('wrong value for field "parts": a split model is of origin "hub", with a digest each')
        list(self.files)  # each checks its own size and digest

    @property
    def files(self) -> tuple[Self, ...]:
        """Return the parts of a split model, in order, as models of one file; a model of one file is its only part."""
        if not self.parts:
            return (self,)
        return tuple(
            replace(self, file=file, size=part.size, sha256=part.sha256, parts=())
            for file, part in zip(split_names(self.file), self.parts, strict=True)
        )

    @property
    def llama_args(self) -> tuple[str, ...]:
        """Return the settings that the model's makers recommend, as arguments of llama-cli."""
        return tuple(word for name, value in self.sampling.items() for word in (f"--{name}", str(value)))

    @property
    def gguf_size(self) -> int:
        """Return the size of the .gguf, of all parts together, in bytes; 0 if unknown."""
        if self.parts:
            sizes = [part.size for part in self.parts]
            return sum(sizes) if all(sizes) else 0
        return self.member_size if self.member else self.size

    @property
    def gguf_sha256(self) -> str:
        """Return the SHA-256 of the .gguf; "" if unknown, as for the parts of a split one together."""
        return self.member_sha256 if self.member else self.sha256


Entry = TypeVar("Entry", bound=Pin)


def frozen(value: Any) -> Any:
    """Return a value of TOML or JSON with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def _table(**table: Any) -> dict[str, Any]:
    """Return the fields of an entry; a split model whose digests are unknown has as many parts as its name says."""
    count = len(split_names(str(table.get("file", ""))))
    return {**({"parts": ({},) * count} if count > 1 else {}), **{name: frozen(table[name]) for name in table}}


def entries(
    tables: dict[str, Any], kind: type[Entry], known: Collection[str] = (), *, where: str, hint: str
) -> dict[str, Entry]:
    """Return the entries of a .toml file that was read, by name.

    Args:
        known: fields at the top that are no entries.
        where: the file, for messages.
        hint: what to do about an invalid one.

    Raises:
        ZosiaError: it is invalid; the error names entry and field.
    """
    found = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            if name in known:
                continue
            raise ZosiaError(f"{where}, entry [{name}]: it is no table", hint)
        try:
            found[name] = dacite.from_dict(kind, {"name": name, **_table(**table)}, dacite.Config(strict=True))
        except (dacite.DaciteError, TypeError, ValueError) as error:
            raise ZosiaError(f"{where}, entry [{name}]: {error}", hint) from error
    return found


def _read(path: Path, kind: type[Entry], known: Collection[str] = ()) -> dict[str, Entry]:
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explained(error) from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ZosiaError(f"{path} can't be read: {error}", repair("")) from error
    return entries(tables, kind, known, where=path.name, hint=repair(""))


def read_sources(path: Path) -> dict[str, Pin]:
    """Read the build's inputs, by name.

    Raises:
        ZosiaError: the file is invalid; the error names entry and field.
    """
    return _read(path, Pin)


def read_models(path: Path) -> dict[str, Model]:
    """Read the models, by name; errors as in `read_sources`."""
    return _read(path, Model, EDITION)


def write_record(path: Path, pin: Pin) -> None:
    """Write which pin was used for an input, as build/sources/NAME.json."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(pin), indent=2) + "\n", encoding="utf-8")


def read_record(path: Path) -> Pin:
    """Return the pin that `write_record` wrote.

    Raises:
        ZosiaError: the record is damaged. The next build replaces it once it is removed.
    """
    try:
        return Pin(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ZosiaError(f"{path} is damaged", f"Type: rm {shlex.quote(str(path))}") from error
