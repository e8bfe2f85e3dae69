"""Spelling of what one can type: messages have variables and targets of `scons`, and `zosia` has options."""

from __future__ import annotations

import ast
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.command import line, spelling
from zosia.command.table import COMMANDS
from zosia.model import options
from zosia.settings.variables import VARIABLES

ROOT = Path(__file__).parents[2]
BUILD = ("scons ui", "scons rpc-server", "scons ARCH=X", "./scripts/run-qemu-X.sh")  # messages of a clone only


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("", ""),
        ("Set MEM=512M", "Set --mem 512M"),
        ("Set a number and K, M or G, such as MEM=512M.", "Set a number and K, M or G, such as --mem 512M."),
        ("leave CTX= out", "leave --ctx out"),
        ("LLAMA_ARGS= has -c", "--llama-args has -c"),
        ("HOT=0", "--no-hot"),
        ("SANDBOX=1 can't be used: x", "--sandbox can't be used: x"),
        ("HOT=yes is not a value", "--hot yes is not a value"),
        ("SANDBOX= out", "--sandbox out"),
        ("(MEM=4G, CTX=1)", "(--mem 4G, --ctx 1)"),
        ("`MEM=4G`: x", "`--mem 4G`: x"),
        ("MEM=4G: x; CTX=1.", "--mem 4G: x; --ctx 1."),
        ("MODEL=hf:a/b:Q4 is", "--model hf:a/b:Q4 is"),
        ("MODEL=hf:a/b: followed by", "--model hf:a/b: followed by"),
        ("MODEL='hf:a/b:Q4' x", "--model 'hf:a/b:Q4' x"),
        ('PROMPT="What is 2+2?"', '--prompt "What is 2+2?"'),
        ("BOARD=q35 is not for ARCH=aarch64 BASE=direct", "--board q35 is not for --arch aarch64 BASE=direct"),
        (
            "Set MEM=4G or CTX=1024; scons models shows what fits",
            "Set --mem 4G or --ctx 1024; zosia models shows what fits",
        ),
        ("Type: scons run", "Type: zosia run"),
        ("Type: scons run.", "Type: zosia run."),
        ("`scons run` can't work", "`zosia run` can't work"),
        ("type: scons -n run", "type: zosia run -n"),
        ("Type: echo PROMPT | scons run", "Type: echo PROMPT | zosia run"),
        ("scons run MODEL=qwen3-4b", "zosia run qwen3-4b"),
        ("scons run MODEL=a/b.gguf MEM=4G", "zosia run a/b.gguf --mem 4G"),
        ("scons run MEM=4G HOT=0 MODEL=m.", "zosia run m --mem 4G --no-hot."),
        ("scons run PROMPT='a b' MODEL=m", "zosia run m 'a b'"),
        ("scons run PROMPT='a b'", "zosia run --prompt 'a b'"),
        ("scons run MODEL=-m.gguf", "zosia run --model -m.gguf"),
        ("scons model.img MODEL='hf:a/b:Q4'", "zosia pull 'hf:a/b:Q4'"),
        ("scons model.img", "zosia pull"),
        ("scons import-model FILE=/path/to/model.gguf", "zosia import /path/to/model.gguf"),
        ("scons remove-model MODEL=NAME; scons models lists them", "zosia remove NAME; zosia models lists them"),
        ("scons remove-model MODEL=m KEEP=disk", "zosia remove m --keep disk"),
        ("scons run CPU=max,sve=off MEM=4G,", "zosia run --cpu max,sve=off --mem 4G,"),
        ("scons run MODEL=CTX=1", "zosia run --model CTX=1"),
        ("scons hot-clean", "zosia clean"),
        # What is no setting, or can't be typed here.
        ("/a/MEM=4G/b", "/a/MEM=4G/b"),
        ("rm '/a b/MEM=4G'", "rm '/a b/MEM=4G'"),
        ("rm '/a/it MEM=4G'", "rm '/a/it MEM=4G'"),
        ("scons run MODEL='a MEM=4G.gguf'", "zosia run --model 'a MEM=4G.gguf'"),
        ("MODEL='scons run MEM=4G'", "--model 'scons run MEM=4G'"),
        ("http://127.0.0.1/?KEY=abc", "http://127.0.0.1/?KEY=abc"),
        ("HF_ENDPOINT=x ZOSIA_CACHE=y XMEM=1 -DMEM=1 MEMORY=1", "HF_ENDPOINT=x ZOSIA_CACHE=y XMEM=1 -DMEM=1 MEMORY=1"),
        ("scons models.txt, scons run-time", "scons models.txt, scons run-time"),
        ("Type: scons ARCH=aarch64", "Type: scons ARCH=aarch64"),
        ("the model's MEM=4G, and its KV=f16", "the model's --mem 4G, and its --kv f16"),
    ],
)
def test_spelling(text: str, spelt: str) -> None:
    assert spelling.command(text) == spelt
    assert spelling.command(spelt) == spelt


def messages() -> Iterator[tuple[str, str]]:
    """Yield each string of zosia's code that is no docstring, with X for what is computed, and where it is."""
    for path in sorted((ROOT / "site_scons" / "zosia").rglob("*.py")):
        if path.name in ("usage.py", "spelling.py"):  # the help of `scons`, and what finds it
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                values = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
                yield "".join(map(str, values)), where
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {node} & (parts | docs):
                yield node.value, where


NAMED = re.compile(rf"(?<![\w/.])({'|'.join(sorted(spelling.TAKEN))})=")
OTHERS = re.compile("|".join(sorted(map(re.escape, spelling.TARGETS.keys() - COMMANDS.keys()))))
MESSAGES = {
    text: where
    for text, where in messages()
    if NAMED.search(text) or OTHERS.search(text) or re.search(r"\bscons\b ", text)
}


@pytest.mark.parametrize("text", MESSAGES, ids=list(MESSAGES.values()))
def test_each_message_is_one_for_zosia(text: str) -> None:
    spelt = spelling.command(text)
    if any(typed in text for typed in BUILD):
        return
    assert not NAMED.search(spelt)
    assert "scons" not in spelt
    assert not OTHERS.search(spelt) or "table.py" in MESSAGES[text] or "variables.py" in MESSAGES[text]
    assert spelling.command(spelt) == spelt
    for found in re.finditer(spelling.LINE, text):
        words = shlex.split(spelling.command(found[0]))
        name, rest = line.command(words[1:])
        values, flags = line.parse(name, rest)
        pairs = (word.partition("=") for word in shlex.split(found["settings"]))
        assert (words[0], values) == ("zosia", {variable: value for variable, _, value in pairs})
        assert flags == ({"dry-run"} if found["dry"] else set())


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 60
    assert sum(len(list(re.finditer(spelling.LINE, text))) for text in MESSAGES) > 20


def test_names_that_messages_are_made_of() -> None:
    """Two of them name what an argument of llama.cpp is set by."""
    remedies = [f"Set {name}= instead" for name in options.RESERVED_ARGS.values()]
    for text in (*remedies, *options.SERVER_ARGS.values()):
        assert not NAMED.search(spelling.command(text))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
CHARACTERS = st.text("abAB0 ='\"`.,:;/-_()$\\ż")


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_a_line_means_the_same(name: str, data: st.DataObject) -> None:
    """Whatever the values are, when they are quoted as in a shell; but a stop at the end is the sentence's."""
    command = COMMANDS[name]
    if not command.target:
        return
    known = [item for items in command.variables(name).values() for item in items]
    one = CHARACTERS.filter(lambda text: not text.endswith((".", ":", ",")))
    several = st.lists(one, min_size=1).map(shlex.join)
    values = {
        item.name: data.draw(st.sampled_from("01") if item.switch else several if item.several else one)
        for item in (data.draw(st.lists(st.sampled_from(known), unique=True)) if known else [])
    }
    typed = " ".join([f"scons {command.target}", *(f"{item}={shlex.quote(text)}" for item, text in values.items())])
    for text in (typed, f"It failed. To run it, type: {typed}", f"x: {typed}; then MEM=4G"):
        spelt = spelling.command(text)
        assert spelling.command(spelt) == spelt
        own = spelt.partition("zosia ")[2].partition("; then")[0]
        assert line.parse(*line.command(shlex.split(own))) == (values, set())


@settings(deadline=None, max_examples=50)
@given(st.lists(CHARACTERS | st.sampled_from([f"{item.name}=" for item in VARIABLES] + ["scons run ", "scons "])))
def test_a_second_pass_changes_nothing(parts: list[str]) -> None:
    spelt = spelling.command("; ".join(parts))
    assert spelling.command(spelt) == spelt


@settings(deadline=None)
@given(TEXT)
def test_a_text_without_settings_stays(text: str) -> None:
    if "=" not in text and "scons" not in text:
        assert spelling.command(text) == text


def test_only_zosia_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`scons` shows what was written; and what is printed without style, an answer above all, stays in any case."""
    text = "  NOTE  Set MEM=4G, and type: scons run"
    assert style.painted(text, io.StringIO()) == text
    monkeypatch.setattr(style, "spelling", spelling.command)
    stream = io.StringIO()
    style.show(text, stream)
    assert stream.getvalue() == "  NOTE  Set --mem 4G, and type: zosia run\n"
    assert style.error(ZosiaError("MEM=4 is no size", "Set MEM=4G")) == "zosia: error: --mem 4 is no size. Set --mem 4G"
