"""The processor time that a container or a service leaves, in folders like those of /sys/fs/cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from zosia.machine import cgroups

V2 = "31 23 0:28 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 23 0:29 {root} {point} rw - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = (
    "23 1 8:1 / / rw - ext4 /dev/vda1 rw\n"
    "33 23 0:30 / {point} rw shared:1 - cgroup cgroup rw,cpuset\n"
    "34 23 0:31 / {point} rw - tmpfs tmpfs rw,mode=755\n"
)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A mount point, with a space in its name."""
    folder = tmp_path / "the cgroups"
    folder.mkdir()
    return folder


def quota(top: Path, groups: str, mounts: str, *, root: str = "/") -> float | None:
    """Return the quota of a process in these groups."""
    files = (top.parent / "cgroup", top.parent / "mountinfo")
    point = str(top).replace(" ", r"\040")
    files[0].write_text(groups)
    files[1].write_text((OTHERS + mounts).format(root=root, point=point))
    return cgroups.quota(*files)


def put(folder: Path, given: str, period: int = 100_000, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{given} {period}\n")
        return
    (folder / "cpu.cfs_quota_us").write_text(f"{given}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(("given", "period", "found"), [("50000", 100_000, 0.5), ("75000", 30_000, 2.5)])
def test_version_2(top: Path, given: str, period: int, found: float) -> None:
    put(top, given, period)
    assert quota(top, "0::/\n", V2) == found
    put(top, "max", period)
    assert quota(top, "0::/\n", V2) is None


@pytest.mark.parametrize(("own", "above", "found"), [("300000", "200000", 2), ("200000", "300000", 2), ("max", "1", 0)])
def test_the_smallest_counts(top: Path, own: str, above: str, found: float) -> None:
    put(top / "a.slice" / "b: c.scope", own)
    put(top / "a.slice", above)
    put(top / "other.slice", "1000")
    assert quota(top, "0::/a.slice/b: c.scope\n", V2) == pytest.approx(found, abs=0.001)
    assert quota(top, "0::/a.slice/b: c.scope/which has no files\n", V2) == pytest.approx(found, abs=0.001)


def test_version_1(top: Path) -> None:
    groups = "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/other\n0::/\n"
    put(top, "-1", version=1)
    put(top / "docker" / "abc", "150000", version=1)
    assert quota(top, groups, V1) == 1.5
    put(top / "docker" / "abc", "-1", version=1)
    assert quota(top, groups, V1) is None


def test_both_versions_at_once(top: Path) -> None:
    put(top / "one", "250000", version=1)
    assert quota(top, "4:cpu:/one\n0::/two\n", V2 + V1) == 2.5, "the usual place of the processors on such a host"


def test_a_container_sees_a_part_of_the_tree(top: Path) -> None:
    put(top, "200000")
    put(top / "inner", "100000")
    assert quota(top, "0::/docker/abc\n", V2, root="/docker/abc") == 2
    assert quota(top, "0::/docker/abc/inner\n", V2, root="/docker/abc") == 1
    assert quota(top, "0::/elsewhere/inner\n", V2, root="/docker/abc") == 2
    put(top.parent, "1")
    assert quota(top, "0::/../..\n", V2) == 2, "nothing outside the mount is looked at"


@pytest.mark.parametrize("damaged", ["", "max", "x y\n", "1 0\n", "50000 100000 7\n"])
def test_what_can_not_be_read_is_no_limit(top: Path, damaged: str) -> None:
    put(top / "own", "200000")
    (top / "own" / "cpu.max").write_text(damaged)
    assert quota(top, "0::/own\n", V2) is None
    assert quota(top, "garbage\n", V2) is None
    assert cgroups.quota(top / "none", top / "none") is None
