"""What models were when they were first seen, for those whose entry in models.toml has no digest.

In the cache: pins/NAME.json, for one repository, revision and file: an entry that names others has another pin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from zosia.base import style
from zosia.base.errors import ZosiaError
from zosia.base.files import replacing
from zosia.inputs.catalogue import Model


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What somebody has for a model: SHA-256, size in bytes and commit; "" and 0 where they are not said."""

    sha256: str
    size: int
    commit: str = ""


def record_of(model: Model, cache: Path) -> Path:
    """Where the pin of a model is, or would be."""
    return cache / "pins" / f"{model.name}.json"


def entry_of(model: Model) -> list[str]:
    """What a pin is for."""
    return [model.project, model.version, model.file]


def pinned(model: Model, cache: Path) -> Model:
    """The model with size and digest: those of its entry, or else those that were recorded when it was first seen.

    A size alone in the entry has to be the one that was seen.

    Raises:
        ZosiaError: the record is damaged.
    """
    record = record_of(model, cache)
    if model.sha256 or not record.exists():
        return model
    try:
        seen = json.loads(record.read_text(encoding="utf-8"))
        known = replace(model, size=seen["size"], sha256=seen["sha256"])
        return known if seen["entry"] == entry_of(model) and model.size in (0, known.size) else model
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ZosiaError(f"{record} can't be read", f"To take what the hub has now, type: rm {record}") from error


def pin(model: Model, cache: Path, offer: Offer, witness: str) -> Model:
    """Record what a model is from now on, and say so and why; the model with it."""
    known = replace(model, size=offer.size, sha256=offer.sha256)
    record = record_of(model, cache)
    with replacing(record) as temporary:
        seen = {"entry": entry_of(model), "size": offer.size, "sha256": offer.sha256, "commit": offer.commit}
        temporary.write_text(json.dumps(seen) + "\n", encoding="utf-8")
    what = f"sha256 {offer.sha256} ({offer.size} bytes{offer.commit and ', commit '}{offer.commit})"
    style.say("PIN", f"{model.name} is {what}, {witness}; pinned in {record}")
    return known


def check(model: Model, offer: Offer, cache: Path, *, recorded: bool) -> None:
    """Refuse what is not the model, as far as its size and digest are known; `recorded` is where they come from.

    Raises:
        ZosiaError: it is another size or digest.
    """
    if (not model.sha256 or offer.sha256 in ("", model.sha256)) and (not model.size or offer.size in (0, model.size)):
        return
    record = record_of(model, cache)
    if recorded:
        hint = (
            f"It changed since it was first seen. To stay with the older one, write it into the entry "
            f"[{model.name}] of models.toml (version is its commit). To take what is there now, type: rm {record}"
        )
    else:
        hint = f"Compare the entry [{model.name}] of models.toml with the hub's page of {model.project}"
    wanted = f"{model.size} bytes{model.sha256 and ' and '}{model.sha256}"
    raise ZosiaError(
        f"{model.file} of {model.project} has {offer.size or 'unknown'} bytes and the SHA-256 "
        f"{offer.sha256 or '(not said)'} there now; wanted are {wanted}",
        hint,
    )
