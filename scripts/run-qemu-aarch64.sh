#!/bin/sh
# Install and build what is missing, and boot to the prompt. Arguments, such as MEM=1G, are passed to scons.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" run "$@"
