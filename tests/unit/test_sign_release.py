"""scripts/sign-release.sh: the signatures of a release, as a user checks them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("models.toml", "zosia-1.2.3-aarch64.iso", "zosia-1.2.3-py3-none-any.whl", "SHA256SUMS")


class Release:
    """A release, and the tree whose script signs it."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.top, self.key, self.out = folder, folder / "key", folder / "out"
        self.signers = folder / "allowed_signers"
        (folder / "scripts").mkdir()
        shutil.copy(script, folder / "scripts")
        self.out.mkdir()
        for name in NAMES[:-1]:
            (self.out / name).write_text(name, encoding="utf-8")
        subprocess.run("sha256sum -- * >SHA256SUMS", shell=True, cwd=self.out, check=True)
        argv: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key]
        subprocess.run(argv, check=True)
        self.trust("zosia-release,zosia-catalogue")

    def trust(self, purposes: str) -> None:
        """Write the line of allowed_signers that docs/development.md makes."""
        key = " ".join((self.top / "key.pub").read_text(encoding="utf-8").split()[:2])
        self.signers.write_text(f'# of tests\nzosia-releases namespaces="{purposes}" {key}\n', encoding="utf-8")

    def sign(self, *words: str | Path, secret: str = "") -> tuple[int, str]:
        environment = {**os.environ, "SIGNING_KEY": secret, "TMPDIR": str(self.top)}
        argv = [self.top / "scripts" / "sign-release.sh", *words]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr.strip() or done.stdout.strip()

    def verifies(self, name: str, purpose: str = "zosia-release") -> bool:
        """Type what docs/security.md shows."""
        command = f"ssh-keygen -Y verify -f ../allowed_signers -I zosia-releases -n {purpose} -s {name}.sig < {name}"
        return subprocess.run(command, shell=True, cwd=self.out, capture_output=True, check=False).returncode == 0

    @property
    def signatures(self) -> list[str]:
        return sorted(path.name for path in self.out.glob("*.sig"))


@pytest.fixture
def release(root: Path, tmp_path: Path) -> Release:
    return Release(tmp_path, root / "scripts" / "sign-release.sh")


def test_each_file_is_signed_for_its_purpose(release: Release, root: Path) -> None:
    assert (
        "ssh-keygen -Y verify -f allowed_signers -I zosia-releases -n zosia-release -s zosia.iso.sig < zosia.iso"
        in (root / "docs/security.md").read_text(encoding="utf-8")
    )
    for words, secret in (([release.key], ""), ([], release.key.read_text(encoding="utf-8"))):
        assert release.sign(release.out, *words, secret=secret)[0] == 0
        assert release.signatures == sorted(f"{name}.sig" for name in NAMES)
        for name in NAMES:
            assert release.verifies(name) == (name != "models.toml")
        assert release.verifies("models.toml", "zosia-catalogue")
        assert sorted(path.name for path in release.top.iterdir()) == [
            *("allowed_signers", "key", "key.pub", "out", "scripts"),
        ], "no key is left in a temporary folder"


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_byte_that_was_changed(release: Release, name: str) -> None:
    release.sign(release.out, release.key)
    path = release.out / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert not release.verifies(name)


def test_without_a_key_nothing_is_signed(release: Release) -> None:
    (release.out / "SHA256SUMS.sig").write_text("old")
    status, said = release.sign(release.out)
    assert (status, said) == (
        0,
        "NOTE  this release is not signed: there is no key, neither as a file nor in SIGNING_KEY",
    )
    assert release.signatures == []


def test_no_key_is_trusted_yet(release: Release, root: Path) -> None:
    shutil.copy(root / "allowed_signers", release.signers)
    status, said = release.sign(release.out, release.key)
    assert status == 1
    assert said.startswith("zosia: error: no key is trusted yet: add the public half of this one to allowed_signers")
    assert release.signatures == []


def test_a_key_that_is_not_trusted_for_it(release: Release) -> None:
    release.trust("zosia-release")
    status, said = release.sign(release.out, release.key)
    assert status == 1
    assert said.endswith("zosia: error: allowed_signers doesn't trust this key for zosia-catalogue")
    assert release.signatures == [], "half a release is none"


def test_a_key_that_fails_half_way(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one on a token that is pulled."""
    program = release.top / "bin" / "ssh-keygen"
    program.parent.mkdir()
    real = shutil.which("ssh-keygen")
    program.write_text(f'#!/bin/sh\ncase "$*" in *sign*.whl) exit 255; esac\nexec {real} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    status, said = release.sign(release.out, release.key)
    assert status == 1
    assert said.splitlines()[-1] == f"zosia: error: {release.out / NAMES[2]} could not be signed, so nothing is"
    assert release.signatures == [], "half a release is none"


@pytest.mark.parametrize("name", ["more.txt", "-v", "models"])
def test_a_file_that_is_not_listed_is_not_signed(release: Release, name: str) -> None:
    (release.out / name).write_text("more", encoding="utf-8")
    status, said = release.sign(release.out, release.key)
    assert (status, said) == (1, f"zosia: error: {name} is not in SHA256SUMS, so nobody has compared it")
    assert release.signatures == []


def test_what_is_no_release(release: Release, tmp_path: Path) -> None:
    (release.out / "models.toml").write_text("other", encoding="utf-8")
    assert "isn't what its SHA256SUMS says" in release.sign(release.out, release.key)[1]
    assert "is no file" not in release.sign(tmp_path, release.key)[1]
    assert "has no SHA256SUMS" in release.sign(tmp_path, release.key)[1]
    assert "a folder and a key are needed" in release.sign()[1]
