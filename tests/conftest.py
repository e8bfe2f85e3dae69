"""Fixtures of several tests, the switch that forbids skips, and the list of tests that take long."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.web import Web, serving
from zosia.base.files import cache_root
from zosia.inputs import catalogue, fetch, model_files

ROOT = Path(__file__).parents[1]

# Who runs the tests may ignore signals (nohup, a shell's &): the programs that are tested would inherit it.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


NO_SKIPS = "ZOSIA_TEST_NO_SKIPS"  # in the environment, 1: a test that is skipped fails the run
skipped: list[str] = []

# Seconds of processor time that a test of each folder may take, with the programs that it starts and waits for. What
# takes more is listed at the end of a run. Wall time would depend on what else the machine does. In a warm run the most
# is 2.5, 14 and 7 s, but for the test that builds everything in a second folder: 35 s, which the list is to show.
BUDGETS: dict[str, float] = {"unit": 3, "build": 20, "site": 10, "boot": 30}
TAKEN = "processor_seconds"  # property of a report
dear: list[tuple[float, str]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.user_properties.append((TAKEN, sum(os.times()[:4]) - before))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and os.environ.get(NO_SKIPS) == "1":
        skipped.append(report.nodeid)
    taken = dict(report.user_properties).get(TAKEN)  # by way of xdist, where there are workers
    budget = BUDGETS.get(Path(report.nodeid.partition("::")[0]).parent.name)
    if report.when == "call" and isinstance(taken, float) and budget and taken > budget:
        dear.append((taken, f"{report.nodeid}: {taken:.1f} s, budget {budget} s"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if dear:
        terminalreporter.section("more processor time than budgeted in tests/conftest.py")
    for _, line in sorted(dear, reverse=True):
        terminalreporter.write_line(line)
    if skipped:
        terminalreporter.write_line(
            f"zosia: error: skipped, which {NO_SKIPS}=1 forbids: {', '.join(skipped)}", red=True
        )


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def model_file(root: Path) -> Path:
    """The .gguf of the default model."""
    return model_files.model_file(catalogue.read_models(root / "models.toml")["smollm2-135m"], cache_root())


@pytest.fixture(scope="session")
def llama_source(root: Path) -> Path:
    """llama.cpp's source."""
    pin = fetch.fetch(catalogue.read_sources(root / "sources.toml")["llama-cpp"], cache_root()).pin
    return fetch.source_tree(pin, cache_root())


@pytest.fixture(scope="session")
def template(llama_source: Path) -> Path:
    """The chat template of gpt-oss."""
    return llama_source / "models/templates/openai-gpt-oss-120b.jinja"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on loopback, reached without the proxy that the environment may name."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running
