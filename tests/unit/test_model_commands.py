"""`scons models`, `import-model` and `remove-model`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import gguf_file
from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import sha256
from zosia.base.places import DISKS
from zosia.command import model_commands, spelling
from zosia.disk import verity
from zosia.inputs import copies, model_files
from zosia.machine import host
from zosia.settings import images, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS

Typed = Callable[..., Settings]


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...`, typed in an empty folder with an empty cache, on a machine of 8 GiB."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "memory", lambda: (8192, 8192))

    def read(**values: str) -> Settings:
        defaults = DEFAULTS
        return reading.read({**defaults, **values}, [], root, given=values, launched=tmp_path)

    return read


def row(table: str, name: str) -> str:
    """The line of a model, with one blank between words."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"{name}  ")]
    return " ".join(line.split())


def place(settings: Settings, name: str) -> Path:
    """Make and return the place of a model's file in the cache."""
    model = settings.models[name]
    path = settings.cache / "models" / model.gguf_sha256 / Path(model.member or model.file).name
    path.parent.mkdir(parents=True)
    return path


def disk(name: str, size: int = 4096) -> Path:
    DISKS.mkdir(parents=True, exist_ok=True)
    path = DISKS / f"{name}.img"
    path.write_bytes(b"x" * size)
    path.with_suffix(".img.json").write_text("{}")
    return path


def test_the_table(typed: Typed) -> None:
    table = model_commands.listing(typed())
    assert row(table, "smollm2-135m") == "smollm2-135m 98.4 MB Apache-2.0 2048 0.14 GiB 0.09 GiB yes -"
    assert (
        row(table, "gpt-oss-20b-Q4") == "gpt-oss-20b-Q4 12.1 GB Apache-2.0 8192 0.77 GiB 11.3 GiB no, 5.5 GiB short -"
    )
    assert "This machine has 8.0 GiB; a guest can have up to 6.5 GiB." in table
    assert max(map(len, table.splitlines())) < 120
    starts = {line.find("Apache-2.0") for line in table.splitlines() if "Apache-2.0" in line}
    assert len(starts) == 1, "columns are straight"


def test_the_table_of_another_catalogue(typed: Typed) -> None:
    assert "The catalogue is" not in model_commands.listing(typed())
    assert "\n\nThe catalogue is team 7.\n" in model_commands.listing(replace(typed(), catalogue="team 7"))


def test_the_table_for_another_context_and_cache(typed: Typed) -> None:
    sizes = []
    for values in ({}, {"CTX": "40960"}, {"CTX": "40960", "KV": "q4_0"}):
        words = row(model_commands.listing(typed(**values)), "qwen3-4b").split()
        assert words[4] == values.get("CTX", "8192")
        sizes.append(float(words[5]))
    assert sizes[0] < sizes[2] < sizes[1]


def test_a_smaller_context_would_fit(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (4700, 4700))
    assert " with CTX=" in row(model_commands.listing(typed()), "qwen3-4b")


def test_the_columns_are_straight_for_zosia_too(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (4700, 4700))
    monkeypatch.setattr(style, "spelling", spelling.command)
    header, *lines = style.spelling(model_commands.listing(typed())).splitlines()
    here = header.index("HERE")
    rows = lines[: lines.index("")]
    assert any("with --ctx " in line for line in rows)
    assert {line[here - 2 :] for line in rows} == {"  -"}


def test_the_table_for_a_memory_that_was_typed(typed: Typed) -> None:
    table = model_commands.listing(typed(MEM="3G", CTX="16384", MODEL_BUS="virtio-blk"))
    assert row(table, "qwen3-0.6b").split()[-4:-2] != ["-", "yes"], "nothing is shared"
    assert row(table, "qwen3-4b").endswith(" no, 2.0 GiB short -")
    assert row(table, "smollm2-135m").endswith(" trained for 8192 -")
    assert row(table, "llama-3.2-1b").endswith(" yes -")
    assert row(model_commands.listing(typed(MEM="64G")), "smollm2-135m").endswith(" no -"), "nor has this machine that"


def test_what_is_here(typed: Typed) -> None:
    settings = typed()
    place(settings, "qwen3-0.6b").write_bytes(b"x" * 3_000_000)
    part = place(settings, "qwen3-4b")
    part.with_name(part.name + ".part").write_bytes(b"x" * 2_000_000)
    disk("qwen3-0.6b", 1_000_000)
    disk("gemma-3-1b")
    disk("mine-01234567", 5_000_000)
    stray = settings.cache / "models" / ("0" * 64) / "an older one.gguf"
    stray.parent.mkdir()
    stray.write_bytes(b"x" * 7_000_000)
    table = model_commands.listing(settings)
    assert row(table, "qwen3-0.6b").endswith(" file, disk")
    assert row(table, "qwen3-4b").endswith(" part of the file, 2.0 MB")
    assert row(table, "gemma-3-1b").endswith(" yes disk")
    assert row(table, "llama-3.2-1b").endswith(" yes -")
    assert "mine-01234567: the disk of a file, 5.0 MB. To remove it, type: rm build/models/mine-01234567.img*" in table
    assert f"{stray}: 7.0 MB, of no model above. To remove it, type: rm '{stray}'" in table
    assert "Files take 5.0 MB" in table
    twice = [line for line in table.splitlines() if "twice" in line]
    assert twice == [
        "qwen3-0.6b is stored twice, as a file and as a disk. To keep only the disk, type: "
        "scons remove-model MODEL=qwen3-0.6b KEEP=disk"
    ]


def test_a_file_of_another_cache_takes_no_room(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = typed()
    model = settings.models["qwen3-4b"]
    found = model_files.Stored(model=model, path=tmp_path / "m.gguf", size=0, state="Hugging Face cache")
    monkeypatch.setattr(model_files, "stored", lambda known, cache: [found])
    disk("qwen3-4b")
    table = model_commands.listing(settings)
    assert row(table, "qwen3-4b").endswith(" Hugging Face cache, disk")
    assert "twice" not in table


@pytest.mark.parametrize(("keep", "left"), [("", set()), ("disk", {"disk"}), ("file", {"file"})])
def test_removal(typed: Typed, keep: str, left: set[str]) -> None:
    settings = typed(MODEL="qwen3-0.6b", KEEP=keep)
    files = {"file": place(settings, "qwen3-0.6b"), "disk": disk("qwen3-0.6b")}
    files["file"].write_bytes(b"x" * 4096)
    tree = verity.path_of(files["disk"])
    tree.touch()
    other = disk("qwen3-4b")
    freed = 4096 * (2 - len(left))
    assert model_commands.remove_model(settings) == f"  MODEL qwen3-0.6b: {freed} bytes freed"
    assert {name for name, path in files.items() if path.exists()} == left
    assert files["disk"].with_suffix(".img.json").exists() == tree.exists() == ("disk" in left)
    assert other.exists()


def test_removal_of_nothing(typed: Typed) -> None:
    assert model_commands.remove_model(typed(MODEL="qwen3-4b")) == "  MODEL qwen3-4b: nothing to remove"
    with pytest.raises(ZosiaError, match=r"A model to remove is needed\. Type: scons remove-model MODEL=NAME"):
        model_commands.remove_model(typed())
    with pytest.raises(ZosiaError, match=r"qwen3-4b has no disk to keep\. Make it with: scons model\.img"):
        model_commands.remove_model(typed(MODEL="qwen3-4b", KEEP="disk"))


def test_a_file_given_by_its_path_is_never_removed(typed: Typed, tmp_path: Path) -> None:
    path = gguf_file.write(tmp_path / "mine.gguf")
    settings = typed(MODEL=str(path))
    image = disk(settings.model.name)
    left = image.with_name(f".{image.name}.12345")
    left.write_bytes(b"x" * 4096)
    assert "8192 bytes freed" in model_commands.remove_model(settings)
    assert path.exists()
    assert not image.exists()
    assert not left.exists(), "of a build that was killed"
    with pytest.raises(ZosiaError, match="KEEP= is for models that have a name"):
        typed(MODEL=str(path), KEEP="disk")


def test_a_size_that_is_not_known_yet(typed: Typed) -> None:
    settings = typed()
    unpinned = replace(settings.models["qwen3-4b"], size=0, sha256="")
    table = model_commands.listing(replace(settings, models={"qwen3-4b": unpinned}))
    assert row(table, "qwen3-4b") == "qwen3-4b ? Apache-2.0 8192 ? ? ? -"
    shapeless = replace(settings.models["qwen3-4b"], shape=None)
    table = model_commands.listing(replace(settings, models={"qwen3-4b": shapeless}))
    assert row(table, "qwen3-4b") == "qwen3-4b 2.5 GB Apache-2.0 8192 ? ? ? -"


@pytest.mark.parametrize(("free", "fits"), [(639446688 * 2 + (16 << 20), True), (639446688 * 2, False)])
def test_room_for_the_file_and_the_disk(typed: Typed, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool) -> None:
    settings = typed(MODEL="qwen3-0.6b")
    assert settings.model.entry
    monkeypatch.setattr(copies, "shares", lambda folder, other: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    for expected in (fits, True, True):
        try:
            images.check_room_for_both(settings.model.entry, settings.cache, settings.model.image)
        except ZosiaError as error:
            assert not expected
            assert str(error).startswith("qwen3-0.6b, as a file and as a disk, needs 1.3 GB")
            path = place(settings, "qwen3-0.6b")
            path.with_name(path.name + ".part").write_bytes(bytes(20 << 20))  # what is here takes no more room
        else:
            assert expected
            monkeypatch.setattr(copies, "shares", lambda folder, other: True)
            monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))


def test_import(typed: Typed, tmp_path: Path) -> None:
    path = gguf_file.write(tmp_path / "stick.gguf")
    settings = typed(FILE="stick.gguf")
    known = replace(settings.models["qwen3-4b"], size=path.stat().st_size, sha256=sha256(path))
    settings = replace(settings, models={"qwen3-4b": known})
    said = model_commands.import_model(settings)
    assert said == "  MODEL qwen3-4b is imported. To run it, type: scons run MODEL=qwen3-4b"
    assert row(model_commands.listing(settings), "qwen3-4b").endswith(" file")
    with pytest.raises(ZosiaError, match=r"A file to import is needed\. Type: scons import-model FILE="):
        model_commands.import_model(typed())
