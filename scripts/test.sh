#!/bin/sh
# Install what is missing, build everything, and run all tests. Arguments go to pytest, such as -k cpio.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh qemu-user genext2fs btrfs-progs xfsprogs
.venv/bin/scons
.venv/bin/scons smoke

# Machines boot one after the other, for each takes all processors.
none=0
for tests in "-n 2 tests/unit tests/build" tests/boot; do
  status=0
  # shellcheck disable=SC2086 # words
  .venv/bin/python -m pytest $tests "$@" || status=$?
  case $status in
    0) ;;
    5) none=$((none + 1)) ;; # the arguments leave none of these tests
    *) exit "$status" ;;
  esac
done
if [ $none = 2 ] || { [ $none = 1 ] && [ $# = 0 ]; }; then
  echo "zosia: error: no tests were run" >&2
  exit 5
fi
