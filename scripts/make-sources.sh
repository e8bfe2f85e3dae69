#!/bin/sh
# Collect what must accompany a distributed image or wheel: the licences of its contents, the source of its GPL parts.
# Covers everything built in this tree. Writes to build/handover, or to the directory given. Needs Debian.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
folder=${1:-$top/build/handover}
if ! [ -e "$top/build/sources/linux.json" ]; then
  echo "zosia: error: nothing was built here yet. Run: ./scripts/build.sh" >&2
  exit 1
fi
PYTHONPATH=$top/site_scons exec "$top/.venv/bin/python" -m zosia_build.release.source_packages "$folder" "$top"/build/sources/*.json
