#!/bin/sh
# Install what is missing, build everything, and run all tests. Arguments go to pytest, such as -k cpio.
set -eu
cd "$(dirname "$0")/.."
./scripts/bootstrap.sh qemu-user genext2fs btrfs-progs xfsprogs
.venv/bin/scons
.venv/bin/scons smoke

# Machines boot one after the other, for each takes all processors.
# Status 5: the arguments leave none of these tests.
for tests in "-n 2 tests/unit tests/build" tests/boot; do
  # shellcheck disable=SC2086 # words
  .venv/bin/python -m pytest $tests "$@" || { status=$? && [ $# -gt 0 ] && [ $status = 5 ]; }
done
