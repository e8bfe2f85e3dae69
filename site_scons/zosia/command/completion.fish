# Completion of zosia in fish. To enable it, add to ~/.config/fish/config.fish:
#   zosia completion fish | source

set -g _zosia_program PROGRAM

# Print the candidates.
function _zosia_command
    set -l token (commandline -ct)
    set -l words (commandline -opc)
    set -l name (string match -r '^--[^=]*=' -- $token)
    for line in ($_zosia_program $words[2..] "$token" 2>/dev/null)
        set -l parts (string split \t -- $line)
        if test $parts[1] = :files
            set line (complete -C "'' "(string replace -r '^--[^=]*=' '' -- $token) | string replace -r '\t.*' '' |
                string match -r -- '.*(?:/|'(string escape --style=regex -- $parts[2])')$')
        end
        string replace -r -- '^' "$name" $line
    end
end

complete -c zosia -f -a '(_zosia_command)'
