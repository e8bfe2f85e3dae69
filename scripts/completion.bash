# Completion of zosia's targets and variables in bash. To enable it, add to ~/.bashrc:
#   source /path/to/zosia/scripts/completion.bash
# shellcheck shell=bash

_zosia_home=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Print the candidates in the tree $1 for the word $2. Runs only this clone's program, whichever tree it is for.
_zosia_candidates() {
  PYTHONPATH=$_zosia_home/site_scons "$_zosia_home/.venv/bin/python" -P -m zosia.command.completion "$1" "$2" 2>/dev/null
}

# shellcheck source=site_scons/zosia/command/files.bash
. "$_zosia_home/site_scons/zosia/command/files.bash"

_zosia() {
  local top=. name='' value=${COMP_WORDS[COMP_CWORD]} prefix='' text what i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ "${COMP_WORDS[i]}" = -C ]; then top=${COMP_WORDS[i + 1]/#\~/$HOME}; fi
  done
  case $1 in *.sh) top=$(dirname -- "${1/#\~/$HOME}")/.. ;; esac
  # Leave options, and other projects, to the previous completion.
  if [ ! -x "$_zosia_home/.venv/bin/python" ] || [ ! -f "$top/SConstruct" ] || [ ! -f "$top/site_scons/zosia/settings/variables.py" ] || [[ $value == -* ]]; then
    compopt -o default -o bashdefault 2>/dev/null || _zosia_files "$value" '' ''
    return
  fi
  # Bash splits NAME=value, unless COMP_WORDBREAKS lacks =. Bash 3.2 doesn't, and yet replaces only what is behind the =.
  if [ "$value" = = ]; then
    name=${COMP_WORDS[COMP_CWORD - 1]}= value=
  elif ((COMP_CWORD > 1)) && [ "${COMP_WORDS[COMP_CWORD - 1]}" = = ]; then
    name=${COMP_WORDS[COMP_CWORD - 2]}=
  elif [[ $value == *=* ]]; then
    name=${value%%=*}= value=${value#*=}
    [[ $COMP_WORDBREAKS == *=* ]] || prefix=$name
  fi
  while IFS=$'\t' read -r text what; do
    if [ "$text" = :files ]; then
      _zosia_files "$value" "$what" "$prefix"
    else
      if [ -n "$_zosia_old" ] && [[ $text != *= ]]; then text="$text "; fi
      COMPREPLY+=("$prefix$text")
    fi
  done < <(_zosia_candidates "$top" "$name$value")
  if [ "${#COMPREPLY[@]}" = 1 ] && [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null || true; fi
}

complete ${_zosia_old:+-o nospace} -F _zosia scons run-qemu-aarch64.sh run-qemu-x86_64.sh build.sh make-model-disk.sh
