#!/bin/sh
# Install what is missing, build everything, and run all tests. Arguments, such as -k cpio, are passed to pytest.
#
# With --quick as the first argument, run what is worth running before each commit: the unit tests with the linters, a
# boot, and a chat.
#
# Machines of the default architecture and base run all machine tests; the others run a few. With --all as the first
# argument, the others run all of them too, which takes an hour. ZOSIA_TEST_BUILDROOT=/path/to/buildroot adds
# BASE=buildroot, with the further settings in ZOSIA_TEST_BUILDROOT_CONFIG=/path/to/file; its kernels are built first.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
quick=
case ${1-} in
  --all) export ZOSIA_ALL=1 && shift ;;
  --quick) quick=1 && shift ;;
esac
unset PYTHONDONTWRITEBYTECODE # all commands and tests would be compiled again for each process
cross=
[ "$(uname -m)" = x86_64 ] || cross=x86_64-linux-gnu-objcopy
# shellcheck disable=SC2086 # words or none
./scripts/bootstrap.sh --dev qemu-aarch64 genext2fs mkfs.btrfs mkfs.xfs qemu-system-x86_64 gelf.h $cross \
  xorriso mformat grub-mkimage qemu-efi-aarch64 ovmf seabios \
  g++ bzip2 cpio curl file patch perl rsync unzip wget xz \
  chromium zsh fish gpg ssh ssh-keygen sshd haproxy systemd-analyze systemd-socket-activate veritysetup
.venv/bin/scons
.venv/bin/scons smoke
if [ -n "$quick" ]; then
  exec .venv/bin/python -m pytest -n 4 --dist loadfile tests/unit \
    tests/boot/test_chat.py::test_the_answer_depends_on_all_that_was_said "$@"
fi
.venv/bin/scons wheel # with the web page
.venv/bin/scons docs

# On two processors: machines wait for a third of their time, so that a third one runs beside two; but not beside tests
# that compute on all processors, of which each would wait for the other. Without machines, tests wait for half of
# theirs, and one process has all tests of a file, which share what the file prepares. Tests of the visible behaviour run
# a second time with machines that resume; with --all, all tests that can do so.
resumed="-n 3 tests/boot/test_chat.py tests/boot/test_reasoning.py tests/boot/test_terminal.py"
[ -z "${ZOSIA_ALL-}" ] || resumed="$resumed tests/boot/test_bus.py tests/boot/test_failures.py tests/boot/test_run.py"
ran='' none=''
for tests in "-n 4 --dist loadfile tests/unit tests/build tests/site" ${ZOSIA_TEST_BUILDROOT:+tests/buildroot} \
  "-n 3 tests/boot" "-m alone tests/boot" "$resumed"; do
  status=0
  [ "$tests" != "$resumed" ] || export ZOSIA_TEST_HOT=1
  # shellcheck disable=SC2086 # words
  .venv/bin/python -m pytest $tests "$@" || status=$?
  case $status in
    0) ran=1 ;;
    5) none=1 ;; # the arguments deselect all of these tests
    *) exit "$status" ;;
  esac
done
if [ -z "$ran" ] || { [ -n "$none" ] && [ $# = 0 ]; }; then
  echo "zosia: error: no tests were run" >&2
  exit 5
fi

[ -n "${ZOSIA_ALL-}" ] || exit 0
unset ZOSIA_TEST_HOT
for other in "x86_64 direct q35" "aarch64 distro virt" "x86_64 distro q35" \
  ${ZOSIA_TEST_BUILDROOT:+"aarch64 buildroot virt" "x86_64 buildroot q35"}; do
  echo "  TEST  $other"
  # shellcheck disable=SC2086 # words
  set -- $other "$@"
  ZOSIA_TEST_ARCH=$1 ZOSIA_TEST_BASE=$2 ZOSIA_TEST_BOARD=$3
  export ZOSIA_TEST_ARCH ZOSIA_TEST_BASE ZOSIA_TEST_BOARD
  shift 3
  .venv/bin/python -m pytest tests/boot --ignore tests/boot/test_bases.py --ignore tests/boot/test_iso.py "$@" || [ $? = 5 ]
done
