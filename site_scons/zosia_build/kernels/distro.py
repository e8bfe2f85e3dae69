"""Kernel of a distribution's package, and an archive of those of its modules that the guest needs.

Nothing is unpacked to the disk or run, so this works on any host.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.inputs.archives import damage_named, package_files
from zosia_build import cpio
from zosia_build.kernels import zboot
from zosia_build.kernels.modules import Modules, module_name

# Drivers of the machine's devices and of the model's disk. Most distributions have some of them built in.
WANTED = ("virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "qemu_fw_cfg", "ext4")
KERNEL = re.compile(r"boot/vmlinuz-[^/]+")
LISTS = re.compile(r"(?:usr/)?lib/modules/[^/]+/modules\.builtin(\.modinfo)?")
MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/kernel/.+\.ko(?:\.xz)?")


def build(package: Path, *, kernel: Path, modules: Path) -> None:
    """Write the kernel of a .deb to `kernel`, and an archive of its modules to `modules`.

    Raises:
        ZosiaError: the package is damaged, is not a kernel's, or lacks a module.
    """
    image, found = read(package)
    cpio.write_gz(entries(found), modules)
    with replacing(kernel) as temporary:
        temporary.write_bytes(image)


def read(package: Path) -> tuple[bytes, Modules]:
    """Read the kernel and all modules of a .deb, in one pass; this takes up to a few hundred MB of memory.

    Raises:
        ZosiaError: the package is damaged, or is not a kernel's.
    """
    kernel, lists, files = b"", dict[str, str](), dict[str, bytes]()
    with damage_named(package):
        for name, content in package_files(package):
            if KERNEL.fullmatch(name):
                kernel = zboot.unwrapped(content.read(), name)
            elif match := LISTS.fullmatch(name):
                lists["info" if match[1] else "names"] = content.read().decode(errors="replace")
            elif MODULE.fullmatch(name):
                files[module_name(name)] = content.read()
    if not (kernel and "names" in lists):
        raise ZosiaError(f"{package} is not a kernel package: it has no {'modules.builtin' if kernel else 'vmlinuz'}")
    return kernel, Modules(package=package.name, files=files, builtin=builtin(**lists))


def builtin(names: str, info: str = "") -> frozenset[str]:
    """Return names and aliases of built-in modules, from modules.builtin and modules.builtin.modinfo.

    The former has a path a line; the latter has words "MODULE.FIELD=VALUE", each ended by a NUL; see
    Documentation/kbuild/kbuild.rst.
    """
    aliases = re.findall(r"(?:^|\0)\w+\.alias=([^\0]*)", info)
    return frozenset(map(module_name, [*names.split(), *aliases]))


def entries(modules: Modules) -> list[cpio.Entry]:
    """Return the entries that an initramfs with busybox needs to load modules: /init reads /etc/zosia-modules.

    Raises:
        ZosiaError: a module is missing.
    """
    order = modules.order(WANTED)
    folders = [cpio.Entry(name=name, mode=stat.S_IFDIR | 0o755) for name in ("lib", "lib/modules")]
    files = {f"lib/modules/{name}.ko": modules.content(name) for name in order}
    files["etc/zosia-modules"] = "".join(f"{name}\n" for name in order).encode()
    return [
        *folders,
        *(cpio.Entry(name=name, mode=stat.S_IFREG | 0o644, data=data) for name, data in files.items()),
        cpio.Entry(name="bin/insmod", mode=stat.S_IFLNK | 0o777, data=b"busybox"),
    ]
