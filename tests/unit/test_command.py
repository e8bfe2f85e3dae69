"""Command line of `zosia`: words, options, help, and how it ends."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zosia import cli
from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.version import VERSION
from zosia.command import actions, line, table
from zosia.command.table import COMMANDS
from zosia.settings.variable import Variable
from zosia.settings.variables import VARIABLES

ROOT = Path(__file__).parents[2]
TAKEN = {
    name: [item for items in command.variables(name).values() for item in items] for name, command in COMMANDS.items()
}
PAIRS = [(name, item) for name, items in TAKEN.items() for item in items]
VALUES = ["", "-", "--", "-1", "--mem", "-h", "two words", 'it\'s "so"', "a\nb", "a=b", "MEM=4G", "zażółć 🙂", "\udcff"]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the folder and the spelling of other tests as they are."""
    monkeypatch.setattr(style, "spelling", str)
    monkeypatch.chdir(Path.cwd())


def parsed(*words: str) -> dict[str, str]:
    name, rest = line.command(words)
    values, flags = line.parse(name, rest)
    assert not flags
    return values


def fixed(item: Variable) -> tuple[str, str]:
    return (item.option, f"--no-{item.option[2:]}")


@pytest.mark.parametrize(("name", "item"), PAIRS, ids=lambda value: value if isinstance(value, str) else value.name)
def test_each_variable_is_an_option_that_means_the_same(name: str, item: Variable) -> None:
    if item.switch:
        for option, value in zip(fixed(item), "10", strict=True):
            assert parsed(name, option) == parsed(name, f"{item.name}={value}") == {item.name: value}
        with pytest.raises(
            ZosiaError, match=rf"^{item.option} takes no value\. To see its use, type: zosia {name} --h"
        ):
            parsed(name, f"{item.option}=1")
        return
    for value in VALUES:
        given = {item.name: shlex.quote(value) if item.several else value}
        assert parsed(name, item.option, value) == parsed(name, f"{item.option}={value}") == given
        assert parsed(name, f"{item.name}={value}") == {item.name: value}
    with pytest.raises(ZosiaError, match=rf"^{item.option} needs a value\. To see which, type: zosia {name} --help"):
        parsed(name, item.option)


def test_each_variable_of_a_run_has_a_command() -> None:
    """But for those of builds."""
    taken = {item.name for items in TAKEN.values() for item in items}
    build = {"BASE", "BUILDROOT", "BUILDROOT_CONFIG", "LLAMA_SRC", "KERNEL", "BUSYBOX", "ISO_MODEL", "RUNS", "V"}
    assert taken == {item.name for item in VARIABLES} - build


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_command_line_says_what_its_values_say(data: st.DataObject) -> None:
    """Options before, between and after the words, in any of their forms."""
    name = data.draw(st.sampled_from(sorted(COMMANDS)))
    command = COMMANDS[name]
    places = command.words[: data.draw(st.integers(0, len(command.words)))]
    free = [item for item in TAKEN[name] if item.name not in places]
    chosen = data.draw(st.lists(st.sampled_from(free), unique=True)) if free else []
    values: dict[str, str] = {}
    groups: list[list[str]] = []
    for item in chosen:
        values[item.name] = data.draw(st.sampled_from("10") if item.switch else st.text() | st.sampled_from(VALUES))
        value = values[item.name]
        own = [[fixed(item)[value == "0"]]] if item.switch else [[item.option, value], [f"{item.option}={value}"]]
        groups.append(data.draw(st.sampled_from([*own, [f"{item.name}={value}"]])))
        if item.several and groups[-1][0].startswith("--"):
            values[item.name] = shlex.quote(value)
    plain = st.text(min_size=1).filter(lambda text: text[0] != "-" and not line._setting(text))
    for place in places:
        values[place] = data.draw(plain.filter(lambda text: " " not in text) if place == "MODEL" else plain)
    words, left = [name], [[values[place]] for place in places]
    while groups or left:
        words += (left if left and (not groups or data.draw(st.booleans())) else groups).pop(0)
    assert parsed(*words) == values
    assert line.command(words)[0] == name


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("--mem 4G", {"MEM": "4G"}),
        ("MEM=4G --no-hot", {"MEM": "4G", "HOT": "0"}),
        ("run", {}),
        ("run qwen3-4b", {"MODEL": "qwen3-4b"}),
        ("run ./a.gguf 'What is 2+2?'", {"MODEL": "./a.gguf", "PROMPT": "What is 2+2?"}),
        ("run --mem 4G m --hot p --ctx=1", {"MEM": "4G", "MODEL": "m", "HOT": "1", "PROMPT": "p", "CTX": "1"}),
        ("run 'What is 2+2?'", {"PROMPT": "What is 2+2?"}),
        ("run 'my model.gguf'", {"MODEL": "my model.gguf"}),
        ("run --prompt p m", {"PROMPT": "p", "MODEL": "m"}),
        ("run m 'X=1, what is X?'", {"MODEL": "m", "PROMPT": "X=1, what is X?"}),
        ("run m 'V=IR, what is V?'", {"MODEL": "m", "PROMPT": "V=IR, what is V?"}),
        ("run m 'KEY=5, double KEY'", {"MODEL": "m", "PROMPT": "KEY=5, double KEY"}),
        ("run m -- '-1 + 1?'", {"MODEL": "m", "PROMPT": "-1 + 1?"}),
        ("run -- -m.gguf --mem", {"MODEL": "-m.gguf", "PROMPT": "--mem"}),
        ("run --prompt -- m", {"PROMPT": "--", "MODEL": "m"}),
        ("run MODEL=m SYSTEM='You are' p", {"MODEL": "m", "SYSTEM": "You are", "PROMPT": "p"}),
        ("run --mem 1G --mem 2G MEM=3G", {"MEM": "3G"}),
        ("run --hot --no-hot", {"HOT": "0"}),
        ("run --llama-args '--temp 0'", {"LLAMA_ARGS": "--temp 0"}),
        ("run --llama-args --temp", {"LLAMA_ARGS": "--temp"}),
        ("run --file 'a b.pdf' q --file=*.md", {"ATTACH": "'a b.pdf' '*.md'", "MODEL": "q"}),
        ("serve hf:a/b:Q4 --port 0", {"MODEL": "hf:a/b:Q4", "PORT": "0"}),
        ("import '/a b/c.gguf'", {"FILE": "/a b/c.gguf"}),
        ("remove m --keep disk", {"MODEL": "m", "KEEP": "disk"}),
    ],
)
def test_words(words: str, values: Mapping[str, str]) -> None:
    assert parsed(*shlex.split(words)) == values


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("run --file a.md b.md 'Why so?'", {"ATTACH": "a.md b.md", "PROMPT": "Why so?"}),
        ("run m --file=a.md b.md --mem 1G b.md", {"ATTACH": "a.md b.md", "MODEL": "m", "MEM": "1G", "PROMPT": "b.md"}),
        ("run --file a.md b.md m.gguf --file c b.md", {"ATTACH": "a.md b.md c b.md", "MODEL": "m.gguf"}),
        ("run --file a.md none a.md", {"ATTACH": "a.md", "MODEL": "none", "PROMPT": "a.md"}),
        ("run --file a.md -- b.md", {"ATTACH": "a.md", "MODEL": "b.md"}),
        (f"run --file a.md {'x' * 5000}", {"ATTACH": "a.md", "MODEL": "x" * 5000}),
        ("run a.md", {"MODEL": "a.md"}),
    ],
)
def test_files_that_a_shell_has_made_of_a_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, values: Mapping[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.md", "b.md", "m.gguf"):
        (tmp_path / name).touch()
    assert parsed(*shlex.split(words)) == values


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("runx", "runx is not a command of zosia. Did you mean run?"),
        ("model", "model is not a command of zosia. Did you mean models?"),
        ("xyzzy", "xyzzy is not a command of zosia. Choose one of: chat, chats, clean"),
        ("X=1", "X=1 is not a command of zosia. "),
        ("''", "'' is not a command of zosia. "),
        ("'a\nb'", r"'a\nb' is not a command of zosia. "),
        ("'a b.gguf'", "a b.gguf is not a command of zosia. To run that model, type: zosia run 'a b.gguf'"),
        ("qwen3-4b", "qwen3-4b is not a command of zosia. To run that model, type: zosia run qwen3-4b"),
        ("hf:a/b", "hf:a/b is not a command of zosia. To run that model, type: zosia run hf:a/b"),
        ("help nonsense", "nonsense is not a command of zosia. "),
        ("--mme 4G", "--mme is not an option of `zosia run`. Did you mean --mem?"),
        ("run --mme=4G", "--mme is not an option of `zosia run`. Did you mean --mem?"),
        ("run --MEM 4G", "--MEM is not an option of `zosia run`. Did you mean --mem?"),
        ("run --model-disk x", "--model-disk is not an option of `zosia run`. Did you mean --model"),
        ("'What is 2+2?'", "What is 2+2? is not a command of zosia. To ask that, type: zosia run 'What is 2+2?'"),
        ("--versoin", "--versoin is not an option of `zosia run`. Did you mean --version?"),
        ("run MEN=4G", "MEN= is not for `zosia run`. Did you mean MEM?"),
        ("run --port 1", "--port is not an option of `zosia run`. "),
        ("run -x", "-x is not an option of `zosia run`. "),
        ("run --=x", "-- is not an option of `zosia run`. "),
        ("run --m x", "--m is not an option of `zosia run`. "),
        ("run '--a\nb'", r"'--a\nb' is not an option of `zosia run`. "),
        ("serve -n", "-n is not an option of `zosia serve`. "),
        ("clean --mem 1G", "--mem is not an option of `zosia clean`. "),
        ("run PORT=1", "PORT= is not for `zosia run`. "),
        ("models MODEL_BUS=dax CTX=1 FILE=x", "FILE= is not for `zosia models`. "),
        ("run --mem", "--mem needs a value. To see which, type: zosia run --help"),
        ("help run --mem", "--mem needs a value. To see which, type: zosia run --help"),
        ("run m What is it", "is is a word too many for `zosia run`. Put the prompt in quotation marks"),
        ("run m p 'a\nb'", r"'a\nb' is a word too many for `zosia run`. Put the prompt in quotation marks"),
        ("run --port 1", "--port is not an option of `zosia run`. `zosia serve` has it"),
        ("remove a b", "b is a word too many for `zosia remove`. Leave it out"),
        ("models qwen3-4b", "qwen3-4b is a word too many for `zosia models`. Leave it out"),
    ],
)
def test_words_that_mean_nothing(words: str, message: str) -> None:
    with pytest.raises(ZosiaError) as caught:
        parsed(*shlex.split(words))
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


class Shown(io.StringIO):
    """Stream whose text is kept; no terminal."""


def main(*words: str, does: object = 0) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command line, which starts nothing."""
    output, errors = Shown(), Shown()

    def do(*args: object, **flags: object) -> int:
        if isinstance(does, BaseException):
            raise does
        assert isinstance(does, int)
        return does

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(actions, "do", do)
        patch.chdir(Path.cwd())
        return cli.main(words), output.getvalue(), errors.getvalue()


OWN_WORDS = st.sampled_from(
    [
        *COMMANDS,
        "help",
        "-h",
        "-n",
        "--",
        "-",
        *(item.option for item in VARIABLES),
        *(f"{item.name}=1" for item in VARIABLES),
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text() | OWN_WORDS))
def test_any_words_at_all(words: Sequence[str]) -> None:
    status, output, errors = main(*words)
    assert status in (0, 2)
    if status == 2:
        assert re.fullmatch(r"zosia: error: .+\n", errors)
        assert errors[:-1].isprintable()
        assert output == ""
    else:
        assert errors == ""
        assert output == "" or output.startswith(("Usage: zosia ", "zosia "))


@pytest.mark.parametrize("words", [[], ["run"], ["serve"], ["clean"], ["models", "--mem", "1G"]])
def test_the_status_is_that_of_the_action(words: Sequence[str]) -> None:
    assert main(*words, does=7) == (7, "", "")


def test_errors_end_with_2_and_one_line() -> None:
    refused = ZosiaError("MEM=4 is not a size", "Set MEM=4G, and type: scons run MODEL=a/b.gguf MEM=4G")
    said = "zosia: error: --mem 4 is not a size. Set --mem 4G, and type: zosia run a/b.gguf --mem 4G\n"
    assert main("run", does=refused) == (2, "", said)
    assert main("run", does=KeyboardInterrupt()) == (130, "", "zosia: interrupted; the next run carries on\n")


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (ZosiaError("ZOSIA_CACHE=~x is not a path"), 2)]
)
def test_what_happens_before_a_line_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    """While modules are imported."""

    def raises(words: Sequence[str]) -> int:
        raise error

    monkeypatch.setattr(line, "main", raises)
    assert cli.main(["run"]) == status
    assert capsys.readouterr() == ("", f"zosia: error: {error}\n" if status == 2 else "")


def test_flags_reach_the_action(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[object, ...]] = []

    def do(name: str, given: Mapping[str, str], launched: Path, flags: set[str], **rest: object) -> int:
        seen.append((name, dict(given), launched, "dry-run" in flags))
        assert Path.cwd() == ROOT, "in a clone, its build folder is used from wherever"
        return 0

    monkeypatch.setattr(actions, "do", do)
    for words in (["-n"], ["run", "--dry-run", "--mem", "1G"], ["pull", "m"]):
        monkeypatch.chdir(tmp_path)
        assert line.main(words) == 0
    assert [(name, given, dry) for name, given, _, dry in seen] == [
        ("run", {}, True),
        ("run", {"MEM": "1G"}, True),
        ("pull", {"MODEL": "m"}, False),
    ]
    assert {launched for _, _, launched, _ in seen} == {tmp_path}, "where a relative path begins"


def test_the_version_of_a_command() -> None:
    assert main("run", "--version") == main("--mem", "1G", "--version") == (0, f"zosia {VERSION}\n", "")


HELPS = [["help"], ["help", "help"], ["-h"], ["--help"], ["--mem", "1G", "-h"]]
OF_COMMANDS = [(name, form) for name in COMMANDS for form in (["help", name], [name, "-h"], [name, "--help"])]


@pytest.mark.parametrize("words", HELPS)
def test_the_help(words: Sequence[str]) -> None:
    status, output, errors = main(*words)
    assert (status, errors) == (0, "")
    assert output == main("-h")[1]
    for name, command in COMMANDS.items():
        assert len(re.findall(rf"^  {re.escape(name + table.shown_words(command))}(?=  |$)", output, re.M)) == 1
    for option in ("-h, --help", "--version"):
        assert len(re.findall(rf"^  {option}  ", output, re.M)) == 1


@pytest.mark.parametrize(("name", "words"), OF_COMMANDS)
def test_the_help_of_a_command(name: str, words: Sequence[str]) -> None:
    status, output, errors = main(*words)
    assert (status, errors) == (0, "")
    assert output.startswith(f"Usage: zosia {name}{table.shown_words(COMMANDS[name])} [OPTION...]\n")
    shown = re.findall(r"^  ((?:-|[A-Z])[\w, -]*?)(?=  |$)", output, re.M)
    expected = [item.name if item.name in COMMANDS[name].words else table.shown_option(item) for item in TAKEN[name]]
    flags = {"run": ["-n, --dry-run"], "serve": ["--install", "--uninstall"], "worker": ["--stdio"]}
    assert shown == expected + flags.get(name, [])


@pytest.mark.parametrize("columns", ["80", "50"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits(monkeypatch: pytest.MonkeyPatch, columns: str, name: str) -> None:
    """And holds only what one can type in any locale."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("ZOSIA_CACHE", "/cache")
    _, output, _ = main("help", *([name] if name else []))
    assert max(map(len, output.splitlines())) <= int(columns)
    assert output.isascii()
    assert "scons" not in output
    assert re.findall(r"\b[A-Z_]+=", output) == []
    assert "site_scons" not in output
    assert "scripts/" not in output


def test_each_example_is_one() -> None:
    for typed in table.EXAMPLES:
        program, *words = shlex.split(typed)
        assert program == "zosia"
        name, rest = line.command(words)
        line.parse(name, rest)


def zosia(root: Path, *words: str, stdout: int | IO[bytes]) -> tuple[int, str]:
    """Exit status and standard error of `zosia` of this tree, whose output is kept until its end."""
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment = {**buffered, "PYTHONPATH": str(root / "site_scons")}
    argv = [sys.executable, "-m", "zosia.cli", *words]
    done = subprocess.run(argv, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_an_output_that_nobody_reads(root: Path, word: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert zosia(root, word, stdout=writer) == (141, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no /dev/full")
def test_an_output_that_is_full(root: Path) -> None:
    said = "zosia: error: The disk is full: a file could not be written. Make room, then run it again\n"
    with Path("/dev/full").open("wb") as full:
        assert zosia(root, "help", "import", stdout=full) == (2, said)  # which is short, and is written in the end


WAITS = """
import sys
from zosia import cli
from zosia.command import actions
actions.do = lambda *_, **__: print("ready", flush=True) or sys.stdin.read()
sys.exit(cli.main(["run"]))
"""


def test_an_interrupted_command(root: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env={**os.environ, "PYTHONPATH": str(root / "site_scons")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert (child.returncode, errors) == (130, "zosia: interrupted; the next run carries on\n")
