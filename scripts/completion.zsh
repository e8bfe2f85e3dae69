# Completion of zosia's targets and variables in zsh. To enable it, add to ~/.zshrc, after compinit if it is called:
#   source /path/to/zosia/scripts/completion.zsh

_zosia_home=${${(%):-%x}:A:h:h}

# Print the candidates in the tree $1 for the word $2. Runs only this clone's program, whichever tree it is for.
_zosia_candidates() {
  PYTHONPATH=$_zosia_home/site_scons $_zosia_home/.venv/bin/python -P -m zosia.command.completion "$1" "$2" 2>/dev/null
}

_zosia() {
  local top=. line i
  local -a names others files
  for ((i = 2; i < CURRENT; i++)) [[ $words[i] == -C ]] && top=${~words[i+1]}
  [[ $service == *.sh ]] && top=${${~words[1]}:h}/..
  # Leave options, and other projects, to the previous completion.
  if [[ ! -x $_zosia_home/.venv/bin/python || ! -f $top/SConstruct || ! -f $top/site_scons/zosia/settings/variables.py || $PREFIX == -* ]]; then
    ${_zosia_before:-_default} "$@"
    return
  fi
  for line in ${(f)"$(_zosia_candidates "$top" "$PREFIX")"}; do
    local text=${line%%$'\t'*} what=${line#*$'\t'}
    case $text in
      :files) files=(-g "*$what") ;;
      *=) names+=("$text:$what") ;;
      *) others+=("$text${what:+:$what}") ;;
    esac
  done
  compset -P '*='
  _describe -t values value others -- names -S ''
  (($#files)) && _files $files
}

(($+functions[compdef])) || { autoload -Uz compinit && compinit -i; }
_zosia_before=$_comps[scons]
compdef _zosia scons run-qemu-aarch64.sh run-qemu-x86_64.sh build.sh make-model-disk.sh
