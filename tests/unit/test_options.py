"""What is typed as NAME=value, as settings and as the machines that follow from them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zosia_options
from zosia import host
from zosia.errors import ZosiaError
from zosia.machine import Accel, Mode
from zosia_options import Settings

Typed = Callable[..., Settings]
NEEDS = {"weights": 100 << 20, "keys": 1024, "values": 1024, "buffers": 10 << 20, "context": 8192}
MACHINES = {
    "run": Settings.machine,
    "diag": Settings.diag_machine,
    "shell": Settings.shell_machine,
    "smoke": Settings.stub_machine,
}


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...`, typed in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def read(**values: str) -> Settings:
        defaults = {name: default for name, _, default in zosia_options.OPTIONS}
        return zosia_options.read({**defaults, **values}, [], root, given=values, launched=tmp_path)

    return read


def write_record(content: dict[str, Any] | str, settings: Settings) -> None:
    path = Path(f"build/models/{settings.model_name}.img.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_plain_run(typed: Typed) -> None:
    machine = typed(ACCEL="tcg").machine()
    assert (machine.mode, machine.prompt, machine.system, machine.verbose) == (Mode.CHAT, None, "", False)
    assert (machine.accel, machine.memory, machine.need) == (Accel.TCG, 512, 0)
    assert machine.disk == Path("build/models/smollm2-135m.img")
    assert machine.llama_args[:2] == ("-c", "2048")


def test_only_what_was_typed_is_given(typed: Typed) -> None:
    assert not typed(MEM="1G").model_named
    assert typed(MODEL="smollm2-135m").model_named


TEXTS = {
    "one word": "hello",
    "quotes": 'It\'s "so", `id` $(id) $HOME ${HOME} $$ \\ *',
    "newlines": "two\nlines\n\n",
    "blanks around": "  hello\t",
    "UTF-8": "Zażółć gęślą jaźń 🙂",
    "slash": "/exit",
    "long": "it's so\n" * 2048,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts_are_kept(typed: Typed, text: str) -> None:
    machine = typed(PROMPT=text, SYSTEM=text).machine()
    assert (machine.prompt, machine.system) == (text, text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_scons_keeps_them_too(text: str) -> None:
    from SCons.Environment import Base

    env = Base(variables=zosia_options.variables({"PROMPT": text}), tools=[])
    assert env["PROMPT"] == text


@pytest.mark.parametrize("name", ["PROMPT", "SYSTEM"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"= is empty\. Type some text, or leave {}= out"),
        (" ", "= is empty"),
        ("\n\t ", "= is empty"),
        ("\N{NO-BREAK SPACE}", "= is empty"),
        ("za\udcff", r"= is no UTF-8 text\. Convert it first"),
        ("\udcff", "= is no UTF-8 text"),
    ],
)
def test_texts_that_are_none(typed: Typed, name: str, text: str, message: str) -> None:
    with pytest.raises(ZosiaError, match=f"^{name}{message.format(name)}") as caught:
        typed(**{name: text})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("target", ["diag", "shell", "smoke"])
def test_only_a_run_asks(typed: Typed, target: str) -> None:
    machine = MACHINES[target](typed(PROMPT="hello"))
    assert machine.prompt is None
    assert "prompt" not in machine.texts()


def test_what_each_target_boots(typed: Typed) -> None:
    machines = {target: make(typed()) for target, make in MACHINES.items()}
    assert {target: machine.initramfs.name for target, machine in machines.items()} == {
        "run": "initramfs.cpio.gz",
        "diag": "initramfs.cpio.gz",
        "shell": "initramfs-shell.cpio.gz",
        "smoke": "initramfs-stub.cpio.gz",
    }
    assert [target for target, machine in machines.items() if machine.mode is Mode.DIAG] == ["diag"]
    assert [target for target, machine in machines.items() if machine.disk is None] == ["smoke"]


def test_need_is_what_was_written_beside_the_image(typed: Typed) -> None:
    settings = typed(CTX="4096")
    write_record({"sha256": "0" * 64, "needs": NEEDS, "size": 1, "mtime_ns": 1}, settings)
    assert settings.machine().need == 100 + 10 + 48 + 4096 * (2048 + 1024) // (1 << 20)
    assert settings.stub_machine().need == 0


@pytest.mark.parametrize(("words", "context"), [("-c 1024", 1024), ("--ctx-size 0", 8192), ("--temp 0", 2048)])
def test_need_by_the_last_context(typed: Typed, words: str, context: int) -> None:
    settings = typed(LLAMA_ARGS=words)
    write_record({"needs": NEEDS}, settings)
    assert settings.machine().need == 100 + 10 + 48 + context * (2048 + 1024) // (1 << 20)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        "null",
        "\0",
        {"sha256": "0" * 64},
        {"needs": None},
        {"needs": []},
        {"needs": {**NEEDS, "more": 1}},
        {"needs": {"weights": 1}},
        {"needs": {**NEEDS, "keys": "many"}},
    ],
)
def test_need_is_unknown_without_a_right_record(typed: Typed, record: dict[str, Any] | str) -> None:
    settings = typed()
    write_record(record, settings)
    assert settings.machine().need == 0


def test_a_model_file_has_a_disk_of_its_own(typed: Typed, tmp_path: Path) -> None:
    names = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "my model.gguf"
        path.parent.mkdir()
        path.write_bytes(b"GGUF")
        names.add(typed(MODEL=os.path.relpath(path)).model_name)
    assert len(names) == 2
    assert all(name.startswith("my_model-") for name in names)


def test_llama_args_come_last(typed: Typed) -> None:
    machine = typed(LLAMA_ARGS="-n 5 --temp 0.5 -r 'two words'").machine()
    assert machine.llama_args[-6:] == ("-n", "5", "--temp", "0.5", "-r", "two words")


@pytest.mark.parametrize(
    ("word", "instead"),
    [("-m", "MODEL"), ("-hf", "MODEL"), ("-p", "PROMPT"), ("--file", "PROMPT"), ("-sysf", "SYSTEM")],
)
def test_what_has_a_variable_of_its_own_is_no_llama_arg(typed: Typed, word: str, instead: str) -> None:
    message = f"^LLAMA_ARGS= has {word}, which zosia sets itself. Type {instead}= instead$"
    with pytest.raises(ZosiaError, match=message):
        typed(LLAMA_ARGS=f"-n 5 {word} x")


def test_processors_are_the_hosts_up_to_8(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "processors", lambda: 64)
    assert typed().cpus == 8
    assert typed(SMP="64").cpus == 64


def test_the_help_names_each_variable_and_target() -> None:
    text = zosia_options.help_text()
    for name in [*(name for name, _, _ in zosia_options.OPTIONS), *zosia_options.TARGETS]:
        assert f"\n  {name} " in text
