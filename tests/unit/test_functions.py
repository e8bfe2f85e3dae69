"""Functions of /init, in the guest's own shell: initramfs/functions in busybox."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from zosia_build import llama

Call = Callable[..., "subprocess.CompletedProcess[bytes]"]
LEVELS = b"best asimddp i8mm\nmiddle asimddp\nleast asimd\n"
MEMINFO = (
    "MemTotal:         474636 kB\nMemFree:          101376 kB\nMemAvailable:     303104 kB\nHugePages_Total:       0\n"
)
VMSTAT = "nr_free_pages 25344\noom_kill_all 7\noom_kill 2\n"


@pytest.fixture
def call(busybox: Path, root: Path) -> Call:
    """Call a function with its arguments and standard input."""

    def run(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = [busybox, "sh", "-uc", '. "$1"; shift; "$@"', "sh", root / "initramfs" / "functions", *words]
        environment = {"PATH": "/bin", "LANG": "C.UTF-8"}
        return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=20, env=environment)

    return run


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.stderr == b""
    return done.stdout.decode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("features", "level"),
    [
        ("asimd asimddp i8mm", "best"),
        ("i8mm fp asimddp asimd", "best"),
        ("Features\t: fp asimd asimddp", "middle"),
        ("asimd i8mm", "least"),
        ("asimd asimddpx xasimddp asimd-dp", "least"),
        ("  asimddp   asimd  ", "middle"),
    ],
)
def test_the_first_level_that_the_processor_has(call: Call, features: str, level: str) -> None:
    done = call("best_level", features, stdin=LEVELS)
    assert (done.returncode, said(done)) == (0, f"{level}\n")


@pytest.mark.parametrize(
    ("features", "levels", "missing"),
    [
        ("fp", LEVELS, "asimd"),
        ("", LEVELS, "asimd"),
        ("fp", b"best a b c\nleast  fp   b\tc \n", "b c"),
        ("fp", b"", ""),
    ],
)
def test_what_the_last_level_lacks(call: Call, features: str, levels: bytes, missing: str) -> None:
    done = call("best_level", features, stdin=levels)
    assert (done.returncode, said(done)) == (1, f"{missing}\n")


def test_a_level_that_needs_nothing(call: Call) -> None:
    assert said(call("best_level", "", stdin=b"best a\nany\n")) == "any\n"


@pytest.mark.parametrize("levels", llama.LEVELS.values(), ids=list(llama.LEVELS))
def test_the_real_levels(call: Call, levels: tuple[llama.Level, ...]) -> None:
    table = "".join(f"{level.name} {' '.join(level.features)}\n" for level in levels).encode()
    for level in levels:
        assert said(call("best_level", f"Features\t: fp {' '.join(level.features)}", stdin=table)) == f"{level.name}\n"


PARTS = ("model-00001-of-00003.gguf", "model-00002-of-00003.gguf", "model.info")


@pytest.mark.parametrize(
    ("files", "first"),
    [(("model.gguf", "model.info"), "model.gguf"), (PARTS, PARTS[0]), (PARTS[1:], ""), (("other.gguf",), ""), ((), "")],
)
def test_first_part(call: Call, tmp_path: Path, files: tuple[str, ...], first: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    done = call("first_part", tmp_path)
    assert (said(done), done.returncode) == (f"{tmp_path}/{first}\n" if first else "", 0 if first else 1)


def test_modules_are_loaded_in_the_order_of_the_list(call: Call, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("virtio\nvirtio_pci\next4\n")
    insmod = 'insmod() { echo "load $1"; [ "${1##*/}" != virtio.ko ]; }; load_modules "$@"'
    done = call("eval", f"set -- '{tmp_path}/list' /lib; {insmod}")
    assert (done.returncode, said(done)) == (0, "load /lib/virtio.ko\nload /lib/virtio_pci.ko\nload /lib/ext4.ko\n")


@pytest.mark.parametrize(
    ("files", "named"),
    [((), False), (("a/name",), True), (("a/name", "b/name"), True), (("a/name", "b/other"), False)],
)
def test_whether_ports_are_named(call: Call, tmp_path: Path, files: tuple[str, ...], named: bool) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    done = call("ports_named", tmp_path)
    assert (done.returncode == 0, said(done)) == (named, "")


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:C384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20 1 0 100 0 0 10 0
   1: 0100007F:C385 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 21 1 0 20 4 30 10 -1
"""


@pytest.mark.parametrize(("port", "listens"), [("50052", True), ("50053", False), ("32768", False), ("5005", False)])
def test_listening(call: Call, tmp_path: Path, port: str, listens: bool) -> None:
    (tmp_path / "tcp").write_text(TCP)
    assert (call("listening", port, tmp_path / "tcp").returncode == 0) == listens


@pytest.mark.parametrize(("name", "mib"), [("MemTotal", "463\n"), ("MemAvailable", "296\n"), ("Mem", ""), ("", "")])
def test_meminfo(call: Call, tmp_path: Path, name: str, mib: str) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert said(call("meminfo", name, tmp_path / "meminfo")) == mib


@pytest.mark.parametrize(("name", "count"), [("oom_kill", "2\n"), ("nr_free_pages", "25344\n"), ("oom", "")])
def test_vmstat(call: Call, tmp_path: Path, name: str, count: str) -> None:
    (tmp_path / "vmstat").write_text(VMSTAT)
    assert said(call("vmstat", name, tmp_path / "vmstat")) == count


def test_what_the_kernel_says_by_default(call: Call) -> None:
    total, available = (int(said(call("meminfo", name))) for name in ("MemTotal", "MemAvailable"))
    assert 0 < available <= total
    assert said(call("vmstat", "oom_kill")).strip().isdecimal()


INVALID_MAGIC = "invalid magic characters: 'FGUF', expected 'GGUF'"
LOGS = {
    f"0.00.126.460 E gguf_init_from_reader: {INVALID_MAGIC}": INVALID_MAGIC,
    "0.00.190.364 E read: string length 17214436811902163250 exceeds maximum 1073741824": (
        "string length 17214436811902163250 exceeds maximum 1073741824"
    ),
    "0.00.498.016 E llama_model_load: error loading model: check_tensor_dims: tensor 'output_norm.weight' not found": (
        "check_tensor_dims: tensor 'output_norm.weight' not found"
    ),
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 900.00 MB)": (
        "insufficient memory (attempted to allocate 900.00 MB)"
    ),
    "error: invalid argument: --no-such-option": "error: invalid argument: --no-such-option",
    "0.02.449.612 Error: request (10018 tokens) exceeds": "request (10018 tokens) exceeds",
    "terminate called without an active exception": "terminate called without an active exception",
    r"0.00.126.460 E read: C:\new \0041 * $HOME `id`": r"C:\new \0041 * $HOME `id`",
    "0.00.126.460 E read: two  blanks": "two  blanks",
    "0.00.126.460 E read: zażółć \udcff\udcfe": "zażółć \udcff\udcfe",
    "\udcff\udcfe": "\udcff\udcfe",
}


@pytest.mark.parametrize(("log", "reason"), LOGS.items())
def test_the_reason_in_a_log(call: Call, log: str, reason: str) -> None:
    for before, after in (("", "\n"), ("", "\n0.00.2 E other: later\n"), ("\n  \n\n", "\n")):
        stdin = f"{before}{log}{after}".encode(errors="surrogateescape")
        assert said(call("reason", stdin=stdin)) == f"{reason}\n"


def test_the_reason_why_a_chat_template_is_refused_is_one_line(call: Call) -> None:
    unknown = "error: the supplied chat template is not supported: {{ raise_exception('no"
    without = "\nnote: llama.cpp was started without --jinja"
    assert said(call("reason", stdin=f"{unknown}\n  more') }}}}{without}\n\n".encode())) == (
        f"{unknown} more') }}}} note: llama.cpp was started without --jinja\n"
    )
    failed = b"""Error: Unable to generate parser for this template. Automatic parser generation failed:\x20
------------
While executing CallExpression at line 1, column 71 in source:
....content == 'hello' %}{{ raise_exception
                        ^
Error: Jinja Exception: no
hello
"""
    reason = (
        "Unable to generate parser for this template. Automatic parser generation failed: While executing "
        "CallExpression at line 1, column 71 in source: ....content == 'hello' %}{{ raise_exception Error: Jinja "
        "Exception: no hello"
    )
    assert said(call("reason", stdin=failed)) == f"Error: {reason}\n"
    logged = failed.replace(b"Error: ", b"0.02.449.612 E common_chat_verify_template: failed to apply template: ", 1)
    for after in ("error: the supplied chat template is not supported: {{", "0.02.449.613 E other: later\nmore"):
        assert said(call("reason", stdin=logged + after.encode())) == f"failed to apply template: {reason}\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "--chat-template X\n   list of built-in templates:\n   a, b-2,\n   c\n   (env: A)\n--other X\n   d\n",
            "a, b-2, c",
        ),
        ("list of built-in templates:\na\n(env: A)\nlist of built-in templates:\na\n(env: B)\n", "a"),
        ("a\n", ""),
        ("", ""),
    ],
)
def test_the_names_of_templates_in_the_help(call: Call, text: str, names: str) -> None:
    assert said(call("template_names", stdin=text.encode())) == f"{names}\n"


def test_the_reason_in_a_log_that_was_cut_off(call: Call) -> None:
    assert said(call("reason", stdin=b"terminate called")) == "terminate called\n"


@pytest.mark.parametrize("log", [b"", b"\n", b" \n\n"])
def test_no_reason_in_an_empty_log(call: Call, log: bytes) -> None:
    assert said(call("reason", stdin=log)) == ""


@pytest.mark.parametrize("status", [0, 3, 137])
def test_with_words_ends_as_the_command_does(call: Call, tmp_path: Path, status: int) -> None:
    (tmp_path / "words").write_text(r"a\0040b")
    done = call("with_words", tmp_path / "words", "sh", "-c", f'echo "$@"; exit {status}', "-", "own")
    assert (done.returncode, said(done)) == (status, "own a b\n")


def test_with_words_of_an_empty_file(call: Call) -> None:
    assert said(call("with_words", "/dev/null", "echo", "own", "words")) == "own words\n"


def test_with_words_leaves_patterns_on(call: Call, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("*")
    argv = ["with_words", tmp_path / "words", "eval", f'echo "$@"; echo {tmp_path}/w*s; set --']
    assert said(call(*argv)).endswith(f"{tmp_path}/words\n")


def test_diagnose(call: Call) -> None:
    text = said(call("diagnose"))
    assert text.startswith(Path("/proc/version").read_text())
    for fact in ("command line", "processors", "memory", "network interfaces", "network addresses", "drivers"):
        assert f"\n{fact}: " in text


# Of a computer with two addresses, in the kernel's form: each is in the trees "Main" and "Local".
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.0.2.7
        /32 host LOCAL
"""


def test_addresses(call: Call, tmp_path: Path) -> None:
    (tmp_path / "trie").write_text(TRIE)
    assert said(call("addresses", tmp_path / "trie")) == " 192.0.2.7 127.0.0.1"
    (tmp_path / "six").write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    both = said(call("addresses", tmp_path / "trie", tmp_path / "six"))
    assert both == " 192.0.2.7 127.0.0.1 00000000000000000000000000000001"
