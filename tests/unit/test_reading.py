"""Variables as settings, and the machines that follow from them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

import zosia_build.settings
import zosia_scons
from tests import gguf_file
from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.disk import record
from zosia.machine import cgroups, fence, host, pmem
from zosia.machine.boards import Q35, VIRT, Accel
from zosia.machine.qemu import Bus, Machine
from zosia.machine.task import Mode, word
from zosia.model import memory
from zosia.model.plan import Wish
from zosia.model.shape import Shape
from zosia.run import probe
from zosia.settings import hardware, images, machines, settle, usage
from zosia.settings.settings import Settings
from zosia.settings.usage import TARGETS
from zosia.settings.variables import BASES, DEFAULTS

Typed = Callable[..., Settings]
SHAPE = {"architecture": "llama", "block_count": 4, "embedding_length": 512, "context_length": 8192, "head_count": 8}
RECORD: dict[str, Any] = {"sha256": "0" * 64, "weights": 1 << 30, "shape": SHAPE, "size": 1, "mtime_ns": 1}
MACHINES = {
    "run": machines.run_machine,
    "diag": machines.diag_machine,
    "shell": machines.shell_machine,
    "smoke": machines.stub_machine,
}


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...`, typed in an empty folder, on a host where QEMU's sandbox works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hardware, "SANDBOX", True)
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "")
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")

    def read(**values: str) -> Settings:
        defaults = DEFAULTS
        return zosia_build.settings.read({**defaults, **values}, [], root, given=values, launched=tmp_path).run

    return read


def wished(settings: Settings) -> Wish:
    return settle.wish(settings, hardware.expected(settings).bus)


def noted(settings: Settings) -> list[str]:
    return settle.notes(settle.settle(settings, hardware.expected(settings)))


def write_record(content: dict[str, Any] | str, settings: Settings) -> None:
    path = Path(f"build/models/{settings.model.name}.img.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_plain_run(typed: Typed) -> None:
    machine = machines.run_machine(typed(ACCEL="tcg"))
    assert (machine.task.mode, machine.task.prompt, machine.task.system, machine.verbose) == (
        Mode.CHAT,
        None,
        "",
        False,
    )
    assert (machine.accel, machine.memory, machine.task.need) == (Accel.TCG, 512, 100)
    assert machine.bus is Bus.DAX, "where nobody has tried it yet"
    assert machine.disk == Path("build/models/smollm2-135m.img")
    given = "--cache-ram 0 -fit off --no-warmup --no-repack -c 2048 -ctxcp 4"
    assert machine.task.llama_args == tuple(given.split())


def test_only_what_was_typed_is_given(typed: Typed) -> None:
    assert not typed(MEM="1G").model.named
    assert typed(MODEL="smollm2-135m").model.named


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
    machine = machines.run_machine(typed(PROMPT=text, SYSTEM=text))
    assert (machine.task.prompt, machine.task.system) == (text, text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_scons_keeps_them_too(text: str) -> None:
    from SCons.Environment import Base

    env = Base(variables=zosia_scons.variables({"PROMPT": text}), tools=[])
    assert env["PROMPT"] == text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("PROMPT", "", r"= is empty\. Give some text, or leave PROMPT= out"),
        ("PROMPT", " ", "= is empty"),
        ("PROMPT", "\n\t ", "= is empty"),
        ("PROMPT", "\N{NO-BREAK SPACE}", "= is empty"),
        *((name, "za\udcff", r"= is no UTF-8 text\. Convert it first") for name in ("PROMPT", "SYSTEM")),
        *((name, "\udcff", "= is no UTF-8 text") for name in ("PROMPT", "SYSTEM")),
    ],
)
def test_texts_that_are_none(typed: Typed, name: str, text: str, message: str) -> None:
    with pytest.raises(ZosiaError, match=f"^{name}{message}") as caught:
        typed(**{name: text})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\N{NO-BREAK SPACE}"])
def test_an_empty_system_prompt(typed: Typed, text: str) -> None:
    """It reaches the guest, where one that was not set is no file. llama-cli drops an empty text or a lone newline."""
    for supervised in (True, False):
        assert machines.run_machine(typed(SYSTEM=text)).task.texts(supervised=supervised)["system"] == " "
        assert "system" not in machines.run_machine(typed()).task.texts(supervised=supervised)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--chat-template nonesuch", "nonesuch"),
        ("--chat-template llama3", "llama3"),
        ("--temp 0 --chat-template 'two\nlines'", r"'two\nlines'"),
        ("--chat-template chatml --chat-template chatm", "chatm"),
    ],
)
def test_a_chat_template_that_is_none(typed: Typed, words: str, shown: str) -> None:
    with pytest.raises(ZosiaError) as caught:
        typed(LLAMA_ARGS=words)
    assert f"--chat-template {shown}, which is no template: it has no {{{{ … }}}}. Give a " in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "words",
    [
        "--chat-template chatml",
        "--chat-template ''",
        "--chat-template '{{ messages[0].content }}'",
        "--chat-template '{% for m in messages %}{% endfor %}'",
        "--no-jinja --chat-template llama3",
        "--chat-template llama3 --no-jinja",
        "--chat-template",
    ],
)
def test_a_chat_template(typed: Typed, words: str) -> None:
    assert typed(LLAMA_ARGS=words).llama_args


@pytest.mark.parametrize(
    ("values", "room"),
    [
        ({"CTX": "1024"}, 10240),
        ({"CTX": "1000"}, 10240),  # llama.cpp rounds it up
        ({"CTX": "1024", "LLAMA_ARGS": "--chat-template chatml"}, 0),  # which might leave the prompt out
        ({"CTX": "1024", "LLAMA_ARGS": "--override-kv a=int:1"}, 0),
    ],
)
def test_the_room_for_a_prompt(typed: Typed, values: dict[str, str], room: int) -> None:
    settings = typed(**values)
    shape = {**SHAPE, "longest_token": 10}
    write_record({**RECORD, "weights": 1 << 20, "shape": shape, "content": settings.model.content}, settings)
    assert machines.run_machine(typed(**values)).task.room == room
    assert machines.diag_machine(typed(**values)).task.room == 0
    assert machines.shell_machine(typed(**values)).task.room == 0


def test_no_room_is_known_without_a_vocabulary(typed: Typed) -> None:
    assert machines.run_machine(typed(CTX="1024")).task.room == 0


def test_files_come_before_the_question(typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("my a.md", "one"), ("b/c.md", "two"), ("b/.d.md", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    one, two = (f"File: {name}\n```\n{text}\n```\n\n" for name, text in (("my a.md", "one"), ("b/c.md", "two")))
    for listed, loose, named in [("my a.md", "", one), ("'my a.md' b/*.md", two, one), ("'b' my\\ a.md", two, one)]:
        task = machines.run_machine(typed(PROMPT="Which?", ATTACH=listed)).task
        assert (task.question, [f"{file.text}\n\n" for file in task.loose]) == (f"{named}Which?", [loose] * bool(loose))
        assert task.texts(supervised=False)["args"].endswith(f"-p {word(f'{loose}{named}Which?')}")
    assert capsys.readouterr().err.splitlines() == ["  NOTE  b/.d.md is hidden, and is left out"] * 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ATTACH": "a.md"}, "ATTACH= is for a question about the files, and there is none. Set PROMPT= as well"),
        ({"PROMPT": "x", "ATTACH": " "}, "ATTACH= is empty. Give the path of a file, or leave ATTACH= out"),
        ({"PROMPT": "x", "ATTACH": ""}, "ATTACH= is empty"),
        ({"PROMPT": "x", "ATTACH": "''"}, "ATTACH= is empty"),
        ({"PROMPT": "x", "ATTACH": "it's"}, "it's can't be split into paths: No closing quotation. Close"),
        ({"PROMPT": "x", "ATTACH": "a.md"}, "a.md can't be read: No such file or directory. Give the path of a file"),
    ],
)
def test_files_that_can_not_be_attached(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    with pytest.raises(ZosiaError) as refused:
        typed(**values)
    assert str(refused.value).startswith(message)


def test_a_question_about_files_may_come_from_a_pipe(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    (tmp_path / "a.md").write_text("one", encoding="utf-8")
    task = machines.run_machine(typed(ATTACH="a.md")).task
    assert (task.prompt, task.question, task.loose) == (None, "", ())
    assert replace(task, prompt="Why?\n").question == "File: a.md\n```\none\n```\n\nWhy?"


@pytest.mark.parametrize(("value", "encrypt"), [({}, None), ({"ENCRYPT": "0"}, False), ({"ENCRYPT": "1"}, True)])
def test_what_is_said_of_encryption(typed: Typed, value: dict[str, str], encrypt: bool | None) -> None:
    assert typed(**value).chat.encrypt is encrypt


@pytest.mark.parametrize("target", ["diag", "shell", "smoke"])
def test_only_a_run_asks(typed: Typed, target: str) -> None:
    machine = MACHINES[target](typed(PROMPT="hello"))
    assert machine.task.prompt is None
    assert "--single-turn" not in machine.task.texts(supervised=False).get("args", "")


def test_what_each_target_boots(typed: Typed) -> None:
    machines = {target: make(typed()) for target, make in MACHINES.items()}
    assert {target: machine.initramfs.name for target, machine in machines.items()} == {
        "run": "initramfs.cpio.gz",
        "diag": "initramfs.cpio.gz",
        "shell": "initramfs-shell.cpio.gz",
        "smoke": "initramfs-stub.cpio.gz",
    }
    assert [target for target, machine in machines.items() if machine.task.mode is Mode.DIAG] == ["diag"]
    assert [target for target, machine in machines.items() if machine.disk is None] == ["smoke"]


def test_the_plan_is_by_what_was_written_beside_the_disk(typed: Typed) -> None:
    settings = typed(CTX="4096", MODEL_BUS="virtio-blk")
    write_record({**RECORD, "content": settings.model.content}, settings)
    expected = memory.estimate(Shape(**RECORD["shape"]), 1 << 30, ["-c", "4096", "-ctxcp", "4"]).total
    assert machines.run_machine(settings).task.need == expected
    assert machines.run_machine(settings).memory == memory.guest_memory(expected)
    assert machines.stub_machine(settings).task.need == 0
    assert machines.diag_machine(settings).task.need == expected, "a report says what the model takes"
    assert machines.diag_machine(settings).memory < machines.run_machine(settings).memory, "and needs none of it"


def test_a_diagnosis_of_what_is_refused(typed: Typed) -> None:
    settings = typed(MODEL="gpt-oss-20b-Q4", MEM="512M")
    assert settle.doubt(settings)
    assert machines.diag_machine(settings).task.need == 0


def test_a_record_of_something_else_is_none(typed: Typed, tmp_path: Path) -> None:
    path = gguf_file.write(tmp_path / "m.gguf")
    settings = typed(MODEL="m.gguf")
    write_record({**RECORD, "content": settings.model.content}, settings)
    assert wished(settings).weights == RECORD["weights"]
    gguf_file.write(path, rows=5)
    assert wished(settings).weights == wished(typed(MODEL="m.gguf")).weights == path.stat().st_size


@pytest.mark.parametrize(
    "record",
    [
        *("", "{", "[]", "null", "\0"),
        {"sha256": "0" * 64},
        {"weights": 1, "shape": None},
        {"weights": 1, "shape": []},
        {"weights": 1, "shape": {**SHAPE, "more": 1}},
        {"weights": 1, "shape": {"block_count": 1}},
        {"weights": 1, "shape": {**SHAPE, "block_count": -1}},
        {"weights": "many", "shape": SHAPE},
    ],
)
def test_the_catalogue_knows_without_a_right_record(typed: Typed, record: dict[str, Any] | str) -> None:
    settings = typed(MODEL_BUS="virtio-blk")
    content = {"content": settings.model.content} if isinstance(record, dict) else {}
    write_record({**content, **record} if isinstance(record, dict) else record, settings)
    entry = settings.model.entry
    assert entry
    assert entry.shape
    weights = entry.gguf_size
    assert (
        machines.run_machine(settings).task.need
        == memory.estimate(entry.shape, weights, ["-c", "2048", "-ctxcp", "4"]).total
    )


def test_a_file_is_read_without_a_record(typed: Typed, tmp_path: Path) -> None:
    path = gguf_file.write(tmp_path / "m.gguf", {"context_length": 5000})
    settings = typed(MODEL=str(path))
    assert machines.run_machine(settings).task.llama_args[-4:-2] == ("-c", "5000"), (
        "its own longest context, when that is a short one"
    )
    path.write_bytes(b"GGUF damaged")
    with pytest.raises(ZosiaError, match="damaged"):
        machines.run_machine(typed(MODEL=str(path)))


def own_engine(folder: Path) -> str:
    folder.mkdir()
    (folder / "CMakeLists.txt").touch()
    return str(folder)


def test_what_llama_cpp_does_not_know_is_refused_before_a_copy(
    typed: Typed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(gguf_file.write(tmp_path / "m.gguf", arch="gptoss"))
    with pytest.raises(ZosiaError, match="has the architecture gptoss, which zosia"):
        machines.run_machine(typed(MODEL=path))
    with pytest.raises(ZosiaError, match="gptoss"):
        images.make(typed(MODEL=path))
    assert capsys.readouterr().err == "", "it is said once"
    assert not Path("build/models").exists() or not list(Path("build/models").glob("*.img")), "nothing was copied"
    own = typed(MODEL=path, LLAMA_SRC=own_engine(tmp_path / "llama.cpp"))
    assert machines.run_machine(own).task.need > 0, "which may know it"


def test_what_an_older_zosia_copied_is_refused(typed: Typed, tmp_path: Path) -> None:
    path = str(gguf_file.write(tmp_path / "m.gguf"))
    record = {**RECORD, "shape": {**SHAPE, "architecture": "gptoss"}, "content": typed(MODEL=path).model.content}
    write_record(record, typed(MODEL=path))
    with pytest.raises(ZosiaError, match=r"^m.gguf has the architecture gptoss"):
        machines.run_machine(typed(MODEL=path))
    own = typed(MODEL=path, LLAMA_SRC=own_engine(tmp_path / "llama.cpp"))
    assert machines.run_machine(own).task.need > 0


def test_llama_cpp_loads_the_catalogue(typed: Typed) -> None:
    for model in typed().models.values():
        assert typed(MODEL=model.name).model.measures()[0] == model.shape, model.name
    unknown = replace(
        typed().model, entry=replace(model, shape=Shape(architecture="bert", block_count=1, embedding_length=1))
    )
    with pytest.raises(ZosiaError, match=f"^{model.name} is an embedding model"):
        unknown.measures()
    with pytest.raises(ZosiaError, match=f"^{model.name} is an embedding model"):
        images.make(replace(typed(), model=unknown))


def alike(settings: Settings, name: str, **changes: Any) -> Settings:
    """Have the disk of a file with the shape of an entry, with changes."""
    shape = settings.models[name].shape
    assert shape
    content = {"content": settings.model.content, "shape": asdict(replace(shape, **changes))}
    write_record({**RECORD, **content}, settings)
    return settings


def own_args(settings: Settings, *variables: str) -> list[str]:
    """The arguments for these options, in their order."""
    return [" ".join(pair) for pair in pairwise(machines.run_machine(settings).task.llama_args) if pair[0] in variables]


def test_a_file_of_a_known_shape_has_that_models_settings(typed: Typed, tmp_path: Path) -> None:
    """Two entries have the shape, and both the same settings."""
    gguf_file.write(tmp_path / "again.gguf")
    settings = alike(typed(MODEL="again.gguf"), "gpt-oss-20b-Q4_K_M")
    options = ("-c", "--temp", "--top-p", "--top-k", "--min-p", "--reasoning-effort")
    args = ["--reasoning-effort medium", "--temp 1.0", "--top-p 1.0", "--top-k 0", "--min-p 0", "-c 8192"]
    assert own_args(settings, *options) == args
    assert noted(settings)[0] == (
        "  LIKE  again.gguf has the shape of gpt-oss-20b-Q4, and takes its context, sampling and reasoning"
    )
    typed_too = typed(MODEL="again.gguf", CTX="1024", REASONING="high", LLAMA_ARGS="--temp 0.3 --top-k 7")
    assert own_args(typed_too, *options) == [
        *("--reasoning-effort high", *args[1:-1]),
        *("-c 1024", "--temp 0.3", "--top-k 7"),
    ], "the last of each counts"


def test_two_entries_of_a_shape_with_other_settings(typed: Typed, tmp_path: Path) -> None:
    gguf_file.write(tmp_path / "again.gguf")
    settings = alike(typed(MODEL="again.gguf"), "gpt-oss-20b-Q4")
    assert noted(settings)[0].startswith("  LIKE ")
    models = {**settings.models}
    models["gpt-oss-20b-Q4"] = replace(models["gpt-oss-20b-Q4"], context=4096)
    unsure = replace(settings, models=models)
    assert not any("LIKE" in note for note in noted(unsure))
    assert own_args(unsure, "--temp", "--reasoning-effort") == []


@pytest.mark.parametrize("change", [{"context_length": 4096}, {"merges": 0}, {"architecture": "llama"}])
def test_another_shape(typed: Typed, tmp_path: Path, change: dict[str, Any]) -> None:
    gguf_file.write(tmp_path / "other.gguf")
    settings = alike(typed(MODEL="other.gguf"), "gpt-oss-20b-Q4", **change)
    assert own_args(settings, "--temp", "--reasoning-effort") == []
    assert not any("LIKE" in note for note in noted(settings))


def test_a_model_of_the_catalogue_is_itself(typed: Typed) -> None:
    settings = typed(MODEL="smollm2-135m")
    assert noted(settings) == []
    assert own_args(settings, "--temp") == [], "they are on its disk"


def test_the_catalogue_has_the_shape_that_a_file_has(typed: Typed, model_file: Path) -> None:
    (note,) = noted(typed(MODEL=str(model_file)))
    assert " has the shape of smollm2-135m, " in note


def test_a_model_that_does_not_fit_is_refused(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (8192, 8192))
    settings = typed(MODEL="gpt-oss-20b-Q4")
    with pytest.raises(ZosiaError, match=r"gpt-oss-20b-Q4 takes 12\d{3} MiB at CTX=8192"):
        machines.run_machine(settings)
    assert "takes 12" in settle.doubt(settings)
    assert machines.stub_machine(settings).memory == machines.diag_machine(settings).memory == 512, (
        "it is not loaded there"
    )
    assert settle.doubt(typed()) == ""


def test_notes(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted(typed()) == []
    monkeypatch.setattr(host, "memory", lambda: (16384, 4096))
    (note,) = noted(typed(MODEL="gpt-oss-20b-Q4"))
    assert note.startswith("  MEM   the guest may take 12.")
    assert "4.0 are free now" in note
    monkeypatch.setattr(host, "memory", lambda: (14750, 14750))
    (note,) = noted(typed(MODEL="gpt-oss-20b-Q4", MODEL_BUS="virtio-blk"))
    assert re.fullmatch(r"  CTX   \d{4} tokens: 8192 do not fit into this machine", note)
    for size, bus in (("239M", "virtio-blk"), ("142M", "dax")):
        (note,) = noted(typed(MEM=size, MODEL_BUS=bus))
        assert re.fullmatch(rf"  CTX   \d{{4}} tokens: 2048 do not fit into MEM={size}", note)
    (note,) = noted(typed(CTX="10000"))
    assert note == "  CTX   10000 tokens: quality degrades beyond smollm2-135m's training context of 8192 tokens"


@pytest.mark.parametrize(
    ("model", "typed_value", "args"),
    [
        ("gpt-oss-20b-Q4", "", ("--reasoning-effort", "medium")),
        ("gpt-oss-20b-Q4", "high", ("--reasoning-effort", "high")),
        ("gpt-oss-20b-Q4", "off", ("--reasoning", "off", "--reasoning-budget", "0")),
        ("qwen3-0.6b", "on", ("--reasoning", "on")),
        ("smollm2-135m", "", ()),
    ],
)
def test_reasoning(typed: Typed, model: str, typed_value: str, args: tuple[str, ...]) -> None:
    words = machines.run_machine(typed(MODEL=model, REASONING=typed_value)).task.llama_args
    assert tuple(word for pair in pairwise(words) for word in pair if pair[0].startswith("--reasoning")) == args


@pytest.mark.parametrize(
    ("model", "value", "message"),
    [
        ("qwen3-4b", "low", r"REASONING=low is not for this model\. qwen3-4b takes on, off"),
        ("gpt-oss-20b-Q4", "on", r"REASONING=on is not for this model\. gpt-oss-20b-Q4 takes medium, low, high, off"),
        ("smollm2-135m", "low", r"REASONING=low is not for this model, which does not reason\. Leave REASONING= out"),
    ],
)
def test_wrong_reasoning(typed: Typed, model: str, value: str, message: str) -> None:
    with pytest.raises(ZosiaError, match=message):
        typed(MODEL=model, REASONING=value)


def test_a_model_file_has_a_disk_of_its_own(typed: Typed, tmp_path: Path) -> None:
    names = set()
    for folder in ("b", "a"):
        path = tmp_path / folder / "my model.gguf"
        path.parent.mkdir()
        gguf_file.write(path)
        for spelling in (os.path.relpath(path), path, f"{tmp_path}/b/../{folder}/./my model.gguf"):
            names.add(typed(MODEL=str(spelling)).model.name)
    assert len(names) == 2, "one for each file, however it is spelt"
    assert all(name.startswith("my_model-") for name in names)


@pytest.mark.parametrize(
    "name",
    [
        *(f"{'n' * (255 - len(ending))}{ending}" for ending in (".gguf", "-00001-of-00001.gguf")),
        f"{'n' * 216}.gguf",
        f"{'ż' * 125}.gguf",
        f"{'🙂' * 62}.gguf",
    ],
    ids=["longest", "split", "longer", "two bytes", "four bytes"],
)
def test_a_long_name(typed: Typed, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of up to 255 bytes, the most that filesystems take; temporary files end with the number of a process."""
    monkeypatch.setattr(os, "getpid", lambda: 4194303)  # Linux has none above
    path = gguf_file.write(tmp_path / name)
    for file in (path, tmp_path / f"{path.stem[:-1]}x.gguf"):
        path = path.rename(file)
        settings = typed(MODEL=str(path))
        images.make(settings)
        made = record.read_current(settings.model.image)
        assert made
        assert made.content == settings.model.content
        own = settings.model.name
        for longest in (f".zosia-{own}-bare.iso.json.{os.getpid()}", f".{own}.img.{os.getpid()}.12345678.parts"):
            assert len(os.fsencode(longest)) <= 143, "in an encrypted home folder as well"
    assert len(list(Path("build/models").glob("*.img"))) == 2, "one for each file"


def test_llama_args_come_last(typed: Typed) -> None:
    machine = machines.run_machine(typed(LLAMA_ARGS="-n 5 --temp 0.5 -r 'two words'"))
    assert machine.task.llama_args[-6:] == ("-n", "5", "--temp", "0.5", "-r", "two words")


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("-m", "MODEL"),
        ("-c", "CTX"),
        ("-ctv", "KV"),
        ("-hf", "MODEL"),
        ("-p", "PROMPT"),
        ("--file", "PROMPT"),
        ("-sysf", "SYSTEM"),
    ],
)
def test_what_has_a_variable_of_its_own_is_no_llama_arg(typed: Typed, word: str, instead: str) -> None:
    message = f"^LLAMA_ARGS= has {word}, which zosia sets itself. Set {instead}= instead$"
    with pytest.raises(ZosiaError, match=message):
        typed(LLAMA_ARGS=f"-n 5 {word} x")


def test_processors_are_the_hosts_up_to_8(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "affinity", lambda: 64)
    monkeypatch.setattr(cgroups, "quota", lambda: None)
    assert typed().cpus == 8
    assert typed(SMP="64").cpus == 64


@pytest.mark.parametrize(("total", "guests", "each"), [(8, 2, 4), (8, 3, 2), (2, 3, 1), (64, 4, 8), (64, 16, 4)])
def test_guests_share_the_processors(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, total: int, guests: int, each: int
) -> None:
    monkeypatch.setattr(host, "affinity", lambda: total)
    monkeypatch.setattr(cgroups, "quota", lambda: None)
    assert typed(GUESTS=str(guests)).cpus == each
    assert typed(GUESTS=str(guests), SMP="1").cpus == 1


def test_processors_are_as_many_as_the_quota_keeps_busy(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "affinity", lambda: 64)
    monkeypatch.setattr(cgroups, "quota", lambda: 2.5)
    assert typed().cpus == 2
    assert typed(SMP="64").cpus == 64, "more than that is slow, and works"


def test_the_help_names_each_variable_and_target() -> None:
    text = usage.help_text()
    for name in [*DEFAULTS, *TARGETS]:
        assert f"\n  {name} " in text


def test_each_base_builds_in_a_folder_of_its_own(typed: Typed) -> None:
    kernels = {
        (a, b): machines.stub_machine(typed(ARCH=a, BASE=b)).kernel for a in ("aarch64", "x86_64") for b in BASES
    }
    assert kernels["aarch64", "direct"] == Path("build/aarch64/Image")
    assert kernels["x86_64", "distro"] == Path("build/x86_64/distro/Image")
    assert len(set(kernels.values())) == len(kernels)


@pytest.mark.parametrize(
    ("values", "board"),
    [
        ({}, "virt"),
        ({"ARCH": "x86_64"}, "q35"),
        ({"ARCH": "x86_64", "MODEL_BUS": "virtio-blk"}, "microvm"),
        ({"ARCH": "x86_64", "BASE": "buildroot", "MODEL_BUS": "virtio-blk"}, "microvm"),
        ({"ARCH": "x86_64", "BOARD": "q35"}, "q35"),
        ({"ARCH": "x86_64", "BASE": "distro"}, "q35"),
        ({"ARCH": "x86_64", "ACCEL": "tcg"}, "q35"),
    ],
)
def test_the_board(typed: Typed, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], board: str) -> None:
    monkeypatch.setattr(host, "kvm_refusal", lambda arch: "")
    assert machines.stub_machine(typed(**values)).board.name == board


def test_microvm_wants_kvm(typed: Typed) -> None:
    with pytest.raises(ZosiaError, match=r"^BOARD=microvm runs with KVM only, which can't be used here\. Leave BOARD="):
        machines.stub_machine(typed(ARCH="x86_64", ACCEL="tcg", BOARD="microvm"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ARCH": "x86-64"}, r"ARCH=x86-64 is not a value that zosia knows\. Did you mean x86_64\?"),
        ({"BASE": "debian"}, r"BASE=debian is not a value that zosia knows\. Choose one of: buildroot, direct, distro"),
        ({"BOARD": "q35"}, r"BOARD=q35 is not for ARCH=aarch64\. It runs on virt; leave BOARD= out"),
        (
            {"ARCH": "x86_64", "BASE": "distro", "BOARD": "microvm"},
            r"BOARD=microvm is not for ARCH=x86_64 BASE=distro\. It runs on q35",
        ),
        ({"BASE": "buildroot", "BUILDROOT": "/nowhere"}, r"BUILDROOT=/nowhere is no folder with a Makefile\."),
        ({"BUILDROOT": "/nowhere"}, r"BUILDROOT= is for BASE=buildroot, and this is BASE=direct\. Set BASE=buildroot"),
        ({"BASE": "buildroot", "BUILDROOT_CONFIG": "/nowhere"}, r"BUILDROOT_CONFIG=/nowhere is no file in /\."),
    ],
)
def test_architectures_bases_and_boards_that_there_are_not(typed: Typed, values: dict[str, str], message: str) -> None:
    with pytest.raises(ZosiaError, match=f"^{message}"):
        typed(**values)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MODEL", "smollm2", "is neither a model that zosia knows by name nor a .gguf. Did you mean smollm2-135m?"),
        (
            "MODEL",
            "/nowhere/x.gguf",
            "is no file in /nowhere. Give a path of a .gguf, or a name that `scons models`",
        ),
        ("MEM", "lots", "is not a size"),
        ("MEM", "1", "is not a size from 64 MiB to 1 TiB"),
        ("SMP", "0", "is not a whole number"),
        ("CTX", "-5", "is not a whole number"),
        ("ACCEL", "kvn", "is not a value that zosia knows. Did you mean kvm?"),
        ("ACCEL", "hvf", "can't be used: HVF is a part of macOS"),
        ("ARCH", "arm64", "is not a value that zosia knows"),
        ("LLAMA_ARGS", "it's", "can't be split into words"),
        ("LLAMA_SRC", "/etc", "is no folder with a CMakeLists.txt"),
        ("LLAMA_SRC", "~nobody-at-all/x", "can't be read"),
        ("KERNEL", "/etc", "is no folder with a Kconfig"),
        ("BUSYBOX", "/etc", "is no file in /"),
        ("IMAGE_TOOL", "genext2", "is not a value that zosia knows. Did you mean genext2fs?"),
        ("KV", "q8", "is not a value that zosia knows. Did you mean q8_0?"),
        ("KEEP", "disc", "is not a value that zosia knows. Did you mean disk?"),
        ("FILE", "/nowhere/x.gguf", "is no file in /nowhere"),
        ("V", "yes", "is not a value that zosia knows"),
        ("VERBOSE", "yes", "is not a value that zosia knows"),
    ],
)
def test_what_can_not_be_meant(typed: Typed, tmp_path: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(ZosiaError) as caught:
        typed(**{name: value})
    said = str(caught.value)
    assert said.startswith(f"{name}={value} {message}")
    assert said.isprintable(), "one line"
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A host whose KVM opens, and on which all is built: why a guest on each board fails; tried boards are added."""
    failures: dict[str, str] = {}
    monkeypatch.setattr(host, "kvm_refusal", lambda arch: "")
    monkeypatch.setattr(probe, "failure", lambda machine, cache, dry_run: failures.setdefault(machine.board.name, ""))
    for arch, name in product(("aarch64", "x86_64"), ("Image", "initramfs-stub.cpio.gz")):
        path = Path("build", arch, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return failures


SILENT = "a guest was silent for 1 s"


def sandboxed(settings: Settings) -> set[bool]:
    """Return whether the machines of these settings, and the trial of one, have QEMU's sandbox."""
    found = [make(settings) for make in MACHINES.values()]
    return {"-sandbox" in machine.argv(Path("status")) for machine in found}


@pytest.mark.parametrize("linux", [True, False])
def test_a_sandbox_is_used_on_linux_only(typed: Typed, monkeypatch: pytest.MonkeyPatch, linux: bool) -> None:
    monkeypatch.setattr(hardware, "SANDBOX", linux)
    assert sandboxed(typed()) == {linux}
    trial = hardware.trial(typed(), Accel.TCG, VIRT)
    assert ("-sandbox" in trial.argv(Path("status"))) == linux
    assert sandboxed(typed(SANDBOX="0")) == {False}


def test_a_host_without_a_sandbox(
    typed: Typed, tried: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    style.say_once.cache_clear()
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "no seccomp")
    seen = []

    def failure(machine: Machine, cache: Path, *, dry_run: bool) -> str:
        seen.append(machine.sandbox)
        return ""

    monkeypatch.setattr(probe, "failure", failure)
    assert sandboxed(typed()) == {False}
    assert set(seen) == {False}, "nothing else is blamed"
    assert capsys.readouterr().err == "  NOTE  QEMU's sandbox can't be used here (no seccomp): this run is without it\n"
    for make in MACHINES.values():
        with pytest.raises(ZosiaError, match=r"^SANDBOX=1 can't be used: no seccomp\. To run without QEMU's sandbox, "):
            make(typed(SANDBOX="1"))
    assert sandboxed(typed(SANDBOX="0")) == {False}
    assert capsys.readouterr().err == "", "it was asked for"
    monkeypatch.setattr(hardware, "SANDBOX", False)
    with pytest.raises(ZosiaError, match=r"^SANDBOX=1 can't be used: QEMU has one on Linux only\. "):
        machines.stub_machine(typed(SANDBOX="1"))


def test_a_qemu_that_can_not_be_held(
    typed: Typed, tried: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def held(**given: str) -> set[bool]:
        return {make(typed(**given)).held for make in MACHINES.values()}

    style.say_once.cache_clear()
    assert (held(), held(SANDBOX="0")) == ({True}, {False})
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "a script")
    assert (held(), sandboxed(typed())) == ({False}, {True})
    note = "  NOTE  QEMU can't be held to its files here (a script): this run is without it\n"
    assert capsys.readouterr().err == note
    with pytest.raises(ZosiaError, match=r"^SANDBOX=1 can't be used: a script\. "):
        held(SANDBOX="1")
    assert held(SANDBOX="0") == {False}
    assert capsys.readouterr().err == "", "it was asked for"
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "no seccomp")
    assert (held(), sandboxed(typed())) == ({True}, {False}), "one works without the other"


def test_without_landlock_nothing_that_was_asked_for_is_left_out(
    typed: Typed, tried: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(fence, "abi", lambda: 0)
    assert machines.stub_machine(typed()).held, "the filter of system calls is left"
    with pytest.raises(ZosiaError, match=r"^SANDBOX=1 can't be used: this kernel has no Landlock, or does not use it"):
        machines.stub_machine(typed(SANDBOX="1"))
    assert capsys.readouterr().err == ""


def test_macos_holds_where_it_is_asked_for(
    typed: Typed, tried: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "SANDBOX", False)
    assert not machines.stub_machine(typed()).held
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machines.stub_machine(typed(SANDBOX="1")).held
    style.say_once.cache_clear()
    tries = []

    def failure(machine: Machine, cache: Path, *, dry_run: bool) -> str:
        tries.append(machine)
        return "a script"

    monkeypatch.setattr(probe, "fence_failure", failure)
    assert not machines.stub_machine(typed()).held
    assert (tries, capsys.readouterr().err) == ([], ""), "it was not asked for"
    with pytest.raises(ZosiaError, match=r"^SANDBOX=1 can't be used: a script\. "):
        machines.stub_machine(typed(SANDBOX="1"))


def test_an_accelerator_that_runs_no_guest(
    typed: Typed, tried: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    tried["virt"] = SILENT
    assert machines.stub_machine(typed()).accel is Accel.TCG
    assert machines.stub_machine(typed()).accel is Accel.TCG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"  ACCEL tcg, which is slow: kvm was tried, and {SILENT}. To try it again, type: rm -r ")
    with pytest.raises(ZosiaError, match=rf"^ACCEL=kvm can't be used: {SILENT}\. Set ACCEL=tcg"):
        machines.stub_machine(typed(ACCEL="kvm"))
    tried["virt"] = ""
    assert machines.stub_machine(typed(ACCEL="kvm")).accel is Accel.KVM


def test_an_accelerator_that_runs_guests_on_one_board(typed: Typed, tried: dict[str, str]) -> None:
    tried["microvm"] = SILENT
    machine = machines.stub_machine(typed(ARCH="x86_64", MODEL_BUS="virtio-blk"))
    assert (machine.accel, machine.board) == (Accel.KVM, Q35)
    with pytest.raises(ZosiaError, match=r"^BOARD=microvm runs with KVM only"):
        machines.stub_machine(typed(ARCH="x86_64", BOARD="microvm"))
    tried["q35"] = SILENT
    machine = machines.stub_machine(typed(ARCH="x86_64"))
    assert (machine.accel, machine.board) == (Accel.TCG, Q35)


@pytest.fixture
def mac(typed: Typed, tried: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same on macOS; a board with QEMU's own interrupt controller is "own"."""
    style.say_once.cache_clear()

    def failure(machine: Machine, cache: Path, *, dry_run: bool) -> str:
        return tried.setdefault("own" if machine.board.own_gic else machine.board.name, "")

    monkeypatch.setattr(sys, "platform", "darwin")
    own = os.uname_result((*os.uname()[:4], "arm64"))
    monkeypatch.setattr(os, "uname", lambda: own)
    monkeypatch.setattr(host, "kvm_refusal", lambda arch: "KVM is a part of Linux")
    monkeypatch.setattr(probe, "failure", failure)
    return tried


def test_an_interrupt_controller_that_runs_no_guest(
    typed: Typed, mac: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    machine = machines.stub_machine(typed())
    assert (machine.accel, machine.board, mac) == (Accel.HVF, VIRT, {"virt": ""})
    mac["virt"] = SILENT
    for _ in range(2):
        machine = machines.stub_machine(typed())
        assert (machine.accel, machine.board) == (Accel.HVF, replace(VIRT, own_gic=True))
    said = f"  ACCEL hvf, with QEMU's interrupt controller: macOS' was tried, and {SILENT}\n"
    assert capsys.readouterr().err == said
    assert machines.stub_machine(typed(ACCEL="hvf", BOARD="virt")).board.own_gic
    mac["own"] = "QEMU ended at once (Property 'hvf-accel.kernel-irqchip' not found)"
    machine = machines.stub_machine(typed())
    assert (machine.accel, machine.board) == (Accel.TCG, VIRT)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"  ACCEL tcg, which is slow: hvf was tried, and {SILENT}. To try it again, type: rm -r ")


def test_on_macos_dax_is_tried_as_anywhere(
    typed: Typed, mac: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("build/aarch64/initramfs.cpio.gz", "build/models/smollm2-135m.img"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    mac["virt"] = SILENT
    failures, seen = [""], []

    def dax_failure(machine: Machine, cache: Path) -> str:
        seen.append((machine.accel, machine.board.own_gic))
        return failures[0]

    monkeypatch.setattr(probe, "dax_failure", dax_failure)
    direct = typed(BASE="direct")
    assert machines.run_machine(direct).bus is Bus.DAX
    assert machines.run_machine(direct).hot, "and machines are saved, until one does not resume"
    assert seen == [(Accel.HVF, True)] * 2, "on the machine that works"
    capsys.readouterr()
    failures[0] = "QEMU ended at once (HV_BAD_ARGUMENT)"
    assert machines.run_machine(direct).bus is Bus.VIRTIO_BLK
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"  MODEL on virtio-blk, with a copy in the guest's memory: dax was tried, and {failures[0]}. "
    )


def test_nothing_is_tried_before_it_is_built(typed: Typed, tried: dict[str, str]) -> None:
    Path("build/x86_64/Image").unlink()
    assert machines.stub_machine(typed(ARCH="x86_64")).board is Q35
    assert tried == {}


BUSES: list[tuple[dict[str, str], Bus]] = [
    ({}, Bus.DAX),
    ({"ARCH": "x86_64", "ACCEL": "tcg"}, Bus.DAX),
    ({"BASE": "distro"}, Bus.VIRTIO_BLK),
    ({"MODEL_BUS": "virtio-blk"}, Bus.VIRTIO_BLK),
]


@pytest.mark.parametrize(("values", "bus"), BUSES)
def test_the_bus_of_the_model(typed: Typed, values: dict[str, str], bus: Bus) -> None:
    settings = typed(**values)
    assert (
        machines.run_machine(settings).bus
        is machines.diag_machine(settings).bus
        is machines.shell_machine(settings).bus
        is bus
    )
    assert machines.run_machine(replace(settings, dry_run=True)).bus is Bus.VIRTIO_BLK, "what is printed can be pasted"


def test_why_it_is_a_disk(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    style.say_once.cache_clear()
    settings = typed(BASE="distro")
    machines.run_machine(settings)
    machines.run_machine(settings)
    assert capsys.readouterr().err == (
        "  MODEL on virtio-blk, with a copy in the guest's memory: Debian's kernel lacks the drivers\n"
    )
    machines.run_machine(typed(MODEL_BUS="virtio-blk"))
    assert capsys.readouterr().err == "", "it was asked for"


def test_dax_that_can_not_be(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    for check in (hardware.expected, machines.run_machine):
        with pytest.raises(ZosiaError, match=r"^MODEL_BUS=dax can't be used: Debian's kernel lacks the drivers\. Set "):
            check(typed(BASE="distro", MODEL_BUS="dax"))
    for name in ("build/aarch64/Image", "build/aarch64/initramfs.cpio.gz", "build/models/smollm2-135m.img"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    monkeypatch.setattr(probe, "dax_failure", lambda machine, cache: "the guest's kernel could not mount it")
    with pytest.raises(ZosiaError, match=r"^MODEL_BUS=dax can't be used: it was tried, and the guest's kernel could"):
        machines.run_machine(typed(MODEL_BUS="dax"))
    machine = machines.run_machine(typed())
    assert (machine.bus, machine.task.need) == (Bus.VIRTIO_BLK, 194), "and there is memory for the copy"


def test_a_disk_on_a_filesystem_that_maps_no_files(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    style.say_once.cache_clear()
    for name in ("build/aarch64/Image", "build/aarch64/initramfs.cpio.gz", "build/models/smollm2-135m.img"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    refusals = {Path("build/models/smollm2-135m.img"): "the filesystem of build/models maps no files (No such device)"}
    monkeypatch.setattr(pmem, "map_refusal", lambda disk: refusals.get(disk, ""))
    monkeypatch.setattr(probe, "dax_failure", lambda machine, cache: "")
    machine = machines.run_machine(typed(ACCEL="tcg"))
    assert (machine.bus, machine.task.need) == (Bus.VIRTIO_BLK, 194), "and there is memory for the copy"
    assert capsys.readouterr().err == (
        "  MODEL on virtio-blk, with a copy in the guest's memory: "
        "the filesystem of build/models maps no files (No such device)\n"
    )
    with pytest.raises(ZosiaError, match=r"^MODEL_BUS=dax can't be used: the filesystem of build/models maps no files"):
        machines.run_machine(typed(ACCEL="tcg", MODEL_BUS="dax"))
    refusals.clear()
    assert machines.run_machine(typed(ACCEL="tcg")).bus is Bus.DAX


def test_weights_are_counted_where_they_are(typed: Typed) -> None:
    mapped, repacked, copied = (
        machines.run_machine(typed(MODEL="gpt-oss-20b-Q4", **values))
        for values in ({}, {"WEIGHTS": "repack"}, {"MODEL_BUS": "virtio-blk"})
    )
    assert mapped.memory <= 1024 < 12 * 1024 < copied.memory
    assert repacked.memory == copied.memory + 176, "on dax the kernel keeps a record of each page of the disk"
    assert "--no-repack" in mapped.task.llama_args
    assert repacked.task.llama_args[5:7] == ("-lm", "none")
    assert "--no-repack" not in repacked.task.llama_args
    with pytest.raises(ZosiaError, match="Set WEIGHTS= instead"):
        typed(LLAMA_ARGS="-lm none")


@pytest.mark.parametrize(
    ("values", "hot"), [({}, True), ({"HOT": "1"}, True), ({"HOT": "0"}, False), ({"ARCH": "x86_64"}, True)]
)
def test_which_machines_are_saved(typed: Typed, values: dict[str, str], hot: bool) -> None:
    assert bool(machines.run_machine(typed(**values)).hot) == hot
    assert machines.stub_machine(typed(**values)).hot is None
