"""Second build: the same sources in another folder, with empty caches, and the first byte that differs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import check_room, sha256
from zosia.base.version import ROOT
from zosia_build.release import differences

FOLDER = Path("build/verify")
TREE = FOLDER / "a-second-tree-of-another-length"
KEPT = ("downloads", "apt")  # of the cache: what was fetched, and nothing that was built
NOT_SOURCES = ("build", ".git", ".venv", "__pycache__", ".sconsign*", ".*_cache", ".hypothesis")
ROOM = 6 << 30  # bytes: two kernels and llama.cpp, with their caches
# What might get into a result, and must not: the clock's zone, the language, who may read new files.
OTHER = {"TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
UMASK = 0o077


def again(*, results: Sequence[Path], words: Sequence[str], cache: Path, launched: Path) -> None:
    """Build `words` a second time, and compare the results, which are there already, with those of the second build.

    Of the cache, only downloads are used again: nothing that a compiler made. If a byte differs, the second build stays
    to be looked at.

    Args:
        results: files and folders, relative to the repository.
        words: targets and variables for scons.
        cache: zosia's.
        launched: where scons was started.

    Raises:
        ZosiaError: the sources can't be copied, the second build fails, or a result of it differs.
    """
    folder = ROOT / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    check_room(folder, ROOM, "a second build")
    tree = ROOT / TREE
    try:
        shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    except shutil.Error as error:  # it lists many files; the last reason is enough
        raise ZosiaError(f"the sources could not be copied to {TREE}: {error.args[0][-1][2]}") from error
    second = folder / "cache"
    second.mkdir()
    for name in KEPT:
        (cache / name).mkdir(exist_ok=True)
        (second / name).symlink_to(cache.absolute() / name)
    environment = {**os.environ, **OTHER, "ZOSIA_CACHE": str(second)}
    # From the folder that scons was started in: a value may be a path relative to it.
    argv = [sys.executable, "-m", "SCons", "-C", str(tree), *words]
    if subprocess.run(argv, env=environment, umask=UMASK, cwd=launched, check=False).returncode:
        raise ZosiaError(f"the second build, in {FOLDER}, failed", "See its messages above")
    differing = _compare(results, tree)
    if differing:
        raise ZosiaError(
            f"a second build gives other bytes: {'; '.join(f'{path}: {where}' for path, where in differing.items())}",
            f"Compare them with those in {TREE}, for example by diffoscope",
        )
    shutil.rmtree(folder, ignore_errors=True)


def _compare(results: Sequence[Path], tree: Path) -> Mapping[Path, str]:
    """Show the digest of each result that is the same in both builds; return where the others differ."""
    differing = {}
    for path in results:
        if not (tree / path).exists():
            differing[path] = "it is only in the first"
        elif found := differences.of_paths(ROOT / path, tree / path):
            differing[path] = found
        else:
            style.say("SAME", f"{path} {'' if path.is_dir() else sha256(ROOT / path)}".rstrip())
    return differing
