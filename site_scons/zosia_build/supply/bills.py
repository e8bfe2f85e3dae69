"""Bills of materials of what a build makes: images, ISOs, disks of models, and the wheel."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from packageurl import PackageURL
from packaging.requirements import Requirement

from zosia.base.errors import ZosiaError, shown
from zosia.base.process import find, missing, run
from zosia.base.version import ROOT, VERSION
from zosia.inputs import fetch
from zosia.inputs.catalogue import Model, Pin, read_models, read_sources
from zosia_build import kernel
from zosia_build.release import licences
from zosia_build.release.wheel import TIME
from zosia_build.supply import component, python_packages
from zosia_build.supply.component import Bill, Component, Role

LOCK, PROJECT = ROOT / "requirements.lock", ROOT / "pyproject.toml"
PAGE = re.compile(r"^- (?P<name>.+), (?P<version>.+): (?P<licence>.+)$", re.MULTILINE)  # of ui/licences.py
UNLISTED = "Its packages are not listed here: it was not built when this was written. Type: scons ui"


@dataclass(frozen=True, kw_only=True)
class Used:
    """Pins that a build used, the variables (`own`) by which its user supplied parts, what is known to be inside of the
    pins' files, and the compilers.
    """

    pins: Collection[Pin]
    own: Collection[str] = ()
    inside: Collection[Component] = ()
    tools: Collection[Component] = ()


def time(epoch: str) -> datetime:
    """Return the time of a bill, by SOURCE_DATE_EPOCH if that is set; 1980 otherwise, as in the wheel.

    Raises:
        ZosiaError: it is no number of seconds, or of too many.
    """
    try:
        return datetime.fromtimestamp(int(epoch or TIME), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ZosiaError(
            f"SOURCE_DATE_EPOCH={shown(epoch)} is no number of seconds since 1970",
            "Type: export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        ) from error


def image(used: Used, arch: str) -> Bill:
    """Return the bill of a kernel and its initramfs."""
    return _bill(f"zosia-{arch}", _of_an_image(used), used.tools, kind="operating-system")


def iso(used: Used, arch: str, model: Iterable[Component]) -> Bill:
    """Return the bill of an ISO, with or without a model."""
    return _bill(f"zosia-{arch}.iso", [*_of_an_image(used), *model], used.tools, kind="operating-system")


def disk(model: Model) -> Bill:
    """Return the bill of the disk of a model."""
    return _bill(f"{model.name}.img", component.of_model(model), ())


def wheel(used: Used, page: str) -> Bill:
    """Return the bill of the wheel; `page` is the notice of the web page, "" if that is not built."""
    packages = python_packages.read(LOCK.read_text(encoding="utf-8"))
    asked = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    needed = python_packages.needed(packages, [Requirement(text).name for text in asked])
    parts = [*_of_an_image(used), *_of_the_page(page), *map(python_packages.component, needed)]
    purl = PackageURL("pypi", None, "zosia", VERSION).to_string()
    return _bill("zosia", parts, used.tools, purl=purl, file=f"zosia-{VERSION}-py3-none-any.whl")


def inputs() -> Bill:
    """Return the bill of all pins of this clone, also of those that a build on this host doesn't use."""
    sources, models = read_sources(ROOT / "sources.toml"), read_models(ROOT / "models.toml")
    packages = python_packages.read(LOCK.read_text(encoding="utf-8")).values()
    files = [part for model in models.values() for part in component.of_model(model)]
    python = [python_packages.component(package, Role.TOOL) for package in packages]
    return _bill("zosia-inputs", [*map(component.of_pin, sources.values()), *files, *python], (), kind="file")


def _bill(
    name: str,
    parts: Iterable[Component],
    tools: Iterable[Component],
    *,
    kind: str = "application",
    purl: str = "",
    file: str = "",
) -> Bill:
    known = {part.key: part for part in [*tools, *parts]}
    subject = Component(name=name, version=VERSION, kind=kind, purl=purl, file=file)
    return Bill(subject=subject, components=tuple(known[key] for key in sorted(known)))


def _of_an_image(used: Used) -> list[Component]:
    """Return the parts that the notice of licences lists: what was fetched, and what is known to be within it."""
    found: list[Component] = []
    outer = {part.name: [pin.name for pin in licences.used(part, used.pins)] for part in licences.PARTS}
    for part in licences.parts(used.pins, used.own):
        found += [replace(component.of_pin(pin), licence=part.licence) for pin in licences.used(part, used.pins)]
        inside = [one for one in used.inside if one.name == part.name and one.within in outer.get(part.within, [])]
        if part.own and part.own in used.own:
            note = f"Supplied by the person who built this ({part.own}=): ask them"
            found.append(Component(name=part.name, kind="application", note=note))
        elif not part.pins and not inside:
            around = next(iter(outer.get(part.within, [])), "")
            version = VERSION if part.name == "zosia" else ""
            found.append(
                Component(name=part.name, version=version, licence=part.licence, note=part.place, within=around)
            )
    return [*found, *(one for one in used.inside if one.within in {pin.name for pin in used.pins})]


def _of_the_page(notice: str) -> list[Component]:
    page = Component(
        name="llama.cpp-web-page", kind="application", licence=licences.MIT, note="" if notice else UNLISTED
    )
    packages = []
    for found in PAGE.finditer(notice.partition("=====")[0]):
        version = found["version"] if re.match(r"\d", found["version"]) else ""
        if found["name"] == "llama.cpp":  # the page itself
            continue
        scope, _, name = found["name"].rpartition("/")
        known = PackageURL("npm", scope or None, name, version or None).to_string()
        licence = found["licence"] if found["licence"] != "see its text" else ""
        packages.append(Component(name=found["name"], version=version, licence=licence, purl=known, within=page.name))
    return [page, *packages]


def built_using(pin: Pin, cache: Path) -> list[Component]:
    """Return the packages whose code is in a package of Debian, as its field Built-Using names them.

    There are none on a host without dpkg-deb, which reads it.
    """
    if pin.origin != "debian" or missing(["dpkg-deb"]):
        return []
    field = run(["dpkg-deb", "-f", fetch.fetch_recorded(pin, cache), "Built-Using"]).stdout
    return [
        Component(
            name=name,
            version=version,
            licence=next((part.licence for part in licences.PARTS if part.name == name), ""),
            purl=PackageURL("deb", "debian", name, version, {"arch": "source"}).to_string(),
            cpe=component.cpe(name, version.rpartition("-")[0]),
            within=pin.name,
        )
        for name, version in re.findall(r"([a-z0-9][a-z0-9+.-]+) \(= ([^)]+)\)", field)
    ]


def toolchain(arch: str) -> list[Component]:
    """Return what compiles: zig of the lock, and the host's gcc and binutils, for tools of the kernel's build."""
    packages = python_packages.read(LOCK.read_text(encoding="utf-8"))
    zig = python_packages.component(packages["ziglang"], Role.TOOL)
    compiler = component.cpe("zig", zig.version)
    found = [replace(zig, cpe=compiler, kind="application", note="Compiles the kernel and llama.cpp")]
    *_, objcopy = kernel.tools(arch)
    for name, program, question, note in (
        ("gcc", "gcc", "-dumpfullversion", "Compiles tools that the kernel's build runs"),
        ("binutils", objcopy, "--version", "Copies sections of the kernel"),
    ):
        if missing([program]):  # such as on macOS, which builds no kernel
            continue
        said = run([find(program), question], check=False).stdout
        number = re.search(r"\d+(\.\d+)+$", said.partition("\n")[0])
        version = number[0] if number else ""
        found.append(
            Component(
                name=name,
                version=version,
                kind="application",
                licence="GPL-3.0-or-later",
                cpe=component.cpe(name, version),
                role=Role.TOOL,
                note=note,
            )
        )
    return found
