"""A driven machine: what it leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_qemu import MACHINE
from zosia.base.errors import ZosiaError
from zosia.machine import fence
from zosia.machine.qemu import Machine
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


class Curious(Machine):
    """A machine whose program is a shell that reads what is not its own."""

    def argv(self, status: Path | Mapping[str, int], **_: Any) -> list[str]:  # type: ignore[override]
        return ["sh", "-c", f"echo init 1.5 >{status}; read -r key <{self.key}; echo $key"]

    @property
    def key(self) -> Path:
        return self.kernel.with_name("key")


@pytest.mark.skipif(not fence.abi(), reason="this kernel has no Landlock")
def test_it_is_held_to_its_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("the key\n")
    machine = Curious(**{**vars(MACHINE), "kernel": tmp_path / "kernel"})
    for held, said in ((False, "the key"), (True, "Permission denied")):
        with Guest(replace(machine, held=held), tmp_path / "log") as guest:
            guest.expect(said)
            guest.wait_end()
            assert guest.report.uptime == 1.5, "it can write its status"
