"""Completion in bash, zsh and fish: real shells on a pseudo-terminal, and real keys."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

from zosia.settings.completion import FILES, candidates
from zosia.settings.variables import TARGETS, VARIABLES

WAIT = 20.0  # seconds
WIDTH = 400
BASH = ["--norc", "--noprofile", "-i"]
SHELLS = {"bash": BASH, "zsh": ["-f", "-i"], "fish": ["-i"]}
OLD = "bash 3.2"  # which macOS has, played by a newer one: see BEFORE, and what is not in it
BEFORE = {OLD: "enable -n compopt; "}
# What bash 3.2 knows nothing of
NEWER = re.compile(
    r"\b(mapfile|readarray|coproc)\b|\b(declare|local|typeset) -\w*[Agn]|\[\[? -v |&>>|\|&|;;?&|\$\{\w+(,,?|\^\^?|@)|"
    r"\[-1\]|%\(|wait -n"
)
END = "X"  # typed after TAB: what is shown before it is really there, and no suggestion
Typed = Callable[..., str]


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
    assert list(candidates(root, "KERNEL=/etc/ho")) == [(FILES, "")]
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


@pytest.fixture(scope="module", params=[*SHELLS, OLD])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def home(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a person who has nothing of their own."""
    return tmp_path_factory.mktemp(f"home-{shell.replace(' ', '-')}")


@pytest.fixture(scope="module")
def typed(shell: str, root: Path, home: Path) -> Iterator[Typed]:
    """Type on a terminal with a shell that has sourced the completion, and see the screen with what is expected.

    The shell starts elsewhere, and stays: it takes longer to start than to complete.
    """
    (home / "other").mkdir()
    for name in ("SConstruct", "other.txt"):
        (home / "other" / name).touch()
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }
    dimensions = (40, WIDTH)
    program, *_ = shell.split()
    child = pexpect.spawn(
        program,
        SHELLS[program],
        cwd=home / "other",
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

    def see(text: str, *, there: bool = True) -> str:
        deadline = time.monotonic() + WAIT
        while (text in (shown := "\n".join(line(y) for y in range(screen.lines)))) != there:
            assert time.monotonic() < deadline, f"{text!r} is {'not ' * there}in\n{shown}"
            try:
                stream.feed(child.read_nonblocking(1 << 16, 0.1))
            except pexpect.TIMEOUT:
                continue
        return shown

    def run(command: str) -> None:
        child.send(f'\x15{command}; echo do""ne\r')  # in place of what is on the line
        see("done")
        child.send("\x0c")  # an empty screen
        see("done", there=False)

    def type_(keys: str, expected: str, *, folder: Path = root, before: str = "true") -> str:
        run(f"cd {shlex.quote(str(folder))}; {before}")
        child.send(keys)
        return see(expected)

    run(f"{BEFORE.get(shell, '')}source {shlex.quote(str(root / 'scripts' / f'completion.{program}'))}")
    yield type_
    child.close(force=True)


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


def test_a_home_folder(typed: Typed, home: Path) -> None:
    (home / "linux-tree").mkdir()
    typed(f"scons KERNEL=~/lin\t{END}", f"scons KERNEL=~/linux-tree/{END}")


def test_what_there_is_is_listed(typed: Typed) -> None:
    shown = typed("scons ACCEL=\t\t", "tcg")
    assert all(accelerator in shown for accelerator in ("auto", "kvm", "hvf"))


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


def test_nothing_is_newer_than_bash_3_2(root: Path) -> None:
    assert NEWER.findall((root / "scripts" / "completion.bash").read_text(encoding="utf-8")) == []


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
