#!/bin/sh
# Install what is missing, build everything, and run all tests. Arguments go to pytest, such as -k cpio.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh qemu-user genext2fs
.venv/bin/scons
.venv/bin/scons smoke
exec .venv/bin/python -m pytest -n 2 --dist loadgroup "$@"
