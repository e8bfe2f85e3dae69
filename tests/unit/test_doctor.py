"""`scons doctor` on hosts that lack one thing or another: each is one line with what to type."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from SCons.Errors import UserError

import zosia_scons
from tests import gguf_file
from tests.hub import Hub, on_loopback, tiny
from tests.web import Answer, Web
from zosia.base import apt, files, process
from zosia.base.errors import ZosiaError
from zosia.doctor import checks, findings, machine, model, reach
from zosia.doctor.findings import Finding, look
from zosia.inputs import catalogue, download, fetch
from zosia.inputs.catalogue import Pin
from zosia.machine import cgroups, fence, host
from zosia.run import probe
from zosia.settings import hardware
from zosia.settings.variables import DEFAULTS
from zosia_build import doctor, kernel, settings
from zosia_build.doctor import Todo
from zosia_build.settings import Build

from .conftest import Typed

Programs = Callable[..., None]
NOTHING = Todo(steps={})
ALL = Todo(
    steps={
        "INPUT": ("build/sources/linux.json", "build/sources/llama-cpp.json", "build/sources/busybox-aarch64.json"),
        "LINUX": ("build/aarch64/Image",),
        "LLAMA": ("build/aarch64/llama-cli-i8mm",),
        "TAKE": ("build/aarch64/busybox",),
        "CPIO": ("build/aarch64/initramfs.cpio.gz",),
        "EXT4": ("build/models/smollm2-135m.img",),
    }
)


def lines(findings: Iterable[Finding]) -> list[str]:
    return [f"{finding.verdict.value} {finding.text}" for finding in findings]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Be on a host that has only these programs, each a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    monkeypatch.setattr(sys, "platform", "linux")

    def install(**scripts: str) -> None:
        for name, script in scripts.items():
            program = folder / name.replace("_", "-").replace("x86-64", "x86_64")
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    return install


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Build]:
    """The settings of `scons doctor NAME=value...`, typed in an empty folder, where QEMU's sandbox works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "")
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "")
    monkeypatch.setenv("ZOSIA_CACHE", str(tmp_path / "cache"))

    def read(**values: str) -> Build:
        return settings.read({**DEFAULTS, "ACCEL": "tcg", **values}, [], root, given=values, launched=tmp_path)

    return read


@pytest.fixture
def hub(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with on_loopback(web, tmp_path, monkeypatch) as running:
        yield running


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)", "ok qemu-system-aarch64 7.2.22"),
        ("QEMU emulator version 10.1.0", "ok qemu-system-aarch64 10.1.0"),
        ("QEMU emulator version 7.1.0", "warn qemu-system-aarch64 7.1.0: may work; the oldest tested version is 7.2"),
        ("QEMU emulator version 5.2.0", "fail qemu-system-aarch64 5.2.0: zosia needs 6.0 or later"),
        ("libfoo.so: not found", "fail qemu-system-aarch64 does not start (libfoo.so: not found). Type: sudo apt-get"),
    ],
)
def test_qemu(programs: Programs, said: str, line: str) -> None:
    programs(qemu_system_aarch64=f"echo '{said}'")
    (found,) = lines(checks.qemu("aarch64"))
    assert found.startswith(line)


def test_a_host_without_programs(programs: Programs, typed: Callable[..., Build]) -> None:
    (found,) = lines(checks.qemu("x86_64"))
    assert found == "fail qemu-system-x86_64: not found. Type: sudo apt-get install qemu-system-x86"
    build = typed()
    (found,) = lines(model.disk_tools("mke2fs", needed=True))
    assert found == (
        "fail mke2fs, debugfs, e2fsck: not found (for the model's disk). Type: sudo apt-get install e2fsprogs"
    )
    (found,) = lines(model.disk_tools("mke2fs", needed=False))
    assert found.startswith("warn mke2fs, debugfs, e2fsck: not found, but not needed now")
    kernel_line, *_ = lines(doctor.compilers(build, ALL))
    assert kernel_line.startswith("fail make, gcc, flex, bison, bc")
    assert "Type: sudo apt-get install make gcc flex bison bc" in kernel_line


def test_only_what_is_to_be_compiled_takes_compilers(programs: Programs, typed: Callable[..., Build]) -> None:
    build = typed()
    assert lines(doctor.compilers(build, NOTHING)) == ["ok compilers: not needed: everything is built"]
    (found,) = lines(doctor.compilers(build, Todo(steps={"LLAMA": ()})))
    assert found.startswith("ok cmake, ninja, zig ")


def test_a_missing_header(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    tools = dict.fromkeys(kernel.tools("x86_64"), "exit 1")
    programs(**{name.replace("-", "_"): script for name, script in tools.items()})
    *found, last = lines(look(lambda: doctor.kernel_tools("x86_64")))
    assert [line[:3] for line in found] == ["ok "]
    assert last == (
        "fail the C header stdio.h is needed and was not found. Type: sudo apt-get install libc6-dev,"
        " or set BASE=distro, which builds no kernel"
    )


def test_old_e2fsprogs(programs: Programs) -> None:
    programs(mke2fs="echo mke2fs 1.43.9 >&2", debugfs="", e2fsck="")
    (found,) = lines(look(lambda: model.disk_tools("mke2fs", needed=True)))
    assert found.startswith("fail e2fsprogs 1.45 or newer is needed, and this is 1.43")
    programs(mke2fs="echo mke2fs 1.47.0 >&2")
    assert lines(model.disk_tools("mke2fs", needed=True)) == ["ok e2fsprogs 1.47.0 (for the model's disk)"]


def locked_packages(lock: Path) -> Iterator[Finding]:
    return checks.python(checks.locked(lock), lock.name)


def test_packages_of_python(root: Path, tmp_path: Path) -> None:
    assert [line[:2] for line in lines(locked_packages(root / "requirements.lock"))] != ["fa"]
    lock = tmp_path / "requirements.lock"
    line = "no-such-package==1.0 \\\n    --hash=sha256:0\nother==1 ; sys_platform == 'win32' \\\n    --hash=sha256:0\n"
    lock.write_text(line)
    (found,) = lines(locked_packages(lock))
    assert found.endswith("missing packages: no-such-package. Type: ./scripts/bootstrap.sh")
    lock.write_text("scons==0.1 \\\n")
    (found,) = lines(locked_packages(lock))
    assert found.startswith("warn ")
    assert "not 0.1" in found


def test_packages_of_an_installed_zosia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata name them: extras, and what other systems need, are not missed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sample-1.dist-info").mkdir()
    metadata = tmp_path / "sample-1.dist-info" / "METADATA"

    def says(*needs: str) -> str:
        lines_of = [f"Requires-Dist: {need}\n" for need in needs]
        metadata.write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1\n" + "".join(lines_of))
        (found,) = lines(checks.python(checks.required("sample"), "sample"))
        return re.sub(r"Python [\d.]+", "Python", found)

    others = ("no-such-package; extra == 'test'", "no-such-package; sys_platform == 'win32'")
    assert says("requests", "tqdm>1", *others) == "ok Python and the 2 packages of sample"
    assert says("requests", "no-such-package") == (
        "fail Python: missing packages: no-such-package. Type: ./scripts/bootstrap.sh"
    )
    assert says("requests>=1000").startswith("warn Python: packages differ from sample (requests ")
    assert says("requests>=1000").endswith(", not >=1000). Type: ./scripts/bootstrap.sh")
    assert says() == "ok Python"
    assert list(checks.required("no-such-package")) == [], "a bare copy"


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(path: Path, *, needed: bool = True) -> str:
        (line,) = lines(checks.folder(path, "model disks", "XDG_DATA_HOME", needed=needed))
        return line

    assert found(tmp_path) == f"ok the folder of model disks, {tmp_path}: can be written to"
    assert found(tmp_path / "a" / "b") == f"ok the folder of model disks, {tmp_path}/a/b: not created yet"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    said = f"{tmp_path}/file/b, the folder of model disks, can't be created. Set XDG_DATA_HOME= to a folder of yours"
    assert found(tmp_path / "file" / "b") == f"fail {said}"
    assert found(tmp_path / "file" / "b", needed=False) == f"warn {said}"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = f"fail {tmp_path}, the folder of model disks, can't be written to. Set XDG_DATA_HOME= to a folder of yours"
    assert found(tmp_path) == f"{said}, or type: chmod -R u+rwX {tmp_path}"
    assert found(tmp_path / "a").endswith("can't be created. Set XDG_DATA_HOME= to a folder of yours")


def test_a_tiny_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=10, f_frsize=1_000_000))
    needs = [(tmp_path / "build", 6_000_000), (tmp_path / "not/there/yet", 3_000_000)]
    (found,) = lines(checks.room(needs))
    assert found == f"ok the disk of {tmp_path}: 9.0 MB needed, 10.0 MB free"
    (found,) = lines(checks.room([*needs, (tmp_path, 2_000_000)]))
    assert found.startswith(f"fail the disk of {tmp_path}: 11.0 MB needed, only 10.0 MB free. Make")
    (found,) = lines(checks.room([(tmp_path, 0)]))
    assert found == f"ok the disk of {tmp_path}: no room needed, 10.0 MB free"


def test_what_is_to_be_written(typed: Callable[..., Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "available", lambda: True)
    build = typed()
    pins = list(doctor.to_fetch(build, ALL))
    assert {pin.name for pin in pins} == {"linux", "llama-cpp", "busybox-aarch64", "smollm2-135m"}
    needed = sum(size for _, size in doctor.sizes(build, ALL, pins, tmp_path))
    assert 4 << 30 < needed < 6 << 30
    assert list(doctor.to_fetch(build, NOTHING)) == []
    assert sum(size for _, size in doctor.sizes(build, NOTHING, [], tmp_path)) == 0


@pytest.mark.parametrize(("debian", "origin"), [(True, "debian"), (False, "url")])
def test_the_kernels_source(
    typed: Callable[..., Build], monkeypatch: pytest.MonkeyPatch, debian: bool, origin: str
) -> None:
    monkeypatch.setattr(apt, "available", lambda: debian)
    (linux,) = (pin for pin in doctor.to_fetch(typed(), ALL) if pin.name.startswith("linux"))
    assert (linux.name, linux.origin) == ("linux", origin)


def test_what_is_in_the_cache_is_not_fetched(typed: Callable[..., Build]) -> None:
    build = typed()
    for name in ("linux", "llama-cpp", "busybox-aarch64"):
        place = fetch.place(build.sources[name], build.run.cache)
        place.parent.mkdir(parents=True)
        place.touch()
    assert [pin.name for pin in doctor.to_fetch(build, ALL)] == ["smollm2-135m"]
    built = Todo(steps={"TAKE": ("build/aarch64/Image",)})
    Path("Image").touch()
    assert list(doctor.to_fetch(typed(KERNEL="Image"), built)) == [], "a kernel of one's own"


def test_an_unpacked_source_does_without_its_archive(typed: Callable[..., Build]) -> None:
    build, steps = typed(), Todo(steps={"LLAMA": ()})
    assert [pin.name for pin in doctor.to_fetch(build, steps)] == ["llama-cpp"]
    fetch.tree_of(build.sources["llama-cpp"], build.run.cache).mkdir(parents=True)
    assert list(doctor.to_fetch(build, steps)) == []


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    assert lines(checks.cache(folder, needed=True)) == [f"ok the cache {folder}: not created yet"]
    assert not folder.exists()
    (folder / "downloads").mkdir(parents=True)
    (folder / "downloads" / "x").write_bytes(b"x" * 8192)
    (found,) = lines(checks.cache(folder, needed=True))
    assert found.startswith(f"ok the cache {folder}: 8192 bytes in ")
    (folder / "apt.lock").mkdir()
    (found,) = lines(checks.cache(folder, needed=True))
    assert found.startswith(f"fail the cache {folder}: {folder}/apt.lock can't be written to. Set ZOSIA_CACHE=")
    (folder / "apt.lock").rmdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (found,) = lines(checks.cache(folder, needed=False))
    assert found.startswith("warn "), "a read-only cache that has everything"
    monkeypatch.undo()
    monkeypatch.setattr(checks, "COUNTING", -1)
    assert "more than" in lines(checks.cache(folder, needed=True))[0]
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        assert lines(checks.cache(path, needed=True))[0].startswith(f"fail the cache {path} can't be created")


def test_a_filesystem_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lines(look(lambda: checks.cache(tmp_path, needed=True))) == ["fail the system: No locks available"]


@pytest.mark.parametrize(
    ("environment", "size", "words"),
    [
        ({"TERM": "xterm", "LANG": "pl_PL.UTF-8"}, (80, 24), ["ok terminal of 80x24, xterm, UTF-8"]),
        ({"TERM": "xterm", "LC_ALL": "C.utf8", "LANG": "C"}, (16, 5), ["warn terminal of 16x5"]),
        ({"LANG": "C.UTF-8"}, (80, 24), ["warn terminal: TERM= turns"]),
        (
            {"TERM": "dumb", "LC_ALL": "C", "LANG": "C.UTF-8"},
            (80, 24),
            ["warn terminal: TERM=dumb", "warn terminal: its"],
        ),
    ],
)
def test_terminals(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], size: tuple[int, int], words: list[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda number: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size(size))
    found = lines(checks.terminal(environment))
    assert [line.startswith(start) for line, start in zip(found, words, strict=True)] == [True] * len(words)
    monkeypatch.setattr(os, "isatty", lambda number: False)
    assert lines(checks.terminal(environment))[0].startswith("ok no terminal: ")


def test_errors_become_lines() -> None:
    def failing(error: Exception) -> Callable[[], Iterator[Finding]]:
        def check() -> Iterator[Finding]:
            yield findings.ok("first")
            raise error

        return check

    for error, line in (
        (ZosiaError("too bad", "Type: x"), "fail too bad. Type: x"),
        (ZosiaError("ended with status 1; whole log: x\n    make: no"), "fail ended with status 1; whole log: x"),
        (PermissionError(13, "Permission denied", "/x"), "fail /x: Permission denied"),
        (ImportError("No module", name="requests"), "fail the Python package requests is needed and was not found"),
    ):
        first, last = lines(look(failing(error)))
        assert first == "ok first"
        assert last.startswith(line)
    with pytest.raises(ValueError, match="a bug"):  # nobody could type anything against it
        list(look(failing(ValueError("a bug"))))


DAMAGED = ["", "{", "[]", "null", "{}", '{"name": 1}', "\xff"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_record_is_a_line(typed: Callable[..., Build], text: str) -> None:
    build, record = typed(), Path("build/sources/linux.json")
    record.parent.mkdir(parents=True)
    record.write_text(text, encoding="latin-1")
    line = f"{record} is damaged. Type: rm {record}"
    assert lines(look(lambda: [findings.ok(pin.name) for pin in doctor.to_fetch(build, ALL)])) == [f"fail {line}"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_record_ends_a_build_with_a_line(tmp_path: Path, text: str) -> None:
    record = tmp_path / "a b.json"
    record.write_text(text, encoding="latin-1")
    build = zosia_scons.action(lambda targets, sources, env: print(catalogue.read_record(sources[0])), "X")
    node = SimpleNamespace(abspath=str(record))
    with pytest.raises(UserError, match=re.escape(f"zosia: error: {record} is damaged. Type: rm '{record}'")):
        build.execfunction([], [node], {})


def test_a_record_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "x.json"
    catalogue.write_record(record, pin("pypi"))
    assert catalogue.read_record(record) == pin("pypi")
    before = record.read_bytes()
    write = Path.write_text

    def half(path: Path, text: str, **options: Any) -> None:
        write(path, text[:5], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ZosiaError, match="The disk is full"):
        catalogue.write_record(record, pin("hub"))
    assert record.read_bytes() == before
    assert list(tmp_path.iterdir()) == [record]


def pin(origin: str, url: str = "") -> Pin:
    return Pin(
        name="x",
        origin=origin,
        project="x",
        version="1",
        file="x-1.tar.gz",
        licence="MIT",
        size=1,
        sha256="0" * 64,
        url=url,
    )


def test_sources_that_answer(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "pip_settings", lambda: {"index-url": f"{web.url}/simple"})
    web.files = {"/simple/x/": b'<a href="x-1.tar.gz">x-1.tar.gz</a>', "/x": b"x"}
    asked = reach.questions([pin("pypi"), pin("url", f"{web.url}/x")])
    found = {"the Python package index (x)": "", "127.0.0.1 (x-1.tar.gz)": ""}
    assert reach.failures(asked) == found
    web.pages = {path: [Answer(location=f"/new{path}", status=308)] for path in web.files}
    web.files = {f"/new{path}": content for path, content in web.files.items()}
    assert reach.failures(asked) == found
    assert {path for _, path, _ in web.asked} == {*web.files, *web.pages}


def test_sources_that_refuse(web: Web, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "pip_settings", lambda: {"index-url": f"{web.url}/simple"})
    hub.says(Answer(status=401, headers={"X-Error-Code": "GatedRepo"}))
    asked = reach.questions([pin("pypi"), pin("url", f"{web.url}/x"), tiny()])
    index, address, gated = reach.failures(asked).values()
    assert "could not be queried" in index
    assert address.startswith(f"{web.url}/x can't be downloaded: the server answers 404")
    assert "maker/tiny-GGUF is gated" in gated


def test_no_network_is_found_out_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(reach, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = reach.questions(
            [pin("url", f"http://127.0.0.1:{silent.getsockname()[1]}/x"), pin("url", "http://127.0.0.1:9/")]
        )
        asked = {"silent": lambda: time.sleep(20), **asked, "closed": lambda: reach._address("http://127.0.0.1:9/")}
        begun = time.monotonic()
        found = reach.failures(asked)
    assert time.monotonic() - begun < 5
    assert found["silent"] == "silent: no answer within 0 s. Check the network"
    assert found["closed"] == "http://127.0.0.1:9/ can't be downloaded: Connection refused. Check the network"


@pytest.mark.skipif(not Path(reach.APT_HELPER).is_file(), reason="apt is Debian's")
def test_an_error_that_nobody_expects_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise AttributeError("no such thing\nas this")

    found = reach.failures({"the hub": fails, "another": lambda: None})
    why = "AttributeError: no such thing. This is a fault of zosia or of a library: please report it"
    assert found == {"the hub": f"the hub: {why}", "another": ""}
    assert capfd.readouterr() == ("", "")


def test_apt_fetches_its_own_way(web: Web, tmp_path: Path, programs: Programs) -> None:
    address = f"{web.url}/dists/trixie/InRelease"
    programs(apt_get=f"echo 'Debian|{web.url}/'")
    web.files = {"/dists/trixie/InRelease": b"signed"}
    assert reach.failures({"apt": reach._apt}) == {"apt": ""}
    web.files = {}
    assert reach.failures({"apt": reach._apt})["apt"].startswith(f"apt can't fetch {address}: 404 ")


def test_offline_and_all_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    assert lines(model.network([])) == ["ok network: not needed: everything is downloaded"]


def test_what_is_said_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "available", lambda: True)
    answers = {"the Python package index (x)": "", reach.APT: ""}
    monkeypatch.setattr(reach, "failures", lambda servers: {name: answers[name] for name in servers})
    pins = [pin("pypi"), pin("debian")]
    assert lines(model.network(pins)) == [
        "ok network: the Python package index (x) answers",
        "ok network: Debian's archive answers",
        "ok network: 2 bytes to download",
    ]
    answers[reach.APT] = "apt can't fetch it. Check the network"
    assert lines(model.network(pins)) == [
        "ok network: the Python package index (x) answers",
        "fail network: apt can't fetch it. Check the network",
    ]


def test_a_name_that_is_not_resolved_is_no_question() -> None:
    error = requests.ConnectionError("Max retries exceeded (Caused by NameResolutionError('Failed to resolve x'))")
    assert download.plain(error) == "the host's name can't be resolved"


def test_accelerators(
    typed: Callable[..., Build], programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = host.arch()
    (other,) = {"aarch64", "x86_64"} - {arch}
    board = "virt" if arch == "aarch64" else "q35"
    kvm = tmp_path / "kvm"
    monkeypatch.setattr(host, "KVM", kvm)

    def check(asked: str, guest: str) -> list[str]:
        return lines(look(lambda: machine.acceleration(typed(ARCH=guest).run, asked)))

    (found,) = check("auto", other)
    assert found.startswith("warn the guest is emulated (tcg), which is slow: KVM runs guests of the host's own")
    assert f", not {other}. It can't be used for {arch} either: {kvm} can't be opened: No such file" in found
    (found,) = check("auto", arch)
    assert f"{kvm} can't be opened: No such file" in found
    assert "Switch virtualization on" in found
    (found,) = check("kvm", arch)
    assert found.startswith("fail ACCEL=kvm can't be used: ")
    assert check("tcg", arch) == ["ok tcg, as requested"]
    monkeypatch.setattr(host, "kvm_refusal", lambda guest: "")
    (found,) = check("auto", arch)
    assert found == "ok kvm can be opened; it is tried once the kernel is there"
    for name in ("Image", "initramfs.cpio.gz"):
        path = Path(f"build/{arch}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    program = f"qemu_system_{arch.replace('-', '_')}"
    programs(**{program: "case $* in *accel?kvm*) exit 1 ;; esac; echo Linux version"})
    monkeypatch.setattr(process, "EXTRA_PATH", ("/bin",))
    refused, tcg = check("auto", arch)
    assert refused.startswith("warn the guest is emulated (tcg), which is slow: kvm was tried, and QEMU ended at once")
    assert tcg == "ok tcg: a guest runs"
    (found,) = check("kvm", arch)
    assert found.startswith("fail ACCEL=kvm can't be used: QEMU ended at once")
    programs(**{program: "echo Linux version 6.1"})
    (found,) = [line for line in check("auto", arch) if "kvm" in line]
    assert found in (f"ok kvm: a guest runs on {board}", "ok kvm: a guest runs on microvm")


def test_a_host_without_a_sandbox(typed: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "SANDBOX", True)
    monkeypatch.setattr(probe, "sandbox_failure", lambda arch, cache, dry_run: "no seccomp")
    warned, _ = lines(look(lambda: machine.acceleration(typed(SANDBOX="").run, "tcg")))
    assert warned == "warn QEMU's sandbox can't be used here (no seccomp): runs are without it"
    (failed,) = lines(look(lambda: machine.acceleration(typed(SANDBOX="1").run, "tcg")))
    assert failed.startswith("fail SANDBOX=1 can't be used: no seccomp. ")
    (found,) = lines(look(lambda: machine.acceleration(typed(SANDBOX="0").run, "tcg")))
    assert found == "ok tcg, as requested"


def test_a_qemu_that_is_not_held(typed: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**given: str) -> list[str]:
        return lines(look(lambda: machine.fenced(typed(**given).run)))

    monkeypatch.setattr(sys, "platform", "linux")
    for version, shown in [
        (7, []),
        (6, []),
        (5, ["ok Landlock holds QEMU to its files; that of Linux before 6.12 lets it send signals to other programs"]),
        (0, ["warn QEMU can open all files that you can: this kernel has no Landlock"]),
    ]:
        monkeypatch.setattr(fence, "abi", lambda version=version: version)
        assert [line[: len(text)] for line, text in zip(found(), shown, strict=True)] == shown
        assert found(SANDBOX="0") == []
    (failed,) = found(SANDBOX="1")
    assert failed.startswith("fail SANDBOX=1 can't be used: this kernel has no Landlock, or does not use it. ")
    monkeypatch.setattr(fence, "abi", lambda: 7)
    monkeypatch.setattr(probe, "fence_failure", lambda machine, cache, dry_run: "a script")
    assert found() == ["warn QEMU can't be held to its files here (a script): runs are without it"]
    (failed,) = found(SANDBOX="1")
    assert failed.startswith("fail SANDBOX=1 can't be used: a script. ")


def test_processors(typed: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "affinity", lambda: 8)
    monkeypatch.setattr(cgroups, "quota", lambda: 2.5)
    assert lines(machine.processors()) == [
        "ok processors: 2 of 8, by the CPU quota of this container or service (cgroup)"
    ]
    assert typed().jobs == 2
    monkeypatch.setattr(cgroups, "quota", lambda: 8.5)
    assert lines(machine.processors()) == []


def test_memory(typed: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory", lambda: (8192, 4096))
    (found,) = lines(machine.memory(typed().run))
    assert found.startswith("ok memory: this machine has 8.0 GiB; smollm2-135m with a context of 2048 tokens gets 0.50")
    (found,) = lines(look(lambda: machine.memory(typed(MODEL="gpt-oss-20b-Q4").run)))
    assert found.startswith("fail gpt-oss-20b-Q4 takes ")
    monkeypatch.setattr(host, "memory", lambda: (8192, 100))
    assert lines(machine.memory(typed().run))[0].startswith("warn memory: the guest may take ")


def test_paths_that_makefiles_can_not_name(typed: Callable[..., Build], tmp_path: Path) -> None:
    blank = tmp_path / "a tree"
    (found,) = lines(look(lambda: doctor.paths(typed(), ALL, blank)))
    assert found.startswith(f"fail The kernel can't be built in '{blank}'")
    assert lines(look(lambda: doctor.paths(typed(), NOTHING, blank))) == []


def answer(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], todo: Any, **given: str
) -> tuple[int, list[str]]:
    monkeypatch.setattr(doctor, "todo", todo)
    monkeypatch.setattr(reach, "SECONDS", 0.1)
    status = doctor.main({**DEFAULTS, **given}, [], root, given=given, launched=root)
    return status, capsys.readouterr().out.splitlines()


def test_a_host_with_nothing(
    root: Path,
    typed: Callable[..., Build],
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("Image", "initramfs.cpio.gz"):  # with them, an accelerator would be tried
        Path("build/aarch64").mkdir(parents=True, exist_ok=True)
        Path("build/aarch64", name).touch()
    status, shown = answer(root, monkeypatch, capsys, lambda *_: ALL)
    assert status == 1
    assert len([line for line in shown if "qemu-system-" in line]) == 1, "what is missing is missing once"
    assert not [line for line in shown if "tcg" in line or "kvm" in line]
    assert all(line.startswith(("  ok    ", "  warn  ", "  fail  ")) for line in shown[:-1])
    assert shown[-1].startswith("`scons run` can't work yet: ")
    failed = "\n".join(line for line in shown if line.startswith("  fail  "))
    for word in ("qemu-system-aarch64: not found", "e2fsprogs", "make gcc flex bison bc"):
        assert word in failed
    assert not files.cache_root().exists(), "it makes nothing"


def test_what_scons_refuses_is_a_line(
    root: Path,
    typed: Callable[..., Build],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> Todo:
        raise ZosiaError("no way", "Type: y")

    status, shown = answer(root, monkeypatch, capsys, refuse, ACCEL="hvf" if sys.platform != "darwin" else "kvm")
    assert status == 1
    assert "  fail  no way. Type: y" in shown
    assert any(line.startswith("  fail  ACCEL=") for line in shown)
    with pytest.raises(ZosiaError, match="ACCEL=kvn is not a value"):
        answer(root, monkeypatch, capsys, refuse, ACCEL="kvn")


def test_a_dry_run_that_fails_is_no_sign_that_all_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([("", 0), ("scons: *** [build/aarch64/Image] Source not found.\n", 2)])

    def run(argv: Sequence[str], *, env: Mapping[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(env["ZOSIA_STEPS"]).write_text('{"label": "LINUX", "target": "build/aarch64/Image"}\n')
        said, status = next(failures)
        return subprocess.CompletedProcess(argv, status, "", said)

    monkeypatch.setattr(doctor, "run", run)
    assert doctor.todo(tmp_path, {}, tmp_path).steps == {"LINUX": ("build/aarch64/Image",)}
    with pytest.raises(ZosiaError, match=r"-n .* failed: scons: \*\*\* \[build/aarch64/Image\] Source not found\.$"):
        doctor.todo(tmp_path, {}, tmp_path)


# What only a clone has, or only `scons`
STRANGE = re.compile(r"scons|scripts/|bootstrap|\b[A-Z_]{2,}=|Traceback")


def verdicts(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """The findings of `zosia doctor` by their verdict; they are all it prints, before its last line."""
    assert done.stderr == ""
    *shown, last = done.stdout.splitlines()
    assert STRANGE.findall(done.stdout.replace("ZOSIA_CACHE=", "").replace("XDG_DATA_HOME=", "")) == []
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    for line in shown:
        found[line.split()[0]].append(line[8:])
    failed = len(found["fail"])
    assert done.returncode == (1 if failed else 0)
    assert last.startswith(f"`zosia run` can't work yet: {failed} check" if failed else "`zosia run` can work")
    return found


def test_an_installed_zosia_that_has_nothing(zosia: Typed, programs: Programs, tmp_path: Path) -> None:
    gguf = gguf_file.write(tmp_path / "tiny.gguf")
    before = sorted(tmp_path.iterdir())
    found = verdicts(zosia("doctor", gguf, "--arch", "aarch64", "--accel", "tcg"))
    part, qemu, *others = found["fail"]
    assert part == f"A part of the guest is missing: {zosia_images(tmp_path)}/aarch64/Image. Install zosia again"
    assert qemu == "qemu-system-aarch64: not found. Type: sudo apt-get install qemu-system-arm"
    assert [line for line in others if "(for the model's disk)" not in line] == [], "tools that /usr/sbin may have"
    assert any(line.startswith("network: not needed") for line in found["ok"])
    assert any(line.startswith("no terminal: a run reads its prompt from --prompt or") for line in found["ok"])
    assert sorted(tmp_path.iterdir()) == before, "it makes nothing"


def zosia_images(tmp_path: Path) -> Path:
    return tmp_path / "site-packages" / "zosia" / "images"


def guest(tmp_path: Path) -> None:
    """A guest that only a QEMU boots that boots anything."""
    folder = zosia_images(tmp_path) / "aarch64"
    folder.mkdir(parents=True)
    for name in ("Image", "initramfs.cpio.gz"):
        (folder / name).touch()


def test_an_installed_zosia_that_can_run(zosia: Typed, programs: Programs, tmp_path: Path) -> None:
    guest(tmp_path)
    programs(
        qemu_system_aarch64="[ $1 = --version ] && echo QEMU emulator version 10.1.0 || echo Linux version 6",
        mke2fs="echo mke2fs 1.47.0 >&2",
        debugfs="",
        e2fsck="",
    )
    gguf = gguf_file.write(tmp_path / "tiny.gguf")
    found = verdicts(zosia("doctor", gguf, "--arch", "aarch64", "--accel", "tcg", "--no-sandbox"))
    assert found["fail"] == []
    for line in (
        "the guest's kernel and programs for aarch64",
        "qemu-system-aarch64 10.1.0",
        "tcg: a guest runs",
        f"the folder of model disks, {tmp_path}/data/zosia/models: not created yet",
        f"the folder of saved machines, {tmp_path}/cache/hot: not created yet",
        f"the cache {tmp_path}/cache: not created yet",
        "e2fsprogs 1.47.0 (for the model's disk)",
        "network: not needed: everything is downloaded",
    ):
        assert line in found["ok"]
    assert any(line.startswith(f"the disk of {tmp_path}: ") and "no room" not in line for line in found["ok"])


@pytest.fixture
def recorded(installed: Path) -> Path:
    """An installed zosia of which pip has kept the digests."""
    (installed / "zosia/images/aarch64").mkdir()
    for name in ("Image", "initramfs.cpio.gz"):
        (installed / "zosia/images/aarch64" / name).write_bytes(b"guest")
    about = installed / "zosia-9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: zosia\nVersion: 9\n", encoding="utf-8")
    lines = []
    for path in sorted(path for path in (installed / "zosia").rglob("*") if path.is_file()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
        lines.append(f"{path.relative_to(installed)},sha256={digest},{path.stat().st_size}\n")
    (about / "RECORD").write_text("".join([*lines, "zosia-9.dist-info/RECORD,,\n"]), encoding="utf-8")
    return installed / "zosia"


def test_an_installed_zosia_whose_files_are_those_of_its_wheel(zosia: Typed, recorded: Path) -> None:
    found = verdicts(zosia("doctor", "--arch", "aarch64"))
    assert any(re.fullmatch(r"the \d+ files of zosia are those of its wheel", line) for line in found["ok"])


@pytest.mark.parametrize("name", ["images/aarch64/Image", "images/aarch64/initramfs.cpio.gz", "models.toml", "cli.py"])
def test_a_byte_of_an_installed_zosia_that_was_changed(zosia: Typed, recorded: Path, name: str) -> None:
    with (recorded / name).open("ab") as file:
        file.write(b"\n")
    found = verdicts(zosia("doctor", "--arch", "aarch64"))
    assert f"{recorded}: not what its wheel has: {name}. Install zosia again" in found["fail"]


def test_a_file_of_an_installed_zosia_that_is_gone(zosia: Typed, recorded: Path) -> None:
    (recorded / "images/aarch64/initramfs.cpio.gz").unlink()
    found = verdicts(zosia("doctor", "--arch", "aarch64"))
    assert f"{recorded}: not what its wheel has: images/aarch64/initramfs.cpio.gz. Install zosia again" in found["fail"]


def test_an_invalid_value_hides_nothing_else(zosia: Typed, installed: Path, programs: Programs, tmp_path: Path) -> None:
    programs(qemu_system_x86_64="echo QEMU emulator version 10.1.0")
    found = verdicts(zosia("doctor", "--arch", "x86_64", "--accel", "kvn"))
    assert found["fail"] == ["--accel kvn is not a value that zosia knows. Did you mean kvm?"]
    assert "qemu-system-x86_64 10.1.0" in found["ok"]
    (installed / "zosia" / "models.toml").write_text("[broken")
    (tmp_path / "cache").touch()
    catalogue_, *others = verdicts(zosia("doctor", "--arch", "x86_64"))["fail"]
    assert catalogue_.startswith(f"{installed}/zosia/models.toml can't be read: ")
    assert catalogue_.endswith(". Install zosia again")
    assert others == [f"the cache {tmp_path}/cache can't be created. Set ZOSIA_CACHE= to a folder of yours"]


def test_a_model_that_an_installed_zosia_can_not_load(zosia: Typed, programs: Programs, tmp_path: Path) -> None:
    gguf = gguf_file.write(tmp_path / "new.gguf", arch="future")
    failed = verdicts(zosia("doctor", gguf, "--arch", "aarch64", "--accel", "tcg"))["fail"]
    what = f"{gguf} has the architecture future, which zosia's llama.cpp does not know"
    assert f"{what}. Set --model to another model (zosia models lists some)" in failed


@pytest.mark.parametrize("name", ["platformdirs", "dacite"])
def test_an_installed_zosia_without_a_package(zosia: Typed, installed: Path, name: str) -> None:
    (installed / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name={name!r})")
    done = zosia("doctor")
    said = f"zosia: error: the Python package {name} is needed and was not found. Install zosia again\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_package_that_only_a_check_needs_is_its_line(zosia: Typed, installed: Path, tmp_path: Path) -> None:
    metadata = installed / "zosia-9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: zosia\nVersion: 9\nRequires-Dist: packaging\n")
    (installed / "packaging.py").write_text("raise ModuleNotFoundError('gone', name='packaging')")
    gguf = gguf_file.write(tmp_path / "tiny.gguf")
    failed = verdicts(zosia("doctor", gguf, "--arch", "aarch64", "--accel", "tcg"))["fail"]
    assert "the Python package packaging is needed and was not found. Install zosia again" in failed


def test_a_cache_that_is_no_path_is_a_line(zosia: Typed) -> None:
    done = zosia("doctor", ZOSIA_CACHE="~nobody-has-this-name/x")
    assert done.returncode == 2
    assert done.stderr.startswith("zosia: error: ZOSIA_CACHE=~nobody-has-this-name/x is not a path: ")
    assert done.stderr.count("\n") == 1
