# Completion of zosia's targets and variables in fish. To enable it, add to ~/.config/fish/config.fish:
#   source /path/to/zosia/scripts/completion.fish

set -g _zosia_home (path resolve (status dirname)/..)

# Print the top of the zosia tree that the command line refers to; nothing for options and other projects.
function _zosia_top
    set -l words (commandline -opc)
    set -l top .
    string match -q -- '*.sh' $words[1]; and set top (path dirname -- (string replace -r '^~' $HOME -- $words[1]))/..
    set -l at (contains -i -- -C $words); and set top (string replace -r '^~' $HOME -- $words[(math $at + 1)])
    string match -q -- '-*' (commandline -ct); and return 1
    test -x $_zosia_home/.venv/bin/python -a -f $top/SConstruct -a -f $top/site_scons/zosia/settings/variables.py; and echo $top
end

# Print the candidates. Runs only this clone's program, whichever tree it is for.
function _zosia_candidates
    set -l token (commandline -ct)
    set -l name (string match -r '^[^=]*=' -- $token)
    for line in (PYTHONPATH=$_zosia_home/site_scons $_zosia_home/.venv/bin/python -P -m zosia.command.completion (_zosia_top) $token 2>/dev/null)
        set -l parts (string split \t -- $line)
        if test $parts[1] = :files
            set line (complete -C "'' "(string replace -r '^[^=]*=' '' -- $token) | string replace -r '\t.*' '' |
                string match -r -- '.*(?:/|'(string escape --style=regex -- $parts[2])')$')
        end
        string replace -r '^' "$name" -- $line
    end
end

for command in scons run-qemu-aarch64.sh run-qemu-x86_64.sh build.sh make-model-disk.sh
    complete -c $command -n '_zosia_top >/dev/null' -f -a '(_zosia_candidates)'
end
