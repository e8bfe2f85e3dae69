# Completion of files in bash, for the commands of completion.bash beside this and in scripts/.
# shellcheck shell=bash

# Bash 3.2, which macOS has, knows no compopt: there each candidate has its own end, and files are quoted here.
_zosia_old=
type compopt >/dev/null 2>&1 || _zosia_old=1

# Add the files that begin with $1, and with $2 only those and folders that end so, each behind the prefix $3.
_zosia_files() {
  local file quoted home end
  compopt -o filenames 2>/dev/null
  while IFS= read -r file; do
    if [ -n "$_zosia_old" ]; then
      case $file in \~/*) home=\~/ ;; *) home='' ;; esac
      if [ -d "${file/#\~/$HOME}" ]; then end=/; else end=' '; fi
      printf -v quoted %q "${file#"$home"}"
      file=$home$quoted$end
    fi
    COMPREPLY+=("$3$file")
  done < <(
    if [ -n "$2" ]; then compgen -d -- "$1"; fi
    compgen -f -X "${2:+!*$2}" -- "$1"
  )
}
