"""Licence notice of an image: its parts, their licences, and the addresses of their sources.

It is beside an image rather than in the initramfs, where nobody could read it (a guest has no shell), and where it
would take memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from zosia.base.version import ROOT, VERSION
from zosia.inputs.catalogue import Pin

TEXTS = ROOT / "licences"
NAME = "licences.txt"
SOURCES = f"zosia-{VERSION}-sources.tar"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of an image.

    Attributes:
        licence: SPDX expression.
        place: location in the image.
        pins: pattern of its entries in sources.toml.
        within: the part that contains it, if it has no entry.
        source: its source package in Debian, if the licence gives a right to the source.
        own: variable that replaces it with a part of the user's own.
        texts: files in licences/, without .txt.
    """

    name: str
    licence: str
    place: str
    texts: tuple[str, ...]
    pins: str = ""
    within: str = ""
    source: str = ""
    own: str = ""


MIT = "MIT"
PARTS = (
    Part(name="zosia", licence=MIT, place="/init and its scripts; on an ISO boot/grub/grub.cfg", texts=("zosia",)),
    Part(
        name="Linux",
        licence="GPL-2.0-only WITH Linux-syscall-note",
        place="the kernel, Image",
        texts=("GPL-2.0",),
        pins=r"linux(-upstream|-distro-\w+)?",
        source="linux",
        own="KERNEL",
    ),
    Part(
        name="busybox",
        licence="GPL-2.0-only",
        place="/bin/busybox in the initramfs",
        texts=("GPL-2.0",),
        pins=r"busybox-\w+",
        source="busybox",
        own="BUSYBOX",
    ),
    Part(
        name="glibc",
        licence="LGPL-2.1-or-later",
        place="within busybox; its version is in the field Built-Using of busybox's package",
        texts=("LGPL-2.1",),
        within="busybox",
        source="glibc",
        own="BUSYBOX",
    ),
    Part(
        name="llama.cpp",
        licence=MIT,
        place="/bin/llama-cli-* in the initramfs",
        texts=("llama.cpp",),
        pins="llama-cpp",
        own="LLAMA_SRC",
    ),
    Part(name="JSON for Modern C++", licence=MIT, place="within llama-cli", texts=("json",)),
    Part(name="cpp-httplib", licence=MIT, place="within llama-cli", texts=("httplib",)),
    Part(name="llamafile's sgemm", licence=MIT, place="within llama-cli", texts=("llamafile",)),
    Part(name="YaRN", licence=MIT, place="within llama-cli: a function of it", texts=("yarn",)),
    Part(name="musl", licence=MIT, place="within llama-cli, zosia-streams and zosia-relay", texts=("musl",)),
    Part(
        name="libc++, libc++abi and libunwind",
        licence="Apache-2.0 WITH LLVM-exception",
        place="within llama-cli",
        texts=("LLVM",),
    ),
    Part(
        name="Zig's compiler-rt and libc",
        licence=MIT,
        place="within llama-cli, zosia-streams and zosia-relay",
        texts=("zig",),
    ),
    Part(
        name="GRUB",
        licence="GPL-3.0-or-later",
        place="on an ISO: what its firmware starts",
        texts=("GPL-3.0",),
        pins=r"grub-\w+-\w+",
        source="grub2",
    ),
    Part(
        name="GNU Unifont",
        licence="OFL-1.1",  # or the GPL, at the distributor's choice
        place="within GRUB: its letters",
        texts=("unifont",),
        within="GRUB",
    ),
)


OF_AN_IMAGE = (
    "An image contains programs of several makers, each under its own licence. The texts of all licences are below.",
    "",
    "The GPL and the LGPL give you a right to the source of these programs. It is published with the image, in",
    f"{SOURCES}, and so are the configuration and the scripts of the build. If you distribute the",
    "image, distribute that as well. Its makers keep the source at the addresses below.",
)
OF_A_WHEEL = (
    "The images in this wheel contain programs of several makers, each under its own licence. The texts of all",
    "licences are below; those of the web page are in zosia/images/ui/licences.txt.",
    "",
    "The GPL and the LGPL give you a right to the source of these programs. It is published with the release that this",
    f"wheel belongs to, in {SOURCES}, and so are the configuration and the scripts of the build. For three",
    "years from that release, its publisher gives a copy to anyone who asks, for no more than the copy costs. If you",
    "distribute the wheel, distribute that archive as well. Its makers keep the source at the addresses below.",
)


def parts(pins: Collection[Pin], own: Collection[str] = ()) -> list[Part]:
    """Return the parts that are there; arguments as those of `notice`."""
    here: dict[str, Part] = {}
    for part in PARTS:
        chosen = used(part, pins) or part.own in own
        if chosen or (part.within in here if part.within else not part.pins):
            here[part.name] = part
    return list(here.values())


def notice(
    pins: Collection[Pin],
    *,
    own: Collection[str] = (),
    model: Mapping[str, str] | None = None,
    introduction: Collection[str] = OF_AN_IMAGE,
) -> str:
    """Return the notice.

    Args:
        pins: the entries of sources.toml that were used; parts whose entries were not used are left out.
        own: variables that replace parts with the user's own.
        model: the fields of model.info, for an image with a model.
        introduction: lines that say where the source is.
    """
    here = parts(pins, own)
    lines = [f"Licences of the parts of an image of zosia {VERSION}", "", *introduction, ""]
    for part in here:
        lines += [f"- {part.name}: {part.licence}", f"  {part.place}"]
        if part.own and part.own in own:
            lines.append(f"  supplied by the person who built this image ({part.own}=): ask them")
        else:
            lines += [f"  {line}" for line in _origin(part, used(part, pins))]
    if model:
        lines += [f"- the model {model['name']}: {model.get('licence', 'ask the person who built this image')}"]
        lines += ["  models/; zosia only copies it, and its makers' terms apply to its use and distribution"]
    for text in dict.fromkeys(text for part in here for text in part.texts):
        path = ROOT / "LICENSE" if text == "zosia" else TEXTS / f"{text}.txt"
        lines += ["", "", f"===== {text} =====", "", path.read_text(encoding="utf-8").strip("\n")]
    return "\n".join(lines) + "\n"


def used(part: Part, pins: Collection[Pin]) -> list[Pin]:
    """Return the pins of a part."""
    return [pin for pin in pins if part.pins and re.fullmatch(part.pins, pin.name)]


def source_version(pin: Pin) -> str:
    """Return the version of a Debian package's source package: without the number of rebuilds."""
    return re.sub(r"\+b\d+$", "", pin.version)


def _origin(part: Part, pins: Collection[Pin]) -> Iterator[str]:
    for pin in pins:
        yield f"from {unquote(pin.file)}, SHA-256 {pin.sha256}"
    if part.source:
        archive = f"https://snapshot.debian.org/package/{part.source}/"
        places = {pin.url if pin.origin == "url" else f"{archive}{source_version(pin)}/" for pin in pins}
        for place in sorted(places) or [archive]:
            yield f"source: {place}"
