#!/bin/sh
# Like run-qemu-aarch64.sh, for an x86_64 guest: much faster on an x86_64 host with KVM.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cross=
[ "$(uname -m)" = x86_64 ] || cross=x86_64-linux-gnu-objcopy
# shellcheck disable=SC2086 # a word or none
"$top/scripts/bootstrap.sh" qemu-system-x86_64 gelf.h $cross
exec "$top/.venv/bin/scons" -C "$top" run ARCH=x86_64 "$@"
