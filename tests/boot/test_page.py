"""The web page in Chromium, with a real machine behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import parrot
from tests.site.conftest import browser
from zosia.base.patience import patience
from zosia.serve.service import Service
from zosia.settings import machines
from zosia.settings.settings import Settings

from .server import Server, serve

__all__ = ["browser"]
SECONDS = 30 * 1000 * patience()  # ms


@pytest.fixture(scope="module")
def server(root: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the page that `scons ui` builds."""
    subprocess.run([sys.executable, "-m", "SCons", "-s", "ui"], cwd=root, check=True)
    service = Service(model="parrot", port=0, page=Path("build/ui"))
    with serve(root, tmp_path_factory.mktemp("page"), machines.serve_machine(settings), service) as running:
        yield running.ready()
        assert running.end() == 0


@contextmanager
def opened(browser: Browser, server: Server, **options: object) -> Iterator[Page]:
    """Open the page; nothing may be fetched from elsewhere, and nothing may go wrong in it."""
    with browser.new_context(**options) as context:  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{server.url}/")
        expect(page.locator("textarea").first).to_be_visible(timeout=SECONDS)
        try:
            yield page
        except BaseException as error:
            error.add_note(f"errors: {wrong}, alerts: {page.get_by_role('alertdialog').all_inner_texts()}")
            raise
        assert len(asked) > 3
        assert [url for url in asked if not url.startswith((f"{server.url}/", "data:", "blob:"))] == []
        assert wrong == []


def ask(page: Page, question: str) -> None:
    page.locator("textarea").first.fill(question)
    page.get_by_role("button", name="Send", exact=True).click()


def shown(page: Page, text: str) -> None:
    expect(page.get_by_text(text).first).to_be_visible(timeout=SECONDS)


def answered(page: Page, text: str) -> None:
    """Wait for an answer, and for its end: one that is cut is another test's."""
    shown(page, text)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0, timeout=SECONDS)


def test_a_question_a_second_chat_and_a_reload(browser: Browser, server: Server) -> None:
    first, *_ = parrot.ANSWER.split(".")
    with opened(browser, server) as page:
        ask(page, "Who are you?")
        answered(page, first)
        page.get_by_label("New chat").first.click()
        expect(page.get_by_text(first)).to_have_count(0, timeout=SECONDS)  # before, the field is still the old chat's
        ask(page, "Is that a cat?")
        answered(page, parrot.CAT)
        expect(page.get_by_text(first)).to_have_count(0)
        page.reload()
        shown(page, parrot.CAT)
        page.get_by_role("link", name="Who are you?").first.click()
        shown(page, first)


def test_an_answer_can_be_stopped(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        ask(page, "Tell me a story.")
        shown(page, parrot.STORY)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=SECONDS)
        ask(page, "Who are you?")  # and the machine has time for it
        shown(page, "Once upon")


def test_an_answer_that_a_reload_cuts(browser: Browser, server: Server) -> None:
    with opened(browser, server) as page:
        ask(page, "Tell me a story.")
        shown(page, parrot.STORY)
        with page.expect_response(lambda response: "/v1/stream?" in response.url) as asked:
            page.reload()
        assert asked.value.status == 204, "nothing goes on"
        ask(page, "Who are you?")
        expect(page.get_by_text("Who are you?").first).to_be_visible(timeout=SECONDS)


def test_the_dark_and_a_phone(browser: Browser, server: Server) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, server) as page:
        light = page.evaluate(background)
    phone = {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "has_touch": True}
    with opened(browser, server, **phone) as page:
        page.wait_for_function(f"({background}) !== {light!r}")
        ask(page, "Who are you?")
        shown(page, "Polly hears you")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_other_page_may_use_it(browser: Browser, server: Server) -> None:
    """A page of another origin: here one that was opened by its address as data."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto("data:text/html,<p>elsewhere")
        asked = f"fetch('{server.url}/v1/models').then(r => 'status ' + r.status, e => 'refused')"
        assert page.evaluate(asked) == "refused"
    reply = server.ask("/")
    policy = reply.headers["Content-Security-Policy"]
    assert "connect-src 'self'" in policy and "unsafe-eval" not in policy
    assert re.search(r"script-src 'self'( 'sha256-[\w+/=]+')*;", policy)
