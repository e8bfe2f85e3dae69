"""Source: a pinned input, fetched into the cache; Extract: one file out of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from zosia.base.errors import ZosiaError
from zosia.inputs.catalogue import read_record, write_record
from zosia_scons import action, library


def _fetch(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import fetch  # slow to import, and only needed here

    write_record(targets[0], fetch.fetch(env["PIN"], env["CACHE"]).pin)


def _extract(targets: list[Path], sources: list[Path], env: Any) -> None:
    from zosia.inputs import fetch
    from zosia.inputs.archives import extract_file

    pin = read_record(sources[0])
    extract_file(fetch.fetch_recorded(pin, env["CACHE"]), pin.member, targets[0])
    targets[0].chmod(0o755)


def source(env: Any, pin: Any) -> Any:
    """env.Source(pin): build/sources/NAME.json, the record of the file fetched for a pin of sources.toml."""
    target = f"#build/sources/{pin.name}.json"
    if env.File(target).has_builder():  # another target uses it, too
        return [env.File(target)]
    node = env.Command(target, env.Value(repr(pin)), action(_fetch, "INPUT"), PIN=pin)
    with suppress(FileNotFoundError):
        try:
            read_record(Path(env.File(target).abspath))
        except ZosiaError:  # it is damaged
            env.AlwaysBuild(node)
    return env.Precious(node)


def extract(env: Any, target: str, record: Any) -> Any:
    """env.Extract(target, record): the program that is needed of a fetched package."""
    program = env.Command(target, record, action(_extract, "TAKE"))
    env.Depends(program, library(env, "zosia.inputs.archives"))
    return env.Precious(program)


def generate(env: Any) -> None:
    """Add the methods to an environment."""
    env.AddMethod(source, "Source")
    env.AddMethod(extract, "Extract")


def exists(env: Any) -> bool:
    """Return True: tools on the host are checked when they are used."""
    return True
