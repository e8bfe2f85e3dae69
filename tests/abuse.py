"""Abuse, for as long as one wants: `python -m tests.abuse [SEED] [MINUTES]`.

Runs are killed at random moments, model files are mutated, disks fill up. Each attempt has to end in an answer or in
one line of error, and leave nothing behind that disturbs the next. It needs a built tree; full disks need Linux' user
namespaces. The same seed makes the same attempts, though not at the same moments of the programs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests import parrot

ROOT = Path(__file__).parents[1]
SCONS = str(Path(sys.executable).with_name("scons"))
LONGEST = 300  # seconds of an attempt
ROOM = (2 << 20, 14 << 20)  # bytes that a disk has beside the tree: from too few for anything to enough for all
# In a mount namespace of its own: a tree on a small disk, twice; the second time with more room.
FILL = """
mount -t tmpfs -o size={size} tmpfs "$1" && cp -r "$2" "$1/tree" && cd "$1/tree" || exit 99
shift 2
output=$("$@" 2>&1); echo "$?"; echo "$output"; echo ====
mount -o remount,size=1G "$PWD/.."; output=$("$@" 2>&1); echo "$?"; echo "$output"
"""


class NotHeld(AssertionError):
    """An attempt that did not end as it should."""


def check(condition: object, *what: object) -> None:
    """Raise NotHeld unless the condition holds."""
    if not condition:
        raise NotHeld("\n    ".join(map(str, what)))


def check_words(status: int, output: str) -> None:
    """Check that a failure has one line of error, and nothing of Python's."""
    errors = [line for line in output.splitlines() if "zosia: error: " in line]
    check("Traceback" not in output and "scons: internal" not in output, output)
    check(len(errors) == (status not in (0, 130, 143, -2, -15, -9)), f"status {status}", output)


def scons(*words: str, folder: Path = ROOT, **environment: str) -> tuple[int, str]:
    """Run scons to its end; return its status and all that it printed."""
    done = subprocess.run(
        [SCONS, *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LONGEST,
        check=False,
    )
    return done.returncode, done.stdout


def machines() -> set[int]:
    """Process ids of all guests started in this folder."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "/qemu-system-" in process.exe() and process.cwd() == str(ROOT):
                found.add(process.pid)
    return found


def aborts(random_: random.Random, folder: Path) -> None:
    """End a run at any moment; the next one answers, and nothing is left of the first."""
    model, before = parrot.write(folder / "parrot.gguf"), machines()
    words = [f"MODEL={model}", "SMP=1", "LLAMA_ARGS=--temp 0", f"HOT={random_.randint(0, 1)}", "PROMPT=What is 2+2?"]
    number = random_.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    moment = random_.uniform(0, 6)
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [SCONS, "run", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        time.sleep(moment)
        child.send_signal(number)
        output, _ = child.communicate(timeout=60)
    said = f"{number.name} after {moment:.2f} s, {words[3]}: status {child.returncode}"
    check("Traceback" not in output, said, output)
    check(child.returncode in (0, 2, 128 + number, -number), said, output)
    for process in machines() - before:
        try:
            psutil.Process(process).wait(10)
        except psutil.TimeoutExpired:
            check(False, said, "a guest is left")
    status, output = scons("run", *words, TMPDIR=str(temporary))
    check((status, output.splitlines()[-1:]) == (0, [parrot.ANSWER]), said, f"then {status}", output)
    check(not list(temporary.iterdir()), said, "left", *temporary.iterdir())


def mutations(random_: random.Random, folder: Path) -> None:
    """Change some bytes of a model, or cut it: it is refused in one line, or answers whatever it likes."""
    model = parrot.write(folder / "m.gguf")
    data = bytearray(model.read_bytes())
    header = 30_000  # bytes, the most interesting ones
    for _ in range(random_.choice([1, 2, 10])):
        data[random_.randrange(random_.choice([100, header, len(data)]))] = random_.choice([0, 1, 127, 255])
    if random_.random() < 0.2:
        del data[random_.randrange(len(data)) :]
    model.write_bytes(data)
    args = "LLAMA_ARGS=--temp 0 -n 8"
    status, output = scons("run", f"MODEL={model}", "SMP=1", "HOT=0", args, "PROMPT=What is 2+2?")
    check_words(status, output)


def full_disks(random_: random.Random, folder: Path) -> None:
    """Build on a disk that fills up: one line says so, and with room the build carries on."""
    model, tree, mount = parrot.write(folder / "parrot.gguf"), folder / "tree", folder / "disk"
    mount.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    used = sum(path.stat().st_size + 4096 for path in tree.rglob("*") if path.is_file())
    size = used + random_.randrange(*ROOM)
    words = [SCONS, "model.img", "build/aarch64/busybox", f"MODEL={model}"]
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FILL.format(size=size), "sh"]
    done = subprocess.run([*argv, mount, tree, *words], capture_output=True, text=True, timeout=LONGEST, check=False)
    check(done.returncode == 0, "the disk could not be made", done.stderr)
    first, _, second = done.stdout.partition("====\n")
    status, _, output = first.partition("\n")
    check_words(int(status), output)
    full = "The disk is full" in output or " free" in output
    check(full or int(status) == 0, f"{size - used} bytes of room", output)
    status, _, output = second.partition("\n")
    check(int(status) == 0, "with room", output)


KINDS: tuple[Callable[[random.Random, Path], None], ...] = (aborts, mutations, full_disks)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for an attempt; what it made in build/models is removed as well."""
    models = ROOT / "build" / "models"
    before = set(models.iterdir())
    with tempfile.TemporaryDirectory(prefix="abuse.") as name:
        yield Path(name)
    for path in set(models.iterdir()) - before:
        path.unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """Try each kind by turns until the time is over; return 1 if an attempt did not hold."""
    seed, minutes = int(argv[0]) if argv else 0, float(argv[1]) if argv[1:] else 10
    tried, held = Counter[str](), Counter[str]()
    random_, end = random.Random(seed), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for kind in KINDS:
            own, tried[kind.__name__] = random_.getrandbits(32), tried[kind.__name__] + 1
            try:
                with scratch() as folder:
                    kind(random.Random(own), folder)
                held[kind.__name__] += 1
            except (NotHeld, subprocess.TimeoutExpired) as error:
                print(f"{kind.__name__}, attempt {tried[kind.__name__]} of seed {seed}: {error}", flush=True)
    for name, count in tried.items():
        print(f"{name}: {held[name]} of {count} held")
    return int(held != tried)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
