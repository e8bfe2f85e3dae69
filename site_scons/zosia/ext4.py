"""The model disk: an ext4 image with model.gguf and model.info, made by e2fsprogs without root and without a mount."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

from .errors import ZosiaError
from .files import check_room, replacing, sha256
from .process import run

BLOCK = 4096  # bytes
GROUP = 32768  # blocks of one block group: as many as a block's bits can map
INODES = 16
ALIGN = 1 << 21  # bytes; an image of whole 2 MiB pages can be mapped by the guest
FILES = ("model.gguf", "model.info")
EXPECTED = ("debugfs", "Allocated inode:")
# A disk that is only read needs no journal, no blocks kept for root and no room to grow.
FEATURES = "^has_journal,^resize_inode,sparse_super2,^metadata_csum"
UUID = "7a6f7369-6100-4000-8000-000000000001"  # fixed, as the times are: the same model gives the same bytes
MKE2FS = (
    *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-m", "0", "-N", str(INODES), "-O", FEATURES),
    *("-U", UUID, "-E", f"hash_seed={UUID},root_owner=0:0,lazy_itable_init=0", "-L", "zosia-model"),
)


def image_size(content: int) -> int:
    """Bytes of an image that holds `content` bytes of files and little more."""
    blocks = math.ceil(content / BLOCK) + 64
    groups = math.ceil(blocks / GROUP) + 1
    # Each group has two bitmaps and an inode table; an extent block maps 340 extents of at most a group each.
    blocks += groups * 4 + math.ceil(groups / 340) + math.ceil(groups * 64 / BLOCK) * 3
    return math.ceil(blocks * BLOCK / ALIGN) * ALIGN


def build(*, gguf: Path, name: str, target: Path) -> str:
    """Write the image of a model and return the SHA-256 of its .gguf.

    Args:
        name: what the guest's banner calls the model.

    Raises:
        ZosiaError: it does not fit on the disk, or e2fsprogs fails.
    """
    target = target.absolute()  # debugfs runs in another folder
    size = image_size(gguf.stat().st_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    check_room(target.parent, size, target.name)
    digest = sha256(gguf)
    with replacing(target) as image, tempfile.TemporaryDirectory() as folder:
        # debugfs has quoting rules of its own: give it names that need none.
        Path(folder, "model.gguf").symlink_to(gguf.absolute())
        Path(folder, "model.info").write_bytes(os.fsencode(f"name={name}\nsha256={digest}\n"))
        Path(folder, "commands").write_text(
            "".join(f"write {f} {f}\nsif {f} mode 0100444\n" for f in FILES), encoding="utf-8"
        )
        fixed_time = {"E2FSPROGS_FAKE_TIME": "1"}
        run([*MKE2FS, image, f"{size // 1024}k"], env=fixed_time)
        done = run(["debugfs", "-w", "-f", "commands", image], cwd=Path(folder), env=fixed_time)
        # debugfs ends with status 0 whatever happened; a line that is no echo and no success is its complaint.
        complaints = [line for line in done.stdout.splitlines() if line and not line.startswith(EXPECTED)]
        if complaints:
            raise ZosiaError(
                f"debugfs could not write {target}: {complaints[0].strip()}", "Make room, then run it again"
            )
    return digest
