#!/bin/sh
# Put together what has to go with an image that is handed on: the licences of what is in it, and the source of what is
# under the GPL. Of all that was built in this tree, into build/handover or the folder given. On Debian 12.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$top/scripts/bootstrap.sh"
folder=${1:-$top/build/handover}
if ! [ -e "$top/build/sources/linux.json" ]; then
  echo "zosia: error: nothing was built here yet. Type: ./scripts/build.sh" >&2
  exit 1
fi
PYTHONPATH=$top/site_scons exec "$top/.venv/bin/python" -m zosia_build.release.source_packages "$folder" "$top"/build/sources/*.json
