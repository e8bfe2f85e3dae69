"""Control groups of this process, and the processor time that they allow it: a container's `--cpus`, a CPUQuota=."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

GROUPS, MOUNTS = Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")


def quota(groups: Path = GROUPS, mounts: Path = MOUNTS) -> float | None:
    """Return the processors' worth of time that this process may use, for example 0.5; None without a limit.

    The smallest of the limits from this process's own group up to the root counts, in versions 1 and 2 of cgroups
    (Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).
    """
    try:
        folders = list(_folders(groups.read_text(encoding="utf-8"), mounts.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None  # no Linux, or no /proc
    return min((limit for folder in folders if (limit := _limit(folder)) is not None), default=None)


def _folders(groups: str, mounts: str) -> Iterator[Path]:
    """Yield the folder of each group that may limit this process's time, from its own one upwards."""
    for line in mounts.splitlines():
        # proc(5): ID, parent, device, root, mount point, options, any optional fields, "-", type, source, options
        place, _, system = line.partition(" - ")
        kind, *_, options = system.split(" ") or [""]
        if kind != "cgroup2" and not (kind == "cgroup" and "cpu" in options.split(",")):
            continue
        root, point = (_unescaped(field) for field in place.split(" ")[3:5])
        own = _own(groups, "" if kind == "cgroup2" else "cpu")
        # A container may see a part of the tree only: what is mounted is `root`, and perhaps nothing below it.
        below = own.relative_to(root) if own.is_relative_to(root) else PurePosixPath()
        for group in (below, *below.parents):
            if ".." not in group.parts:
                yield Path(point, group)


def _own(groups: str, controller: str) -> PurePosixPath:
    """Return this process's group in the hierarchy of a controller; "" is that of version 2."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return PurePosixPath("/")


def _unescaped(field: str) -> str:
    r"""Return a field of mountinfo, in which a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _limit(folder: Path) -> float | None:
    """Return the limit of one group, None if it has none of its own."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        given, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return int(given) / int(period) if given != "max" else None
    with suppress(OSError, ValueError, ZeroDivisionError):
        given, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return int(given) / int(period) if int(given) > 0 else None
    return None
