"""Pins of models whose entry in models.toml has no digest: what they were when first seen.

In the cache: pins/NAME.json, for one repository, revision and file; it does not apply to an entry with others. Each
part of a split model has its own, pins/NAME-00001-of-00003.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.inputs.catalogue import Model, Part
from zosia.model.shape import PART


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Metadata of a model at a source: SHA-256, size in bytes and commit; "" and 0 if unknown."""

    sha256: str
    size: int
    commit: str = ""


def record_of(model: Model, cache: Path) -> Path:
    """Return the path of the pin of a model of one file."""
    part = PART.fullmatch(model.file)
    suffix = f"-{part['number']}-of-{part['count']}" if part else ""
    return cache / "pins" / f"{model.name}{suffix}.json"


def entry_of(model: Model) -> list[str]:
    """Return the fields of an entry that a pin applies to."""
    return [model.project, model.version, model.file]


def pinned(model: Model, cache: Path) -> Model:
    """Return the model with size and digest, of each part, from its entry or else from its pin.

    If the entry has a size only, a pin with another size is ignored.

    Raises:
        ZosiaError: the pin is damaged.
    """
    if model.parts:
        files = [pinned(part, cache) for part in model.files]
        return replace(model, parts=tuple(Part(size=part.size, sha256=part.sha256) for part in files))
    record = record_of(model, cache)
    if model.sha256 or not record.exists():
        return model
    try:
        seen = json.loads(record.read_text(encoding="utf-8"))
        known = replace(model, size=seen["size"], sha256=seen["sha256"])
        return known if seen["entry"] == entry_of(model) and model.size in (0, known.size) else model
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZosiaError(
            f"{record} can't be read", f"To pin the hub's current version instead, type: rm {record}"
        ) from error


def pin(model: Model, cache: Path, offer: Offer, witness: str) -> Model:
    """Pin a model to an offer, report it with its source `witness`, and return the model with size and digest."""
    known = replace(model, size=offer.size, sha256=offer.sha256)
    record = record_of(model, cache)
    with replacing(record) as temporary:
        seen = {"entry": entry_of(model), "size": offer.size, "sha256": offer.sha256, "commit": offer.commit}
        temporary.write_text(json.dumps(seen) + "\n", encoding="utf-8")
    what = f"sha256 {offer.sha256} ({offer.size} bytes{offer.commit and ', commit '}{offer.commit})"
    style.say("PIN", f"{model.name} is {what}, {witness}; pinned in {record}")
    return known


def check(model: Model, offer: Offer, cache: Path, *, recorded: bool) -> None:
    """Refuse an offer whose size or digest is not the model's; `recorded`: these come from a pin.

    Raises:
        ZosiaError: the size or the digest differs.
    """
    if (not model.sha256 or offer.sha256 in ("", model.sha256)) and (not model.size or offer.size in (0, model.size)):
        return
    record = record_of(model, cache)
    if recorded:
        hint = (
            f"It changed since it was pinned. To keep the old one, set version in {model.where} to its commit. "
            f"To accept the new one, type: rm {record}"
        )
    else:
        hint = f"Compare {model.where} with the hub's page of {model.project}"
    wanted = f"{model.size} bytes{model.sha256 and ' and '}{model.sha256}"
    raise ZosiaError(
        f"{model.file} of {model.project} now has {offer.size or 'unknown'} bytes and the SHA-256 "
        f"{offer.sha256 or '(unknown)'}; expected {wanted}",
        hint,
    )
