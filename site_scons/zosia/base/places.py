"""Places of a machine's parts: below build/ in a clone; in an installed package, and in this user's own folders."""

from __future__ import annotations

from pathlib import Path

from zosia.base.files import cache_root

PACKAGE = Path(__file__).parents[1]
CLONE = PACKAGE.parents[1]
INSTALLED = (PACKAGE / "images").is_dir()  # a clone, or a plain copy of its package, has none
ROOT = PACKAGE if INSTALLED else CLONE  # folder of models.toml

if INSTALLED:
    import platformdirs

    IMAGES = PACKAGE / "images"  # a folder for each architecture: its kernel and its initramfs
    PAGE = IMAGES / "ui"  # the web page
    DISKS = platformdirs.user_data_path("zosia") / "models"
    SAVED = cache_root() / "hot"  # saved machines
else:  # SCons works in the clone
    IMAGES = Path("build")
    PAGE = IMAGES / "ui"
    DISKS = IMAGES / "models"
    SAVED = IMAGES / "hot"


def chats() -> Path:
    """Return the folder of chats that are kept: this user's, for clones and packages alike."""
    import platformdirs  # not there for Buildroot, which needs this module

    return platformdirs.user_data_path("zosia") / "chats"


def repair(in_clone: str = "Type: ./scripts/bootstrap.sh") -> str:
    """Return what to do where a part of zosia is missing: in a clone, the given sentence."""
    return "Install zosia again" if INSTALLED else in_clone
