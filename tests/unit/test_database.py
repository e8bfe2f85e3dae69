"""SCons' database: whole, or begun anew; and a run that changes nothing writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zosia_build import database

NAME = "list.dblite"


@pytest.fixture
def name(tmp_path: Path) -> str:
    """The name of a database with one entry, without its ending."""
    found = str(tmp_path / "list")
    made = database.open(found, "c")
    made["folder"] = b"entry"
    made.sync()
    made.close()
    return found


def test_it_comes_back(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    again = database.open(name, "c")
    assert dict(again) == {"folder": b"entry"}
    before = (tmp_path / NAME).stat()
    again["folder"] = b"entry"
    again.sync()
    assert os.path.samestat((tmp_path / NAME).stat(), before), "nothing has changed"
    again["other"] = b"more"
    again.sync()
    assert dict(database.open(name, "c")) == {"folder": b"entry", "other": b"more"}
    assert capfd.readouterr().err == ""


def test_any_damage_is_noticed(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / NAME
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for damaged in (*flipped, *(whole[:length] for length in range(1, len(whole)))):
        path.write_bytes(damaged)
        assert dict(database.open(name, "c")) == {}
        assert capfd.readouterr().err.count("\n") == 1
    path.write_bytes(b"")
    assert dict(database.open(name, "c")) == {}


def test_what_can_not_be_read_costs_a_line_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).mkdir()
    made = database.open(str(tmp_path / "list"), "c")
    assert dict(made) == {}
    assert capfd.readouterr().err == f"  NOTE  everything is looked at anew: {tmp_path / NAME}: Is a directory\n"
    made["folder"] = b"entry"
    made.sync()
    assert capfd.readouterr().err.startswith("  NOTE  the next build may do again what this one did: ")


def test_a_full_disk_costs_a_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = (tmp_path / NAME).read_bytes()
    made = database.open(name, "c")
    made["other"] = b"more"
    made._path = Path("/dev/full/list")  # of which no folder can be made
    made.sync()
    assert capfd.readouterr().err.startswith("  NOTE  the next build may do again what this one did: /dev/full")
    assert (tmp_path / NAME).read_bytes() == before
