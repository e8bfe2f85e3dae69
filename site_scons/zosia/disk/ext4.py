"""Model disk: an ext4 image with a model's parts and model.info, made without root and without a mount.

e2fsprogs writes the metadata only. The offsets of the parts are computed here, and the kernel copies each part there,
or shares its blocks with the image.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, replacing, size_text, temporary_folder
from zosia.base.process import run
from zosia.inputs.copies import copy_into

FORMAT = 1  # of images: another one for each change of what is in them, or where
BLOCK = 4096  # bytes
ALIGN = 1 << 21  # bytes; parts are aligned to 2 MiB, so that the guest can map them in huge pages
EXTENT = 32768  # blocks; the longest extent of ext4
GENEXT2FS_MOST = 2 << 30  # bytes of parts; they take a minute, and the time grows with their square
OLDEST = (1, 45)  # version of e2fsprogs; older ones are untested
# A read-only disk needs no journal, no backup superblocks and no blocks reserved for root.
FEATURES = "none,filetype,extent,flex_bg,sparse_super2,large_file,bigalloc"
UUID = "7a6f7369-6100-4000-8000-000000000001"  # constant, like the times: the same model gives the same bytes
MKE2FS = (
    *("mke2fs", "-q", "-F", "-b", str(BLOCK), "-C", str(ALIGN), "-I", "256", "-m", "0", "-O", FEATURES, "-U", UUID),
    *("-E", f"num_backup_sb=0,packed_meta_blocks=1,lazy_itable_init=0,hash_seed={UUID}"),
    *("-L", "zosia-model"),
)
# An image depends neither on the date nor on the host's mke2fs.conf.
PLAIN = {"E2FSPROGS_FAKE_TIME": "1", "E2FSCK_TIME": "1", "MKE2FS_CONFIG": os.devnull}
TOOLS = {"mke2fs": ("mke2fs", "debugfs", "e2fsck"), "genext2fs": ("genext2fs",)}
PARTS = ".parts"  # suffix of genext2fs's folder: .NAME.PROCESS.ANY.parts
# debugfs always ends with status 0; any other line of its output is an error.
EXPECTED = ("debugfs", "Allocated inode:", "extent:")


@dataclass(frozen=True)
class Part:
    """File of the model, and its name in the image."""

    path: Path
    name: str
    size: int  # bytes


def part_names(count: int) -> list[str]:
    """Return the names in the image of a model's parts, as llama.cpp's loader of split models expects them."""
    return ["model.gguf"] if count == 1 else [f"model-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]


def image_size(sizes: Sequence[int]) -> int:
    """Return the size of the image for parts of these sizes, in bytes: a multiple of 2 MiB."""
    return _places(sizes)[-1]


def build(
    *, parts: Sequence[Path], info: Mapping[str, str], target: Path, digest: str = "", tool: str = "mke2fs"
) -> str:
    """Write the image of a model and return the SHA-256 of its parts, one after the other.

    Args:
        parts: the .gguf, or those of a split one in order.
        info: the lines key=value of model.info; sha256=DIGEST is appended.
        digest: SHA-256 of the parts if known; otherwise it is computed while they are copied.
        tool: mke2fs; or genext2fs, which makes ext2, slowly and without alignment.

    Raises:
        ZosiaError: there is no room, a part changes meanwhile, a value of `info` has several lines, the tool is
            missing, too old or fails, or the model is too large for genext2fs.
    """
    for key, value in info.items():
        if "\n" in key + value:
            raise ZosiaError(
                f"{key} of a model must be one line, and is {value!r}", "Rename the file so that its name is one line"
            )
    names = part_names(len(parts))
    named = [Part(path, name, path.stat().st_size) for path, name in zip(parts, names, strict=True)]
    total = sum(part.size for part in named)
    if tool == "genext2fs" and total > GENEXT2FS_MOST:
        raise ZosiaError(
            f"genext2fs is too slow for models of more than {size_text(GENEXT2FS_MOST)}, "
            f"and {parts[0].name} has {size_text(total)}",
            "Leave IMAGE_TOOL= out",
        )
    make = _by_genext2fs if tool == "genext2fs" else _by_mke2fs
    with replacing(target.absolute()) as image:  # absolute, as the tools run in other folders
        _remove_left(target.absolute(), image)
        return make(named, info, image, digest)


def _remove_left(target: Path, image: Path) -> None:
    """Remove leftovers of killed processes: folders of genext2fs, and the image of one with this process's number."""
    image.unlink(missing_ok=True)
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.*{PARTS}"):
        # A folder in use has its image beside it; `replacing` has removed the images of dead processes.
        if not folder.with_suffix("").with_suffix("").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _by_mke2fs(parts: Sequence[Part], info: Mapping[str, str], image: Path, digest: str) -> str:
    places = lay_out(parts, image)
    digest = _copy(parts, [(image, place) for place in places], digest)
    commands = ["write new model.info", "sif model.info mode 0100444"]
    _debugfs(image, commands, new=_info_file(info, digest))
    return digest


def lay_out(parts: Sequence[Part], image: Path) -> list[int]:
    """Make an image without data and model.info, and return the parts' offsets in it, in bytes.

    Raises:
        ZosiaError: e2fsprogs is missing, too old, or fails.
    """
    check_version()
    *places, size = _places([part.size for part in parts])
    run([*MKE2FS, "-N", str(len(parts) + 16), image, f"{size // 1024}k"], env=PLAIN)
    _debugfs(image, _layout(parts, places), new=b"")
    # e2fsck corrects the counts of used blocks (status 1), which debugfs does not maintain, and fails on other errors.
    checked = run(["e2fsck", "-f", "-p", image], env=PLAIN, check=False)
    if checked.returncode > 1:
        raise ZosiaError(
            f"e2fsck refused the model disk: {' '.join((checked.stdout + checked.stderr).split())}",
            "Use another e2fsprogs",
        )
    return places


def check_version() -> str:
    """Return the version of e2fsprogs.

    Raises:
        ZosiaError: e2fsprogs is missing or too old.
    """
    shown = run(["mke2fs", "-V"]).stderr
    version = re.search(r"mke2fs ((\d+)\.(\d+)\S*)", shown)
    if version and (int(version[2]), int(version[3])) < OLDEST:
        raise ZosiaError(
            f"e2fsprogs {OLDEST[0]}.{OLDEST[1]} or newer is needed, and this is {version[2]}.{version[3]}",
            "Install a newer one, first on PATH",
        )
    return version[1] if version else "of an unknown version"


def _debugfs(image: Path, commands: Iterable[str], *, new: bytes) -> None:
    """Run debugfs commands in a folder with a file `new` of these bytes: paths would need debugfs's own quoting."""
    with temporary_folder() as folder:
        (folder / "new").write_bytes(new)
        (folder / "commands").write_text("".join(f"{command}\n" for command in commands), encoding="ascii")
        done = run(["debugfs", "-w", "-f", "commands", image], cwd=folder, env=PLAIN)
    for line in (done.stdout + done.stderr).splitlines():
        if line and not line.startswith(EXPECTED):
            raise ZosiaError(f"debugfs could not write the model disk: {line.strip()}", "Use another e2fsprogs")


def _places(sizes: Sequence[int]) -> list[int]:
    """Return the offsets of the parts in the image and of the image's end, in bytes."""
    # In front, each in a cluster of its own: mke2fs's metadata, the root folder, lost+found and model.info; and the
    # blocks of extent trees, which hold 340 extents and stay half full. An inode itself holds 4.
    extents = [math.ceil(size / (EXTENT * BLOCK)) for size in sizes]
    places = [(4 + sum(count // 169 + 1 for count in extents if count > 4)) * ALIGN]
    for size in sizes:
        places.append(places[-1] + math.ceil(size / ALIGN) * ALIGN)
    return places


def _layout(parts: Sequence[Part], places: Sequence[int]) -> Iterator[str]:
    """Yield debugfs commands: each part's name, size, and initialised extents over the blocks where its data goes."""
    # mke2fs's make_hugefiles would lay a single part as well, 0.07 s faster at 12 GB (docs/benchmarks.md). Its files
    # have one size, so that split models, whose parts have several, need these commands anyway.
    yield "ssv flags 1"  # the hash of names, whose default differs between processors
    for part, place in zip(parts, places, strict=True):
        # All clusters of parts are marked as used first, so that debugfs puts no extent tree there.
        yield from (f"setb {at // BLOCK}" for at in range(place, place + part.size, ALIGN))
    for part, place in zip(parts, places, strict=True):
        yield from (f"write new {part.name}", f"extent_open {part.name}")
        blocks = math.ceil(part.size / BLOCK)
        for at in range(0, blocks, EXTENT):
            after = "--after " if at else ""
            yield f"insert_node {after}{at} {min(EXTENT, blocks - at)} {place // BLOCK + at}"
        yield from ("extent_close", f"sif {part.name} size {part.size}", f"sif {part.name} mode 0100444")


def _by_genext2fs(parts: Sequence[Part], info: Mapping[str, str], image: Path, digest: str) -> str:
    # Indirect blocks take a thousandth; each group of 128 MiB has bitmaps, an inode table and a backup superblock.
    blocks = sum(math.ceil(part.size / BLOCK * 1.002) + 8 for part in parts) + 64
    blocks = math.ceil((blocks + math.ceil(blocks / 30000) * 64) * BLOCK / ALIGN) * ALIGN // BLOCK
    # It takes times and modes from the files, and their order from the folder: so it gets copies, one in each folder.
    check_room(image.parent, blocks * BLOCK + sum(part.size for part in parts), "The model disk")
    image.touch()  # before the folder: see _remove_left
    with tempfile.TemporaryDirectory(prefix=f"{image.name}.", suffix=PARTS, dir=image.parent) as name:
        files = [Path(name, str(i), part.name) for i, part in enumerate((*parts, Part(Path(), "model.info", 0)))]
        for file in files:
            file.parent.mkdir()
            file.touch()
        digest = _copy(parts, [(file, 0) for file in files[:-1]], digest)
        files[-1].write_bytes(_info_file(info, digest))
        for file in files:
            file.chmod(0o444)
            os.utime(file, (1, 1))
        layers = [word for file in files for word in ("-d", file.parent.name)]
        sizes = ("-B", str(BLOCK), "-b", str(blocks), "-N", str(len(files) + 16), "-m", "0")
        run(["genext2fs", "-f", "-U", *sizes, *layers, image], cwd=Path(name))
    return digest


def _info_file(info: Mapping[str, str], digest: str) -> bytes:
    text = "".join(f"{key}={value}\n" for key, value in {**info, "sha256": digest}.items())
    return text.encode("utf-8", "surrogateescape")  # names of files may be any bytes


def _copy(parts: Sequence[Part], goals: Sequence[tuple[Path, int]], digest: str) -> str:
    """Copy each part into a file, at an offset in bytes, and return the SHA-256 of all parts: `digest` if given."""
    sha = None if digest else hashlib.sha256()
    left = sum(part.size for part in parts)
    for part, (path, offset) in zip(parts, goals, strict=True):
        copy_into(part.path, path, size=part.size, what="The model disk", offset=offset, needed=left, sha=sha)
        left -= part.size
    return sha.hexdigest() if sha else digest
