#!/bin/sh
# Install what is missing, try zosia on this host, and write a line for docs/hosts.json to build/host-HOST.json.
# HOST is a name in .ci/hosts.toml. Further arguments, such as --dev, are passed to bootstrap.sh.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
if [ $# = 0 ]; then
  echo "zosia: error: which host? Type: ./scripts/try-host.sh HOST" >&2
  exit 2
fi
name=$1
shift
./scripts/bootstrap.sh "$@"
PYTHONPATH=site_scons exec .venv/bin/python -m zosia_build.hosts try "$name"
