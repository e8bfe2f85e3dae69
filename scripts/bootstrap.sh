#!/bin/sh
# Install missing dependencies: programs with apt or brew, Python packages into .venv. A second run does nothing.
# With --dev as the first argument, also install what documentation and tests need. Further arguments are more packages
# for apt.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
exec >&2 # standard output is for the answer, if a run follows
lock=requirements.lock dev=
if [ "${1-}" = --dev ]; then
  shift
  lock=requirements-dev.lock dev=graphviz
fi

# Succeed if file descriptor $1 gets colours; the same rules as in site_scons/zosia/base/style.py.
coloured() {
  [ -z "${NO_COLOR-}" ] && { [ -n "${FORCE_COLOR-}" ] || { [ -t "$1" ] && [ "${TERM-}" != dumb ]; }; }
}

say() {
  if coloured 2; then printf '  \033[36m%s\033[0m%*s %s\n' "$1" $((5 - ${#1})) '' "$2"; else printf '  %-5s %s\n' "$1" "$2"; fi
}

die() {
  if coloured 2; then printf '\033[1;31mzosia: error:\033[0m %s\n' "$1"; else echo "zosia: error: $1"; fi >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "installing packages needs root. Run as root: $*"
  fi
}

install_with_apt() {
  missing=
  for package in python3 python3-venv qemu-system-arm e2fsprogs gcc libc6-dev make flex bison bc ccache \
    ${dev:+$dev fonts-dejavu-core git openssl} "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  say APT "${missing# }"
  as_root apt-get -q update
  # shellcheck disable=SC2086 # words
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing
}

install_with_brew() {
  command -v brew >/dev/null || die "Homebrew is needed. Install it from https://brew.sh, then run this again"
  missing=
  for formula in python@3.13 qemu e2fsprogs ccache $dev; do
    brew list --formula "$formula" >/dev/null 2>&1 || missing="$missing $formula"
  done
  [ -n "$missing" ] || return 0
  say BREW "${missing# }"
  # shellcheck disable=SC2086 # words
  brew install $missing
}

case $(uname -s) in
  Darwin) install_with_brew ;;
  Linux)
    command -v apt-get >/dev/null ||
      die "this script supports only apt and Homebrew. docs/quickstart.md, 'By hand', lists what to install"
    case $(uname -m) in
      aarch64) install_with_apt "$@" ;;
      *) install_with_apt gcc-aarch64-linux-gnu "$@" ;;
    esac
    ;;
  *) die "zosia is built on Linux and macOS, not on $(uname -s)" ;;
esac

python=
for name in python3 python3.13 python3.12 python3.11; do
  if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$name
    break
  fi
done
[ -n "$python" ] || die "Python 3.11 or later is needed, and python3 is $(python3 --version 2>&1)"

# The scripts in .venv/bin contain their path: if the tree was moved, make them again.
made_of() {
  pwd && cat "$1"
}
if ! { made_of "$lock" | cmp -s - .venv/made-of || made_of requirements-dev.lock | cmp -s - .venv/made-of; }; then
  say PIP .venv
  rm -rf .venv # if it is a link, removes only the link
  "$python" -m venv .venv
  # pip with the settings of whoever runs this for its index, proxy and certificates, and with no others.
  PYTHONPATH=site_scons .venv/bin/python -m zosia.base.pip_settings install --quiet --disable-pip-version-check \
    --require-hashes -r "$lock"
  made_of "$lock" >.venv/made-of
fi
# Ctrl+C while Python still imports SCons would show a traceback; later, site_init.py sees to that.
cp scripts/interrupt.pth .venv/lib/python3*/site-packages/
