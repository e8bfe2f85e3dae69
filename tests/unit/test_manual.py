"""The manual says what the code says: tables, drawings and sums."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zosia.base import packages
from zosia.base.errors import ZosiaError
from zosia.command import line, model_commands, spelling
from zosia.command.table import COMMANDS
from zosia.disk import ext4
from zosia.inputs.catalogue import Model, read_models
from zosia.model import arguments, kv_cache, memory
from zosia.model.plan import Wish
from zosia.settings import reading
from zosia.settings.usage import TARGETS
from zosia.settings.variables import DEFAULTS, GROUPS, VARIABLES
from zosia_build import hosts
from zosia_build.hosts import Host, Line
from zosia_build.manual import drawings, hooks, tables

CODE = ("SConstruct", "*/SConscript", "site_scons/**/*.py", "initramfs/*", "llama/**/*", "*.toml")


def rows(markdown: str) -> list[list[str]]:
    """The cells of a table's body."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_every_target_and_variable_is_in_the_tables() -> None:
    assert [row[0] for row in rows(tables.targets())] == [f"`{name}`" for name in TARGETS]
    text = tables.variables()
    assert re.findall(r"^\| `(\w+)=` \|", text, re.M) == [variable.name for variable in VARIABLES]
    assert len(re.findall("^### ", text, re.M)) == len(GROUPS)
    for variable in VARIABLES:
        (line,) = re.findall(rf"^\| `{variable.name}=` \|(.*)\|$", text, re.M)
        meaning, values, default = (cell.strip() for cell in line.split(" | "))
        assert meaning == variable.text
        assert values.replace("`", "") == variable.form
        assert default.strip("`") == (variable.default or variable.otherwise or "none")


def test_tables_say_what_values_there_are() -> None:
    shown = {row[0]: row[1:] for row in rows(tables.variables())}
    assert shown["`ARCH=`"][1:] == ["`aarch64`, `x86_64`, `native`", "`aarch64`"]
    assert shown["`MEM=`"] == ["guest memory", "number with K, M or G; MiB without a unit", "what the model needs"]
    assert shown["`PROMPT=`"][1:] == ["text", "none"]
    assert [row[1] for row in rows(tables.targets()) if row[0] == "`hot-clean`"] == [
        "delete the saved machines that `scons run` and `serve` resume; the next one boots"
    ]


def test_every_command_is_in_the_tables() -> None:
    shown = rows(tables.commands())
    assert [re.findall(r"^`zosia (\w+)(?: \[.*)?`$", row[0]) for row in shown] == [[name] for name in COMMANDS]
    assert [row[1] for row in shown] == [command.text for command in COMMANDS.values()]
    assert [row[2] for row in shown if row[0].startswith("`zosia pull")] == ["`scons model.img`"]
    assert {row[2][7:-1] for row in shown if row[2]} <= TARGETS.keys()


def test_commands_of_a_chat() -> None:
    shown = {row[0]: row[1] for row in rows(tables.chat())}
    assert shown["`/exit`"].startswith("power off")
    assert shown["`/open NAME`"] == "go on with a chat, or begin one that is kept"


def test_every_option_is_in_the_tables_with_its_commands() -> None:
    taken: dict[str, set[str]] = {}
    for part in tables.options().split("### ")[1:]:
        takers = re.findall("^For (.*)\\.$", part, re.M)
        commands = set(re.findall(r"`(\w+)`", takers[0])) if takers else set(COMMANDS)
        for row in rows(part):
            only = re.search("; for (`.*`) only$", row[1])
            for option in re.findall(r"`(--[\w-]+)`", row[0]):
                takes = set(re.findall(r"`(\w+)`", only[1])) if only else commands
                assert not takes & taken.get(option, set())
                taken[option] = takes | taken.get(option, set())  # --file is another one in `import`
    for name, command in COMMANDS.items():
        forms = line._forms(item for items in command.variables(name).values() for item in items)
        known = {f"--{form.rstrip('=')}" for form, _, _ in forms} | {f"--{flag}" for flag in command.flags}
        listed = {option for option, takers in taken.items() if name in takers}
        words = {f"--{word.lower()}" for word in command.words if word in spelling.OPTIONS}
        assert listed | words == known | {"--help", "--version"}, name


def test_the_tables_of_options_say_what_an_installed_zosia_does() -> None:
    shown = {row[0]: row[1:] for row in rows(tables.options())}
    assert shown["`--arch`"][1:] == ["`aarch64`, `x86_64`, `native`", "`native`"]
    assert shown["`MODEL`, `--model`"][2] == "`smollm2-135m`"
    assert shown["`MODEL`, `--model`"][0].startswith("model to run: a name listed by `zosia models`")
    assert shown["`--hot`, `--no-hot`"][2] == "`--hot`"
    assert shown["`--verbose`, `--no-verbose`"][1:] == ["", "`--no-verbose`"]
    assert shown["`--sandbox`, `--no-sandbox`"][2] == "used where it works"
    assert shown["`--mem`"] == ["guest memory", "number with K, M or G; MiB without a unit", "what the model needs"]
    assert shown["`--port`"][0] == "TCP port; 0 takes a free one"
    assert "scons" not in tables.options()


def test_the_packages_to_install_are_those_of_the_table(root: Path) -> None:
    page = (root / "docs" / "installed.md").read_text(encoding="utf-8")
    known = packages.table()
    wanted = []
    for manager, command in packages.INSTALL.items():
        cells = [f"`{command}`"]
        for programs in (["qemu-system-x86_64"], ["qemu-system-aarch64"], ext4.TOOLS["mke2fs"]):
            names = dict.fromkeys(name for program in programs for name in known[program].packages[manager])
            cells.append(", ".join(f"`{name}`" for name in names))
        wanted.append(cells)
    assert sorted(row[1:] for row in rows(page.split("## Install")[1].split("## ")[0])) == sorted(wanted)


def test_a_cell_may_hold_what_parts_cells() -> None:
    assert tables.table(("a", "b"), [("x | y", "z")]) == "| a | b |\n| --- | --- |\n| x \\| y | z |\n"


def test_the_catalogue_is_what_scons_models_shows(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    listing = model_commands.listing(reading.read(DEFAULTS, [], root)).splitlines()
    shown = {line.split()[0]: re.split("  +", line) for line in listing[1:] if line}
    catalogue = read_models(root / "models.toml")
    table = rows(tables.models(catalogue))
    assert [row[0] for row in table] == [f"`{name}`" for name in catalogue]
    for name, (_, title, licence, _, context, guest, shared, _) in zip(catalogue, table, strict=True):
        assert title == catalogue[name].title
        assert [licence, context, guest, shared] == shown[name][2:6]


def test_a_model_of_which_little_is_known() -> None:
    pin = {"name": "m", "origin": "hub", "project": "a/b", "version": "main", "file": "m.gguf", "licence": "x"}
    model = Model(**pin, title="M", context=1)  # type: ignore[arg-type]
    assert rows(tables.models({"m": model})) == [["`m`", "M", "x", "?", "1", "unknown until downloaded", "?", "no"]]


def test_hosts_that_were_tried_and_others() -> None:
    plan = {
        "one": Host(title="One", commands=["a", "b | c", "d", "e"]),
        "two": Host(title="Two", commands=["a"]),
        "three": Host(title="Three", commands=["a", "b"]),
    }
    texts = {"date": "2026-11-29", "system": "Linux 1", "processor": "x86_64", "qemu": "7.2"}
    one = Line(host="one", **texts, guests=["g, tcg", "h, kvm"], passed=["a", "b | c"], failed=["d"])
    two = Line(host="two", **texts, guests=[], passed=["a"], failed=[])
    assert rows(tables.hosts(plan, {"two": two, "one": one})) == [
        [
            *("One", "Linux 1, x86_64", "7.2", "g, tcg; h, kvm"),
            *("passed: `a`, `b \\| c`; **failed**: `d`; not yet run: `e`", "2026-11-29"),
        ],
        ["Two", "Linux 1, x86_64", "7.2", "", "passed: `a`", "2026-11-29"],
        ["Three", "", "", "", "not yet run: `a`, `b`", "not yet"],
    ]


def test_the_page_of_hosts_shows_all_of_them(root: Path) -> None:
    plan, lines = hosts.read_plan(hosts.PLAN), hosts.read_lines(hosts.DATA)
    table = rows(shown((root / "docs" / "hosts.md").read_text(encoding="utf-8")))
    assert [row[0] for row in table] == [host.title for host in plan.values()]
    assert [row[-1] for row in table] == [lines[name].date if name in lines else "not yet" for name in plan]


# ---- Names in drawings


def defined(tree: ast.AST, names: list[str]) -> bool:
    """Return whether a module has such a function or class, or a class such a method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return len(names) == 1 or defined(node, names[1:])
    return False


def known(root: Path, code: str, name: str) -> bool:
    """Return whether a name of a drawing is one of the code: a target, a function, a class, a file, or a text in it."""
    if name.startswith("scons "):
        return name.removeprefix("scons ") in TARGETS
    bare = name.removesuffix("()")
    if "." not in bare and name.endswith("()"):  # of /init
        return bool(re.search(rf"^{bare}\(\) \{{$", code, re.M))
    if name.endswith("()") or re.fullmatch(r"\w+\.[A-Z]\w+", name):
        module, *names = bare.split(".")
        files = (root / "site_scons").rglob(f"{module}.py")
        return any(defined(ast.parse(file.read_text(encoding="utf-8")), names) for file in files)
    if (root / name).is_file() or (root / "site_scons" / name).is_dir():
        return True
    return re.search(rf"(?<![\w/-]){re.escape(name)}", code) is not None


@pytest.fixture(scope="module")
def code(root: Path) -> str:
    """All of it, as text, but not what the manual is made by."""
    files = sorted({path for pattern in CODE for path in root.glob(pattern) if path.is_file()})
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.name != "drawings.py")


def drawn(root: Path) -> Iterator[tuple[str, str]]:
    """Each graph of the manual: its page and its source."""
    for page in sorted((root / "docs").glob("*.md")):
        for source in re.findall(r"^```dot\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            yield page.name, source


def test_names_in_drawings_are_those_of_the_code(root: Path, code: str) -> None:
    graphs = list(drawn(root))
    assert len(graphs) == 4
    for page, source in graphs:
        labels = re.findall(r'\[label="([^"\\]+)(?:\\n[^"]*)?"', source)
        nodes = set(re.findall(r"^\s*(\w+) \[label=", source, re.M))
        assert len(labels) > 5, page
        assert [label for label in labels if not known(root, code, label)] == []
        ends = {word for line in source.splitlines() if "->" in line for word in re.findall(r"\w+", line.split("[")[0])}
        assert ends == nodes, "each node has a name of its own"


@pytest.mark.parametrize(
    "name",
    [
        *("scons fly", "supervisor.fly()", "session.Sessions", "machine.Machine.argue()", "nowhere.run()", "fly()"),
        *("initramfs/inits", "build/ARCH/Images.gz", "zosia.question", "opt/zosia-"),
    ],
)
def test_a_name_that_is_not_the_codes(root: Path, code: str, name: str) -> None:
    assert not known(root, code, name)


def test_a_graph() -> None:
    figure = drawings.graph('digraph "A & B" {\n a [label="one"]\n a -> b [label="to"]\n}\n')
    assert figure.startswith('<figure class="zosia-graph" tabindex="0" aria-label="A &amp; B"><svg role="img"')
    assert ">one</text>" in figure
    assert "<title>" not in figure
    assert " id=" not in figure


def test_a_graph_that_is_none() -> None:
    with pytest.raises(ZosiaError, match="syntax error"):
        drawings.graph('digraph "A" {')
    with pytest.raises(ZosiaError, match="no name"):
        drawings.graph("digraph { a }")


@pytest.mark.parametrize(
    ("cell", "bar"),
    [
        ("0.50 s (0.49 to 0.53)", ("0.50", 0.5, 0.49, 0.53)),
        ("1,234 MiB", ("1234", 1234, 1234, 1234)),
        ("3.6", ("3.6", 3.6, 3.6, 3.6)),
        ("not measured", None),
        ("", None),
    ],
)
def test_values_of_a_table(cell: str, bar: tuple[str, float, float, float] | None) -> None:
    found = drawings.bar(cell)
    assert (found and (found.text, found.value, found.least, found.most)) == bar


def test_a_plot_has_the_colours_of_the_page() -> None:
    figure = drawings.plot("Seconds", {"one": ["1.00", "2"], "two": ["3 (2 to 4)", "-"]}, ["a", "b"])
    assert figure == drawings.plot("Seconds", {"one": ["1.00", "2"], "two": ["3 (2 to 4)", "-"]}, ["a", "b"])
    for text in ("one", "two", "a", "b", "1.00", "Seconds"):
        assert f">{text}</text>" in figure
    assert "var(--zosia-series-2)" in figure
    assert "currentColor" in figure
    assert set(re.findall("#[0-9a-f]{6}\\b", figure)) == set()


def test_a_plot_with_more_columns_than_colours() -> None:
    with pytest.raises(ZosiaError, match="The plot 'Seconds' has 4 columns, and at most three are possible"):
        drawings.plot("Seconds", {"one": ["1", "2", "3", "4"]}, ["a", "b", "c", "d"])
    figure = drawings.plot("Seconds", {"one": ["1", "2", "3"]}, ["a", "b", "c"])
    assert "var(--zosia-series-3)" in figure


def shown(markdown: str) -> str:
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    nothing: Any = None
    return hooks.on_page_markdown(markdown, page, nothing, nothing)


def test_links_in_blocks_of_code_are_shown_as_they_are() -> None:
    link = "see [it](../SConstruct) there\n"
    for fence in ("```", "~~~~"):
        block = f"  {fence}md\n  {link}  {fence}\n"
        assert shown(f"{link}{block}{link}{block}{link}") == "see it there\n".join(["", block, block, ""])
    assert shown(f"````\n```\n{link}````\n{link}") == f"````\n```\n{link}````\nsee it there\n"
    assert shown(f"{link}```\n{link}") == f"see it there\n```\n{link}", "one without an end lasts until the page's"
    assert shown("[a](models.md) `[b](models.md)`\n") == "[a](models.md) `[b](models.md)`\n"


# ---- The sum of models.md


@pytest.fixture
def worked(root: Path) -> str:
    text = (root / "docs" / "models.md").read_text(encoding="utf-8")
    return text[text.index("### gpt-oss-20b, worked through") : text.index("## Reasoning")]


@pytest.fixture
def wish(root: Path) -> Wish:
    model = read_models(root / "models.toml")["gpt-oss-20b-Q4"]
    assert model.shape
    return Wish(name=model.name, shape=model.shape, weights=model.gguf_size, context=model.context)


def number(text: str) -> float:
    return float(text.replace(",", ""))


def computed(sum_: str) -> float:
    """Return the value of a sum such as "2 × (3 + 4) ÷ 7" comes to."""
    plain = sum_.translate(str.maketrans("×÷−", "*/-", ","))
    assert re.fullmatch(r"[0-9.+*/() -]+", plain), sum_
    return float(eval(plain))


def test_the_sum_is_that_of_the_code(worked: str, wish: Wish) -> None:
    memory = wish.takes()
    found = {part: number(size) for part, _, size, _ in rows(worked[: worked.index("| `CTX=`")])}
    context, program = [size for part, size in found.items() if part.startswith(("cached", "checkpoints"))], "llama-cli"
    weights, buffers, together = found["weights"], found["buffers of an evaluation"], found["together"]
    assert len(found) == 8
    assert (weights, sum(context), buffers) == (memory.weights, memory.cache, memory.buffers)
    assert sum(size for part, size in found.items() if part.startswith(program)) == memory.program
    assert together == memory.weights + memory.cache + memory.buffers + memory.program
    wanted = arguments.read(wish.shape, wish.args())
    caches = kv_cache.kv_caches(wish.shape, wanted)
    checkpoints = wanted.checkpoints * sum(cache.window_bytes(wanted) for cache in caches)
    assert context == [*(cache.bytes(wanted) for cache in caches), checkpoints]


def test_the_sum_adds_up(worked: str) -> None:
    for part, how, size, mib in rows(worked[: worked.index("| `CTX=`")]):
        if "×" in how:
            assert computed(how) == number(size), part
        assert f"{number(size) / memory.MIB:,.1f}" == mib, part
    sums = re.findall(r"((?:[\d,.]+|\()[\d,. ()×+÷−\n]*[\d)])\s=\s+([\d,.]+\d)", worked)
    assert len(sums) == 5
    for how, result in sums:
        assert computed(how.replace("\n", " ")) == pytest.approx(number(result), abs=0.05)


def test_what_the_guest_gets_is_that_of_the_code(worked: str, wish: Wish) -> None:
    total = wish.takes().total
    text = " ".join(worked.split())
    assert f"leave {total:,} MiB for llama-cli" in text
    mapped = replace(wish, mapped=True)
    memories = [memory.guest_memory(total), memory.guest_memory(total, heavy_kernel=True), mapped.guest(mapped.takes())]
    assert [int(size) for size in re.findall(r"MEM=(\d+)M", worked)] == memories
    assert f"takes {memory.guest_memory(total) - total} MiB" in text
    assert f"are the guest's, {mapped.takes().total} MiB" in text
    assert f"{mapped.takes().pages} MiB" in text
    header, _, line = worked[worked.index("| `CTX=`") :].strip().splitlines()
    contexts, sizes = (re.findall(r"\d+", text) for text in (header, line))
    assert [str(wish.guest(wish.takes(context=int(context)))) for context in contexts] == sizes
