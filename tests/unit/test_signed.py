"""Catalogues from elsewhere, with real keys of ssh-keygen, and what is refused of them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from tests.web import Answer, Web, serving
from zosia.base.errors import ZosiaError
from zosia.command import spelling
from zosia.inputs.signed import elsewhere, signatures, trust
from zosia.settings import reading
from zosia.settings.variables import DEFAULTS

ENTRY = """
[{name}]
title = "Ours"
origin = "hub"
project = "team/ours"
version = "main"
file = "ours.gguf"
size = 10
sha256 = "{digest}"
licence = "MIT"
context = 2048
"""
DIGEST = "0" * 64


def text(*, serial: object = 3, name: str = '"team"', more: str = "", digest: str = DIGEST) -> str:
    return f"catalogue = {name}\nserial = {serial}\n" + ENTRY.format(name="ours", digest=digest) + more


class Team:
    """A team that signs catalogues: a folder with its key, and one with what it publishes."""

    def __init__(self, folder: Path) -> None:
        self.key, self.file = folder / "key", folder / "public" / "models.toml"
        self.file.parent.mkdir(parents=True)
        argv: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "team@example.org",
            "-f",
            self.key,
        ]
        subprocess.run(argv, check=True)

    @property
    def public(self) -> Path:
        return self.key.with_suffix(".pub")

    @property
    def signature(self) -> Path:
        return self.file.with_name("models.toml.sig")

    def publish(self, content: str, *, namespace: str = trust.NAMESPACE) -> Path:
        self.file.write_text(content, encoding="utf-8")
        self.signature.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", self.key, self.file], check=True)
        return self.file


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of somebody who has trusted nobody yet."""
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / "config" / name)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda name: tmp_path / "data" / name)
    monkeypatch.setattr(trust, "OWN", tmp_path / "allowed_signers")
    return tmp_path


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path / "team")


@pytest.fixture
def trusted(team: Team) -> Team:
    trust.trust(team.public)
    return team


def read(team: Team, **options: Any) -> elsewhere.Elsewhere:
    return elsewhere.read(str(team.file), Path("/"), **options)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ZosiaError) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_signed_catalogue(trusted: Team) -> None:
    trusted.publish(text())
    found = read(trusted)
    assert list(found.models) == ["ours"]
    shown = subprocess.run(["ssh-keygen", "-lf", trusted.public], capture_output=True, text=True, check=True).stdout
    assert found.title == f"team 3, signed by {shown.split()[1]}"


def test_the_command_of_the_manual_verifies_it_as_well(trusted: Team, own: Path) -> None:
    trusted.publish(text())
    signers = own / "config" / "zosia" / "allowed_signers"
    words: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        signers,
        "-I",
        "signer",
        "-n",
        trust.NAMESPACE,
        "-s",
        trusted.signature,
    ]
    with trusted.file.open("rb") as file:
        assert b"Good " in subprocess.run(words, stdin=file, capture_output=True, check=True).stdout


def test_nobody_is_trusted_at_first(team: Team, root: Path) -> None:
    team.publish(text())
    said = refused(lambda: read(team))
    key = signatures.read(team.signature.read_bytes()).key
    assert said == (
        f"{team.file} is signed by {key}, and no key is trusted yet. If that is the key of who publishes it, type: "
        "scons trust FILE=KEY.pub"
    )
    assert spelling.command(said).endswith("type: zosia trust KEY.pub")
    published = (root / "allowed_signers").read_text(encoding="utf-8")
    assert "No key is trusted yet" in published
    assert not re.search(r"^[^#\n]", published, re.M), "then its text has to change"


def test_a_wrong_key(trusted: Team, tmp_path: Path) -> None:
    other = Team(tmp_path / "other")
    other.publish(text())
    assert " a key that you don't trust. " in refused(lambda: read(other))


@pytest.mark.parametrize("change", [("context = 2048", "context = 1024"), ("serial = 3", "serial = 4"), ("10", "10 ")])
def test_a_tampered_byte(trusted: Team, change: tuple[str, str]) -> None:
    trusted.publish(text())
    trusted.file.write_text(text().replace(*change), encoding="utf-8")
    said = refused(lambda: read(trusted))
    assert re.fullmatch(r"\S+ is not what SHA256:\S+ has signed: it was changed, or is damaged\. Nothing .*", said)


def test_each_bit_of_a_signature_counts(trusted: Team) -> None:
    trusted.publish(text())
    good = trusted.signature.read_text(encoding="utf-8")
    lines = good.splitlines()
    for at in (1, 2, 3, len(lines) - 2):
        line = lines[at]
        swapped = "A" if line[20] != "A" else "B"
        trusted.signature.write_text("\n".join([*lines[:at], line[:20] + swapped + line[21:], *lines[at + 1 :]]) + "\n")
        refused(lambda: read(trusted))
    trusted.signature.write_text(good, encoding="utf-8")
    read(trusted)


@pytest.mark.parametrize("damage", ["", "hello", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"])
def test_no_signature(trusted: Team, damage: str) -> None:
    trusted.publish(text())
    trusted.signature.write_text(damage, encoding="utf-8")
    assert ".sig is no signature of OpenSSH. It is made by: ssh-keygen -Y sign -n" in refused(lambda: read(trusted))
    trusted.signature.unlink()
    assert "is not signed: there is no models.toml.sig beside it. It is signed by: " in refused(lambda: read(trusted))


def test_what_was_signed_for_something_else(trusted: Team) -> None:
    trusted.publish(text(), namespace="file")
    assert "is signed for 'file' and not for zosia-catalogue" in refused(lambda: read(trusted))


def test_a_claim_of_a_namespace_is_no_signature(trusted: Team) -> None:
    """Whoever changes the namespace in a signature breaks it."""
    trusted.publish(text(), namespace="zosia-catalogux")
    import base64

    blob = base64.b64decode("".join(trusted.signature.read_text().splitlines()[1:-1]))
    forged = base64.b64encode(blob.replace(b"zosia-catalogux", b"zosia-catalogue")).decode()
    trusted.signature.write_text(f"-----BEGIN SSH SIGNATURE-----\n{forged}\n-----END SSH SIGNATURE-----\n")
    assert "is not what SHA256:" in refused(lambda: read(trusted))


def test_an_older_edition(trusted: Team) -> None:
    for serial in (3, 5, 5):
        trusted.publish(text(serial=serial))
        read(trusted)
    trusted.publish(text(serial=4))
    assert " is an old edition of team: its serial is 4, and 5 was seen before. " in refused(lambda: read(trusted))
    trusted.publish(text(serial=5, more="# other\n"))
    assert " has the serial 5 of team, and other contents than " in refused(lambda: read(trusted))
    trusted.publish(text(serial=1, name='"else"'))
    assert read(trusted).title.startswith("else 1"), "another catalogue has a count of its own"
    trusted.publish(text(serial=6))
    read(trusted)


def test_a_refused_edition_is_not_remembered(trusted: Team) -> None:
    trusted.publish(text(serial=9, more=ENTRY.format(name="theirs", digest="")))
    assert "entry [theirs]: size or sha256 is missing" in refused(lambda: read(trusted))
    trusted.publish(text(serial=3))
    read(trusted)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text() + "command = 'rm'\n", r'entry \[ours\]: .*"command"'),
        (text() + "[ours.shape]\narchitecture='x'\nblock_count=1\nembedding_length=1\nodd=1\n", r'\[ours\]: .*"odd"'),
        ("odd = 1\n" + text(), r"entry \[odd\]: it is no table"),
        (text(name="7"), "doesn't say which catalogue"),
        (text(name='"a b"'), "doesn't say which catalogue"),
        (text(serial='"3"'), "doesn't say which edition"),
        (text(serial="true"), "doesn't say which edition"),
        (text(serial=0), "doesn't say which edition"),
        (ENTRY.format(name="ours", digest=DIGEST), "doesn't say which catalogue"),
        ('catalogue = "team"\nserial = 1\n', "has no models"),
        ("[", "can't be read: "),
    ],
)
def test_signed_by_a_trusted_key_and_still_no_catalogue(trusted: Team, content: str, said: str) -> None:
    trusted.publish(content)
    message = refused(lambda: read(trusted))
    assert re.search(said, message)
    assert "Nothing of it is used" in message


def test_what_a_dry_run_starts(trusted: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted.publish(text())
    hint = f"CATALOGUE={trusted.file} was not verified yet. Type: scons models CATALOGUE={trusted.file}"
    assert refused(lambda: read(trusted, dry_run=True)) == hint
    whole = read(trusted)
    monkeypatch.setattr(signatures, "run", lambda *words, **options: pytest.fail("a program"))
    assert read(trusted, dry_run=True) == whole
    trust.place().write_text("", encoding="utf-8")
    assert refused(lambda: read(trusted, dry_run=True)) == hint, "whose key is trusted no more"


def test_a_damaged_memory_is_no_empty_one(trusted: Team, own: Path) -> None:
    trusted.publish(text())
    read(trusted)
    seen = own / "data" / "zosia" / "catalogues" / "seen.json"
    seen.write_text("{", encoding="utf-8")
    said = refused(lambda: read(trusted))
    assert said == f"{seen} is damaged. To forget which editions were seen, type: rm {seen}"
    seen.unlink()
    read(trusted)


@pytest.mark.parametrize("address", ["http://[x/models.toml", "~nobody-of-this-name/models.toml", "x" * 5000])
def test_what_is_no_address(address: str) -> None:
    said = refused(lambda: elsewhere.read(address, Path("/")))
    assert said.startswith(f"CATALOGUE={address} can't be read: ")
    assert said.endswith(". Give the path or the https address of a catalogue")


def test_a_long_address_is_no_path() -> None:
    with pytest.raises(ZosiaError, match="was not verified yet"):
        elsewhere.read(f"https://host.example/{'x' * 5000}", Path("/"), dry_run=True)


def test_no_ssh_keygen(trusted: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted.publish(text())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("zosia.base.process.EXTRA_PATH", ())
    assert "ssh-keygen is needed and was not found on PATH" in refused(lambda: read(trusted))


# ---- Keys


def test_a_key_is_trusted_once(team: Team, own: Path) -> None:
    said = trust.trust(team.public)
    place = own / "config" / "zosia" / "allowed_signers"
    (key,) = trust.keys()
    assert (
        said
        == f"  TRUST {key} (team@example.org) may sign catalogues from now on. To end that, remove its line in {place}"
    )
    assert trust.trust(team.public).endswith("is trusted already")
    other = Team(own / "other")
    trust.trust(other.public)
    assert len(trust.keys()) == 2
    place.write_text(place.read_text(encoding="utf-8").split("\n", 1)[1], encoding="utf-8")
    assert len(trust.keys()) == 1


def test_keys_in_a_file_that_an_editor_wrote(trusted: Team, own: Path) -> None:
    """With Windows' ends of lines and encoding, a comment, and no end of the last line."""
    place = own / "config" / "zosia" / "allowed_signers"
    place.write_bytes(b"# M\xfcller's\r\n" + place.read_bytes().rstrip() + b" M\xfcller")
    assert len(trust.keys()) == 1
    other = Team(own / "other")
    assert trust.trust(other.public).endswith(f"remove its line in {place}")
    assert len(trust.keys()) == 2, "the second one is in a line of its own"
    assert b" M\xfcller\n" in place.read_bytes()
    trusted.publish(text())
    read(trusted)


def test_a_key_of_zosia_itself(team: Team, own: Path) -> None:
    key = team.public.read_text(encoding="utf-8").strip()
    for spaces, works in (("zosia-release,zosia-catalogue", True), ("zosia-release", False)):
        (own / "allowed_signers").write_text(f'# ours\n\nzosia namespaces="{spaces}" {key}\n', encoding="utf-8")
        team.publish(text())
        if works:
            read(team)
        else:
            assert "no key is trusted yet" in refused(lambda: read(team))


@pytest.mark.parametrize(
    "line", ["signer ssh-ed25519 AAAA", 'a valid-before="20200101" {key}', "{key}", "a cert-authority {key}"]
)
def test_lines_that_say_more_than_zosia_knows(team: Team, own: Path, line: str) -> None:
    key = " ".join(team.public.read_text(encoding="utf-8").split()[:2])
    place = own / "config" / "zosia" / "allowed_signers"
    place.parent.mkdir(parents=True)
    place.write_text(line.format(key=key) + "\n", encoding="utf-8")
    assert refused(trust.keys) == f"{place}, line 1: no key, or one with options. Remove that line"


def test_what_is_no_key(team: Team, tmp_path: Path) -> None:
    said = refused(lambda: trust.trust(team.key))
    assert said == (
        f"{team.key} is a private key, which nobody but its owner may have. Give its public half: scons trust "
        f"FILE={shlex.quote(str(team.key))}.pub"
    )
    two = tmp_path / "two.pub"
    two.write_text(2 * team.public.read_text(encoding="utf-8"), encoding="utf-8")
    other = tmp_path / "other.pub"
    other.write_text(team.public.read_text(encoding="utf-8").replace("ssh-ed25519", "ssh-rsa"), encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff")
    for path in (two, other, tmp_path / "binary"):
        assert "is no public key of OpenSSH" in refused(lambda path=path: trust.trust(path))  # type: ignore[misc]
    assert not trust.place().exists()


# ---- From the web


@pytest.fixture
def published(trusted: Team) -> Any:
    with serving() as web:

        def publish(**options: Any) -> Web:
            trusted.publish(text(**options))
            web.files |= {f"/{path.name}": path.read_bytes() for path in (trusted.file, trusted.signature)}
            return web

        publish()
        yield publish


def fetched(web: Web, **options: Any) -> elsewhere.Elsewhere:
    return elsewhere.read(f"{web.url}/models.toml", Path("/"), **options)


def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be two hours later."""
    monkeypatch.setattr(elsewhere, "FRESH", -1.0)


def test_from_the_web(published: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    web = published()
    first = fetched(web)
    assert fetched(web) == first
    assert fetched(web, dry_run=True) == first
    assert len(web.requests) == 2, "its copy is good for an hour"
    old(monkeypatch)
    published(serial=4)
    assert fetched(web).title.startswith("team 4, ")
    assert len(web.requests) == 4
    published(serial=3)
    assert "is an old edition of team" in refused(lambda: fetched(web))
    web.answers = [Answer(status=500)]
    assert fetched(web).title.startswith("team 4, ")
    assert re.fullmatch(r"  NOTE  \S+ can't be reached \(.*\); its copy is used\n", capsys.readouterr().err)


def test_a_server_without_a_signature(published: Any) -> None:
    web = published()
    del web.files["/models.toml.sig"]
    assert "is not signed: the server has no .sig of it" in refused(lambda: fetched(web))
    del web.files["/models.toml"]
    assert "could not be fetched: HTTP status 404" in refused(lambda: fetched(web))


def test_a_server_that_lies(published: Any) -> None:
    web = published()
    web.pages["/models.toml"] = [Answer(body=b"<html>Log in</html>")]
    assert "is not what SHA256:" in refused(lambda: fetched(web))
    web.pages["/models.toml"] = [Answer(body=b"\xff")]
    assert "is no UTF-8 text of at most 1 MiB" in refused(lambda: fetched(web))
    web.pages["/models.toml"] = [Answer(body=b"#" * (elsewhere.MOST + 2))]
    assert "is no UTF-8 text of at most 1 MiB" in refused(lambda: fetched(web))
    assert "was not verified yet" in refused(lambda: fetched(web, dry_run=True))


@pytest.mark.parametrize("page", ["/models.toml", "/models.toml.sig"])
@pytest.mark.parametrize(
    "how", [Answer(cut=9), Answer(cut=9, stall=True), Answer(trickle=0)], ids=["cut", "hang", "slow"]
)
def test_a_server_that_breaks_off(published: Any, monkeypatch: pytest.MonkeyPatch, page: str, how: Answer) -> None:
    web = published()
    monkeypatch.setattr(elsewhere, "TIMEOUT", (0.3, 0.3))
    monkeypatch.setattr(elsewhere, "PATIENCE", 0.3)
    web.pages[page] = [how]
    assert re.search(
        r"models\.toml could not be fetched: .*\. Check the address and the network$", refused(lambda: fetched(web))
    )
    web.pages.clear()
    whole = fetched(web)
    old(monkeypatch)
    web.pages[page] = [how]
    assert fetched(web) == whole, "by its copy"


def test_a_cut_that_no_length_shows(published: Any) -> None:
    web = published()
    web.pages["/models.toml"] = [Answer(cut=40, length=False)]
    assert "is not what SHA256:" in refused(lambda: fetched(web))


def test_how_long_a_copy_is_good(published: Any, own: Path) -> None:
    """For an hour since the server said so, or could not be reached; and not from the future."""
    web = published()
    fetched(web)
    (copy,) = (path for path in (own / "data/zosia/catalogues").glob("*.json") if path.name != "seen.json")
    for age, how, asked in ((7200, Answer(), 2), (-7200, Answer(), 2), (7200, Answer(status=500), 1)):
        made = time.time() - age
        os.utime(copy, (made, made))
        web.requests.clear()
        web.pages["/models.toml"] = [how]
        assert fetched(web) == fetched(web)
        assert len(web.requests) == asked, f"{age} s, {how.status}"


def test_a_copy_that_was_changed_is_fetched_again(published: Any, own: Path) -> None:
    web = published()
    fetched(web)
    (copy,) = (path for path in (own / "data/zosia/catalogues").glob("*.json") if path.name != "seen.json")
    copy.write_text(copy.read_text(encoding="utf-8").replace("MIT", "GPL"), encoding="utf-8")
    assert fetched(web).models["ours"].licence == "MIT"
    assert len(web.requests) == 4


def test_no_passwords_in_messages(trusted: Team) -> None:
    said = refused(lambda: elsewhere.read("http://me:secret@127.0.0.1:1/models.toml", Path("/")))
    assert "secret" not in said


# ---- As a setting


def test_the_settings_of_a_run(trusted: Team, root: Path) -> None:
    trusted.publish(text())
    given = {"CATALOGUE": str(trusted.file)}
    run = reading.read({**DEFAULTS, "ARCH": "x86_64", **given}, (), root, given=given)
    assert run.catalogue.startswith("team 3, ")
    assert next(iter(run.models)) == "ours"
    assert "smollm2-135m" not in run.models
    assert run.model.entry == run.models["ours"], "the first one, where none is named"
    with pytest.raises(ZosiaError, match="MODEL=smollm2-135m is neither"):
        reading.read({**DEFAULTS, **given}, (), root, given={**given, "MODEL": "smollm2-135m"})
    assert reading.read(DEFAULTS, (), root).catalogue == ""


def test_zosias_own_catalogue_is_such_a_one(trusted: Team, root: Path) -> None:
    """So that one that is published anew can be used by an older zosia."""
    trusted.publish((root / "models.toml").read_text(encoding="utf-8").replace("no-entry", ""))
    try:
        assert read(trusted).title.startswith("zosia ")
    except ZosiaError as error:
        pytest.fail(str(error))
