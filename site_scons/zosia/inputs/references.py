"""References to models of the hub that are not in the catalogue: hf:OWNER/REPOSITORY[:FILE or QUANT].

A reference is pinned when it is first used: pins/hf/NAME.json in the cache has the commit, the file, its size and its
SHA-256, or those of each part of a split model. From then on it is a model like those of the catalogue, and needs the
hub only for the file itself.

The rules for the file are llama.cpp's for -hf (common/download.cpp, find_best_model), except that zosia refuses where
llama.cpp takes the first file there is.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing, size_text
from zosia.inputs.catalogue import Model, Part, Pin
from zosia.inputs.pins import Offer
from zosia.model.shape import PART, split_names

FORM = re.compile(r"(?:hf:|(?:https://)?(?:hf\.co|huggingface\.co)/)([\w.-]+/[\w.-]+)(?::(.+))?", re.ASCII)
PREFIXES = ("hf:", "hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/")
NO_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")  # in names of files that go with a model
QUANT = "Q4_K_M"  # taken where there are several
FIELDS = ("reference", "project", "version", "file", "size", "sha256", "licence")  # of a pin
UNKNOWN = "unknown until the download"
STEM = 60  # characters of a file's name in the name of its model


@dataclass(frozen=True, kw_only=True)
class Reference(Model):
    """Model of the hub that is not in the catalogue; `reference` is the MODEL= that it was pinned for.

    `context` is 0: nobody recommends one.
    """

    reference: str
    context: int = 0

    def __post_init__(self) -> None:
        Pin.__post_init__(self)
        self._check_parts()

    @property
    def where(self) -> str:
        """Place of the entry, for messages."""
        return f"MODEL={self.reference}"


def is_reference(text: str) -> bool:
    """Return True for a value of MODEL= that names a repository of the hub."""
    return text.startswith(PREFIXES)


def resolve(text: str, cache: Path, *, pin: bool) -> Reference:
    """Return the model that a reference is pinned to; with `pin`, the hub is asked for one that has no pin.

    Raises:
        ZosiaError: it is no reference, has no pin, means no file, or the hub refuses.
    """
    found = FORM.fullmatch(text)
    if not found:
        raise ZosiaError(
            f"MODEL={text} does not name a repository of the hub", "Write it as in MODEL=hf:OWNER/REPOSITORY:Q4_K_M"
        )
    project, wanted = found[1], found[2] or ""
    reference = f"hf:{project}{wanted and ':'}{wanted}"
    record = _record_of(reference, cache)
    if record.exists():
        return _read(record)
    if not pin:
        raise ZosiaError(f"MODEL={text} is not pinned yet", f"Type: scons model.img MODEL={shlex.quote(text)}")
    return _pin(reference, project, wanted, record)


def known(cache: Path) -> dict[str, Model]:
    """Return the models that were pinned, by name; damaged pins are left out, as `resolve` reports them."""
    models: dict[str, Model] = {}
    for record in sorted((cache / "pins" / "hf").glob("*.json")):
        try:
            model = _read(record)
        except ZosiaError:
            continue
        models[model.name] = model
    return models


def with_known(models: dict[str, Model], cache: Path) -> dict[str, Model]:
    """Return models, and those that were pinned; the order and the names of the former come first."""
    return models | known(cache) | models


def select(reference: str, wanted: str, files: Iterable[str]) -> str:
    """Return the file of a repository that a reference means, the first part of a split model.

    Args:
        wanted: a file, or any part, or a quantization; "" for neither.

    Raises:
        ZosiaError: there is none, or it can't be told which.
    """
    ggufs = [file for file in files if file.endswith(".gguf") and not _goes_with(file)]
    heads = [file for file in ggufs if not (part := PART.fullmatch(file)) or int(part["number"]) <= 1]
    if wanted:
        chosen = [file for file in ggufs if file == wanted] or _of_quant(wanted, heads)
    else:
        chosen = heads if len(heads) == 1 else _of_quant(QUANT, heads)
    if not chosen:
        project = reference.removeprefix("hf:").removesuffix(f":{wanted}")
        if not heads:
            raise ZosiaError(f"{project} has no .gguf of a model", "Choose a repository with GGUF files")
        what = f"no {wanted}" if wanted else f"{len(heads)} models, and none is {QUANT}"
        raise ZosiaError(
            f"{project} has {what}", f"Set MODEL=hf:{project}: followed by one of these: {', '.join(heads)}"
        )
    return split_names(chosen[0])[0]


def _goes_with(file: str) -> bool:
    return any(word in PurePosixPath(file).name for word in NO_MODELS)


def _of_quant(quant: str, files: Iterable[str]) -> list[str]:
    return [file for file in files if re.search(f"{re.escape(quant)}[.-]", file, re.IGNORECASE)]


def _record_of(reference: str, cache: Path) -> Path:
    return cache / "pins" / "hf" / f"{_safe(reference.removeprefix('hf:'), reference)}.json"


def _safe(text: str, whole: str) -> str:
    """Return the beginning of a text in characters for the name of a file, and digits that are unique to `whole`."""
    plain = re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:STEM].lstrip(".-")
    return f"{plain}-{hashlib.sha256(whole.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _read(record: Path) -> Reference:
    try:
        seen = json.loads(record.read_text(encoding="utf-8"))
        parts = tuple(Part(**part) for part in seen.get("parts", ()))
        return _model(**{name: seen[name] for name in FIELDS}, parts=parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZosiaError(
            f"{record} can't be read", f"To pin the hub's current version, type: rm {shlex.quote(str(record))}"
        ) from error


def _model(**seen: Any) -> Reference:
    project, version, file = seen["project"], seen["version"], seen["file"]
    name = _safe(PurePosixPath(file).stem, f"{project}/{file} {version}")
    return Reference(name=name, title=f"hf:{project}:{file}", origin="hub", **seen)


def offers(listing: bytes, project: str) -> tuple[dict[str, Offer], str]:
    """Return the files of a hub's JSON about a repository, and its licence, "" if unknown.

    Raises:
        ZosiaError: it is no such JSON.
    """
    try:
        told = json.loads(listing)
        (commit,) = re.findall("^[0-9a-f]{40}$", told["sha"])
        licence = str((told.get("cardData") or {}).get("license") or "")
        found = {
            file["rfilename"]: Offer(
                sha256=(file.get("lfs") or {}).get("sha256", ""), size=file.get("size") or 0, commit=commit
            )
            for file in told["siblings"]
            if file["rfilename"].isprintable()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ZosiaError(
            f"The list of files of {project} is not one of a Hugging Face hub",
            "Check HF_ENDPOINT=, and whether the network needs a login",
        ) from error
    return found, " ".join(re.findall(r"[\w.+-]+", licence, re.ASCII))


def _pin(reference: str, project: str, wanted: str, record: Path) -> Reference:
    from zosia.inputs import hub  # slow to import, and unnecessary once it is pinned

    seen: dict[str, Any] = {
        "reference": reference,
        "project": project,
        "version": "main",
        "file": "files",
        "licence": "unknown",
    }
    files, licence = offers(hub.listing(_model(**seen)), project)
    file = select(reference, wanted, files)
    names = split_names(file)
    if missing := [name for name in names if name not in files]:
        raise ZosiaError(f"{project} has {file} without {missing[0]}", "Choose another file")
    found = [files[name] for name in names]
    seen |= {"version": found[0].commit, "file": file, "licence": licence or "unknown"}
    parts = tuple(Part(size=offer.size, sha256=offer.sha256) for offer in found)
    seen |= {"size": 0, "sha256": ""} if len(parts) > 1 else asdict(parts[0])
    try:
        model = _model(**seen, parts=parts if len(parts) > 1 else ())
    except (ValueError, TypeError) as error:
        raise ZosiaError(
            f"{file} of {project} can't be used by its name: {error}", "Download it, and set MODEL= to its path"
        ) from error
    with replacing(record) as temporary:
        written = {**seen, "parts": [asdict(part) for part in model.parts]}
        temporary.write_text(json.dumps(written) + "\n", encoding="utf-8")
    digests = ", ".join(part.sha256 for part in parts) if all(part.sha256 for part in parts) else UNKNOWN
    size = f"{len(parts)} parts, " * (len(parts) > 1) + size_text(sum(part.size for part in parts))
    what = f"{file} ({size}), commit {model.version}, sha256 {digests}, licence {model.licence}"
    style.say("PIN", f"{reference} is {what}; pinned in {record}")
    return model
