#!/bin/sh
# Make the model disk. Arguments, such as MODEL=/path/to/model.gguf, are passed to scons.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" model.img "$@"
