# Completion of zosia in bash. To enable it, add to ~/.bashrc (on macOS ~/.bash_profile):
#   eval "$(zosia completion bash)"
# shellcheck shell=bash

_zosia_program=(PROGRAM)

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
