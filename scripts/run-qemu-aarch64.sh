#!/bin/sh
# Install what is missing, build what is missing, and boot to the prompt. Arguments go to scons, such as MEM=1G.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" run "$@"
