"""Component of a bill of materials, in terms that CycloneDX and SPDX share, and those of pins and models."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import PurePosixPath
from urllib.parse import unquote

from packageurl import PackageURL

from zosia.base import apt
from zosia.inputs.catalogue import Model, Pin


class Role(Enum):
    """Relation of a component to what the bill is about."""

    PART = "is in it"
    NEEDED = "is needed to run it"
    TOOL = "made it"


@dataclass(frozen=True, kw_only=True)
class Component:
    """Component, and where it is.

    Attributes:
        kind: of CycloneDX: application, library, operating-system, machine-learning-model or file.
        licence: SPDX expression, or a name of another licence; "" if unknown.
        sha256: of `file`, as it was downloaded.
        digests: SHA-256 of each file that is published of it, where any of them may be used.
        within: name of the component that contains it; "" for what the bill is about.
        note: what a reader has to know of it.
    """

    name: str
    version: str = ""
    kind: str = "library"
    licence: str = ""
    purl: str = ""
    cpe: str = ""
    file: str = ""
    sha256: str = ""
    digests: tuple[str, ...] = ()
    url: str = ""
    within: str = ""
    note: str = ""
    role: Role = Role.PART

    @property
    def key(self) -> str:
        """Name that no other component of a bill has, in characters that both formats allow."""
        words = (self.within, self.name, self.version, PurePosixPath(self.file).name)
        return "-".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-") for word in words if word)


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Bill of materials: what it is about, and the components of that."""

    subject: Component
    components: tuple[Component, ...]


# Vendor and product in NVD's dictionary, by the name of a pin. What is not there has no CPE: nothing would be found by
# one that we invent.
CPES = {
    r"linux(-upstream|-distro-\w+)?": ("o", "linux:linux_kernel"),
    r"busybox-\w+": ("a", "busybox:busybox"),
    r"grub-\w+-\w+": ("a", "gnu:grub2"),
    "buildroot": ("a", "buildroot:buildroot"),
    "llama-cpp": ("a", "ggml:llama.cpp"),
    "glibc": ("a", "gnu:glibc"),
    "zig": ("a", "ziglang:zig"),
    "gcc": ("a", "gnu:gcc"),
    "binutils": ("a", "gnu:binutils"),
}
KINDS = {"linux": "operating-system", "busybox": "application", "grub": "application", "llama": "application"}


def upstream_version(pin: Pin) -> str:
    """Return upstream's version of a pin: of a Debian package, what is between its epoch and its revision."""
    if pin.origin != "debian":
        return pin.version
    return pin.version.rpartition(":")[2].rpartition("-")[0] or pin.version


def cpe(name: str, version: str) -> str:
    """Return the CPE 2.3 of a pin's name or a program's, "" if the dictionary has none."""
    for pattern, (part, product) in CPES.items():
        if re.fullmatch(pattern, name):
            escaped = re.sub(r"([^\w.-])", r"\\\1", version) or "*"
            return f"cpe:2.3:{part}:{product}:{escaped}:*:*:*:*:*:*:*"
    return ""


def of_pin(pin: Pin) -> Component:
    """Return the component of an entry of sources.toml."""
    # The version of the Python package in which llama.cpp comes says nothing of llama.cpp's.
    known = "" if pin.origin == "pypi" else upstream_version(pin)
    return Component(
        name=pin.name,
        version=pin.version,
        kind=KINDS.get(pin.name.split("-")[0], "file"),
        licence=pin.licence,
        purl=purl(pin),
        cpe=cpe(pin.name, known),
        file=unquote(pin.file),
        sha256=pin.sha256,
        url=pin.url if pin.origin == "url" else "",
    )


def purl(pin: Pin) -> str:
    """Return the package URL of a pin (github.com/package-url/purl-spec)."""
    if pin.origin == "debian":
        package, _, rest = unquote(pin.file).removesuffix(".deb").partition("_")
        qualifiers = {"arch": rest.rpartition("_")[2], "distro": apt.RELEASE}
        found = PackageURL("deb", "debian", package, pin.version, qualifiers)
    elif pin.origin == "pypi":
        found = PackageURL("pypi", None, pin.project, pin.version, {"file_name": pin.file})
    elif pin.origin == "hub":
        owner, _, name = pin.project.partition("/")
        found = PackageURL("huggingface", owner, name, pin.version, None, pin.file)
    else:
        name = re.sub(r"[-_]?v?\d.*", "", pin.file) or pin.name
        found = PackageURL("generic", None, name, pin.version, {"download_url": pin.url})
    return found.to_string()


def of_model(model: Model) -> list[Component]:
    """Return the components of a model of the catalogue: its file, or each part of a split one."""
    whole = [replace(of_pin(part), name=model.name, kind="machine-learning-model", cpe="") for part in model.files]
    if not model.member:
        return whole
    (archive,) = whole
    gguf = Component(
        name=f"{model.name}.gguf",
        version=model.version,
        kind="machine-learning-model",
        licence=model.licence,
        file=model.member,
        sha256=model.gguf_sha256,
        within=model.name,
    )
    return [archive, gguf]
