"""Split models of the catalogue: several parts, each with a digest, from a hub on loopback."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from tests import gguf_file
from tests.hub import COMMIT, NEXT, Hub, on_loopback, sha256, start, tiny, until
from tests.web import Answer, Web
from zosia.base.errors import ZosiaError
from zosia.command import model_commands
from zosia.disk import record
from zosia.inputs import copies, imports, model_files, pins
from zosia.inputs.catalogue import Model, Part
from zosia.inputs.download import CHUNK
from zosia.machine import host
from zosia.settings import images, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS
from zosia_build import doctor
from zosia_build.manual import tables

NAMES = tuple(f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3))
PARTS = tuple(b"GGUF" + random.Random(seed).randbytes(5 * CHUNK + seed) for seed in (1, 2, 3))
TOTAL = sum(map(len, PARTS))
Typed = Callable[..., Settings]


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        serve(running)
        yield running


def serve(hub: Hub, *contents: bytes) -> None:
    for name, content in zip(NAMES, contents or PARTS, strict=True):
        hub.serve(content, file=name)


def split(*contents: bytes, known: bool = True, version: str = COMMIT) -> Model:
    """A model of three parts, pinned to the contents or to nothing."""
    parts = tuple(Part(size=len(content), sha256=sha256(content)) for content in contents or PARTS)
    return replace(tiny(None, file=NAMES[0], version=version), parts=parts if known else (Part(),) * 3)


def places(hub: Hub, *contents: bytes) -> list[Path]:
    pairs = zip(NAMES, contents or PARTS, strict=True)
    return [hub.cache / "models" / sha256(content) / name for name, content in pairs]


def get(hub: Hub, model: Model | None = None) -> list[Path]:
    return model_files.gguf_files(model or split(), hub.cache)


def pages(hub: Hub, method: str = "GET") -> list[str]:
    """The parts that were asked for, by number."""
    return [path[-len("1-of-00003.gguf")] for verb, path, _ in hub.web.asked if verb == method]


def test_downloaded_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(hub) == places(hub)
    assert [path.read_bytes() for path in places(hub)] == list(PARTS)
    assert pages(hub) == pages(hub, "HEAD") == ["1", "2", "3"]
    lines = [f"  FETCH {name} ({len(content)} bytes)\n" for name, content in zip(NAMES, PARTS, strict=True)]
    assert capsys.readouterr().err == "".join(lines)
    assert get(hub) == places(hub)
    assert len(hub.web.asked) == 6
    assert sorted(hub.held) == sorted(places(hub))


def test_a_truncated_part(hub: Hub) -> None:
    hub.serve(PARTS[1], sent=PARTS[1][:-1], file=NAMES[1])
    with pytest.raises(ZosiaError, match=f"{NAMES[1]} could not be fetched|{NAMES[1]} is shorter than the expected"):
        get(hub)
    assert [path.is_file() for path in places(hub)] == [True, False, False]
    assert "3" not in pages(hub)


def test_a_part_with_a_wrong_byte(hub: Hub) -> None:
    wrong = PARTS[1][:-1] + bytes([PARTS[1][-1] ^ 1])
    hub.serve(PARTS[1], sent=wrong, file=NAMES[1])
    with pytest.raises(ZosiaError, match=f"{NAMES[1]} has the wrong SHA-256: {sha256(wrong)}, expected"):
        get(hub)
    assert hub.held == places(hub)[:1], "no part gets its name before it is verified"
    hub.serve(PARTS[1], file=NAMES[1])
    assert get(hub) == places(hub)
    assert pages(hub) == ["1", "2", "2", "3"], "what is here is not fetched again"


def test_the_hub_has_another_part(hub: Hub) -> None:
    hub.serve(PARTS[0], file=NAMES[2])
    with pytest.raises(ZosiaError, match=rf"^{NAMES[2]} of maker/tiny-GGUF now has {len(PARTS[0])} bytes"):
        get(hub)
    assert sorted(hub.held) == sorted(places(hub)[:2])


def test_killed_in_the_second_part(hub: Hub) -> None:
    place = places(hub)[1]
    half = place.with_name(f"{place.name}.part")
    hub.cdn.answers = [Answer(), Answer(pause=0.1), Answer()]
    with start(hub, split()) as child:
        until(lambda: half.exists() and half.stat().st_size >= 2 * CHUNK)
        child.send_signal(signal.SIGKILL)
    here = half.stat().st_size
    assert 0 < here < len(PARTS[1])
    (found,) = model_files.stored({"tiny": split()}, hub.cache)
    assert (found.state, found.size) == ("partial", len(PARTS[0]) + here)
    assert model_files.missing(split(), hub.cache) == TOTAL - found.size
    with start(hub, split()) as child:
        said = child.communicate(timeout=30)
    assert said == (
        "".join(f"{path}\n" for path in places(hub)),
        f"  FETCH {NAMES[1]} ({len(PARTS[1])} bytes, resuming at {here} bytes)\n"
        f"  FETCH {NAMES[2]} ({len(PARTS[2])} bytes)\n",
    )
    assert hub.cdn.ranges == ["", "", f"bytes={here}-", ""]
    assert place.read_bytes() == PARTS[1]


@pytest.mark.parametrize("known", [True, False], ids=["pinned", "not yet"])
def test_two_at_once(hub: Hub, known: bool) -> None:
    hub.cdn.answers = [Answer(pause=0.02)]
    children = [start(hub, split(known=known)) for _ in range(2)]
    said = [child.communicate(timeout=60) for child in children]
    assert [out for out, _ in said] == ["".join(f"{path}\n" for path in places(hub))] * 2, said
    assert sorted(pages(hub)) == ["1", "2", "3"]


@pytest.mark.parametrize("known", [True, False], ids=["pinned", "not yet"])
def test_no_room_for_all_parts(hub: Hub, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = split(known=known)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=TOTAL - 1))
        with pytest.raises(ZosiaError, match=f"^tiny needs {TOTAL} bytes in {hub.cache}, which has {TOTAL - 1} "):
            get(hub, model)
        assert not hub.web.requests, "refused before the first byte"
    model_files.model_file(model.files[0], hub.cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=TOTAL - len(PARTS[0])))
    assert get(hub, model) == places(hub)


def test_offline_without_a_part(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in split().files[:2]:
        model_files.model_file(part, hub.cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ZosiaError, match=f"^{NAMES[2]} is not in the cache, and HF_HUB_OFFLINE forbids downloads"):
        get(hub)
    kept = hub.keep(PARTS[2], file=NAMES[2])
    assert get(hub) == [*places(hub)[:2], kept]
    (found,) = model_files.stored({"tiny": split()}, hub.cache)
    assert (found.state, found.size) == ("here", TOTAL - len(PARTS[2]))
    assert model_files.missing(split(), hub.cache) == 0
    assert model_files.remove(split(), hub.cache) == found.size
    assert kept.is_file()


def test_pinned_when_first_seen(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert get(hub, split(known=False)) == places(hub)
    assert pins.pinned(split(known=False), hub.cache) == split()
    assert sorted(path.name for path in (hub.cache / "pins").iterdir()) == [
        f"tiny-0000{number}-of-00003.json" for number in (1, 2, 3)
    ]
    assert capsys.readouterr().err.count("according to the hub; pinned in ") == 3
    model_files.remove(split(known=False), hub.cache)
    hub.serve(PARTS[0], file=NAMES[1])
    with pytest.raises(ZosiaError, match=rf"{NAMES[1]}.* changed since it was pinned.*rm .*pins/tiny-00002-of-00003"):
        get(hub, split(known=False))


def test_pinned_by_what_came(hub: Hub) -> None:
    """The hub has no digest for the parts."""
    for name, content in zip(NAMES, PARTS, strict=True):
        headers = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content))}
        hub.web.pages[hub.page(file=name)] = [Answer(headers=headers)]
        hub.web.files[hub.page(file=name)] = content
    assert get(hub, split(known=False)) == places(hub)
    assert pins.pinned(split(known=False), hub.cache) == split()


def test_another_version_of_a_part(hub: Hub) -> None:
    """A pin holds for one revision."""
    get(hub, split(known=False))
    other = split(known=False, version=NEXT)
    assert pins.pinned(other, hub.cache) == other
    assert other.gguf_size == 0


def test_stored_and_removed(hub: Hub) -> None:
    assert model_files.stored({"tiny": split()}, hub.cache) == []
    get(hub)
    (found,) = model_files.stored({"tiny": split()}, hub.cache)
    assert (found.model, found.path, found.size, found.state) == (split(), places(hub)[0], TOTAL, "here")
    assert model_files.strays({"tiny": split()}, hub.cache) == []
    assert len(model_files.strays({}, hub.cache)) == 3
    assert model_files.remove(split(), hub.cache) == TOTAL
    assert not hub.held
    assert model_files.remove(split(), hub.cache) == 0


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    (tmp_path / "stick").mkdir()
    for name, content in zip(NAMES, PARTS, strict=True):
        (tmp_path / "stick" / name).write_bytes(content)
    return tmp_path / "stick"


@pytest.mark.parametrize("known", [True, False], ids=["pinned", "not yet"])
def test_imported(hub: Hub, stick: Path, known: bool) -> None:
    model = split(known=known)
    assert imports.import_path(stick / NAMES[1], {"tiny": model}, hub.cache) == [model]
    assert hub.held == places(hub)[1:2]
    assert imports.import_path(stick, {"tiny": model}, hub.cache) == [model]
    assert get(hub, model) == places(hub)
    assert not hub.web.asked


def test_not_imported(hub: Hub, stick: Path) -> None:
    (stick / NAMES[2]).write_bytes(PARTS[2][:-100])
    with pytest.raises(ZosiaError, match=rf"{NAMES[2]} is not tiny: it has {len(PARTS[2]) - 100} bytes, expected "):
        imports.import_path(stick, {"tiny": split()}, hub.cache)
    assert sorted(hub.held) == sorted(places(hub)[:2])
    (stick / "empty").mkdir()
    with pytest.raises(ZosiaError, match=r"empty has no \.gguf\. Type: scons import-model FILE="):
        imports.import_path(stick / "empty", {"tiny": split()}, hub.cache)


@pytest.fixture
def typed(root: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...` with a small model of three real parts in place of the catalogue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOSIA_CACHE", str(hub.cache))
    monkeypatch.setattr(host, "memory", lambda: (8192, 8192))
    (tmp_path / "made").mkdir()
    contents = []
    for number, name in enumerate(NAMES):
        written = gguf_file.write(tmp_path / "made" / name, {"split.no": number, "split.count": 3})
        contents.append(written.read_bytes())
    serve(hub, *contents)
    model = split(*contents)

    def read(**values: str) -> Settings:
        given = {**DEFAULTS, **values}
        settings = reading.read(given, [], root, given=values, launched=tmp_path)
        return replace(settings, models={"tiny": model}, model=replace(settings.model, entry=model, named=True))

    return read


def test_a_disk(typed: Typed, hub: Hub, tmp_path: Path) -> None:
    """Its record has the digest of all parts; it runs without the files, and survives a newer zosia."""
    settings = typed(KEEP="disk")
    model = settings.models["tiny"]
    images.make(settings)
    contents = [(tmp_path / "made" / name).read_bytes() for name in NAMES]
    made = record.read_current(settings.model.image)
    assert made and made.shape
    assert (made.sha256, made.weights) == (hashlib.sha256(b"".join(contents)).hexdigest(), sum(map(len, contents)))
    assert made.content == settings.model.content
    assert settings.model.measures() == (made.shape, model.gguf_size)
    assert all(part.sha256 in made.content for part in model.parts)
    asked = len(hub.web.asked)
    model_commands.remove_model(settings)
    assert not hub.held
    images.make(settings)
    assert record.read_current(settings.model.image) == made
    assert len(hub.web.asked) == asked, "the disk is the only copy, and stays"
    other = replace(model, parts=(*model.parts[:2], replace(model.parts[2], sha256="0" * 64)))
    assert replace(settings.model, entry=other).content != made.content


def test_room_for_the_files_and_the_disk(typed: Typed, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = typed()
    model = settings.models["tiny"]
    parts = tuple(replace(part, size=100 << 20) for part in model.parts)
    large = replace(model, parts=parts)
    monkeypatch.setattr(copies, "shares", lambda folder, other: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=600 << 20))
    with pytest.raises(ZosiaError, match=r"^tiny, as a file and as a disk, needs 6\d\d\.\d MB"):
        images.check_room_for_both(large, hub.cache, settings.model.image)
    place = model_files.place_of(large.files[1], hub.cache)
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.truncate(100 << 20)
    images.check_room_for_both(large, hub.cache, settings.model.image)


def test_commands(typed: Typed, hub: Hub, tmp_path: Path) -> None:
    size = typed().models["tiny"].gguf_size
    (line,) = [line for line in model_commands.listing(typed()).splitlines() if line.startswith("tiny  ")]
    assert f"  {size} bytes  " in line
    assert line.endswith(" -")
    said = model_commands.import_model(typed(FILE=str(tmp_path / "made" / NAMES[0])))
    assert said == (
        f"  MODEL tiny: 1 of 3 parts are imported. To run it, import {NAMES[1]}, {NAMES[2]}, too, or let it download"
    )
    (line,) = [line for line in model_commands.listing(typed()).splitlines() if line.startswith("tiny  ")]
    assert line.endswith(f"  part of the file, {len((tmp_path / 'made' / NAMES[0]).read_bytes())} bytes")
    said = model_commands.import_model(typed(FILE=str(tmp_path / "made")))
    assert said == "  MODEL tiny is imported. To run it, type: scons run MODEL=tiny"
    assert model_commands.remove_model(typed()) == f"  MODEL tiny: {size} bytes freed"
    assert not hub.held


def test_the_parts_that_doctor_checks(typed: Typed, hub: Hub) -> None:
    settings = typed()
    model = settings.models["tiny"]
    model_files.model_file(model.files[1], hub.cache)
    build: Any = SimpleNamespace(run=settings, kernel="", llama_src="", buildroot="", sources={})
    steps = doctor.Todo(steps={"EXT4": ("build/models/tiny.img",)})
    assert list(doctor.to_fetch(build, steps)) == [model.files[0], model.files[2]]


def test_in_the_manual() -> None:
    assert f"| {TOTAL} bytes |" in tables.models({"tiny": split()})
    assert "| ? |" in tables.models({"tiny": split(known=False)})
