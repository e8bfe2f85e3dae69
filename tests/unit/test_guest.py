"""A driven machine: what it leaves behind."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia.run.guest import Guest


@dataclass(frozen=True)
class Silent:
    """A machine that neither says anything nor ends."""

    terminal: tuple[int, int, str] = (24, 80, "dumb")

    def argv(self, status: Path) -> list[str]:
        return ["sh", "-c", "trap '' HUP; exec sleep 1000"]


def test_a_host_too_busy_to_end_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason why the machine was given up is what counts, and it is gone afterwards."""

    def terminate(process: Any, force: bool = False) -> bool:
        process.kill(signal.SIGKILL)
        return False  # not dead yet

    monkeypatch.setattr("ptyprocess.PtyProcess.terminate", terminate)
    with (
        pytest.raises(ZosiaError, match="went by before the console showed 'a prompt'"),
        Guest(Silent(), tmp_path / "log") as guest,
    ):
        child = guest._child
        guest.expect("a prompt", 0.1)
    assert not child.isalive()
