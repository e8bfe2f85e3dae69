#!/bin/sh
# Build the kernel and the initramfs. Arguments go to scons, such as V=1.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh
exec .venv/bin/scons kernel initramfs "$@"
