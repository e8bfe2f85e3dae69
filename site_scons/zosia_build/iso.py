"""ISO: a CD image that is a disk image as well, from which GRUB starts zosia on any machine.

GRUB is Debian's. UEFI gets its ready-made image. For BIOS, on x86_64, grub-mkimage builds one from Debian's modules, so
that only tools are the host's.
"""

from __future__ import annotations

import hashlib
import io
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, replacing, sha256, temporary_folder
from zosia.base.process import find, run
from zosia.disk.ext4 import part_names
from zosia.machine.task import utf8
from zosia_build import cpio
from zosia_build.release import licences

VOLUME = "ZOSIA"
# Date of all files, so that the same input gives the same bytes: the earliest of FAT
DATE, SECONDS = "1980010100000000", 315532800
PLAIN = {"SOURCE_DATE_EPOCH": str(SECONDS), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
SECTOR = 512  # bytes
TABLE, TABLE_SIZE = 446, 64  # bytes, of the partitions in a boot sector
EFI_NAMES = {
    "aarch64": "BOOTAA64.EFI",
    "x86_64": "BOOTX64.EFI",
}  # UEFI 2.10, 3.5.1.1: programs that removable media boot
# Consoles of Linux; missing ones do no harm. hvc0 is virtio's, tty0 the screen.
CONSOLES = {"aarch64": ("hvc0", "ttyAMA0", "tty0"), "x86_64": ("hvc0", "ttyS0,115200", "tty0")}
BIOS_ARCH = "x86_64"
BIOS_MODULES = (
    *("biosdisk", "part_msdos", "iso9660", "normal", "test", "echo", "sleep", "halt", "boot", "linux"),
    *("search", "search_fs_file", "serial", "terminal", "vbe"),
)
BIOS_IMAGE = "boot/grub/eltorito.img"
PANIC = 60  # seconds before a panic reboots
MODEL_INFO = "model.info"


@dataclass(frozen=True, kw_only=True)
class Content:
    """Content of an ISO.

    Attributes:
        efi: GRUB for UEFI.
        bios: folder of GRUB's modules for BIOS; None where there is no BIOS.
        texts: texts for /init, by name.
        notice: licences of all parts.
        parts: the .gguf, or those of a split one in order; none for an ISO without a model.
        info: the lines key=value of model.info.
        verbose: show the messages of the kernel and llama.cpp.
    """

    arch: str
    kernel: Path
    initramfs: Path
    efi: Path
    bios: Path | None
    texts: Mapping[str, str]
    notice: str
    parts: Sequence[Path] = ()
    info: Mapping[str, str] | None = None
    verbose: bool = False


def check_tools(arch: str) -> None:
    """Check that the tools are installed, before anything is built.

    Raises:
        ZosiaError: a tool is missing; the error names its package.
    """
    for tool in ("xorriso", "mformat", "mcopy", *(("grub-mkimage",) if arch == BIOS_ARCH else ())):
        find(tool)


def grub_cfg(*, arch: str, mark: str, verbose: bool) -> str:
    """Return GRUB's configuration, without a menu. `mark` is the name of a file that only this ISO has."""
    consoles = " ".join(f"console={console}" for console in CONSOLES[arch])
    options = f"{consoles} panic={PANIC}{'' if verbose else ' loglevel=3'}"
    return f"""\
# Made by zosia. This file is on the ISO and on its EFI partition: GRUB is started from either.
if [ "$grub_platform" = pc ]; then
  serial --unit=0 --speed=115200
  terminal_output console serial
  set gfxpayload=1024x768x32,800x600x32,auto
else
  set gfxpayload=keep
fi
search --no-floppy --file --set=root /boot/{mark}
if linux /boot/Image {options}; then
  if initrd /boot/initramfs.cpio.gz; then
    boot
  fi
fi
echo "zosia: error: the ISO can't be read. Write or attach it again."
sleep {PANIC}
halt
"""


def bios_argv(modules: Path, target: Path) -> list[str | Path]:
    """Return the command that makes GRUB for BIOS, as a CD's boot image."""
    return [
        *("grub-mkimage", "-O", "i386-pc-eltorito", "-d", modules, "-p", "/boot/grub", "-o", target),
        *BIOS_MODULES,
    ]


def xorriso_argv(*, files: Mapping[str, Path], efi: Path, bios: Path | None, target: Path) -> list[str | Path]:
    """Return the command that writes the ISO.

    Args:
        files: its files, by their path on it.
        efi: image of the partition that UEFI boots from, of a CD as well.
        bios: folder of GRUB's modules for BIOS; None where there is no BIOS.
    """
    by_bios: tuple[str | Path, ...] = ()
    if bios:
        # On a CD the boot image finds itself by the table that xorriso writes into it, on a disk by the first sector.
        by_bios = ("-b", BIOS_IMAGE, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info")
        by_bios = (*by_bios, "--grub2-mbr", bios / "boot_hybrid.img", "-eltorito-alt-boot")
    # Otherwise the order of the data depends on inode numbers of the host.
    weights = [word for i, name in enumerate(files) for word in ("--sort-weight", str(len(files) - i), f"/{name}")]
    return [
        *("xorriso", "-as", "mkisofs", "-quiet", "-iso-level", "3", "-r", "-V", VOLUME, "-o", target),
        *("--set_all_file_dates", DATE, "-partition_offset", "16"),
        *("-append_partition", "2", "0xef", efi),
        *by_bios,
        *("-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
        *weights,
        *("-graft-points", *(f"/{name}={_escaped(str(path))}" for name, path in files.items())),
    ]


def model_names(parts: Sequence[Path]) -> list[str]:
    """Return the paths of a model's parts on the ISO."""
    return [f"models/{name}" for name in part_names(len(parts))] if parts else []


def build(content: Content, target: Path) -> None:
    """Write the ISO; the same input gives the same bytes.

    Raises:
        ZosiaError: a tool is missing or fails, or there is no room.
    """
    check_tools(content.arch)
    with temporary_folder() as folder, replacing(target.absolute()) as image:
        files = _write_files(content, folder)
        efi = folder / "efi.img"
        _make_efi(efi, content, files["boot/grub/grub.cfg"])
        sizes = sum(path.stat().st_size for path in (*files.values(), efi))
        check_room(image.parent, sizes + (4 << 20), f"{target.name}")
        image.unlink(missing_ok=True)  # left by a killed process with this number: xorriso would append to it
        run(xorriso_argv(files=files, efi=efi, bios=content.bios, target=image), env=PLAIN)


def _write_files(content: Content, folder: Path) -> dict[str, Path]:
    """Write the small files into the folder, and return all files by their path on the ISO; the model is last."""
    initramfs = folder / "initramfs"
    initramfs.write_bytes(with_texts(content.initramfs.read_bytes(), content.texts))
    small = {licences.NAME: content.notice}
    if content.parts:
        small[f"models/{MODEL_INFO}"] = "".join(f"{key}={value}\n" for key, value in (content.info or {}).items())
    mark = _mark(small, (content.kernel, initramfs))
    small[f"boot/{mark}"] = ""
    small["boot/grub/grub.cfg"] = grub_cfg(arch=content.arch, mark=mark, verbose=content.verbose)
    files = {}
    for name, text in sorted(small.items()):
        files[name] = folder / name.replace("/", "-")
        files[name].write_bytes(utf8(text))
    if content.bios:
        files[BIOS_IMAGE] = folder / "eltorito.img"
        run(bios_argv(content.bios, files[BIOS_IMAGE]))
    files |= {"boot/Image": content.kernel, "boot/initramfs.cpio.gz": initramfs}
    return files | dict(zip(model_names(content.parts), content.parts, strict=True))


def with_texts(initramfs: bytes, texts: Mapping[str, str]) -> bytes:
    """Append a second archive to an initramfs: /zosia/NAME/raw, as fw_cfg presents texts to /init.

    Linux needs it at a multiple of 4 bytes (Documentation/driver-api/early-userspace/buffer-format.rst).
    """
    archive = io.BytesIO()
    folders = ["zosia", *(f"zosia/{name}" for name in sorted(texts))]
    entries = [cpio.Entry(name=folder, mode=stat.S_IFDIR | 0o755) for folder in folders]
    for name, text in sorted(texts.items()):
        entries.append(cpio.Entry(name=f"zosia/{name}/raw", mode=stat.S_IFREG | 0o644, data=utf8(text)))
    cpio.write(entries, archive)
    return initramfs + bytes(-len(initramfs) % 4) + archive.getvalue()


def _mark(small: Mapping[str, str], programs: Sequence[Path]) -> str:
    """Return a name derived from the ISO's contents, so that GRUB does not mistake another attached ISO for it."""
    held = repr((sorted(small.items()), [sha256(path) for path in programs]))
    return hashlib.sha256(utf8(held)).hexdigest()[:16]


def _make_efi(image: Path, content: Content, config: Path) -> None:
    """Write a FAT filesystem with GRUB and its configuration, which looks for the ISO."""
    room = content.efi.stat().st_size + config.stat().st_size + (256 << 10)
    sectors = math.ceil(room / SECTOR / 1024) * 1024
    shape = ("-T", str(sectors), "-h", "16", "-s", "32")
    run(["mformat", "-C", "-i", image, *shape, "-N", "7a6f7369", "-v", VOLUME, "::"], env=PLAIN)
    with image.open("r+b") as file:  # mformat's partition table would make firmware take it for a disk
        file.seek(TABLE)
        file.write(bytes(TABLE_SIZE))
    run(["mmd", "-i", image, "::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"], env=PLAIN)
    for path, name in ((content.efi, f"EFI/BOOT/{EFI_NAMES[content.arch]}"), (config, "boot/grub/grub.cfg")):
        run(["mcopy", "-i", image, path, f"::/{name}"], env=PLAIN)


def _escaped(path: str) -> str:
    """Escape a path behind the = of a graft point."""
    if "\n" in path:
        raise ZosiaError(f"{path!r} has a line break in its name", "Rename it so that its name is one line")
    return path.replace("\\", "\\\\").replace("=", "\\=")
