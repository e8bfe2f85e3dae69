# Completion of zosia in bash. To enable it, add to ~/.bashrc (on macOS ~/.bash_profile):
#   eval "$(zosia completion bash)"
# shellcheck shell=bash

_zosia_program=(PROGRAM)

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

_zosia_command() {
  local value=${COMP_WORDS[COMP_CWORD]} prefix='' text what
  COMPREPLY=()
  # Bash splits --name=value, unless COMP_WORDBREAKS lacks =. Bash 3.2 doesn't, and yet replaces only what is behind it.
  if [ "$value" = = ]; then
    value=
  elif [[ $value == --*=* ]]; then
    [[ $COMP_WORDBREAKS == *=* ]] || prefix=${value%%=*}=
    value=${value#*=}
  fi
  while IFS=$'\t' read -r text what; do
    if [ "$text" = :files ]; then
      _zosia_files "$value" "$what" "$prefix"
    else
      if [ -n "$_zosia_old" ] && [[ $text != *= ]]; then text="$text "; fi
      COMPREPLY+=("$prefix$text")
    fi
  done < <("${_zosia_program[@]}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  if [ "${#COMPREPLY[@]}" = 1 ] && [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null || true; fi
}

complete ${_zosia_old:+-o nospace} -F _zosia_command zosia
