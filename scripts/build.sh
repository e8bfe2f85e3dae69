#!/bin/sh
# Build the kernel and the initramfs. Arguments go to scons, such as V=1.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" kernel initramfs "$@"
