"""BillOfMaterials: bills of images, an ISO, a disk and the wheel, for `scons sbom`; Audit: the alias `audit`."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from zosia.base import style
from zosia.base.files import replacing
from zosia.base.version import VERSION
from zosia.inputs.catalogue import read_record, read_sources
from zosia.inputs.pins import pinned
from zosia.machine.boards import BOARDS
from zosia.settings.variables import BASES
from zosia_build.settings import Build
from zosia_scons import action, library

FOLDER = "#build/sbom"
PARTS = ("llama-cpp", "busybox-{arch}")
KERNELS = {"direct": "linux", "distro": "linux-distro-{arch}"}
OF_AN_ISO = ("grub-efi-{arch}", "grub-bios-{arch}")
FORMS = ("cdx", "spdx")


def _write(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build.supply import bills, component, cyclonedx, spdx  # slow to import, and only needed here

    build: Build = env["BUILD_SETTINGS"]
    run, page = build.run, Path(env["PAGE"])
    pins = [read_record(record) for record in sources]
    time = bills.time(os.environ.get("SOURCE_DATE_EPOCH", ""))
    inside = [one for pin in pins for one in bills.built_using(pin, run.cache)]
    tools = {arch: bills.toolchain(arch) for arch in BOARDS}

    def used(*names: str, arches: Collection[str] = (run.arch,), own: Collection[str] = ()) -> bills.Used:
        wanted = [name.format(arch=arch) for name in names for arch in arches]
        found = [pin for pin in pins if pin.name in wanted]
        return bills.Used(pins=found, own=own, inside=inside, tools=[tool for arch in arches for tool in tools[arch]])

    entry = pinned(run.model.entry, run.cache) if run.model.entry else None
    of_an_image = (KERNELS[run.base], *PARTS)
    model = component.of_model(entry) if entry and build.iso_model else []
    notice = page.read_text(encoding="utf-8") if page.is_file() else ""
    written = {
        run.arch: bills.image(used(*of_an_image, own=build.own), run.arch),
        f"{run.arch}-iso": bills.iso(used(KERNELS[BASES[0]], *PARTS, *OF_AN_ISO, own=build.own), run.arch, model),
        "wheel": bills.wheel(used(KERNELS[BASES[0]], *PARTS, arches=BOARDS), notice),
        "inputs": bills.inputs(),
    }
    written |= {f"{entry.name}.img": bills.disk(entry)} if entry else {}
    for target in targets:
        name, form, _ = target.name.removeprefix(f"zosia-{VERSION}-").rsplit(".", 2)
        with replacing(target) as temporary:
            text = {"cdx": cyclonedx.text, "spdx": spdx.text}[form](written[name], time)
            temporary.write_text(text, encoding="utf-8")


def bill_of_materials(env: Any, build: Build) -> Any:
    """env.BillOfMaterials(build): the bills in build/sbom, in CycloneDX and SPDX, of what this build would use.

    The records of what was fetched are their sources, so that a bill is of the versions that are used.
    """
    used = {BASES[0], build.run.base}  # an ISO and the wheel have zosia's own kernel in any case
    arches = (build.run.arch, *(other.run.arch for other in build.others))
    wanted = [name.format(arch=arch) for arch in arches for name in (*KERNELS.values(), *PARTS, *OF_AN_ISO)]
    kernels = {name.format(arch=arch) for base, name in KERNELS.items() for arch in arches if base not in used}
    names = [name for name in dict.fromkeys(wanted) if name in build.sources and name not in kernels]
    entry = build.run.model.entry
    subjects = [build.run.arch, f"{build.run.arch}-iso", "wheel", "inputs", *([f"{entry.name}.img"] if entry else [])]
    targets = [f"{FOLDER}/zosia-{VERSION}-{name}.{form}.json" for name in subjects for form in FORMS]
    made = env.Command(
        targets,
        [env.Source(build.sources[name]) for name in names],
        action(_write, "SBOM"),
        BUILD_SETTINGS=build,
        PAGE=env.File("#build/ui/licences.txt").abspath,
    )
    env.Depends(made, [*library(env, "zosia_build.supply.bills"), *env.Glob("#*.toml"), *env.Glob("#*.lock")])
    env.AlwaysBuild(made)  # what is installed on the host is no dependency that SCons could see
    env.Clean(made, FOLDER)
    return env.NoCache(made)


def _audit(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia_build.supply import audit  # slow to import, and only needed here

    build: Build = env["BUILD_SETTINGS"]
    pins = read_sources(Path(env.File("#sources.toml").abspath))
    style.show(audit.report(pins, build.run.models, build.run.cache), sys.stdout)


def audit_alias(env: Any, build: Build) -> Any:
    """env.Audit(build): the alias `audit`."""
    alias = env.Alias("audit", [], action(_audit, "AUDIT", lambda env: ""), BUILD_SETTINGS=build)
    return env.AlwaysBuild(alias)


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(bill_of_materials, "BillOfMaterials")
    env.AddMethod(audit_alias, "Audit")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
