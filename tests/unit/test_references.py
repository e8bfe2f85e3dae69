"""Models of the hub by reference: MODEL=hf:OWNER/REPOSITORY, from a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from tests import gguf_file
from tests.hub import COMMIT, NEXT, OTHER, PROJECT, Hub, on_loopback, sha256, told
from tests.web import Answer, Web
from zosia.base.errors import ZosiaError
from zosia.command import model_commands
from zosia.inputs import model_files, references
from zosia.inputs.references import Reference
from zosia.machine import host
from zosia.model import reader
from zosia.settings import images, machines, reading
from zosia.settings.settings import Settings
from zosia.settings.variables import DEFAULTS

Typed = Callable[..., Settings]
API = f"/api/models/{PROJECT}?blobs=true"
REFERENCE = f"hf:{PROJECT}"
FILES = (
    "README.md",
    "imatrix-Q4_K_M.gguf",
    "mmproj-Q4_K_M.gguf",
    "mtp-tiny-Q4_K_M.gguf",
    "big/tiny-BF16-00001-of-00002.gguf",
    "big/tiny-BF16-00002-of-00002.gguf",
    "tiny-Q4_K_M.gguf",
    "tiny-Q4_K_S.gguf",
    "tiny-q8_0.gguf",
)


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        offer(running, "tiny.gguf")
        yield running


@pytest.fixture
def typed(root: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """The settings of `scons NAME=value...`, typed in an empty folder on a machine of 8 GiB."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOSIA_CACHE", str(hub.cache))
    monkeypatch.setattr(host, "memory", lambda: (8192, 8192))

    def read(*, dry_run: bool = False, **values: str) -> Settings:
        given = {**DEFAULTS, **values}
        return reading.read(given, [], root, given=values, launched=tmp_path, dry_run=dry_run)

    return read


def offer(hub: Hub, *files: str, content: bytes = b"", commit: str = COMMIT, **more: Any) -> None:
    """Have files in the repository, all of one content."""
    content = content or gguf(hub)
    lfs = {"size": len(content), "sha256": sha256(content), "pointerSize": 134}
    listed = [{"rfilename": file, "size": len(content), "blobId": "0" * 40, "lfs": lfs} for file in files]
    answer = {"id": PROJECT, "sha": commit, "cardData": {"license": "apache-2.0"}, "siblings": listed, **more}
    hub.web.pages[API] = [Answer(body=json.dumps(answer).encode())]
    hub.serve(content, revision=commit, commit=commit)


def gguf(hub: Hub) -> bytes:
    """A model that is as small as can be."""
    return gguf_file.write(hub.cache.parent / "made.gguf").read_bytes()


def resolve(hub: Hub, text: str = REFERENCE, *, pin: bool = True) -> Reference:
    return references.resolve(text, hub.cache, pin=pin)


def test_pinned_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    model = resolve(hub)
    content = gguf(hub)
    assert (model.file, model.version, model.size, model.sha256, model.licence) == (
        *("tiny.gguf", COMMIT, len(content), sha256(content)),
        "apache-2.0",
    )
    said = capsys.readouterr().err
    assert said.startswith(f"  PIN   {REFERENCE} is tiny.gguf ({len(content)} bytes), commit {COMMIT}, sha256 ")
    assert said.count("\n") == 1
    offer(hub, "tiny.gguf", content=OTHER, commit=NEXT)
    assert resolve(hub) == resolve(hub, pin=False) == model
    assert len(hub.web.asked) == 1
    assert capsys.readouterr().err == ""
    Path(said.rstrip("\n").partition("pinned in ")[2]).unlink()
    assert resolve(hub).sha256 == sha256(OTHER), "as the message says where the pin is"


def test_in_a_fresh_process(hub: Hub) -> None:
    """It has imported nothing of the library yet, and knows the hub by the environment."""
    program = "import sys; from pathlib import Path; from zosia.inputs.references import resolve\n"
    program += "print(resolve(sys.argv[1], Path(sys.argv[2]), pin=True).file)"
    env = {**os.environ, "PYTHONPATH": str(Path(references.__file__).parents[2]), "HF_ENDPOINT": hub.web.url}
    argv = [sys.executable, "-c", program, REFERENCE, str(hub.cache)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "tiny.gguf\n"), done.stderr


@pytest.mark.parametrize(
    "form", ["hf:{}", "hf.co/{}", "huggingface.co/{}", "https://hf.co/{}", "https://huggingface.co/{}"]
)
def test_forms(hub: Hub, form: str) -> None:
    assert resolve(hub, form.format(PROJECT)) == resolve(hub)
    assert resolve(hub, form.format(PROJECT) + ":tiny.gguf").name == resolve(hub).name, "one disk for one file"


@pytest.mark.parametrize("text", ["hf:", "hf:maker", "hf:a/b/c", "hf:a/b:", "hf:a b/c", "hf.co/x", "hf:a/b\n"])
def test_no_reference(hub: Hub, text: str) -> None:
    with pytest.raises(ZosiaError, match=r"does not name a repository of the hub\. Write it as in MODEL=hf:OWNER"):
        resolve(hub, text)
    assert not hub.web.asked


@pytest.mark.parametrize("project", ["a--b/c", "../x", "a/-b", "a/b.git"])
def test_a_repository_that_can_be_none(hub: Hub, project: str) -> None:
    with pytest.raises(ZosiaError, match=f"^The repository of MODEL=hf:{project} is invalid: "):
        resolve(hub, f"hf:{project}")
    assert not hub.web.asked


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        ("", "tiny-Q4_K_M.gguf"),
        ("Q4_K_M", "tiny-Q4_K_M.gguf"),
        ("Q8_0", "tiny-q8_0.gguf"),
        ("q4_k_s", "tiny-Q4_K_S.gguf"),
        ("tiny-Q4_K_S.gguf", "tiny-Q4_K_S.gguf"),
        ("BF16", FILES[4]),
        (FILES[4], FILES[4]),
        (FILES[5], FILES[4]),
    ],
)
def test_the_file(wanted: str, file: str) -> None:
    assert references.select(REFERENCE, wanted, FILES) == file


def test_all_parts(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """A split model is pinned part by part, and a pin of before has one file only."""
    offer(hub, *FILES)
    content = gguf(hub)
    model = resolve(hub, f"{REFERENCE}:BF16")
    assert resolve(hub, f"{REFERENCE}:BF16", pin=False) == model
    assert [(part.file, part.size, part.sha256) for part in model.files] == [
        (file, len(content), sha256(content)) for file in FILES[4:6]
    ]
    assert (model.size, model.sha256, model.gguf_size) == (0, "", 2 * len(content))
    said = f" is {FILES[4]} (2 parts, {2 * len(content)} bytes), commit {COMMIT}, sha256 {sha256(content)}, "
    assert said + sha256(content) + ", licence apache-2.0; pinned in " in capsys.readouterr().err
    for file in FILES[4:6]:
        hub.serve(content, file=file)
    assert [path.read_bytes() for path in model_files.gguf_files(model, hub.cache)] == [content] * 2
    (record,) = (hub.cache / "pins" / "hf").iterdir()
    resolve(hub, f"{REFERENCE}:q8_0")
    (single,) = set((hub.cache / "pins" / "hf").iterdir()) - {record}
    written = json.loads(single.read_text())
    assert written.pop("parts") == []
    single.write_text(json.dumps(written))
    assert resolve(hub, f"{REFERENCE}:q8_0").sha256 == sha256(content)


def test_a_part_that_the_hub_lacks(hub: Hub) -> None:
    offer(hub, *FILES[:5])
    with pytest.raises(ZosiaError, match=f"{PROJECT} has {FILES[4]} without {FILES[5]}. Choose another file"):
        resolve(hub, f"{REFERENCE}:BF16")
    assert not references.known(hub.cache)


def test_the_only_file() -> None:
    assert references.select(REFERENCE, "", [*FILES[:4], "sub/any.gguf"]) == "sub/any.gguf"


@pytest.mark.parametrize(
    ("wanted", "files", "message"),
    [
        (
            "",
            FILES[7:],
            "has 2 models, and none is Q4_K_M. Set MODEL=hf:maker/tiny-GGUF: followed by one of these: "
            "tiny-Q4_K_S.gguf, tiny-q8_0.gguf",
        ),
        ("Q4_K", FILES[6:], "has no Q4_K. Set MODEL=hf:maker/tiny-GGUF: followed by one of these: tiny-Q4_K_M.gguf, "),
        ("Q4.K.M", FILES[6:], "has no Q4.K.M"),
        ("mmproj-Q4_K_M.gguf", FILES, "has no mmproj-Q4_K_M.gguf"),
        ("imatrix-Q4_K_M.gguf", FILES, "has no imatrix-Q4_K_M.gguf"),
        ("", FILES[:4], "has no .gguf of a model"),
        ("", [], "has no .gguf of a model"),
    ],
)
def test_no_file(wanted: str, files: list[str], message: str) -> None:
    with pytest.raises(ZosiaError) as caught:
        references.select(f"{REFERENCE}:{wanted}" if wanted else REFERENCE, wanted, files)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(status=401), "requires a login"),
        (Answer(status=404), "has no repository maker/tiny-GGUF, or it is private. Check MODEL=hf:maker/tiny-GGUF"),
        (Answer(status=401, headers={"X-Error-Code": "RepoNotFound"}), "has no repository maker/tiny-GGUF"),
        (Answer(status=503), "503 Service Unavailable"),
        *(
            (Answer(body=body), "is not one of a Hugging Face hub")
            for body in (b"<html>", b"[]", b"{}", b'{"id": "a"}')
        ),
        (Answer(body=b'{"id": "a", "sha": "main", "siblings": []}'), "is not one of a Hugging Face hub"),
    ],
)
def test_the_hub_refuses(hub: Hub, answer: Answer, message: str) -> None:
    hub.web.pages[API] = [answer]
    with pytest.raises(ZosiaError) as caught:
        resolve(hub)
    assert message in str(caught.value)
    assert "models.toml" not in str(caught.value)
    assert not references.known(hub.cache)


@pytest.mark.parametrize("file", ["my model.gguf", "-x.gguf", "../x.gguf"])
def test_a_name_that_is_none(hub: Hub, file: str) -> None:
    offer(hub, file)
    with pytest.raises(ZosiaError, match=r"can't be used by its name: .*Download it, and set MODEL= to its path"):
        resolve(hub)


def test_what_a_terminal_would_obey_is_dropped(hub: Hub) -> None:
    offer(hub, "tiny.gguf", "a\x1b[2J.gguf", cardData={"license": "MIT\x1b]0;x\n"})
    model = resolve(hub)
    assert (model.file, model.licence) == ("tiny.gguf", "MIT 0 x")


def test_a_damaged_pin(hub: Hub) -> None:
    resolve(hub)
    (record,) = (hub.cache / "pins" / "hf").iterdir()
    record.write_text("{}")
    with pytest.raises(ZosiaError, match=r"can't be read\. To pin the hub's current version, type: rm "):
        resolve(hub)
    assert references.known(hub.cache) == {}


def test_the_library_reads_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own client asks the same page of the hub, but for how it spells the switch."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    hub.web.pages |= {API.replace("true", word): hub.web.pages[API] for word in ("True", "1")}
    info = HfApi(endpoint=hub.web.url).model_info(PROJECT, files_metadata=True)
    model = resolve(hub)
    assert info.siblings
    lfs = info.siblings[0].lfs
    assert lfs
    assert (model.version, model.size, model.sha256) == (info.sha, lfs.size, lfs.sha256)


def test_the_token_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve(hub)
    assert hub.web.asked == [("GET", API, "Bearer hf_secret")]


def test_a_hub_without_a_digest(hub: Hub) -> None:
    """It is pinned by the download, like an entry of the catalogue."""
    offer(hub, "tiny.gguf", siblings=[{"rfilename": "tiny.gguf"}])
    model = resolve(hub)
    assert (model.size, model.sha256) == (0, "")
    assert model_files.model_file(model, hub.cache).read_bytes() == gguf(hub)
    assert model_files.pinned(model, hub.cache).sha256 == sha256(gguf(hub))


def test_a_run(typed: Typed, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the reference to a disk; then without the hub, by the pin and the cache."""
    settings = typed(MODEL=REFERENCE, REASONING="low")
    images.make(settings)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.web.asked)
    for text in (REFERENCE, f"hf.co/{PROJECT}", settings.model.name):
        again = typed(MODEL=text)
        assert again.model == settings.model
        images.make(again)
    machine = machines.run_machine(settings)
    assert machine.disk == settings.model.image
    assert machine.task.llama_args[-4:-2] == ("-c", "4096"), "the file's own, as no entry has one"
    assert len(hub.web.asked) == asked
    table = model_commands.listing(typed())
    assert table.index("smollm2-135m") < table.index(settings.model.name), "the catalogue comes first"
    (row,) = [line for line in table.splitlines() if line.startswith(f"{settings.model.name}  ")]
    assert row.endswith("  file, disk")
    assert row.split()[3:5] == ["apache-2.0", "4096"]
    assert "?" not in row, "the disk's record has the memory"
    assert "of no model above" not in table
    removed = model_commands.remove_model(typed(MODEL=REFERENCE))
    assert removed.startswith(f"  MODEL {settings.model.name}: ")
    assert not settings.model.image.exists()
    assert model_files.stored(again.models, hub.cache) == []
    with pytest.raises(ZosiaError, match="HF_HUB_OFFLINE forbids"):
        images.make(again)
    with pytest.raises(
        ZosiaError, match=r"^The list of files of maker/other is not .* HF_HUB_OFFLINE=0, or copy a .gguf"
    ):
        typed(MODEL="hf:maker/other")


def test_a_known_shape(typed: Typed, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings of an entry are known after the download; they do not change the disk."""
    settings = typed(MODEL=REFERENCE)
    entry = settings.models["qwen3-0.6b"]
    settings = replace(
        settings, models={"mine": replace(entry, name="mine", shape=reader.read([hub.get(settings.model.entry)]))}
    )
    before = settings.model.content, settings.model.info
    capsys.readouterr()
    images.make(settings)
    line = f"  LIKE  {settings.model.name} has the shape of mine, and takes its context, sampling and reasoning\n"
    assert capsys.readouterr().err == line
    assert (settings.model.content, settings.model.info) == before
    args = " ".join(machines.run_machine(settings).task.llama_args)
    assert " --reasoning on --temp 0.6 " in args
    images.make(settings)
    assert capsys.readouterr().err == "", "the notes of a run say it from now on"


def test_an_import(typed: Typed, hub: Hub, tmp_path: Path) -> None:
    """A pinned model can come from a stick."""
    name = typed(MODEL=REFERENCE).model.name
    (tmp_path / "stick.gguf").write_bytes(gguf(hub))
    said = model_commands.import_model(typed(FILE="stick.gguf"))
    assert said == f"  MODEL {name} is imported. To run it, type: scons run MODEL={name}"
    assert not hub.cdn.asked


def test_a_long_name(typed: Typed, hub: Hub) -> None:
    offer(hub, file := f"{'n' * 250}.gguf")
    hub.web.files[f"/{PROJECT}/resolve/{COMMIT}/{file}"] = gguf(hub)
    hub.web.pages[f"/{PROJECT}/resolve/{COMMIT}/{file}"] = [Answer(headers=told(gguf(hub)))]
    settings = typed(MODEL=REFERENCE)
    images.make(settings)
    assert settings.model.image.is_file()
    assert [found.state for found in model_files.stored(settings.models | typed().models, hub.cache)] == ["here"]


def test_a_dry_run_asks_nobody(typed: Typed, hub: Hub) -> None:
    with pytest.raises(
        ZosiaError, match=f"MODEL={REFERENCE} is not pinned yet. Type: scons model.img MODEL={REFERENCE}"
    ):
        typed(MODEL=REFERENCE, dry_run=True)
    assert not hub.web.asked
    model = typed(MODEL=REFERENCE).model
    assert typed(MODEL=REFERENCE, dry_run=True).model == model


def test_a_reference_without_its_beginning(typed: Typed) -> None:
    with pytest.raises(ZosiaError, match=r" is no file in .*; a repository of the hub is hf:OWNER/REPO"):
        typed(MODEL=PROJECT)
