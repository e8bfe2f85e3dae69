"""Completion in bash, zsh and fish: real shells on a pseudo-terminal, and real keys."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pyte
import pytest

from zosia.base.errors import ZosiaError
from zosia.command import completion
from zosia.command.completion import FILES, SHELLS, candidates, candidates_of_zosia
from zosia.command.table import COMMANDS
from zosia.settings.usage import TARGETS
from zosia.settings.variables import VARIABLES

WAIT = 20.0  # seconds
WIDTH = 400
BASH = ["--norc", "--noprofile", "-i"]
ARGUMENTS = {"bash": BASH, "zsh": ["-f", "-i"], "fish": ["-i"]}
OLD = "bash 3.2"  # which macOS has, played by a newer one: see BEFORE, and what is not in it
BEFORE = {OLD: "enable -n compopt; "}
# What bash 3.2 knows nothing of
NEWER = re.compile(
    r"\b(mapfile|readarray|coproc)\b|\b(declare|local|typeset) -\w*[Agn]|\[\[? -v |&>>|\|&|;;?&|\$\{\w+(,,?|\^\^?|@)|"
    r"\[-1\]|%\(|wait -n"
)
END = "X"  # typed after TAB: what is shown before it is really there, and no suggestion
Typed = Callable[..., None]


def offered(top: Path, word: str) -> list[str]:
    return [text for text, _ in candidates(top, word)]


def test_targets_and_variables(root: Path) -> None:
    assert offered(root, "") == [*TARGETS, *(f"{variable.name}=" for variable in VARIABLES)]
    assert offered(root, "mod") == ["model.img", "models"]
    assert offered(root, "M") == ["MODEL=", "MEM=", "MODEL_BUS="]
    assert offered(root, "run") == ["run"]
    assert offered(root, "nothing") == []
    assert dict(candidates(root, "KV")) == {"KV=": next(item.summary for item in VARIABLES if item.name == "KV")}


def test_values(root: Path, tmp_path: Path) -> None:
    assert offered(root, "KV=q") == ["q8_0", "q4_0"]
    assert offered(root, "ARCH=") == ["aarch64", "x86_64", "native"]
    assert list(candidates(root, "KERNEL=/etc/ho")) == list(candidates(root, "ATTACH=/etc/ho")) == [(FILES, "")]
    assert list(candidates(root, "MODEL=smollm2-1")) == [
        ("smollm2-135m", "SmolLM2 135M Instruct, Q4_1"),
        ("smollm2-1.7b", "SmolLM2 1.7B Instruct, Q4_K_M"),
        (FILES, ".gguf"),
    ]
    for word in ("MEM=", "PROMPT=x", "MODL=", "=", "x=y="):
        assert offered(root, word) == []
    assert list(candidates(tmp_path, "MODEL=")) == [(FILES, ".gguf")], "without a catalogue"
    (tmp_path / "models.toml").write_text("[broken")
    assert list(candidates(tmp_path, "MODEL=")) == [(FILES, ".gguf")]
    for variable in VARIABLES:
        assert set(variable.choices) <= set(offered(root, f"{variable.name}="))


def offered_by_zosia(top: Path, *words: str) -> list[str]:
    return [text for text, _ in candidates_of_zosia(top, words)]


def test_commands_of_zosia(root: Path) -> None:
    assert offered_by_zosia(root, "") == list(COMMANDS)
    assert dict(candidates_of_zosia(root, ["pu"])) == {"pull": COMMANDS["pull"].text}
    assert offered_by_zosia(root, "help", "se") == ["serve"]
    assert offered_by_zosia(root, "help", "serve", "") == []
    assert offered_by_zosia(root, "completion", "") == list(SHELLS)
    assert offered_by_zosia(root, "completion", "bash", "") == []
    assert offered_by_zosia(root, "nothing") == []


def test_options_of_a_command(root: Path) -> None:
    assert offered_by_zosia(root, "run", "--m") == ["--model=", "--mem=", "--model-bus="]
    assert offered_by_zosia(root, "--me") == ["--mem="], "of a run"
    assert offered_by_zosia(root, "--vers") == ["--version"]
    assert offered_by_zosia(root, "run", "--vers") == []
    shown = dict(candidates_of_zosia(root, ["run", "--v"]))["--verbose"]
    assert shown.startswith("--verbose shows the messages of the guest's kernel")
    assert offered_by_zosia(root, "run", "--d") == ["--dry-run"]
    assert offered_by_zosia(root, "models", "--d") == []
    assert offered_by_zosia(root, "run", "--no-") == ["--no-sandbox", "--no-verity", "--no-hot", "--no-verbose"]
    assert offered_by_zosia(root, "clean", "-") == ["--help"]
    for name, command in COMMANDS.items():
        taken = {item.option for items in command.variables(name).values() for item in items}
        assert {text.rstrip("=") for text in offered_by_zosia(root, name, "--")} >= taken


def test_values_and_words_of_zosia(root: Path) -> None:
    for words in (["--kv=q8"], ["--kv", "q8"], ["--kv", "=", "q8"], ["run", "x", "--kv", "q8"]):
        assert offered_by_zosia(root, *words) == ["q8_0"]
    assert offered_by_zosia(root, "run", "--kv", "=") == ["f16", "q8_0", "q4_0"]
    models = ["smollm2-135m", "smollm2-1.7b", FILES]
    for words in (
        ["run"],
        ["serve"],
        ["pull"],
        ["doctor"],
        ["run", "--mem", "4G"],
        ["run", "--hot"],
        ["run", "--model"],
    ):
        assert offered_by_zosia(root, *words, "smollm2-1") == models
    assert offered_by_zosia(root, "run", "--mem", "=", "4G", "smollm2-1") == models, "as bash splits it"
    for words in (["run", "x", ""], ["run", "--mem", ""], ["models", ""], ["run", "hf", ":", "o"], ["clean", ""]):
        assert offered_by_zosia(root, *words) == []
    assert list(candidates_of_zosia(root, ["import", "/x"])) == [(FILES, "")]
    assert list(candidates_of_zosia(root, ["serve", "--log", "/x"])) == [(FILES, "")]
    assert list(candidates_of_zosia(root, ["run", "Sum it up", "--file", "/x"])) == [(FILES, "")]
    assert list(candidates_of_zosia(root, ["run", "--file=/x"])) == [(FILES, "")]
    assert list(candidates_of_zosia(root, ["run", "/x"])) == [(FILES, ".gguf")]


def test_a_script_for_each_shell() -> None:
    for shell in SHELLS:
        assert completion.PROGRAM not in completion.script(shell)
    with pytest.raises(ZosiaError, match=r"csh is not a shell that zosia knows\. Did you mean zsh\?"):
        completion.script("csh")
    with pytest.raises(ZosiaError, match=r"A shell is needed\. Choose one of: bash, fish, zsh"):
        completion.script("")


@pytest.fixture(scope="module", params=[*ARGUMENTS, OLD])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def home(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a person who has nothing of their own."""
    return tmp_path_factory.mktemp(f"home-{shell.replace(' ', '-')}")


@contextmanager
def terminal(shell: str, home: Path, start: str, *, folder: Path, **variables: str) -> Iterator[Typed]:
    """Type on a terminal with a shell that has run the line `start`, and see the screen with what is expected.

    The shell starts elsewhere, and stays: it takes longer to start than to complete. `folder` is where keys are typed.
    """
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        **variables,
    }
    dimensions = (40, WIDTH)
    program, *_ = shell.split()
    child = pexpect.spawn(
        program,
        ARGUMENTS[program],
        cwd=home,
        env=environment,
        encoding="utf-8",
        dimensions=dimensions,
        timeout=WAIT,
    )
    screen = pyte.Screen(WIDTH, dimensions[0])
    stream = pyte.Stream(screen)

    def line(y: int) -> str:
        """Return a line's text; screen.display would go through all cells, and most are empty."""
        cells = screen.buffer[y]
        return "".join(cells[x].data for x in range(max(cells, default=-1) + 1)).rstrip()

    def see(*texts: str, there: bool = True) -> None:
        deadline = time.monotonic() + WAIT
        while True:
            shown = "\n".join(line(y) for y in range(screen.lines))
            if all((text in shown) == there for text in texts):
                return
            assert time.monotonic() < deadline, f"{texts!r} {'are not' if there else 'are'} in\n{shown}"
            try:
                stream.feed(child.read_nonblocking(1 << 16, 0.1))
            except pexpect.TIMEOUT:
                continue

    def run(command: str) -> None:
        child.send(f'\x15{command}; echo do""ne\r')  # in place of what is on the line
        see("done")
        child.send("\x0c")  # an empty screen
        see("done", there=False)

    def type_(keys: str, *expected: str, folder: Path = folder, before: str = "true") -> None:
        run(f"cd {shlex.quote(str(folder))}; {before}")
        child.send(keys)
        see(*expected)

    run(f"{BEFORE.get(shell, '')}{start}")
    yield type_
    child.close(force=True)


@pytest.fixture(scope="module")
def typed(shell: str, root: Path, home: Path) -> Iterator[Typed]:
    """Type on a terminal with the completion of `scons`."""
    (home / "other").mkdir()
    for name in ("SConstruct", "other.txt"):
        (home / "other" / name).touch()
    script = root / "scripts" / f"completion.{shell.split(maxsplit=1)[0]}"
    with terminal(shell, home, f"source {shlex.quote(str(script))}", folder=root) as type_:
        yield type_


@pytest.fixture(scope="module")
def typed_zosia(shell: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Type on a terminal with the completion of `zosia`, enabled as its first lines say."""
    home = tmp_path_factory.mktemp("user")
    program = home / "bin" / "zosia"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m zosia.cli "$@"\n')
    program.chmod(0o755)
    name = shell.split(maxsplit=1)[0]
    (line,) = re.findall(r"^#   (.*)$", completion.script(name), re.MULTILINE)
    assert f"zosia completion {name}" in line
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    with terminal(shell, home, line, folder=home, PATH=path, PYTHONPATH=str(root / "site_scons")) as type_:
        yield type_


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("scons smo\t", "scons smoke "),
        ("scons run MEM\t", "scons run MEM="),
        ("scons KV=q8\t", "scons KV=q8_0 "),
        ("scons doctor ARCH=n\t", "scons doctor ARCH=native "),
        ("scons run MODEL=smollm2-13\t", "scons run MODEL=smollm2-135m "),
        ("scons kernel KERNEL=/etc/hostna\t", "scons kernel KERNEL=/etc/hostname "),
        ("scons run PROMPT=sco\t", "scons run PROMPT=sco"),
        ("./scripts/run-qemu-aarch64.sh ACCEL=k\t", "./scripts/run-qemu-aarch64.sh ACCEL=kvm "),
        ("scripts/build.sh VERB\t", "scripts/build.sh VERBOSE="),
    ],
)
def test_tab(typed: Typed, keys: str, expected: str) -> None:
    typed(keys + END, expected + END)


def test_a_file_with_blanks_in_its_name(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    for name in ("tiny one.gguf", "tiny notes.txt"):
        (folder / name).touch()
    typed(f"scons run MODEL={tmp_path}/my\tti\t{END}", f"scons run MODEL={tmp_path}/my\\ models/tiny\\ one.gguf {END}")
    typed(f"scons import-model FILE={tmp_path}/my\ttiny\\ n\t{END}", f"my\\ models/tiny\\ notes.txt {END}")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("zosia serv\t", "zosia serve "),
        ("zosia run --mem\t", "zosia run --mem="),
        ("zosia run --kv=q8\t", "zosia run --kv=q8_0 "),
        ("zosia run --kv q8\t", "zosia run --kv q8_0 "),
        ("zosia run --mem=4G smollm2-13\t", "zosia run --mem=4G smollm2-135m "),
        ("zosia serve --log /etc/hostna\t", "zosia serve --log /etc/hostname "),
        ("zosia serve --log=/etc/hostna\t", "zosia serve --log=/etc/hostname "),
        ("zosia run x zos\t", "zosia run x zos"),
    ],
)
def test_tab_of_zosia(typed_zosia: Typed, keys: str, expected: str) -> None:
    typed_zosia(keys + END, expected + END)


def test_files_of_zosia(typed_zosia: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    for name in ("tiny one.gguf", "tiny notes.txt"):
        (folder / name).touch()
    typed_zosia(f"zosia run {tmp_path}/my\tti\t{END}", f"zosia run {tmp_path}/my\\ models/tiny\\ one.gguf {END}")
    typed_zosia("zosia run --accel=\t\t", "tcg")


def test_what_there_is_of_zosia_is_listed(typed_zosia: Typed) -> None:
    typed_zosia("zosia \t\t", *COMMANDS)
    typed_zosia("zosia completion \t\t", *SHELLS)


def test_tab_runs_nothing_of_a_folder(typed_zosia: Typed, tmp_path: Path) -> None:
    """Programs and modules there have the right names, but completion runs the zosia that printed its script."""
    (tmp_path / "zosia").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "zosia").chmod(0o755)
    (tmp_path / "zosia.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    typed_zosia(f"zosia serv\t{END}", f"zosia serve {END}", folder=tmp_path)
    typed_zosia(f"./zosia serv\t{END}", f"./zosia serve {END}", folder=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_home_folder(typed: Typed, home: Path) -> None:
    (home / "linux-tree").mkdir()
    typed(f"scons KERNEL=~/lin\t{END}", f"scons KERNEL=~/linux-tree/{END}")


def test_what_there_is_is_listed(typed: Typed) -> None:
    typed("scons ACCEL=\t\t", "tcg", "auto", "kvm", "hvf")
    typed("scons \t\t", "hot-clean")


def test_another_folder_by_c(typed: Typed, root: Path, tmp_path: Path) -> None:
    typed(f"scons -C {root} dia\t{END}", f" dia{'g'} {END}", folder=tmp_path)
    typed(f"{root}/scripts/run-qemu-x86_64.sh BOARD=mic\t{END}", f"BOARD=microvm {END}", folder=tmp_path)


def test_other_projects_keep_what_they_have(typed: Typed, home: Path) -> None:
    typed(f"scons oth\t{END}", f"scons other.txt {END}", folder=home / "other")
    typed(f"scons smo\t{END}", f"scons smo{END}", folder=home / "other")


def test_a_tree_runs_nothing_of_its_own(typed: Typed, shell: str, root: Path, tmp_path: Path) -> None:
    """A folder that only looks like zosia: TAB gives this clone's targets, by this clone's program."""
    fake = tmp_path / "fake"
    (fake / "site_scons" / "zosia" / "settings").mkdir(parents=True)
    (fake / ".venv" / "bin").mkdir(parents=True)
    (fake / "SConstruct").touch()
    for name in (
        *(f"site_scons/zosia/settings/{name}.py" for name in ("variables", "completion")),
        "zosia.py",
        "dacite.py",
    ):
        (fake / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (fake / ".venv" / "bin" / "python").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (fake / ".venv" / "bin" / "python").chmod(0o755)
    typed(f"scons smo\t{END}", f"scons smoke {END}", folder=fake)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shell", ["bash", OLD], indirect=True)
def test_bash_without_an_equals_sign_among_its_word_breaks(typed: Typed) -> None:
    without = "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}"  # and as it was, at the end
    typed(f"scons MODEL=smollm2-13\t{END}", f"scons MODEL=smollm2-135m {END}", before=without)
    typed(f"scons KERNEL=/etc/hostna\t{END}", f"scons KERNEL=/etc/hostname {END}", before=without)
    typed(f"scons REAS\t{END}", f"scons REASONING={END}", before=without)
    typed(END, END, before="COMP_WORDBREAKS+==")


@pytest.mark.parametrize(
    ("words", "breaks", "expected"),
    [
        ("KV=q8", " =:", "<q8_0 >"),
        ("KV=q8", " :", "<KV=q8_0 >"),
        ("KV = q8", " =:", "<q8_0 >"),
        ("KERNEL=/etc/hostna", " =:", "</etc/hostname >"),
        ("KERNEL=/et", " =:", "</etc/>"),
        ("REAS", " =:", "<REASONING=>"),
        ("-", " =:", ""),
    ],
)
def test_words_as_bash_3_2_splits_them(root: Path, words: str, breaks: str, expected: str) -> None:
    """It leaves NAME=value whole, but replaces only what is behind a character of COMP_WORDBREAKS."""
    script = (
        f"cd {shlex.quote(str(root))}; {BEFORE[OLD]}. scripts/completion.bash; COMP_WORDBREAKS='{breaks}'\n"
        f"COMP_WORDS=(scons {words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _zosia scons\n"
        'if [ ${#COMPREPLY[@]} != 0 ]; then printf "<%s>" "${COMPREPLY[@]}"; fi'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=WAIT, check=True)
    assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.parametrize(
    ("words", "breaks", "expected"),
    [
        ("run --kv=q8", " =:", "<q8_0 >"),
        ("run --kv=q8", " :", "<--kv=q8_0 >"),
        ("run --kv = q8", " =:", "<q8_0 >"),
        ("run --kv q8", " =:", "<q8_0 >"),
        ("run --mem=4G --accel k", " =:", "<kvm >"),
        ("serve --log=/et", " =:", "</etc/>"),
        ("run --me", " =:", "<--mem=>"),
        ("serv", " =:", "<serve >"),
        ("nothing", " =:", ""),
    ],
)
def test_words_of_zosia_as_bash_3_2_splits_them(root: Path, words: str, breaks: str, expected: str) -> None:
    script = (
        f"{BEFORE[OLD]}{completion.script('bash')}\nCOMP_WORDBREAKS='{breaks}'\n"
        f"COMP_WORDS=(zosia {words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _zosia_command zosia\n"
        'if [ ${#COMPREPLY[@]} != 0 ]; then printf "<%s>" "${COMPREPLY[@]}"; fi'
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=WAIT, check=True
    )
    assert (done.stdout, done.stderr) == (expected, "")


def test_completion_imports_little(root: Path) -> None:
    """TAB is waited for."""
    script = (
        "import sys; from zosia.command import completion\n"
        "for words in ([''], ['run', '--'], ['run', '']): completion.main(['--', *words])\n"
        "print('modules', *sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "site_scons")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "zosia.command.table" in modules
    slow = {"dacite", "requests", "psutil", "huggingface_hub", "asyncio", "http.client", "getopt"}
    rooms = {"inputs", "run", "serve", "doctor", "disk"}
    assert {name for name in modules if name in slow or name.partition("zosia.")[2].split(".")[0] in rooms} == set()


def test_nothing_is_newer_than_bash_3_2(root: Path) -> None:
    for path in (root / "scripts" / "completion.bash", Path(completion.__file__).with_suffix(".bash")):
        assert NEWER.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        *("mapfile -t x", "declare -A x", "local -n x=y", "declare -g x", "[[ -v x ]]", "a &>>b", "a |& b", "a) b ;;&"),
        *('"${x,,}"', "${x^}", "${x@Q}", "${x[-1]}", "printf '%(%s)T'", "wait -n", "readarray x", "coproc a"),
    ],
)
def test_what_is_newer_is_found(text: str) -> None:
    assert NEWER.search(text)


@pytest.mark.parametrize(("shell", "shows"), [("zsh", "--cache-show "), ("fish", "--cache-show ")], indirect=["shell"])
def test_options_are_the_shells_own(typed: Typed, shell: str, shows: str) -> None:
    typed(f"scons --cache-sh\t{END}", f"scons {shows}{END}")


def test_zsh_after_compinit(root: Path, tmp_path: Path) -> None:
    """Sourced before or after compinit, it is the same."""
    script = f"autoload -Uz compinit && compinit -u; source {root}/scripts/completion.zsh; print $_comps[scons]"
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "TERM": "xterm"}
    child = pexpect.spawn("zsh", ["-f", "-i", "-c", script], env=environment, encoding="utf-8", timeout=WAIT)
    assert str(child.read()).strip().endswith("_zosia")
