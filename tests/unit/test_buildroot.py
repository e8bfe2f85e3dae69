"""Driving Buildroot: what it is told, what is kept between calls, and what is refused in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fake_buildroot
from zosia.base import process
from zosia.base.errors import ZosiaError
from zosia_build import buildroot, initramfs, kernel, llama
from zosia_build.buildroot import Job

BOTH = ["Image", "busybox"]


@pytest.fixture
def job(tmp_path: Path, root: Path) -> Job:
    """For a Buildroot that is a Makefile."""
    external = tmp_path / "external"
    shutil.copytree(root / "buildroot", external)
    return Job(
        source=fake_buildroot.write(tmp_path / "tree"),
        external=external,
        output=tmp_path / "output",
        arch="aarch64",
        extra=None,
        cache=tmp_path / "cache",
        jobs=3,
        log=tmp_path / "buildroot.log",
    )


def asked(job: Job) -> list[str]:
    """The goals that make was given so far."""
    return fake_buildroot.asked(job.output)


@contextmanager
def refused(pattern: str) -> Iterator[None]:
    with pytest.raises(ZosiaError, match=pattern) as caught:
        yield
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, (OSError, UnicodeDecodeError))


def test_kernel_and_busybox_are_made_and_kept(job: Job) -> None:
    image, busybox = buildroot.build(job, BOTH)
    assert (image.read_text(), busybox.read_text()) == ("kernel\n", "busybox\n")
    assert asked(job) == ["defconfig", "linux-configure", "linux", "busybox"]
    assert (job.output / ".config").read_text() == (job.external / "configs/zosia_aarch64_defconfig").read_text() + "\n"
    (job.output / "kept").touch()
    buildroot.build(job, BOTH)
    assert (job.output / "kept").exists()
    assert asked(job).count("defconfig") == 1


def test_only_what_is_wanted(job: Job) -> None:
    assert buildroot.build(job, ["busybox"]) == [job.output / "target/bin/busybox"]
    assert asked(job) == ["defconfig", "busybox"]


@pytest.mark.parametrize("uid", [0, 1000])
def test_what_make_is_told(job: Job, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("PERL_MM_OPT", "INSTALL_BASE=/home/x")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/mnt/c/Program Files:.::relative")
    buildroot.build(job, ["busybox"])
    first, second, *_ = (job.output / "asked").read_text().splitlines()
    assert first == f"defconfig JLEVEL=3 TREE={job.external} ROOT={'' if uid else '1'} MM="
    assert f"DL={job.cache}/buildroot/downloads " in second
    path = second.partition("PATH=")[2].split(":")
    assert "/usr/bin" in path
    assert [folder for folder in path if " " in folder or not folder.startswith("/")] == []


def test_other_settings_start_over(job: Job, tmp_path: Path) -> None:
    buildroot.build(job, ["busybox"])
    extra = tmp_path / "extra.config"
    extra.write_text("BR2_CCACHE=y\n")
    for changed in (replace(job, extra=extra), job):
        (job.output / "old").touch()
        buildroot.build(changed, ["busybox"])
        assert not (job.output / "old").exists()
    assert not (job.output / ".config").read_text().endswith("BR2_CCACHE=y\n")
    makefile = job.source / "Makefile"
    makefile.write_text(makefile.read_text().replace("2026.02.3", "2026.05"))
    (job.output / "old").touch()
    buildroot.build(job, ["busybox"])
    assert not (job.output / "old").exists()


def test_further_settings_come_last_and_none_is_dropped(job: Job, tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    job = replace(job, extra=extra)
    extra.write_text("# BR2_STATIC_LIBS is not set\n")
    buildroot.build(job, ["busybox"])
    assert (job.output / ".config").read_text().endswith("\n# BR2_STATIC_LIBS is not set\n")
    extra.write_text("BR2_CCACHE=y\nBR2_DROPPED=y\n")
    for _ in range(2):  # the second time as well: it is not taken for configured
        with refused(rf"Buildroot drops BR2_DROPPED=y \(set in {extra}\)\. Add its dependencies"):
            buildroot.build(job, ["busybox"])
    extra.write_bytes(b"\xff")
    with refused(f"{extra} can't be read"):
        buildroot.build(job, ["busybox"])


def test_a_failure_shows_the_end_of_the_log_and_the_next_call_goes_on(job: Job) -> None:
    (job.output.parent / "fail-linux").touch()
    with refused(rf"make ended with status 2; whole log: {job.log}(.|\n)*    99\n    100\n    linux went wrong"):
        buildroot.build(job, BOTH)
    (job.output.parent / "fail-linux").unlink()
    (job.output / "kept").touch()
    buildroot.build(job, BOTH)
    assert (job.output / "kept").exists()
    assert asked(job)[-3:] == ["linux-configure", "linux", "busybox"]


def test_an_interrupted_configuration_is_made_again(job: Job) -> None:
    (job.output.parent / "fail-defconfig").touch()
    with refused("defconfig went wrong"):
        buildroot.build(job, BOTH)
    (job.output.parent / "fail-defconfig").unlink()
    buildroot.build(job, BOTH)


def test_a_build_that_leaves_nothing(job: Job) -> None:
    makefile = job.source / "Makefile"
    makefile.write_text(makefile.read_text().replace("make-linux =", "make-linux = true;#"))
    with refused(r"Buildroot succeeded without making .*/images/Image\. See .*\.log"):
        buildroot.build(job, BOTH)


def test_a_kernel_without_an_option(job: Job) -> None:
    makefile = job.source / "Makefile"
    text = makefile.read_text().replace(
        "touch $(O)/build/linux-headers", "sed -i /ERRATUM_4118414/d $(O)/build/linux-c*/.config; #"
    )
    makefile.write_text(text)
    with refused(r"Buildroot's kernel \(linux-custom\) drops CONFIG_ARM64_ERRATUM_4118414=y, set in"):
        buildroot.build(job, BOTH)
    assert "linux" not in asked(job)  # before the kernel is compiled


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("2026.02.3", ""),
        ("2026.02", ""),
        ("2026.08-git", ""),
        ("2026.08-rc1", ""),
        ("2025.11.4", r"tree is Buildroot 2025\.11\.4, and zosia needs 2026\.02 or later\. Leave BUILDROOT= out"),
        ("2012.05", r"tree is Buildroot 2012\.05, and zosia needs 2026\.02 or later"),
        ("x", r"tree is no Buildroot: it has no BR2_VERSION"),
    ],
)
def test_versions(job: Job, found: str, message: str) -> None:
    makefile = job.source / "Makefile"
    makefile.write_text(makefile.read_text().replace("2026.02.3", found))
    if message:
        with refused(message):
            buildroot.version(job.source)
    else:
        assert buildroot.version(job.source) == found


def test_a_folder_that_is_no_buildroot(job: Job, tmp_path: Path) -> None:
    with refused(r"nowhere is no Buildroot: its Makefile can't be read: No such file"):
        buildroot.version(tmp_path / "nowhere")
    shutil.rmtree(job.source / "package")
    with refused(r"tree is no Buildroot: it has no BR2_VERSION in its Makefile, or no package/busybox"):
        buildroot.build(job, BOTH)


@pytest.mark.parametrize("field", ["source", "external", "output", "cache"])
def test_blanks_in_paths(job: Job, tmp_path: Path, field: str) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path: Path = getattr(job, field)
    if path.exists():
        shutil.move(path, folder / path.name)
    with refused(r"Buildroot can't be built in '.*a folder.*': its makefiles don't take blanks"):
        buildroot.build(replace(job, **{field: folder / path.name}), BOTH)  # type: ignore[arg-type]


def test_hosts(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real = process.find

    def find(program: str) -> str:
        if program == "rsync":
            monkeypatch.setenv("PATH", "")
        return real(program)

    with monkeypatch.context() as patch:
        patch.setattr(buildroot, "find", find)
        with refused(r"rsync is needed and was not found on PATH\. Type: sudo apt-get install rsync"):
            buildroot.build(job, BOTH)
    monkeypatch.setattr(sys, "platform", "darwin")
    with refused(r"Buildroot runs on Linux only\. Set BASE=distro, or build on Linux and set KERNEL= and BUSYBOX="):
        buildroot.build(job, BOTH)


# The tree itself


def defconfig(root: Path, arch: str) -> str:
    return (root / f"buildroot/configs/zosia_{arch}_defconfig").read_text()


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_versions_and_hashes_are_those_of_sources_toml(root: Path, arch: str) -> None:
    sources = tomllib.loads((root / "sources.toml").read_text())
    linux = sources["linux-upstream"]
    assert f'BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="{linux["version"]}"\n' in defconfig(root, arch)
    for package in ("linux", "linux-headers"):
        hashes = (root / f"buildroot/board/zosia/patches/{package}/{package}.hash").read_text()
        assert f"\nsha256  {linux['sha256']}  {linux['file']}\n" in hashes
    package_folder = root / "buildroot/package/zosia-llama-cpp"
    entry = sources["llama-cpp"]
    assert f"sha256  {entry['sha256']}  {entry['file']}\n" in (package_folder / "zosia-llama-cpp.hash").read_text()
    assert f"\nZOSIA_LLAMA_CPP_VERSION = {entry['version']}\n" in (package_folder / "zosia-llama-cpp.mk").read_text()


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_the_kernel_has_the_fragments_of_the_direct_build(root: Path, arch: str) -> None:
    text = defconfig(root, arch)
    for name, part in (("CUSTOM_CONFIG_FILE", "common"), ("CONFIG_FRAGMENT_FILES", arch)):
        assert f'BR2_LINUX_KERNEL_{name}="$(BR2_EXTERNAL_ZOSIA_PATH)/board/zosia/linux-{part}.config"\n' in text
    assert "BR2_DOWNLOAD_FORCE_CHECK_HASHES=y\n" in text


def test_busybox_has_what_the_guest_calls(root: Path) -> None:
    config = (root / "buildroot/board/zosia/busybox.config").read_text()
    links = re.findall(r"^slink /bin/(\w+) busybox$", (root / "initramfs/manifest").read_text(), re.MULTILINE)
    assert len(links) > 10
    wanted = [f"CONFIG_{name.upper()}=y" for name in links if name != "sh"]
    wanted += ["CONFIG_SH_IS_ASH=y", "CONFIG_ASH=y", "CONFIG_STATIC=y", "CONFIG_FEATURE_INSTALLER=y"]
    assert kernel.dropped("\n".join(wanted), config) == []


# What Buildroot asks of the repository


def guest(root: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """By a Python that has its own library and nothing else."""
    argv = [sys.executable, "-S", root / "buildroot/board/zosia/guest.py", *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_options_of_llama(root: Path, arch: str) -> None:
    done = guest(root, "options", arch)
    assert done.returncode == 0, done.stderr
    version = tomllib.loads((root / "sources.toml").read_text())["llama-cpp"]["version"]
    assert done.stdout.splitlines() == llama.project_options(version=version, arch=arch)
    assert [line for line in done.stdout.splitlines() if " " in line or "'" in line] == []


def program(arch: str) -> bytes:
    """A static ELF file without segments."""
    return (
        b"\x7fELF\x02\x01".ljust(18, b"\0")
        + llama.MACHINES[arch].to_bytes(2, "little")
        + bytes(34)
        + b"\x38"
        + bytes(9)
    )


@pytest.mark.parametrize("arch", kernel.ARCHES)
def test_the_root_filesystem_is_the_one_that_scons_makes(root: Path, tmp_path: Path, arch: str) -> None:
    names = [f"llama-cli-{level.name}" for level in llama.LEVELS[arch]]
    files = {"busybox": tmp_path / "bin/busybox", **{name: tmp_path / "usr/bin" / name for name in names}}
    files["streams"] = tmp_path / "usr/bin/zosia-streams"
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program(arch) + name.encode())
    script = root / "buildroot/board/zosia/post-image.sh"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TARGET_DIR": str(tmp_path)}
    done = subprocess.run([script, tmp_path, arch], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    contents = {name: path.read_bytes() for name, path in files.items()}
    version = tomllib.loads((root / "sources.toml").read_text())["llama-cpp"]["version"]
    contents["llama-version"] = f"{version}\n".encode()
    initramfs.build(arch=arch, contents=contents, kinds=["serve"], target=tmp_path / "expected")
    assert (tmp_path / "rootfs.cpio.gz").read_bytes() == (tmp_path / "expected").read_bytes()

    files["busybox"].write_bytes(program("x86_64" if arch == "aarch64" else "aarch64"))
    done = subprocess.run([script, tmp_path, arch], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"zosia: error: .*/bin/busybox is for machine \d+, not \d+\n", done.stderr)
    files["busybox"].unlink()
    done = subprocess.run([script, tmp_path, arch], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.count("\n") == 1
    assert "No such file" in done.stderr
