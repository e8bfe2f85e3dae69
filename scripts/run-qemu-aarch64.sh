#!/bin/sh
# Install what is missing, build what is missing, and boot to the prompt. Arguments go to scons, such as MEM=1G.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh
exec .venv/bin/scons run "$@"
