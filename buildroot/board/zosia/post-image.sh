#!/bin/sh
# Buildroot calls it with the folder of images and the architecture. It makes the archive that scons makes, of the same
# manifest with the same writer.
set -eu
exec "$(dirname "$0")/guest.py" rootfs "$2" "$1" "$TARGET_DIR"
