# Completion of zosia in zsh. To enable it, add to ~/.zshrc, after compinit if it is called:
#   eval "$(zosia completion zsh)"

_zosia_program=(PROGRAM)

_zosia_command() {
  local line
  local -a names others files
  for line in ${(f)"$("${_zosia_program[@]}" "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)"}; do
    local text=${line%%$'\t'*} what=${line#*$'\t'}
    case $text in
      :files) files=(-g "*$what") ;;
      *=) names+=("$text:$what") ;;
      *) others+=("$text${what:+:$what}") ;;
    esac
  done
  [[ $PREFIX == --*=* ]] && compset -P '*='
  _describe -t values value others -- names -S ''
  (($#files)) && _files $files
}

(($+functions[compdef])) || { autoload -Uz compinit && compinit -i; }
compdef _zosia_command zosia
