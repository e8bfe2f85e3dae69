# Completion of zosia's targets and variables in bash. To enable it, add to ~/.bashrc:
#   source /path/to/zosia/scripts/completion.bash
# shellcheck shell=bash

_zosia_home=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Print the candidates in the tree $1 for the word $2. Runs only this clone's program, whichever tree it is for.
_zosia_candidates() {
  PYTHONPATH=$_zosia_home/site_scons "$_zosia_home/.venv/bin/python" -P -m zosia.settings.completion "$1" "$2" 2>/dev/null
}

_zosia() {
  local top=. name='' value=${COMP_WORDS[COMP_CWORD]} prefix='' text what i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ "${COMP_WORDS[i]}" = -C ]; then top=${COMP_WORDS[i + 1]/#\~/$HOME}; fi
  done
  case $1 in *.sh) top=$(dirname -- "${1/#\~/$HOME}")/.. ;; esac
  # Leave options, and other projects, to the previous completion.
  if [ ! -x "$_zosia_home/.venv/bin/python" ] || [ ! -f "$top/SConstruct" ] || [ ! -f "$top/site_scons/zosia/settings/variables.py" ] || [[ $value == -* ]]; then
    compopt -o default -o bashdefault 2>/dev/null
    return
  fi
  # Bash splits NAME=value, unless COMP_WORDBREAKS lacks =.
  if [ "$value" = = ]; then
    name=${COMP_WORDS[COMP_CWORD - 1]}= value=
  elif ((COMP_CWORD > 1)) && [ "${COMP_WORDS[COMP_CWORD - 1]}" = = ]; then
    name=${COMP_WORDS[COMP_CWORD - 2]}=
  elif [[ $value == *=* ]]; then
    name=${value%%=*}= value=${value#*=} prefix=$name
  fi
  while IFS=$'\t' read -r text what; do
    if [ "$text" = :files ]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r text; do
        COMPREPLY+=("$prefix$text")
      done < <(
        if [ -n "$what" ]; then compgen -d -- "$value"; fi
        compgen -f -X "${what:+!*$what}" -- "$value"
      )
    else
      COMPREPLY+=("$prefix$text")
    fi
  done < <(_zosia_candidates "$top" "$name$value")
  if [ "${#COMPREPLY[@]}" = 1 ] && [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}

complete -F _zosia scons run-qemu-aarch64.sh run-qemu-x86_64.sh build.sh make-model-disk.sh
