"""The shape of the code: which room may import which, and how large things get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "site_scons"
BELOW = {  # each room of zosia, and the rooms that it may import
    "base": {"base"},
    "model": {"base", "model"},
    "inputs": {"base", "model", "inputs"},
    "disk": {"base", "model", "inputs", "disk"},
    "machine": {"base", "machine"},
    "run": {"base", "model", "inputs", "disk", "machine", "run"},
    "channel": {"base", "channel"},
    "serve": {"base", "model", "inputs", "disk", "machine", "channel", "run", "serve"},
    "chat": {"base", "model", "inputs", "disk", "machine", "channel", "run", "serve", "chat"},
    "settings": {"base", "model", "inputs", "disk", "machine", "channel", "run", "serve", "chat", "settings"},
    "doctor": {"base", "model", "inputs", "disk", "machine", "channel", "run", "serve", "chat", "settings", "doctor"},
    "cli": {"base", "command"},
}
BELOW["command"] = {*BELOW["doctor"], "command"}
MODULES, LINES, FUNCTION = 12, 300, 60


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module's dotted name, and its syntax tree."""
    for path in sorted(LIBRARY.rglob("*.py")):
        name = ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


TREES = dict(modules())


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield what a tree imports, as dotted names; relative imports are refused by another test."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(name: str, imported: str) -> bool:
    """Return whether a module may not import this."""
    package, *rooms = name.split(".")
    top, *others = imported.split(".")
    if top == "SCons":
        return package in ("zosia", "zosia_build")
    if package == "zosia" and rooms and top in ("zosia_build", "zosia_scons", "zosia"):
        return top != "zosia" or (bool(others) and others[0] not in BELOW[rooms[0]])
    return package == "zosia_build" and top == "zosia_scons"


@pytest.mark.parametrize("name", TREES)
def test_imports_run_one_way(name: str) -> None:
    assert [imported for imported in imports(TREES[name]) if forbidden(name, imported)] == []
    assert not [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.level]
    # The dependencies of what is built are found by this form (zosia_scons.library).
    plain = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Import)]
    assert (
        not [alias.name for node in plain for alias in node.names if alias.name.startswith("zosia")]
        or name == "site_init"
    )


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("zosia.model.plan", "zosia.machine.host.memory"),
        ("zosia.inputs.fetch", "zosia.run.probe"),
        ("zosia.machine.qemu", "zosia.inputs.catalogue.Model"),
        ("zosia.base.files", "zosia.model.plan"),
        ("zosia.doctor.checks", "zosia_build.kernel"),
        ("zosia.settings.settings", "SCons.Variables.Variables"),
        ("zosia_build.kernel", "SCons.Action"),
        ("zosia_build.kernel", "zosia_scons.action"),
    ],
)
def test_what_is_forbidden(name: str, imported: str) -> None:
    assert forbidden(name, imported)


def test_no_modules_import_each_other() -> None:
    edges = {
        name: {imported for text in imports(tree) for imported in (text, text.rpartition(".")[0]) if imported in TREES}
        for name, tree in TREES.items()
    }
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges[name] - {name}):
                visit(other, (*path, name))
            done.append(name)

    for name in TREES:
        visit(name, ())


@pytest.mark.parametrize("name", TREES)
def test_modules_and_functions_are_short(name: str) -> None:
    path = LIBRARY / f"{name.replace('.', '/')}.py"
    lines = path.read_text(encoding="utf-8").count("\n") if path.is_file() else 0
    assert lines <= LINES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION, node.name


def test_folders_are_small() -> None:
    for package in ("zosia", "zosia_build"):
        for folder in [LIBRARY / package, *(LIBRARY / package).rglob("*/")]:
            assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MODULES, folder


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    paths = [
        path
        for folder in ("buildroot", "llama", "scripts", "site_scons", "tests")
        for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    begins = re.compile(r"(What|Whether|Where|How|That|Why|Who)\b")
    sources = [path.read_text(encoding="utf-8") for path in paths]
    assert sum(text.count('"""') for text in sources) > 2000
    asked = [text for text in sources if re.search(rf'"""{begins.pattern}', text)]  # to parse all takes seconds
    nodes = [node for text in asked for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    assert [text for node in nodes if begins.match(text := ast.get_docstring(node) or "")] == []


OTHERS = "machine|release|version"
SYSTEM = re.compile(rf"\bsys\.platform\b|\bplatform\.system\b|\bos\.name\b|\buname\((?!\)\.(?:{OTHERS})\b)")


def test_systems_are_told_apart_in_one_way() -> None:
    """By `sys.platform ==` or `!=`, at the place: mypy knows no other way in which it checks only what runs there."""
    folders = ("buildroot", "initramfs", "iso", "llama", "scripts", "site_scons")
    paths = [ROOT / "SConstruct", *(path for name in folders for path in (ROOT / name).rglob("*"))]
    texts = [
        path.read_text(encoding="utf-8") for path in paths if path.name.startswith("SCons") or path.suffix == ".py"
    ]
    lines = [line for text in texts for line in text.splitlines() if SYSTEM.search(line)]
    assert len(lines) > 10
    assert [line for line in lines if not re.search(r"\bsys\.platform [!=]= \"(linux|darwin)\"", line)] == []
