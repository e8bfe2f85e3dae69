"""Encrypted chats, in age's format."""

from __future__ import annotations

import base64
import errno
import getpass
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from zosia.base.errors import ZosiaError
from zosia.base.patience import patience
from zosia.chat.kept import sealed
from zosia.chat.kept.chats import Chats
from zosia.chat.kept.sealed import Key
from zosia.chat.kept.transcript import Message, Transcript

WHEN = "2026-11-30T06:30:00+01:00"
SENTENCE = "the heron waits beside the weir"
QUESTION = Message(role="user", content=SENTENCE, time=WHEN)
ANSWER = Message(role="assistant", content=f"Yes: {SENTENCE}.", reasoning=SENTENCE, time=WHEN, model="smollm2-135m")
IDENTITY = pyrage.x25519.Identity.from_str("AGE-SECRET-KEY-1JA9ELJA00YZ94P4LG60PMJGHVKTLPYLWMLATY3DP0JPHPMWU3JUSM7AJEQ")
KEY = Key(IDENTITY)
WORDS = "correct horse"
KEY_FILE = base64.b64decode(  # the same, which it takes a second to make
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBhV2hmNjhGWDFDZnJzS3dxNVA2ZURRIDE3CnJkaWtGcktWeWRieW1YN1ho"
    "cnduOU14SHlxdFBYR29LODRZWCt2M0MvUXcKLS0tIHk2RFkzWlVIZVY2bjYwb3QycW5SSGFDMFpEMlE5ZE9xRTRodXA4TXdYNm8K"
    "cwkRELSpWH3Uy9y5NMERXZjsCeHSu0jLxwad+XH96iRZ3ALO7St+lSi0tRDFXR5qItJvdZHqa/lteuInZA1VWuKaw727qNbTCeb5"
    "aVGYHiDLPa2FwQxt1hZKGlu3WYHpoO7LKWYxhFBUp6deYJcO"
)


@pytest.fixture
def chats(tmp_path: Path) -> Chats:
    return Chats(tmp_path / "chats")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases that take no second to try."""

    def create(path: Path, passphrase: str) -> Key:
        path.write_text(passphrase[::-1])
        return KEY

    def unlock(path: Path, passphrase: str, name: str) -> Key:
        assert path.read_text() == passphrase[::-1], name
        return KEY

    monkeypatch.setattr(sealed, "create", create)
    monkeypatch.setattr(sealed, "unlock", unlock)
    monkeypatch.setenv("ZOSIA_PASSPHRASE", WORDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transcript.age"


def filled(path: Path) -> list[list[Message]]:
    """Write a transcript, and return its messages after each of its lines."""
    kept = Transcript(path, KEY)
    both = [QUESTION, ANSWER]
    after: list[list[Message]] = [[], [QUESTION], [QUESTION], both, [QUESTION], both]
    kept.append(QUESTION)
    kept.set("system", SENTENCE)
    kept.append(ANSWER)
    kept.drop()
    kept.append(ANSWER)
    kept.close()
    return after


def changed(data: bytes, at: int) -> bytes:
    """Flip one bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def parts(size: int) -> list[bytes]:
    """Return a state's parts, of odd sizes."""
    data = (SENTENCE.encode() + b"\n") * (size // len(SENTENCE))
    return [data[at : at + 99_991] for at in range(0, len(data), 99_991)]


def sealed_file(path: Path, size: int = 1_000_000) -> bytes:
    """Write an encrypted file, and return what it holds."""
    with path.open("wb") as file, KEY.sealing(file.write) as stream:
        for part in parts(size):
            stream.write(memoryview(part))
    return b"".join(parts(size))


def test_an_encrypted_chat(chats: Chats) -> None:
    """With the real passphrase: the key that opens it is nowhere else."""
    with chats.open("a", passphrase=WORDS, encrypt=True) as chat:
        assert (chat.encrypted, chat.fresh) == (True, True)
        chat.transcript.append(QUESTION)
    with pytest.raises(ZosiaError, match=r"This is not the passphrase of the chat a\. Try it again"):
        chats.open("a", passphrase="wrong")
    with chats.open("A", passphrase=WORDS) as chat:
        assert (chat.encrypted, chat.fresh, chat.transcript.messages) == (True, False, [QUESTION])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (chats.folder / "a").iterdir()}
    assert modes == {"identity.age": 0o600, "lock": 0o600, "transcript.age": 0o600}
    # As `age -d` would read it, and then `age -d -i`.
    text = pyrage.passphrase.decrypt((chats.folder / "a" / "identity.age").read_bytes(), WORDS).decode()
    identity = pyrage.x25519.Identity.from_str(text.splitlines()[-1])
    assert text.startswith("# ") and str(identity.to_public()) in text
    header, *lines = (chats.folder / "a" / "transcript.age").read_bytes().splitlines()
    assert json.loads(header)["encrypted"] == "age"
    records = [json.loads(pyrage.decrypt(base64.b64decode(line), [identity])) for line in lines]
    assert [record["content"] for record in records] == [SENTENCE]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1], "is damaged: decryption error"),
        (lambda data: data[:30], "is damaged: "),
        (lambda data: b"", "is damaged: "),
        (lambda data: b"hello", "is damaged: "),
        (lambda data: data.replace(b"-> scrypt ", b"-> script "), "is damaged: "),
    ],
)
def test_a_damaged_key(chats: Chats, damage: Callable[[bytes], bytes], why: str) -> None:
    key = chats.folder / "a" / "identity.age"
    key.parent.mkdir(parents=True)
    Transcript(key.parent / "transcript.age", KEY).close()
    key.write_bytes(damage(KEY_FILE))
    with pytest.raises(ZosiaError, match=f"{key} {why}") as caught:
        chats.open("a", passphrase=WORDS)
    assert caught.value.hint == "Restore it from a backup" and str(caught.value).isprintable()
    assert key.read_bytes() == damage(KEY_FILE), "nothing is lost"
    key.unlink()
    with pytest.raises(ZosiaError, match=f"The key of the chat a is missing: {key}"):
        chats.open("a", passphrase=WORDS)
    assert not key.exists()


def test_a_file_that_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "identity.age"
    file.touch()
    for text in (b"", b"hello\n", b"\xff\n", b"AGE-SECRET-KEY-1\n"):
        monkeypatch.setattr(pyrage.passphrase, "decrypt", lambda data, words, text=text: text)
        with pytest.raises(ZosiaError, match="holds no key of a chat"):
            sealed.unlock(file, WORDS, "a")


def test_a_transcript_is_read_again(path: Path) -> None:
    after = filled(path)
    kept = Transcript(path, KEY)
    assert (kept.messages, kept.settings) == (after[-1], {"system": SENTENCE})
    kept.close()
    assert SENTENCE.encode() not in path.read_bytes()
    with pytest.raises(ZosiaError, match="is encrypted in another way"):
        Transcript.read(path)
    plain = path.with_name("plain")
    Transcript(plain).close()
    with pytest.raises(ZosiaError, match="is encrypted in another way"):
        Transcript.read(plain, KEY)
    with pytest.raises(ZosiaError, match="is damaged in line 2: it was changed, or is of another chat"):
        Transcript.read(path, Key(pyrage.x25519.Identity.generate()))


@settings(deadline=None)
@given(st.text(st.characters()), st.text(), st.text(min_size=1))
def test_any_text(content: str, before: str, name: str) -> None:
    record = {"record": "message", "content": content, name: before} | {"before": ""}
    del record["before"]
    line = KEY.line(record, "ab")
    assert b"\n" not in line
    assert KEY.record(line, "ab") == record


def test_cut_at_every_byte(path: Path) -> None:
    after = filled(path)
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n"), len(whole), 11):
        path.write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
        assert Transcript.read(path, KEY).messages == after[lines - 1]
        if cut % 7 == 0:
            kept = Transcript(path, KEY)
            kept.append(ANSWER)
            kept.close()
            assert Transcript.read(path, KEY).messages == [*after[lines - 1], ANSWER]


def test_a_flipped_bit(path: Path) -> None:
    filled(path)
    whole = path.read_bytes()
    header = whole.index(b"\n")
    for at in [*range(header + 1, len(whole) - 1, 37), whole.index(b"created") + 12]:
        line = max(2, whole[:at].count(b"\n") + 1)  # a change of the header is seen by the line after it
        if whole[at : at + 1] == b"\n" or changed(whole, at).count(b"\n") != whole.count(b"\n"):
            continue
        path.write_bytes(changed(whole, at))
        with pytest.raises(ZosiaError, match=f"transcript.age is damaged in line {line}: ") as caught:
            Transcript(path, KEY)
        assert str(caught.value).isprintable()
        assert path.read_bytes() == changed(whole, at), "nothing is lost"


@pytest.mark.parametrize("order", [[0, 2, 3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 3, 2, 4, 5], [0, 1, 1, 2, 3, 4, 5]])
def test_a_line_that_was_moved_or_removed(path: Path, order: list[int]) -> None:
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(ZosiaError, match="a line before it was changed, moved or removed"):
        Transcript(path, KEY)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000])
def test_a_state(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.state.age"
    data = os.urandom(size)
    with path.open("wb", buffering=0) as raw:
        stream = KEY.sealing(raw.write)
        assert stream.write(data) == size
        stream.close()
        stream.close()
    assert pyrage.decrypt(path.read_bytes(), [IDENTITY]) == data
    with path.open("rb") as file, KEY.opening(file) as opened:
        assert opened.read(1) == data[:1]
        assert opened.read() == data[1:]
        assert opened.read() == opened.read(5) == b""
        opened.check()
    with path.open("rb") as file, KEY.opening(file) as opened:
        assert b"".join(iter(lambda: os.read(opened.fileno(), 70_000), b"")) == data
        opened.check()


def test_a_reader_that_stops(tmp_path: Path) -> None:
    data = sealed_file(tmp_path / "a", 5_000_000)
    with (tmp_path / "a").open("rb") as file:
        opened = KEY.opening(file)
        assert opened.read(1000) == data[:1000]
        opened.close()
        opened.close()


def test_a_writer_that_takes_a_part_at_a_time() -> None:
    taken = io.BytesIO()
    with KEY.sealing(lambda part: taken.write(part[:1000])) as stream:
        stream.write(b"x" * 100_000)
    assert pyrage.decrypt(taken.getvalue(), [IDENTITY]) == b"x" * 100_000


def test_a_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "a.state.age"
    data = sealed_file(path)
    whole = path.read_bytes()
    for wrong in (
        whole[:-1],
        whole[: len(whole) // 2],
        whole[:100],
        b"",
        b"hello",
        whole + b"x",
        *(changed(whole, at) for at in (30, 100, 190, 300, len(whole) // 2, len(whole) - 1)),
    ):
        path.write_bytes(wrong)
        with path.open("rb") as file, KEY.opening(file) as opened, pytest.raises(ZosiaError) as caught:
            assert data.startswith(opened.read())
        assert f"{path} is damaged" in caught.value.message
        with path.open("rb") as file, KEY.opening(file) as opened, pytest.raises(ZosiaError, match="is damaged"):
            opened.check()
    path.write_bytes(whole)
    other = Key(pyrage.x25519.Identity.generate())
    with path.open("rb") as file, other.opening(file) as opened, pytest.raises(ZosiaError, match="of another chat"):
        opened.read()


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_a_full_disk(size: int) -> None:
    """Not lost, as pyrage by itself does with a small file; at the next part, or at the end."""

    def full(part: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as caught, KEY.sealing(full) as stream:
        for part in parts(size) or [b"x"]:
            stream.write(part)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_given_up_is_no_whole_file() -> None:
    taken = io.BytesIO()
    with pytest.raises(KeyError), KEY.sealing(taken.write) as stream:
        stream.write(b"x" * 1000)
        raise KeyError
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(taken.getvalue(), [IDENTITY])


BIG = """
import os, resource, sys
import pyrage
from zosia.chat.kept.sealed import Key
key = Key(pyrage.x25519.Identity.generate())
part = os.urandom(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "wb") as file, key.sealing(file.write) as stream:
    for _ in range(64):
        stream.write(part)
with open(sys.argv[1], "rb") as file, key.opening(file) as opened:
    while opened.read(1 << 20):
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_state_needs_little_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(tmp_path / "big")],
        cwd=ROOT / "site_scons",
        stdout=subprocess.PIPE,
        check=True,
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 16 << 20
    assert (tmp_path / "big").stat().st_size > 64 << 20


WRITER = """
import sys
from pathlib import Path
import pyrage
from zosia.base.files import replacing
from zosia.chat.kept.chats import Chats
from zosia.chat.kept.sealed import Key
from zosia.chat.kept.transcript import Message, Transcript
folder, identity, sentence = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
key = Key(pyrage.x25519.Identity.from_str(identity))
kept = Transcript(folder / "transcript.age", key)
print("begun", flush=True)
while True:
    kept.append(Message(role="user", content=sentence * 100, reasoning=sentence, time=""))
    kept.set("system", sentence)
    with replacing(folder / "a.state.age") as temporary, temporary.open("wb") as file:
        with key.sealing(file.write) as stream:
            for _ in range(20):
                stream.write(sentence.encode() * 3000)
    print("saved", flush=True)
"""


def test_nothing_in_clear_is_on_the_disk(tmp_path: Path) -> None:
    """Not at any moment at which the program is killed, in files of any name."""
    words = SENTENCE.encode().split()
    for moment in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(IDENTITY), SENTENCE],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            cwd=ROOT / "site_scons",
        ) as writer:
            assert writer.stdout and writer.stdout.readline() == b"begun\n"
            assert moment < 5 or writer.stdout.readline() == b"saved\n"
            time.sleep(0.0043 * moment)
            writer.send_signal(signal.SIGKILL)
            assert writer.wait(30 * patience()) == -signal.SIGKILL
        for written in tmp_path.rglob("*"):
            data = written.read_bytes()
            assert not any(word in data for word in (SENTENCE.encode(), b" heron ", words[-3] + b" the"))
        kept = Transcript.read(tmp_path / "transcript.age", KEY)
        assert all(message.content == SENTENCE * 100 for message in kept.messages)
        if (tmp_path / "a.state.age").exists():
            with (tmp_path / "a.state.age").open("rb") as file, KEY.opening(file) as opened:
                assert opened.read() == SENTENCE.encode() * 60_000
    assert kept.messages and (tmp_path / "a.state.age").exists()


@pytest.mark.usefixtures("quick")
def test_list_and_search_need_no_passphrase(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    with chats.open("a", encrypt=True) as chat:
        chat.transcript.extend([QUESTION, ANSWER])
    monkeypatch.delenv("ZOSIA_PASSPHRASE")
    (found,) = chats.list()
    assert (found.name, found.encrypted, found.turns, found.model, found.problem) == ("a", True, None, "", "")
    assert found.size > 0 and found.used > 0
    assert chats.search("heron") == ()
    chats.rename("a", "b")
    assert chats.delete("b") == found.size


@pytest.mark.usefixtures("quick")
def test_new_chats_are_encrypted_where_one_wants_it(chats: Chats) -> None:
    chats.open("a").close()
    careful = Chats(chats.folder, WORDS, encrypt=True)
    with careful.open("a") as old, careful.open("b") as new, chats.open("c") as other:
        assert (old.encrypted, new.encrypted, other.encrypted) == (False, True, False)
        assert careful.doubt(old).startswith("the chat a was there before, and is not encrypted. To encrypt it: export")
        assert (careful.doubt(new), chats.doubt(other)) == ("", "")


def test_what_the_environment_says_of_new_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv(sealed.ENCRYPT, text)
        assert sealed.wanted() is wanted
    monkeypatch.delenv(sealed.ENCRYPT)
    assert not sealed.wanted()
    monkeypatch.setenv(sealed.ENCRYPT, "yes")
    with pytest.raises(ZosiaError, match=r"^ZOSIA_ENCRYPT=yes is neither 0 nor 1. Set it to 1"):
        sealed.wanted()


@pytest.mark.usefixtures("quick")
def test_a_plain_chat_does_not_become_encrypted(chats: Chats) -> None:
    chats.open("a").close()
    with pytest.raises(ZosiaError, match=r"The chat a is there, and it is not encrypted\. Export it, delete"):
        chats.open("a", encrypt=True)
    chats.open("b", encrypt=True).close()
    with chats.open("b") as chat:
        assert chat.encrypted
    (chats.folder / "b" / "transcript.age").unlink()  # killed between the two
    with chats.open("b") as chat:
        assert chat.encrypted and chat.transcript.messages == []


@pytest.mark.usefixtures("quick")
def test_no_passphrase_no_chat(chats: Chats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOSIA_PASSPHRASE")

    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(getpass, "getpass", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chats.open("a", encrypt=True)
    assert list(chats.folder.iterdir()) == []


def test_the_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers: list[str] = []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return answers.pop(0)

    monkeypatch.setattr(getpass, "getpass", typed)
    monkeypatch.setenv("ZOSIA_PASSPHRASE", "from outside")
    assert sealed.passphrase("a", new=True) == "from outside"
    assert asked == []
    monkeypatch.setenv("ZOSIA_PASSPHRASE", "")
    answers[:] = ["one", "two", "two", "two", "three"]
    assert sealed.passphrase("a", new=False) == "one"
    assert sealed.passphrase("a", new=True) == "two"
    assert asked == ["Passphrase of the chat a: ", "Passphrase of the chat a: ", "Once more: "]
    with pytest.raises(ZosiaError, match=r"The two passphrases differ\. Try it again"):
        sealed.passphrase("a", new=True)
    for wrong in ("", "\udc80"):
        answers[:] = [wrong, wrong]
        with pytest.raises(ZosiaError, match="A passphrase is needed"):
            sealed.passphrase("a", new=False)


def test_no_terminal_to_ask_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOSIA_PASSPHRASE", raising=False)

    def none(prompt: str) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        raise AssertionError("it would be shown")

    def closed(prompt: str) -> str:
        raise EOFError

    for broken in (none, closed):
        monkeypatch.setattr(getpass, "getpass", broken)
        with pytest.raises(ZosiaError, match=r"no terminal to ask for its passphrase\. Set ZOSIA_PASSPHRASE"):
            sealed.passphrase("a", new=False)


def test_a_key_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyrage.passphrase, "encrypt", lambda data, words: b"x" * 5000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ZosiaError, match="File too large"):
            sealed.create(tmp_path / "identity.age", WORDS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
