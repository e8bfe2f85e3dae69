#!/bin/sh
# Make the disk with the model. Arguments go to scons, such as MODEL=/path/to/model.gguf.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
exec "$top/.venv/bin/scons" -C "$top" model.img "$@"
