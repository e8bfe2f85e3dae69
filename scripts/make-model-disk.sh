#!/bin/sh
# Make the disk with the model. Arguments go to scons, such as MODEL=/path/to/model.gguf.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh
exec .venv/bin/scons model.img "$@"
