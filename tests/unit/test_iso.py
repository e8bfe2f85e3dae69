"""The ISO without a boot: what GRUB is told, the commands that make it, what is on it, what its /init works out."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests import gguf_file
from zosia.base import process
from zosia.base.errors import ZosiaError
from zosia.inputs import archives
from zosia.machine import host
from zosia.model.shape import Shape
from zosia.settings.variables import DEFAULTS
from zosia_build import iso, settings
from zosia_build.iso import Content
from zosia_build.settings import Build

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_settings_of_a_known_shape_make_another_iso(typed: Callable[..., Build], tmp_path: Path) -> None:
    build = typed(MODEL=str(gguf_file.write(tmp_path / "m.gguf")))
    found, size = build.run.model.measures()
    entry = replace(build.run.models["qwen3-0.6b"], shape=found)
    others = (replace(entry, sampling={}), replace(entry, reasoning=()), replace(entry, context=1024))
    runs = [replace(build.run, models={"mine": known}) for known in (entry, *others)]
    assert len({replace(build, run=run).iso_content for run in (build.run, *runs)}) == 5
    assert " --reasoning on --temp 0.6 " in settings.iso_texts(runs[0], found, size)["args"]


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """Something small of everything."""
    files = {
        "kernel": b"kernel" * 999,
        "initramfs": b"initramfs",
        "grub.efi": b"MZ" * 5000,
        "a=b\\c.gguf": b"GGUF" * 999,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return Content(
        arch="aarch64",
        kernel=tmp_path / "kernel",
        initramfs=tmp_path / "initramfs",
        efi=tmp_path / "grub.efi",
        bios=None,
        texts={"args": "-c 512", "need": "300 512"},
        notice="All of it is free.\n",
        parts=[tmp_path / "a=b\\c.gguf"],
        info={"name": "żółw", "sha256": "0" * 64},
    )


def taken_out(image: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of an ISO, by path; its dates are checked on the way."""
    argv: list[str | Path] = ["xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", folder]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {int(path.stat().st_mtime) for path in files} == {iso.SECONDS}
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_on_it(content: Content, tmp_path: Path) -> None:
    iso.build(content, tmp_path / "out.iso")
    files = taken_out(tmp_path / "out.iso", tmp_path / "out")
    config = files.pop("boot/grub/grub.cfg").decode()
    (mark,) = (name for name in files if files[name] == b"")
    assert f"--set=root /{mark}\n" in config
    assert files.pop("boot/initramfs.cpio.gz") == iso.with_texts(b"initramfs", content.texts)
    assert {name: len(data) for name, data in files.items()} == {
        mark: 0,
        "boot.catalog": 2048,
        "boot/Image": 6 * 999,
        "licences.txt": len("All of it is free.\n"),
        "models/model.gguf": 4 * 999,
        "models/model.info": len(f"name=żółw\nsha256={'0' * 64}\n".encode()),
    }


def test_what_uefi_starts(content: Content, tmp_path: Path) -> None:
    iso.build(content, tmp_path / "out.iso")
    listed = subprocess.run(
        ["xorriso", "-indev", tmp_path / "out.iso", "-report_el_torito", "plain", "-report_system_area", "plain"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (entry,) = (line.split() for line in listed.splitlines() if line.startswith("MBR partition      :   2"))
    start = int(entry[6]) * iso.SECTOR
    assert entry[5] == "0xef"
    assert "UEFI  y   none" in listed, "and as a CD"
    copied = tmp_path / "efi"
    fat = f"{tmp_path / 'out.iso'}@@{start}"
    subprocess.run(["mcopy", "-s", "-i", fat, "::/EFI", "::/boot", "--", "."], cwd=_made(copied), check=True)
    assert (copied / "EFI/BOOT/BOOTAA64.EFI").read_bytes() == content.efi.read_bytes()
    on_iso = taken_out(tmp_path / "out.iso", tmp_path / "out")["boot/grub/grub.cfg"]
    assert (copied / "boot/grub/grub.cfg").read_bytes() == on_iso


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_same_bytes_from_other_files_of_the_same_content(content: Content, tmp_path: Path) -> None:
    iso.build(content, tmp_path / "one.iso")
    other = tmp_path / "other"
    other.mkdir()
    parts = [other / "0.gguf"]
    shutil.copyfile(content.parts[0], parts[0])  # in another order, which gives them other numbers
    for name in ("grub.efi", "initramfs", "kernel"):
        shutil.copyfile(tmp_path / name, other / name)
    copied = replace(
        content, kernel=other / "kernel", initramfs=other / "initramfs", efi=other / "grub.efi", parts=parts
    )
    iso.build(copied, tmp_path / "two.iso")
    digests = [hashlib.sha256((tmp_path / f"{name}.iso").read_bytes()).hexdigest() for name in ("one", "two")]
    assert digests[0] == digests[1]


def test_another_content_has_another_mark(content: Content, tmp_path: Path) -> None:
    marks = set()
    others = ({"args": "-c 513"}, {"args": "-c 512"}, {"args": "-c 512", "system": ""})
    for number, texts in enumerate(others):
        iso.build(replace(content, texts=texts), tmp_path / f"{number}.iso")
        files = taken_out(tmp_path / f"{number}.iso", tmp_path / str(number))
        marks |= {name for name in files if files[name] == b""}
    assert len(marks) == 3


def test_without_a_model_and_with_a_split_one(content: Content, tmp_path: Path) -> None:
    iso.build(replace(content, parts=(), info={}), tmp_path / "bare.iso")
    assert not [name for name in taken_out(tmp_path / "bare.iso", tmp_path / "bare") if name.startswith("models")]
    iso.build(replace(content, parts=[content.parts[0], content.kernel]), tmp_path / "split.iso")
    files = taken_out(tmp_path / "split.iso", tmp_path / "split")
    assert files["models/model-00001-of-00002.gguf"] == content.parts[0].read_bytes()
    assert files["models/model-00002-of-00002.gguf"] == content.kernel.read_bytes()


def test_texts_stand_behind_the_initramfs() -> None:
    for length in range(5):
        archive = iso.with_texts(b"x" * length, {"system": "ż\n", "args": "-c 1"})
        assert archive.startswith(b"x" * length + bytes(-length % 4) + b"070701")
        assert archive.index(b"zosia/args/raw\0") < archive.index(b"zosia/system/raw\0")
        assert "ż\n".encode() in archive


@pytest.mark.parametrize(("arch", "console"), [("aarch64", "console=ttyAMA0 "), ("x86_64", "console=ttyS0,115200 ")])
def test_what_grub_is_told(arch: str, console: str) -> None:
    config = iso.grub_cfg(arch=arch, mark="abc", verbose=False)
    (linux,) = (line for line in config.splitlines() if "linux " in line)
    assert console in linux
    assert "console=tty0 panic=60 loglevel=3" in linux
    assert "menu" not in config
    assert "timeout" not in config
    verbose = iso.grub_cfg(arch=arch, mark="abc", verbose=True)
    assert verbose == config.replace(" loglevel=3", "")


def test_the_commands() -> None:
    bios = iso.bios_argv(Path("/grub"), Path("/tmp/eltorito.img"))
    assert bios[:9] == [
        *("grub-mkimage", "-O", "i386-pc-eltorito", "-d", Path("/grub"), "-p", "/boot/grub", "-o"),
        Path("/tmp/eltorito.img"),
    ]
    assert {"iso9660", "biosdisk", "search_fs_file", "linux"} <= set(bios[9:])
    files = {"boot/Image": Path("/a=b/Image"), "models/model.gguf": Path("/m\\n.gguf")}
    argv = list(map(str, iso.xorriso_argv(files=files, efi=Path("e.img"), bios=None, target=Path("t.iso"))))
    assert argv[:3] == ["xorriso", "-as", "mkisofs"]
    assert argv[-3:] == ["-graft-points", "/boot/Image=/a\\=b/Image", "/models/model.gguf=/m\\\\n.gguf"]
    assert "-b" not in argv
    both = list(map(str, iso.xorriso_argv(files=files, efi=Path("e.img"), bios=Path("/grub"), target=Path("t.iso"))))
    assert both[both.index("--grub2-mbr") + 1] == "/grub/boot_hybrid.img"
    assert both.index("-b") < both.index("-eltorito-alt-boot") < both.index("-e")


def test_a_file_with_a_line_end_in_its_name(content: Content, tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.gguf"
    odd.write_bytes(b"GGUF")
    with pytest.raises(ZosiaError, match="line break"):
        iso.build(replace(content, parts=[odd]), tmp_path / "out.iso")
    assert not list(tmp_path.glob("*.iso*")) + list(tmp_path.glob(".*.iso*"))


@pytest.mark.parametrize(
    ("arch", "program", "package"),
    [
        ("aarch64", "xorriso", "xorriso"),
        ("aarch64", "mformat", "mtools"),
        ("x86_64", "grub-mkimage", "grub-common"),
    ],
)
def test_a_tool_that_is_missing(
    arch: str, program: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("xorriso", "mformat", "mcopy", "grub-mkimage"):
        if name != program:
            (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "EXTRA_PATH", ())
    with pytest.raises(ZosiaError, match=f"{program} is needed.*apt-get install {package}"):
        iso.check_tools(arch)


def test_bios_needs_a_tool_that_uefi_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("xorriso", "mformat", "mcopy"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    iso.check_tools("aarch64")


def test_no_room(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ZosiaError, match=r"out\.iso needs .* MB in .*, which has 1\.0 MB free"):
        iso.build(content, tmp_path / "out.iso")
    assert not (tmp_path / "out.iso").exists()


def test_a_folder_of_a_debian_package(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "usr" / "lib" / "grub"
    folder.mkdir(parents=True)
    (folder / "a.mod").write_bytes(b"a")
    (folder.parent / "b.mod").write_bytes(b"b")
    subprocess.run(["tar", "-cJf", "data.tar.xz", "./in/usr"], cwd=tmp_path, check=True)
    (tmp_path / "debian-binary").write_bytes(b"2.0\n")
    subprocess.run(["ar", "r", "x.deb", "debian-binary", "data.tar.xz"], cwd=tmp_path, check=True, capture_output=True)
    archives.extract_tree(tmp_path / "x.deb", "in/usr/lib/grub", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mod"]


@pytest.fixture
def call(busybox: Path, root: Path) -> Call:
    """Call a function of the ISO's /init."""

    def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        script = '. "$1/functions"; . "$1/iso"; shift; "$@"'
        argv = [busybox, "sh", "-uc", script, "sh", root / "initramfs", *words]
        variables = {"PATH": "/bin", "fw_cfg": "/nothing", **(environment or {})}
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20, env=variables)

    return run


@pytest.mark.parametrize(
    ("active", "devices"),
    [
        ("tty0 ttyAMA0", "/dev/tty1\n/dev/ttyAMA0\n"),
        ("hvc0 ttyS0 tty0", "/dev/hvc0\n/dev/ttyS0\n/dev/tty1\n"),
        ("", ""),
    ],
)
def test_consoles(call: Call, active: str, devices: str) -> None:
    assert call("consoles", active).stdout == devices


DIGEST = "12" * 32


@pytest.mark.parametrize(
    ("files", "wanted", "found"),
    [
        ({"model.gguf": "", "model.info": f"name=a\nsha256={DIGEST}\n"}, DIGEST, ""),
        ({"model.gguf": "", "model.info": f"sha256={DIGEST}\n"}, "", ""),
        ({"models/model-00001-of-00002.gguf": "", "models/model.info": f"sha256={DIGEST}\n"}, DIGEST, "/models"),
        ({"models/model.gguf": "", "models/model.info": f"sha256={DIGEST}\n"}, "13" * 32, None),
        ({"models/model.gguf": "", "models/model.info": f"sha256={DIGEST}0\n"}, DIGEST, None),
        ({"model.gguf": ""}, "", None),
        ({"model.info": "name=a\n"}, "", None),
        ({}, "", None),
    ],
)
def test_the_folder_of_the_model(
    call: Call, tmp_path: Path, files: Mapping[str, str], wanted: str, found: str | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {"PATH": "/usr/bin:/bin"}  # grep
    done = call("model_folder", tmp_path, wanted, environment=environment)
    assert done.stderr == ""
    assert (done.stdout, done.returncode) == (("", 1) if found is None else (f"{tmp_path}{found}\n", 0))


def test_how_to_give_memory(call: Call) -> None:
    assert call("give_memory", "700").stdout.startswith("Give the machine 700 MiB of memory, or ")
    assert call("give_memory").stdout.startswith("Give the machine more memory, or ")


def test_where_the_host_has_said_nothing(call: Call, tmp_path: Path) -> None:
    said = ("eval", 'echo "$fw_cfg"')
    assert call(*said).stdout == "/zosia\n"
    assert call(*said, environment={"fw_cfg": str(tmp_path)}).stdout == f"{tmp_path}\n"


SHAPE = Shape(
    architecture="llama", block_count=16, embedding_length=2048, context_length=32768, head_count=16, vocab_size=50000
)


@pytest.fixture
def typed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Build]:
    """The settings of `scons iso NAME=value...`, typed in an empty folder on a machine with hardly any memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "memory", lambda: (600, 500))
    monkeypatch.setattr(iso, "check_tools", lambda arch: None)

    def read(**values: str) -> Build:
        return settings.read({**DEFAULTS, **values}, [], root, given=values, launched=tmp_path)

    return read


def test_what_it_is_told(typed: Callable[..., Build]) -> None:
    texts = settings.iso_texts(typed(SYSTEM="Be brief.", CTX="4096", LLAMA_ARGS="--temp '0 1'").run, SHAPE, 4 << 30)
    assert set(texts) == {"args", "need", "system"}
    assert texts["system"] == "Be brief."
    assert " -c 4096 " in texts["args"]
    assert r"--temp 0\00401" in texts["args"]
    need, memory = map(int, texts["need"].split())
    assert 4096 < need < memory, "MiB; and the memory of the machine that makes the ISO does not count"


def test_a_context_that_fits_the_machine_it_is_for(typed: Callable[..., Build]) -> None:
    def context(**values: str) -> int:
        return int(settings.iso_texts(typed(**values).run, SHAPE, 4 << 30)["args"].split(" -c ")[1].split()[0])

    assert 512 <= context(MEM="4720M") < context()
    with pytest.raises(ZosiaError, match="MEM= gives the guest 2048 MiB"):
        context(MEM="2G")


def test_the_name(typed: Callable[..., Build]) -> None:
    assert typed().iso == Path("build/aarch64/zosia-smollm2-135m.iso")
    assert typed(ARCH="x86_64", ISO_MODEL="no").iso == Path("build/x86_64/zosia-smollm2-135m-bare.iso")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"PROMPT": "x"}, "PROMPT= is not for an ISO.*Leave PROMPT= out"),
        ({"BASE": "distro"}, "BASE=distro makes no ISO.*Set BASE=direct"),
        ({"KERNEL": "Image"}, "KERNEL= is a kernel image.*Linux source folder"),
        ({"MODEL": "mmproj.gguf"}, r"mmproj\.gguf is a projector"),
    ],
)
def test_what_it_can_not_have(typed: Callable[..., Build], tmp_path: Path, values: dict[str, str], reason: str) -> None:
    (tmp_path / "Image").write_bytes(b"kernel")
    gguf_file.write(tmp_path / "mmproj.gguf", arch="clip")
    with pytest.raises(ZosiaError, match=reason):
        typed(**values).check_iso()


def test_what_it_can_have(typed: Callable[..., Build]) -> None:
    typed(SYSTEM="x", MEM="4G", ISO_MODEL="no", BASE="direct").check_iso()
    with pytest.raises(ZosiaError, match="ISO_MODEL=maybe is not a value"):
        typed(ISO_MODEL="maybe")


@pytest.mark.parametrize("change", [{"CTX": "1024"}, {"SYSTEM": "x"}, {"VERBOSE": "1"}, {"MEM": "9G"}, {"KV": "q8_0"}])
def test_what_makes_another_iso(typed: Callable[..., Build], change: dict[str, str]) -> None:
    assert typed(**change).iso_content != typed().iso_content
    assert typed(SMP="1", V="1", ACCEL="tcg").iso_content == typed().iso_content
