"""`scons docs` and `scons docs-serve`: what they do again, what they leave alone, what they refuse."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.build.conftest import SCONS, Scons, tree
from zosia.base.errors import ZosiaError
from zosia_build.manual import site as manual

__all__ = ["tree"]

# Enough to be built, linked, filled from the code and served; the fixture `site` is the whole manual.
PAGES = {
    "docs/index.md": "# zosia\n\nA chat appliance. Go to the [quickstart](quickstart.md).\n",
    "docs/quickstart.md": "# Quickstart\n",
    "docs/models.md": "# Models\n\n## What fits\n\n<!-- table: models -->\n",
    "docs/changelog.md": "# Changelog\n\n<!-- file: CHANGELOG.md -->\n",
    "CHANGELOG.md": "# Changelog\n",
}
BUILT = "  SITE  build/site/index.html\n"
SAME = "scons: `docs' is up to date.\n"


@pytest.fixture
def small(tree: Path) -> Path:
    """A tree whose manual has few pages."""
    for page in (tree / "docs").glob("*.md"):
        page.unlink()
    for name, text in PAGES.items():
        (tree / name).write_text(text, encoding="utf-8")
    settings = (tree / "mkdocs.yml").read_text(encoding="utf-8")
    menu = [path.name for path in (tree / "docs").glob("*.md")]
    settings, count = re.subn(r"^nav:\n(?: .*\n)+", f"nav: [{', '.join(menu)}]\n", settings, flags=re.M)
    assert count == 1
    (tree / "mkdocs.yml").write_text(settings, encoding="utf-8")
    return tree


def files(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def test_a_second_time_nothing_is_done(root: Path, site: Path, scons: Scons) -> None:
    before = files(site)
    again = scons(root, "docs")
    assert (again.returncode, again.stdout) == (0, SAME)
    assert files(site) == before


def test_what_changed_is_made_anew_and_what_is_wrong_leaves_the_site(small: Path, scons: Scons) -> None:
    assert "SITE" in scons(small, "-n", "docs").stdout
    assert not (small / "build/site").exists()
    done = scons(small, "docs")
    assert (done.returncode, done.stdout, done.stderr) == (0, BUILT, "")
    assert not (small / "build/aarch64").exists()

    page, entry = small / "docs/quickstart.md", small / "models.toml"
    links = "[models](docs/models.md#what-fits), [a script](scripts/test.sh), [a site](https://qemu.org/)"
    (small / "CHANGELOG.md").write_text(f"# Changelog\n\n## 9.9\n\nSee {links}.\n", encoding="utf-8")
    entry.write_text(entry.read_text(encoding="utf-8").replace("SmolLM2 135M Instruct", "A model"), encoding="utf-8")
    page.write_text("# Quickstart\n\nA new word, and [a link](index.md).\n", encoding="utf-8")
    assert scons(small, "docs").stdout == BUILT
    assert "A new word" in (small / "build/site/quickstart.html").read_text(encoding="utf-8")
    changes = (small / "build/site/changelog.html").read_text(encoding="utf-8")
    shown = '<a href="models.html#what-fits">models</a>, a script, <a href="https://qemu.org/">a site</a>'
    assert shown in changes
    assert changes.count("<h1") == 1
    assert "A model, Q4_1" in (small / "build/site/models.html").read_text(encoding="utf-8")

    before = files(small / "build/site")
    page.write_text("# Quickstart\n\n[A link](nowhere.md), and [another](index.md#nothing).\n", encoding="utf-8")
    wrong = scons(small, "docs")
    assert wrong.returncode == 2
    assert "zosia: error: The manual has errors; whole log: " in wrong.stderr
    assert "'quickstart.md' contains a link 'nowhere.md'" in wrong.stderr
    assert "'index.md#nothing'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert files(small / "build/site") == before
    assert {path.name for path in (small / "build").iterdir()} == {"scons.lock", "site", "site.log"}

    assert scons(small, "-c", "docs").returncode == 0
    assert {path.name for path in (small / "build").iterdir()} == {"scons.lock"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- table: chairs -->\n", "quickstart.md: unknown mark <!-- table: chairs -->"),
        ("<!-- plot: time: T -->\n\n| what | size |\n|---|---|\n| a | 1 |\n", "A plot needs the columns time, and the"),
        ('```dot\ndigraph "A" {\n```\n', "syntax error"),
    ],
)
def test_what_a_page_gets_from_the_code_is_checked(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    monkeypatch.setattr(manual, "ROOT", small)
    (small / "docs/quickstart.md").write_text(f"# Quickstart\n\n{text}", encoding="utf-8")
    with pytest.raises(ZosiaError) as caught:
        manual.build(tmp_path / "site", tmp_path / "site.log")
    assert complaint in str(caught.value)
    assert not (tmp_path / "site").exists()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZosiaError, match=r"dot is needed .* sudo apt-get install graphviz"):
        manual.check()
    monkeypatch.setattr(manual, "PACKAGES", ("mkdocs", "no_such_package"))
    with pytest.raises(ZosiaError, match=r"no_such_package, .* Type: ./scripts/bootstrap.sh --dev"):
        manual.check()


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind((manual.HOST, 0))
        return int(tried.getsockname()[1])


def served(port: int, path: str, wanted: str) -> None:
    """Wait until a page has the words that are wanted."""
    opener, text = build_opener(ProxyHandler({})), ""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with opener.open(f"http://{manual.HOST}:{port}/{path}", timeout=60) as answer:
                text = answer.read().decode()
            if wanted in text:
                return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{path} has no {wanted!r}: {text[:1000]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_follows_changes_and_ends_well(small: Path, tmp_path: Path, number: signal.Signals) -> None:
    port, page = free_port(), small / "docs/quickstart.md"
    environment = {**os.environ, "PYTHONPATH": str(small / "site_scons"), "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "zosia_build.manual.site", str(port)]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        served(port, "quickstart.html", "Quickstart")
        page.write_text("# Quickstart\n\nA new word.\n", encoding="utf-8")
        served(port, "quickstart.html", "A new word")
        server.send_signal(number)
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, f"Serving on http://127.0.0.1:{port}/ (Ctrl+C ends it)\n", "")
    assert list(tmp_path.glob("mkdocs_*")) == []


def test_scons_turns_into_the_server_and_a_port_is_served_once(small: Path, scons: Scons) -> None:
    try:
        manual.check_port(manual.PORT)
    except ZosiaError:
        pytest.skip("somebody else serves on the port")
    with subprocess.Popen([SCONS, "docs-serve"], cwd=small, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        served(manual.PORT, "index.html", "chat appliance")
        refused = scons(small, "docs-serve")
        server.send_signal(signal.SIGINT)
        out, _ = server.communicate(timeout=30)
    assert server.returncode == 0
    assert out.startswith(b"Serving on http://127.0.0.1:8000/")
    assert refused.returncode == 2
    error = "zosia: error: The manual can't be served on http://127.0.0.1:8000: Address already in use. "
    assert error in refused.stderr
    assert len([line for line in refused.stderr.splitlines() if "WAIT" not in line]) == 1
