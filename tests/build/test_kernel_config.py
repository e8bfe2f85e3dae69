"""One configuration, whoever builds the kernel: zosia's own way and Buildroot's end in the same .config."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from zosia.base.files import cache_root
from zosia.inputs import catalogue, fetch
from zosia_build import kernel

# What Buildroot sets for itself after the merge, as far as it applies (LINUX_KCONFIG_FIXUP_CMDS in its linux/linux.mk).
FIXUPS = """
CONFIG_KERNEL_GZIP=y
CONFIG_CPU_LITTLE_ENDIAN=y
CONFIG_ARM64_4K_PAGES=y
# CONFIG_ARM64_16K_PAGES is not set
# CONFIG_ARM64_64K_PAGES is not set
# CONFIG_GCC_PLUGINS is not set
"""


@pytest.fixture(scope="module")
def linux(root: Path) -> Path:
    """The kernel's source."""
    pin = fetch.fetch(catalogue.read_sources(root / "sources.toml")["linux"], cache_root()).pin
    return fetch.source_tree(pin, cache_root())


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_both_ways_arrive_at_the_same(root: Path, linux: Path, tmp_path: Path, arch: str) -> None:
    board, log = root / "buildroot/board/zosia", tmp_path / "log"
    fragments = [board / "linux-common.config", board / f"linux-{arch}.config"]
    direct, merged = tmp_path / "direct", tmp_path / "merged"
    kernel.configure(source=linux, output=direct, fragments=fragments, arch=arch, log=log, cache=cache_root())

    merged.mkdir()
    shutil.copytree(direct / "scripts", merged / "scripts")  # Kconfig itself, compiled
    script = linux / "scripts/kconfig/merge_config.sh"
    subprocess.run([script, "-m", "-O", merged, *fragments], cwd=linux, check=True, capture_output=True)
    for change in ("", FIXUPS):
        with (merged / ".config").open("a") as file:
            file.write(change)
        options: dict[str, Any] = {
            "arch": arch,
            "log": log,
            "env": kernel.STAMP,
            "cache": cache_root(),
            "ccache": False,
        }
        kernel._make(["olddefconfig"], source=linux, output=merged, **options)

    config = (direct / ".config").read_text()
    assert len(config.splitlines()) > 1000
    # No driver of a network device, none to be loaded, no tunnel, and no other network than IPv4 over loopback.
    on = "|".join(("NETDEVICES", "ETHERNET", "WLAN", "WIRELESS", "PHYLIB", "IPV6", "PACKET", "MODULES", "BT", "CAN"))
    assert not re.findall(rf"^CONFIG_({on}|\w*(?:VIRTIO|USB)_NET\w*|TUN|PPP|SLIP|VSOCKETS)=.*", config, re.MULTILINE)
    assert re.findall("^CONFIG_(?:INET|UNIX)=y$", config, re.MULTILINE) == ["CONFIG_UNIX=y", "CONFIG_INET=y"]
    assert (merged / ".config").read_text() == (direct / ".config").read_text()
