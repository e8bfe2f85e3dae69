"""Hosts that zosia was tried on: the plan, the line of a host, and how lines are merged."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests import documents
from zosia.base.errors import ZosiaError
from zosia.machine import host
from zosia.settings.values import check_known, check_targets
from zosia.settings.variables import DEFAULTS
from zosia_build import hosts
from zosia_build.hosts import Host, Line

# Lines of a real `scons smoke`, but for the accelerator and QEMU's board
SMOKE = """\
  CPIO  build/aarch64/initramfs-stub.cpio.gz
  BOOT  {guest}
  SMOKE the stub booted, answered and powered off
"""
TCG, KVM = "aarch64 on virt, tcg", "x86_64 on microvm, kvm, virtio-blk"
LINE = Line(
    host="one",
    date="2026-11-29",
    system="Debian GNU/Linux 12 (bookworm)",
    processor="x86_64",
    qemu="7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)",
    guests=[TCG],
    passed=["scons smoke"],
    failed=[],
)
Programs = Callable[..., None]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Programs:
    """A tree of its own, and a function that puts programs into its .venv/bin and on the PATH."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(hosts, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for arch in ("aarch64", "x86_64"):  # as the one of Debian 12
        place(folder / f"qemu-system-{arch}", f"echo 'QEMU emulator version {LINE.qemu}'\necho 'Copyright (c) …'\n")

    def put(**texts: str) -> None:
        for name, text in texts.items():
            place(folder / name, text)

    return put


def place(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)


def smoke(guest: str, status: int = 0) -> str:
    """Return the text of a program that shows what `scons smoke` shows of this guest."""
    return f"cat <<'END'\n{SMOKE.format(guest=guest)}END\nexit {status}\n"


def test_the_line_of_a_host(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs(scons=f"case $* in *x86_64*) {smoke(KVM)} ;; esac\n{smoke(TCG)}", fails="echo no; exit 3")
    monkeypatch.setattr(hosts, "system", lambda: LINE.system)
    commands = ["scons smoke", "A=1 fails", "scons smoke ARCH=x86_64", "scons smoke"]
    line = hosts.tried("one", Host(title="One", commands=commands), commands)
    assert asdict(line) == asdict(LINE) | {
        "date": line.date,
        "processor": host.arch(),
        "guests": [TCG, KVM],
        "passed": ["scons smoke", "scons smoke ARCH=x86_64", "scons smoke"],
        "failed": ["A=1 fails"],
    }
    assert len(line.date) == len("2026-11-29")
    shown = capsys.readouterr()
    assert "SMOKE the stub booted" in shown.out
    assert "status 3: A=1 fails" in shown.err


@pytest.mark.parametrize(
    ("guests", "failed"),
    [
        ([KVM], False),
        ([KVM, "x86_64 on q35, kvm, dax"], False),
        ([KVM, "x86_64 on q35, tcg, dax"], True),
        (["x86_64 on q35, tcg"], True),
        ([], True),
    ],
)
def test_a_host_with_kvm_fails_where_a_guest_was_emulated(programs: Programs, guests: list[str], failed: bool) -> None:
    programs(**{f"smoke{number}": smoke(guest) for number, guest in enumerate(guests)})
    commands = [f"smoke{number}" for number in range(len(guests))]
    line = hosts.tried("one", Host(title="One", commands=commands, accel="kvm"), commands)
    assert line.guests == guests
    assert line.passed == commands
    assert line.failed == (["every guest runs with kvm"] if failed else [])


def test_a_guest_of_a_failed_command_is_none(programs: Programs) -> None:
    programs(scons=smoke(KVM, status=2))
    line = hosts.tried("one", Host(title="One", commands=[]), ["scons smoke"])
    assert (line.guests, line.passed, line.failed) == ([], [], ["scons smoke"])


@pytest.mark.parametrize(
    ("shown", "version"),
    [
        (
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022 Fabrice Bellard",
            "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)",
        ),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nC", "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"),
        ("QEMU emulator version 11.0.0\nCopyright (c) 2003-2026 Fabrice Bellard\n", "11.0.0"),
    ],
)
def test_qemus_version(shown: str, version: str) -> None:
    assert hosts.qemu_version(shown) == version


def test_no_version() -> None:
    with pytest.raises(ZosiaError, match="QEMU's version was expected, and it shows 'dyld: '"):
        hosts.qemu_version("dyld: ")


def test_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "Fedora Linux 43"})
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.7", ("", "", ""), "arm64"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert hosts.system() == "Fedora Linux 43"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert hosts.system() == "macOS 15.7"


# ---- Lines of several hosts

PLAN = {name: Host(title=name, commands=["scons smoke"]) for name in ("two", "one", "three")}


def test_lines_are_merged_in_the_order_of_the_plan() -> None:
    old = {"one": LINE, "three": replace(LINE, host="three")}
    new = {"one": replace(LINE, date="2026-12-01"), "two": replace(LINE, host="two")}
    assert hosts.merge(PLAN, old, new) == [new["two"], new["one"], old["three"]]


def test_a_host_that_is_not_in_the_plan() -> None:
    with pytest.raises(ZosiaError, match=r"'on' is no host of hosts.toml. Did you mean one\?"):
        hosts.merge(PLAN, {"one": LINE}, {"on": replace(LINE, host="on")})


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, programs: Programs, tmp_path: Path) -> Path:
    """A tree with a plan and no lines."""
    plan = {"good": "true", "bad": "false"}
    text = "".join(f'[{name}]\ntitle = "{name}"\ncommands = ["{command}"]\n' for name, command in plan.items())
    (tmp_path / "hosts.toml").write_text(text, encoding="utf-8")
    (tmp_path / "hosts.json").write_text("[]\n", encoding="utf-8")
    monkeypatch.setattr(hosts, "PLAN", tmp_path / "hosts.toml")
    monkeypatch.setattr(hosts, "DATA", tmp_path / "hosts.json")
    return tmp_path


def test_a_host_is_tried_and_merged(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts.main(["try", "good"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] == ["true"]
    assert hosts.main(["try", "bad"]) == 1, "its line is written nevertheless"
    assert hosts.main(["merge", *(str(tree / "build" / f"host-{name}.json") for name in ("bad", "good"))]) == 0
    assert [line["host"] for line in json.loads((tree / "hosts.json").read_text())] == ["good", "bad"]
    assert hosts.main(["try", "good", "exit 3", "true"]) == 1
    (line,) = hosts.read_lines(tree / "build" / "host-good.json").values()
    assert (line.passed, line.failed) == (["true"], ["exit 3"])


@pytest.mark.parametrize("argv", [[], ["try"], ["merge"], ["try", "goood"], ["fly", "good"]])
def test_a_call_that_is_wrong(tree: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts.main(argv) == 2
    shown = capsys.readouterr().err
    assert ("Did you mean good?" if argv == ["try", "goood"] else "zosia_build.hosts merge FILE") in shown


# ---- The repository's own


def test_what_the_plan_types_exists(root: Path) -> None:
    for plan in hosts.read_plan(hosts.PLAN).values():
        for command in plan.commands:
            targets, names = documents.scons_words(command)
            check_targets(targets)
            check_known("a variable", names, DEFAULTS)
            for word in command.split():
                if word.startswith(("tests/", "./")):
                    assert (root / word).exists(), word


def test_a_plan_with_an_accelerator_asks_for_it() -> None:
    """No guest may be emulated silently."""
    plans = [plan for plan in hosts.read_plan(hosts.PLAN).values() if plan.accel]
    assert plans
    for plan in plans:
        assert all(f"ACCEL={plan.accel}" in command for command in plan.commands)


def test_lines_are_of_hosts_in_the_plan(root: Path) -> None:
    lines = hosts.read_lines(hosts.DATA)
    assert hosts.merge(hosts.read_plan(hosts.PLAN), lines, {}) == list(lines.values())
    assert lines
