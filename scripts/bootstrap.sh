#!/bin/sh
# Install missing dependencies: programs with the system's package manager, Python packages into .venv. A second run
# does nothing. With --dev as the first argument, also install what documentation and tests need. Further arguments are
# names of rows in the table of packages; a name that is not there is a package's own.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."
exec >&2 # standard output is for the answer, if a run follows
table=site_scons/zosia/base/packages.txt
lock=requirements.lock kinds=all
if [ "${1-}" = --dev ]; then
  shift
  lock=requirements-dev.lock kinds='all dev'
fi

# Succeed if file descriptor $1 gets colours; the same rules as in site_scons/zosia/base/style.py.
coloured() {
  [ -z "${NO_COLOR-}" ] && { [ -n "${FORCE_COLOR-}" ] || { [ -t "$1" ] && [ "${TERM-}" != dumb ]; }; }
}

say() {
  if coloured 2; then
    printf '  \033[36m%s\033[0m%*s %s\n' "$1" $((${#1} < 5 ? 5 - ${#1} : 0)) '' "$2"
  else
    printf '  %-5s %s\n' "$1" "$2"
  fi
}

die() {
  if coloured 2; then printf '\033[1;31mzosia: error:\033[0m %s\n' "$1"; else echo "zosia: error: $1"; fi >&2
  exit 1
}

# Print the package manager of this system: as its os-release says, or else the first that is installed. The same names
# as in site_scons/zosia/base/packages.py.
find_manager() {
  id='' like=''
  if [ -r /etc/os-release ]; then
    while IFS='=' read -r field value; do
      case $field in
        ID) id=$value ;;
        ID_LIKE) like=$value ;;
      esac
    done </etc/os-release
  fi
  for name in $(echo "$id $like" | tr -d "\"'"); do
    case $name in
      debian | ubuntu) set -- apt apt-get ;;
      fedora | rhel | centos) set -- dnf dnf ;;
      arch) set -- pacman pacman ;;
      opensuse | suse) set -- zypper zypper ;;
      alpine) set -- apk apk ;;
      *) continue ;;
    esac
    if command -v "$2" >/dev/null; then
      echo "$1"
      return
    fi
  done
  for name in apt-get dnf pacman zypper apk; do
    if command -v "$name" >/dev/null; then
      echo "${name%-get}"
      return
    fi
  done
}

is_installed() {
  case $manager in
    apt) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
    brew) brew list --formula "$1" ;;
    dnf | zypper) rpm -q --whatprovides "$1" ;;
    pacman) pacman -T "$1" ;;
    apk) apk info -e "$1" ;;
  esac </dev/null >/dev/null 2>&1
}

# Add to `missing` the packages of a cell that are not installed, or to `lacking` a row that has none.
want() { # row, cell
  if [ "$2" = - ]; then
    [ "$manager" = brew ] || command -v "$1" >/dev/null || lacking="$lacking $1"
    return 0
  fi
  IFS=,
  # shellcheck disable=SC2086 # words
  set -- $2
  unset IFS
  for package; do
    case " $missing " in
      *" $package "*) ;;
      *) is_installed "$package" || missing="$missing $package" ;;
    esac
  done
}

# Set `missing` and `lacking`, and `newer`, the packages of a newer Python; arguments are those of the script.
read_table() {
  missing='' lacking='' rows=''
  while read -r name kind apt brew dnf pacman zypper apk; do
    case $manager in
      apt) cell=$apt ;;
      brew) cell=$brew ;;
      dnf) cell=$dnf ;;
      pacman) cell=$pacman ;;
      zypper) cell=$zypper ;;
      apk) cell=$apk ;;
    esac
    case $name in
      '' | '#'*) continue ;;
      newer-python) newer=$(echo "$cell" | tr , ' ') ;;
    esac
    rows="$rows $name"
    case " $kinds $* " in
      *" $kind "* | *" $name "*) want "$name" "$cell" ;;
    esac
  done <"$table"
  for argument; do
    case " $rows " in
      *" $argument "*) ;;
      *) want "$argument" "$argument" ;;
    esac
  done
}

case $(uname -s) in
  Darwin)
    command -v brew >/dev/null || die "Homebrew is needed. Install it from https://brew.sh, then run this again"
    manager=brew
    ;;
  Linux)
    manager=$(find_manager)
    [ -n "$manager" ] || die "this script knows only apt, dnf, pacman, zypper, apk and Homebrew, and found none.\
 docs/quickstart.md, 'By hand', lists what to install"
    kinds="$kinds kernel"
    [ "$(uname -m)" = aarch64 ] || kinds="$kinds aarch64"
    ;;
  *) die "zosia is built on Linux and macOS, not on $(uname -s)" ;;
esac
update='' advice=''
case $manager in
  apt)
    update='apt-get -q update'
    install='env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends'
    ;;
  brew) install='brew install' ;;
  dnf) install='dnf install -y' ;;
  pacman) install='pacman -S --needed --noconfirm' advice='. If its lists are old, type: sudo pacman -Syu' ;;
  zypper) install='zypper --non-interactive install' ;;
  apk) install='apk add --update-cache' advice='. Is the repository "community" in /etc/apk/repositories?' ;;
esac
root=
if [ "$manager" != brew ] && [ "$(id -u)" != 0 ]; then
  for name in sudo doas; do
    [ -n "$root" ] || ! command -v "$name" >/dev/null || root="$name "
  done
fi

read_table "$@"
if [ -n "$missing" ]; then
  shown="${update:+$root$update && }$root$install$missing"
  [ "$manager" = brew ] || [ "$(id -u)" = 0 ] || [ -n "$root" ] ||
    die "installing packages needs root. Run as root: $shown"
  say "$(echo "$manager" | tr '[:lower:]' '[:upper:]')" "$shown"
  if [ -n "$lacking" ]; then
    say NOTE "$manager has no package of$lacking"
    case $lacking in
      *-linux-gnu-objcopy*) say NOTE "set BASE=distro, which builds no kernel" ;;
    esac
  fi
  # shellcheck disable=SC2086 # words
  { [ -z "$update" ] || $root$update; } || die "$manager failed; see above"
  # shellcheck disable=SC2086 # words
  $root$install$missing || die "$manager failed; see above$advice"
fi

python=
for name in python3 python3.14 python3.13 python3.12 python3.11; do
  if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python=$name
    break
  fi
done
[ -n "$python" ] || die "Python 3.11 or later is needed, and python3 is $(python3 --version 2>&1).\
 Type: $root$install $newer"

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
