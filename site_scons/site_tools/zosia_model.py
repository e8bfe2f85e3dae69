"""ModelImage: the ext4 disk of a model, with a small record beside it that stands for it in SCons."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zosia import ext4
from zosia.files import locked
from zosia_scons import action, library


def _build(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia import fit, inputs  # slow to import, and a build that fetches nothing does without

    record, model = targets[0], env["MODEL_ENTRY"]
    image = record.with_suffix("")
    with locked(image):
        gguf = inputs.model_file(model, env["CACHE"]) if model else env["MODEL_FILE"]
        needs = fit.read(gguf)
        digest = ext4.build(gguf=gguf, name=model.name if model else gguf.name, target=image)
        record.write_text(
            json.dumps({"sha256": digest, "needs": asdict(needs), **_state(image)}) + "\n", encoding="utf-8"
        )


def _state(image: Path) -> dict[str, int]:
    """Size in bytes and time in ns: what shows that a file is not the one that was made."""
    stat = image.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _current(record: Path) -> bool:
    """Whether the image is the one that its record was written for."""
    try:
        written = json.loads(record.read_text(encoding="utf-8"))
        return bool(_state(record.with_suffix("")).items() <= written.items())
    except (OSError, ValueError):
        return False


def model_image(env: Any, name: str, model: Any, gguf: Path | None) -> Any:
    """env.ModelImage(name, model, gguf): build/models/NAME.img.json, and the image beside it.

    The record is the target and the image a side effect, so that SCons never reads gigabytes to see whether they
    changed.
    """
    state = f"{gguf} {_state(gguf) if gguf and gguf.exists() else ''}"
    target = f"#build/models/{name}.img.json"
    options = {"MODEL_ENTRY": model, "MODEL_FILE": gguf}
    record = env.Command(target, env.Value(repr(model) + state), action(_build, "EXT4"), **options)
    env.Depends(record, library(env, "ext4", "fit"))
    image = f"#build/models/{name}.img"
    env.Clean(record, [image, f"{image}.lock"])
    if not _current(Path(record[0].abspath)):
        env.AlwaysBuild(record)
    return env.NoCache(record)


def generate(env: Any) -> None:
    """Add the method."""
    env.AddMethod(model_image, "ModelImage")


def exists(env: Any) -> bool:
    """It needs nothing on the host that is not asked for when it is used."""
    return True
