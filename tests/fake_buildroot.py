"""A Buildroot that is a Makefile: it notes what it was asked for, and makes files as the real one names them."""

from __future__ import annotations

from pathlib import Path

MAKEFILE = """\
export BR2_VERSION := 2026.02.3
goals:
	@exit 1
.PHONY: defconfig linux-configure linux busybox
defconfig linux-configure linux busybox:
	@echo "$@ JLEVEL=$(BR2_JLEVEL) TREE=$(BR2_EXTERNAL) ROOT=$$FORCE_UNSAFE_CONFIGURE MM=$$PERL_MM_OPT" >> $(O)/asked
	@echo "DL=$$BR2_DL_DIR PATH=$$PATH" >> $(O)/asked
	@test ! -e $(O)/../fail-$@ || { seq 100; echo "$@ went wrong"; exit 1; }
	@$(make-$@)
make-defconfig = cp $(BR2_DEFCONFIG) $(O)/.config; sed -i '/DROPPED/d' $(O)/.config
make-linux-configure = mkdir -p $(O)/build/linux-custom $(O)/build/linux-headers-custom; \\
	cat $(BR2_EXTERNAL)/board/zosia/linux-common.config $(BR2_EXTERNAL)/board/zosia/linux-aarch64.config > \\
	$(O)/build/linux-custom/.config; touch $(O)/build/linux-headers-custom/.config
make-linux = mkdir -p $(O)/images; echo kernel > $(O)/images/Image
make-busybox = mkdir -p $(O)/target/bin; echo busybox > $(O)/target/bin/busybox
"""


def write(folder: Path) -> Path:
    """Make the tree and return it. A file fail-GOAL beside its output makes that goal fail."""
    (folder / "package" / "busybox").mkdir(parents=True)
    (folder / "Makefile").write_text(MAKEFILE)
    return folder


def asked(output: Path) -> list[str]:
    """The goals that its make was given so far."""
    lines = (output / "asked").read_text().splitlines()
    return [line.split()[0] for line in lines if "JLEVEL" in line]
