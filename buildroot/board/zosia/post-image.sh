#!/bin/sh
# Buildroot calls it with the folder of images: the archive that scons makes, by the same manifest and the same writer.
set -eu
exec "$(dirname "$0")/guest.py" rootfs "$BR2_ARCH" "$1" "$TARGET_DIR"
