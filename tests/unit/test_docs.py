"""The documentation says what the code says."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import documents
from tests.conftest import ROOT
from zosia.command import line
from zosia.inputs.catalogue import read_models
from zosia.machine.status import Status
from zosia.settings.values import check_known, check_targets
from zosia.settings.variables import DEFAULTS
from zosia_build.benchmarks import measured
from zosia_build.benchmarks.__main__ import texts
from zosia_build.benchmarks.sections import SECTIONS


@pytest.fixture
def troubleshooting(root: Path) -> str:
    return (root / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def guests(init: str) -> Iterator[str]:
    """The messages of /init, with … for what it fills in."""
    for message in re.findall(r'fail "\$\w+" "((?:[^"\\]|\\.)*)"', init.replace("\\\n", " ")):
        yield re.sub(r"\$\w+", "…", re.sub(r"\$\{\w+:[^}]*\}", "", message))


SAID = {"ZosiaError": 0, "_say": 1}  # function: which argument is the message


def hosts(source: str) -> Iterator[str]:
    """The messages that a module raises or returns with a status, with … for what it fills in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAID:
            message: ast.expr = node.args[SAID[node.func.id]]
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            message = node.value.elts[1]
        else:
            continue
        if isinstance(message, ast.Constant):
            yield str(message.value)
        elif isinstance(message, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in message.values)


def test_each_message_has_its_entry(root: Path, troubleshooting: str) -> None:
    said = set(guests((root / "initramfs" / "init").read_text(encoding="utf-8")))
    said |= set(guests((root / "initramfs" / "iso").read_text(encoding="utf-8")))
    assert len(said) >= 10
    for module in ("report", "session", "supervisor", "resume", "line"):
        (path,) = (root / "site_scons" / "zosia").glob(f"*/{module}.py")
        said |= set(hosts(path.read_text(encoding="utf-8")))
    explained = {text.strip() for _, text in re.findall(r"^### (`+)(.*)\1$", troubleshooting, re.M)}
    assert said <= explained
    for path in (root / "site_scons").rglob("*.py"):
        said |= set(hosts(path.read_text(encoding="utf-8")))
    assert explained <= said, "each is a message that somebody may read"


def test_the_entry_that_is_shown_is_right(root: Path, tmp_path: Path) -> None:
    shown, split = re.findall(r"```toml\n(.*?)```", (root / "docs" / "models.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "models.toml").write_text(shown, encoding="utf-8")
    assert read_models(tmp_path / "models.toml")["mine"].version == "main"
    entry = re.sub(r"(?m)^file = .*\n", "", shown) + split.replace("…", "0" * 64)
    (tmp_path / "models.toml").write_text(entry, encoding="utf-8")
    assert read_models(tmp_path / "models.toml")["mine"].gguf_size == 75 * 10**9


def test_each_status_is_in_the_table(troubleshooting: str) -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", troubleshooting, re.M)
    assert rows == [(str(status.value), status.meaning) for status in Status]


@pytest.mark.parametrize("page", documents.pages(ROOT), ids=lambda page: str(page.name))
def test_what_a_page_types_exists(page: Path) -> None:
    shown = [*documents.commands(ROOT), *documents.mentioned(ROOT)]
    for text in (command.text for command in shown if command.page == page.name):
        targets, names = documents.scons_words(text)
        check_targets(name for name in targets if "…" not in name)
        check_known("a variable", names, DEFAULTS)
        for script in re.findall(r"\b(?:scripts|tests)/[\w./-]+\.(?:sh|py)\b", text.replace("ARCH", "x86_64")):
            assert (ROOT / script).is_file()
        for words in documents.zosia_words(text):
            name, rest = line.command(words)
            line.parse(name, rest)


def test_commands_are_found() -> None:
    shown = list(documents.commands(ROOT))
    run = {command.text for command in shown if not command.reason}
    assert len(run) > 20
    assert "./scripts/run-qemu-aarch64.sh" in run
    assert {command.reason for command in shown if command.text == "./scripts/test.sh"} == {"it is what runs them"}
    assert documents.scons_words("A=1 scons -n run MEM=1G 'SYSTEM=a | b' | x Y=2; scons -C z models # and so on") == (
        ["run", "z", "models"],
        ["MEM", "SYSTEM"],
    )
    assert len([words for command in shown for words in documents.zosia_words(command.text)]) > 15
    typed = "uvx zosia; a | zosia run m 'b | c' --mem 4G && pipx run --spec ./e zosia"
    assert list(documents.zosia_words(typed)) == [[], ["run", "m", "b | c", "--mem", "4G"], []]


def test_each_folder_and_each_module_has_its_place(root: Path) -> None:
    layout = (root / "docs" / "development.md").read_text(encoding="utf-8").split("## Tests")[0]
    folders = {
        name for line in re.findall(r"^\| (`[^|]*/`) \|", layout, re.M) for name in re.findall(r"`([^`]*)/`", line)
    }
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {name.split("/")[0] for name in listed if "/" in name} == {name.split("/")[0] for name in folders}
    for package, part in zip(("zosia", "zosia_build"), layout.split("### The package ")[1:], strict=True):
        rooms_listed = dict(re.findall(r"^- `([\w./]+)`: [^`]*((?:`\w+`\s*)+)$", part, re.M))
        for room, named in rooms_listed.items():
            modules = {path.stem for path in (root / "site_scons" / package / room).glob("*.py")} - {"__init__"}
            assert sorted(re.findall(r"`(\w+)`", named)) == sorted(modules), room
        whole = root / "site_scons" / package
        rooms = {path.parent.relative_to(whole).as_posix() for path in whole.rglob("*/*.py")}
        assert rooms <= set(rooms_listed)


def test_what_an_architecture_takes_is_where_it_says(root: Path) -> None:
    part = (
        (root / "docs" / "development.md").read_text(encoding="utf-8").split("## An architecture")[1].split("\n## ")[0]
    )
    sources = {path.name: path.read_text(encoding="utf-8") for path in (root / "site_scons").rglob("*.py")}
    for names, module in re.findall(r"((?:`\w+`,? ?)+) in `(\w+\.py)`", part):
        for name in re.findall(r"\w+", names):
            assert re.search(rf"\b{name}\b", sources[module]), (name, module)
    paths = [path for path in re.findall(r"`([\w./-]+)`", part) if re.search(r"(?<![A-Z])ARCH(?![A-Z])", path)]
    assert len(paths) >= 5
    for arch in ("aarch64", "x86_64"):
        assert [path for path in paths if not (root / path.replace("ARCH", arch)).exists()] == []


def test_what_was_measured_is_what_the_page_says(root: Path) -> None:
    data = json.loads((root / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert measured.tables(page, texts(data)) == page
    assert sorted(re.findall(r"<!-- measured: (\S+) -->", page)) == sorted(data)
    assert set(data) >= set(SECTIONS)
