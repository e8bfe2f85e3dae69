#!/bin/sh
# Build the kernel and the initramfs. Arguments, such as V=1, are passed to scons.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" kernel initramfs "$@"
